"""Makes `fixed_tests/` from `generator/registry/` (facts) and `templates/` (working tests).

`discover` learns the facts from the installed transformers and is slow; all else is pure: no torch,
no network, the same result on every machine.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class GeneratorError(Exception):
    """What the user has to mend; the message names the file, the key and the likely fix."""
