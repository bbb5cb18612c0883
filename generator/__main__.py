"""`python -m generator discover|regenerate|check [family …]`; without a family: all of them.

discover    learn the facts of the families from the installed transformers (slow, needs torch)
regenerate  make fixed_tests/ from the registry and the templates
check       say whether fixed_tests/ is what regenerate would make; exit code 1 if not
coverage    say which families of the installed transformers have a script, in docs/ and README.md
bench       say how long regenerate and check take, beside libcst and black alone
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from generator import GeneratorError, coverage, families, registry, sync
from generator.render import render

COMMANDS = ("discover", "regenerate", "check", "coverage", "bench")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; gives back the exit code: 0, 1 (not as it should be), 2 (wrong usage)."""
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "python -m generator", description=__doc__, formatter_class=style
    )
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("families", nargs="*", metavar="family")
    parser.add_argument(
        "--missing", action="store_true", help="discover: the families that have no entry yet"
    )
    parser.add_argument(
        "--refresh", action="store_true", help="discover: only golden values and switches"
    )
    options = parser.parse_intermixed_args(arguments)  # flags may stand anywhere
    try:
        if options.command == "discover":
            from generator import discover  # torch and transformers take seconds to import

            wanted = families.missing() if options.missing else options.families
            return discover.main(wanted, refresh_only=options.refresh)
        if options.command == "bench":
            from generator import bench  # black and libcst take a second to import

            return bench.main(options.families)
        if options.command == "coverage":
            return coverage.main()
        return regenerate(options.families, write=options.command == "regenerate")
    except GeneratorError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def regenerate(families: Sequence[str], write: bool) -> int:
    """Bring the scripts of `families` up to date or, without `write`, say which are not."""
    start = time.perf_counter()
    files = render(registry.load(), families)
    needed = sync.changes(files, sync.SCRIPTS, complete=not families)
    seconds = time.perf_counter() - start
    if write:
        sync.apply(needed)
        deleted = sum(change.new is None for change in needed)
        written = f"{len(needed) - deleted} written, {deleted} deleted"
        print(f"{len(files)} scripts: {written}, the others are up to date ({seconds:.1f} s)")
    elif needed:
        print(sync.describe(needed))
        command = " ".join(["python -m generator regenerate", *families])
        print(f"{len(needed)} files are not as they are generated; `{command}` mends it")
    else:
        print(f"{len(files)} scripts are up to date ({seconds:.1f} s)")
    return 0 if write or not needed else 1


if __name__ == "__main__":
    sys.exit(main())
