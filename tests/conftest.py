"""What holds for all tests of this folder, and the browser that some of them share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from templates._browser import BROWSERS, find_browser

if TYPE_CHECKING:
    from playwright.sync_api import Browser

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A warning is an error here; the scripts, which users run from this repository, may warn."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("error"), append=False)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A real Chromium, the same for all tests: those who change it make a context of their own.

    WebGPU is switched on, which without a GPU is SwiftShader. Where there is no Chromium the tests
    are skipped, except in CI, where that would hide them.
    """
    executable = find_browser()
    if executable is None:
        told = f"there is no {', '.join(BROWSERS)} in PATH"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(told)
    from playwright.sync_api import sync_playwright

    flags = ["--enable-unsafe-webgpu", "--disable-quic", "--disable-background-networking"]
    if os.geteuid() == 0:
        flags.append("--no-sandbox")  # Chromium refuses to run as root with it
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=executable, args=flags)
        yield opened
        opened.close()
