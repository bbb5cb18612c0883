"""How long the generator takes, beside the time that libcst and black alone need for its scripts.

Each figure is the shortest of some repeats, all taken in turn in one run.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import black
import libcst

from generator import ROOT, registry
from generator.render import render
from generator.transform import STYLE

REPEATS = 2


def main(families: Iterable[str]) -> int:
    """`python -m generator bench`: print the figures for `families`, or for all."""
    entries = registry.load()
    chosen = [*registry.select(entries, families)]
    texts = [*render(entries, chosen).values()]
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)

        def anew() -> None:
            for path in cache.iterdir():
                path.unlink()
            render(entries, chosen, cache=cache)

        tasks: dict[str, Callable[[], object]] = {
            "libcst and black alone": lambda: _alone(texts),
            "regenerate, everything changed": anew,
            "regenerate, nothing changed": lambda: _command("regenerate", *families),
            "check, nothing changed": lambda: _command("check", *families),
        }
        seconds = {name: float("inf") for name in tasks}
        for _ in range(REPEATS):
            for name, task in tasks.items():
                start = time.perf_counter()
                task()
                seconds[name] = min(seconds[name], time.perf_counter() - start)
    alone = seconds["libcst and black alone"]
    print(f"{len(texts)} scripts, {sum(map(len, texts)) / 1e6:.1f} MB, {os.cpu_count()} cores")
    for name, found in seconds.items():
        print(f"{name:32} {found:7.2f} s  {found / alone:6.3f} of libcst and black alone")
    return 0


def _alone(texts: list[str]) -> None:
    """Parse and format each script, in as many processes as `render` takes."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(os.cpu_count() or 1, 8), context) as pool:
        for _ in pool.map(_parse_and_format, texts, chunksize=8):
            pass


def _parse_and_format(text: str) -> str:
    return black.format_str(libcst.parse_module(text).code, mode=STYLE)


def _command(*arguments: str) -> None:
    command = [sys.executable, "-m", "generator", *arguments]
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
