"""Stands for the script itself in code that templates share.

Shared code says `story.GOLDEN` for the constant of the template that uses it; in a generated
script, where both stand in one file, the generator writes plain `GOLDEN`.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

active: ModuleType | None = None  # set by tests; a template that runs as a program is `__main__`


def __getattr__(name: str) -> Any:
    return getattr(active or sys.modules["__main__"], name)
