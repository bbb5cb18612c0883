"""Stands for the script itself in code that templates share.

Shared code says `story.GOLDEN` for the constant of the template that uses it; in a generated
script, where both stand in one file, the generator writes plain `GOLDEN`. What a template need not
define (`call_model`, `ROUNDED`) is that of `_subject.py` where it does not.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

active: ModuleType | None = None  # set by tests; a template that runs as a program is `__main__`


def __getattr__(name: str) -> Any:
    script = active or sys.modules["__main__"]
    holder = script if hasattr(script, name) else sys.modules["templates._subject"]
    return getattr(holder, name)
