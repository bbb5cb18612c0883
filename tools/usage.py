"""Errors of those who use the tools: told in one sentence, without a traceback."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterable


class UsageError(Exception):
    """Something that was asked for cannot be done; the message says what to ask for instead."""

    exit_code = 2


class NoDevice(UsageError):
    """None of the devices that were asked for is there."""

    exit_code = 4


class NothingChanged(UsageError):
    """Only what has changed was asked for, and nothing has: that is well."""

    exit_code = 0


class CannotWrite(UsageError):
    """What comes next cannot be written; the message says what is safe, and how to go on."""

    exit_code = 5


def unknown(kind: str, word: str, known: Iterable[str]) -> str:
    """Say that `word` is not a known `kind`, and which known one was probably meant."""
    near = difflib.get_close_matches(word, list(known), 1)
    return f"unknown {kind} {word!r}" + (f" (did you mean {near[0]!r}?)" if near else "")


def command(session: str, options: argparse.Namespace, flags: Iterable[str]) -> str:
    """The Nox session with those of the `flags` that were given."""
    given = {flag: getattr(options, flag) for flag in flags}
    words = ["nox", "-s", session]
    for flag, value in given.items():
        if value not in (None, [], "auto"):
            words += [] if "--" in words else ["--"]
            shown = ",".join(map(str, value)) if isinstance(value, list) else str(value)
            words += [f"--{flag.replace('_', '-')}", shown]
    return " ".join(words)


def plain(text: str | None, limit: int = 200) -> str:
    """The first line of `text`, at most `limit` characters, without what controls a terminal."""
    line = (text or "").partition("\n")[0]
    return "".join(c if c.isprintable() else " " for c in line[:limit])
