"""What documents say to type works: all of it parses, and what takes seconds is run."""

from __future__ import annotations

import re

import commands
import nox.registry
import pytest

from tools.scripts import ROOT

NAMES = [str(path.relative_to(ROOT)) for path in commands.documents()]


@pytest.mark.parametrize("name", NAMES)
def test_commands_are_taken_by_what_they_call(name: str) -> None:
    for block in commands.blocks(ROOT / name):
        for line in block:
            commands.understand(line)
    for span in commands.spans(ROOT / name):
        if named := re.fullmatch(r"nox -s ([a-z_ ]+)", span):  # which may want arguments
            assert set(named[1].split()) <= set(nox.registry.get()), span
        else:
            commands.understand(span)
