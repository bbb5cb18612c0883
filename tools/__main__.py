"""The command line of the tools: `python -m tools COMMAND [flags]`.

All commands accept all flags, and each uses those that concern it: so one line of flags can be
given to several Nox sessions.
"""

from __future__ import annotations

import argparse
import importlib
import math
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tools.browsers import CHOSEN
from tools.scripts import ROOT
from tools.usage import UsageError, unknown

COMMANDS = {
    "matrix": ("tools.matrix", "run the scripts on devices and keep what they find in results/"),
    "combine": ("tools.combine", "put the parts of a run together that machines ran (--shard)"),
    "publish": ("tools.publish", "render the reports from the database"),
    "dashboard": ("tools.dashboard.app", "show a run while it goes on, and all runs, in a browser"),
    "bench_dashboard": ("tools.bench_dashboard", "say how the dashboard does with a long history"),
    "archive": ("tools.archive", "fetch the runs that a branch of the Git remote keeps"),
    "rehearse": ("tools.rehearse", "do here what the nightly workflow does, in a clone"),
    "ingest": ("tools.database", "rebuild the database from results/"),
    "history": (
        "tools.history",
        "list, tag and prune runs; say what changed between them, and why",
    ),
    "devices": ("tools.devices", "say which devices this machine has, and why not the others"),
    "node": ("tools.node", "make this machine a node of a Ray cluster [-- flags of `ray start`]"),
    "browsers": ("tools.browsers", "install what webgpu and webnn need"),
    "serve_bundles": ("tools.bundles", "let browsers of any machine judge all models"),
    "benchmark": ("tools.benchmark.run", "measure models of full size: latency, memory, tokens"),
    "upgrade": ("tools.upgrade", "take the newest release of a package into constraints.txt"),
    "simulate": ("tools.simulate", "replay recorded runs on other numbers of machines"),
    "reduce": ("tools.reduce", "write a short script that shows one failing check"),
    "compare": ("tools.compare", "run the scripts under two releases of a package"),
    "bench_runner": ("tools.bench_runner", "compare the ways to run scripts on this machine"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; gives back its exit code.

    2: wrong usage, 4: no device, 5: something cannot be written, 130: interrupted.
    """
    options = parse(arguments)
    if options.browser:
        os.environ[CHOSEN] = options.browser
    try:
        code: int = importlib.import_module(COMMANDS[options.command][0]).main(options)
    except UsageError as error:
        print(f"error: {error}" if error.exit_code else error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return code


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command and its flags; those of `matrix` that were not given are None or empty.

    What `node` has behind `--` is in `ray`.
    """
    parser = argparse.ArgumentParser(prog="python -m tools", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    flags = _flags()
    for name, (_, text) in COMMANDS.items():
        commands.add_parser(name, parents=[flags], help=text, description=text, allow_abbrev=False)
    commands.choices["combine"].add_argument(
        "parts", nargs="*", type=Path, metavar="FOLDER", help="of the parts; default: results"
    )
    commands.choices["upgrade"].add_argument(
        "packages", nargs="+", metavar="PACKAGE", help="such as transformers"
    )
    words = list(sys.argv[1:] if arguments is None else arguments)
    end = words.index("--") if words[:1] == ["node"] and "--" in words else len(words)
    options, rest = parser.parse_known_args(words[:end])
    options.ray = words[end + 1 :]
    if rest:
        known = [flag for action in flags._actions for flag in action.option_strings]
        kind = "flag" if rest[0].startswith("-") else "argument"
        parser.error(unknown(kind, rest[0].partition("=")[0], known))
    return options


def _flags() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(add_help=False)
    what = flags.add_argument_group("what to run (matrix)")
    what.add_argument("--family", action="extend", type=_words, default=[], metavar="A,B")
    what.add_argument(
        "--device",
        action="extend",
        type=_words,
        default=[],
        metavar="A,B",
        help="default: all but browsers",
    )
    what.add_argument("--weights", metavar="random|pretrained|PATH", help="default: random")
    what.add_argument("--size", choices=["tiny", "full"], help="default: tiny")
    what.add_argument(
        "--dtype", choices=["float32", "bfloat16", "float16"], help="default: float32"
    )
    what.add_argument(
        "--checks", action="extend", type=_words, default=[], metavar="A,B", help="default: all"
    )
    what.add_argument("--seed", type=int, help="of weights and inputs; default: the script's own")
    what.add_argument(
        "--mock",
        action="store_true",
        help="hide torch and transformers: every script ends as a mock, which tests the pipeline",
    )
    what.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="RUN_ID",
        help="go on with this or the last run; of benchmark, with this or the last folder",
    )
    what.add_argument(
        "--changed",
        metavar="REVISION",
        help="of the families only those whose script differs from that of this Git revision",
    )
    what.add_argument(
        "--shard",
        type=_shard,
        metavar="K/N",
        help="of all this only part K of N, for N machines; `combine` puts the parts together",
    )
    how = flags.add_argument_group("how to run it (matrix)")
    how.add_argument(
        "--jobs",
        type=_count,
        metavar="N",
        help="at once on a machine; default: one per core, or 1 if not tiny",
    )
    how.add_argument(
        "--timeout", type=_seconds, default=600.0, metavar="SECONDS", help="of each script"
    )
    how.add_argument(
        "--runner",
        choices=["auto", "warm", "fresh"],
        default="auto",
        help="fork each script from a process that has imported torch, or start Python anew; "
        "default: warm where that is safe",
    )
    how.add_argument(
        "--retries", type=_natural, default=1, metavar="N", help="of a crash or timeout; default: 1"
    )
    how.add_argument(
        "--memory", type=_gibibytes, metavar="GIB", help="of each script; default: an equal share"
    )
    how.add_argument(
        "--browser", metavar="PATH", help="the Chromium of webgpu and webnn; default: the one here"
    )
    machines = flags.add_argument_group("on which machines (matrix, node)")
    machines.add_argument(
        "--cluster",
        metavar="HOST:PORT|auto|local",
        help="those of this Ray cluster, or of one that is started here; default: this machine",
    )
    machines.add_argument(
        "--wait",
        type=_seconds,
        metavar="SECONDS",
        help="for a machine with a device that the cluster lacks, for which its autoscaler is "
        "asked; default: not at all (matrix)",
    )
    serve = flags.add_argument_group("whom to serve (serve_bundles, dashboard)")
    serve.add_argument(
        "--lan", action="store_true", help="the local network too, by https (bundles)"
    )
    serve.add_argument("--port", type=_natural, default=0, metavar="N", help="default: a free one")
    replay = flags.add_argument_group("what to simulate (simulate)")
    replay.add_argument(
        "--nodes",
        action="extend",
        type=_counts,
        default=[],
        metavar="N,N",
        help="numbers of machines; default: 1,4,16,64,256",
    )
    replay.add_argument("--seeds", type=_count, metavar="N", help="runs of each; default: 20")
    replay.add_argument("--copies", type=_count, metavar="N", help="of each job; default: 1")
    for flag, kind, unit, text in (
        ("--startup", _amount, "SECONDS", "of a machine; default: as recorded"),
        ("--loss-rate", _amount, "N", "of each machine, per hour; default: as recorded"),
        ("--replace", _amount, "SECONDS", "until a lost machine is replaced; default: 60"),
        ("--crash-rate", _share, "SHARE", "of attempts; default: as recorded"),
        ("--timeout-rate", _share, "SHARE", "of attempts; default: as recorded"),
    ):
        replay.add_argument(flag, type=kind, metavar=unit, help=text)
    history = flags.add_argument_group("what to do with the runs (history)")
    history.add_argument("--tag", metavar="NAME", help="give it to --run, which prune then keeps")
    history.add_argument("--run", metavar="RUN_ID", help="default: the last run")
    history.add_argument(
        "--prune",
        type=_natural,
        metavar="N",
        help="delete all runs but the newest N, those with a tag, and those that decide a cell",
    )
    history.add_argument(
        "--fail-on-regression",
        action="store_true",
        help="exit code 1 if latency, memory or verdict of a cell got worse in the last runs",
    )
    speed = flags.add_argument_group("what to measure (benchmark)")
    speed.add_argument(
        "--batch", action="extend", type=_counts, default=[], metavar="N,N", help="default: 1"
    )
    speed.add_argument(
        "--length", type=_count, metavar="N", help="tokens of a text; default: as the script says"
    )
    speed.add_argument(
        "--vs",
        metavar="KEY=VALUE",
        help="compare, interleaved, with another device, dtype, attention, python, loop or number "
        "of passes",
    )
    speed.add_argument(
        "--extrapolate",
        action="store_true",
        help="from models of less depth also what could be measured: shows how far off that is",
    )
    compare = flags.add_argument_group("what to compare (bench_runner, benchmark --vs)")
    compare.add_argument(
        "--repeats", type=_count, metavar="N", help="of each way; default: 3 (--vs: 1)"
    )
    keep = flags.add_argument_group("what to keep where (archive)")
    keep.add_argument("--branch", default="history", help="of the Git remote; default: history")
    keep.add_argument("--push", action="store_true", help="send the runs of results/ there too")
    keep.add_argument(
        "--keep", type=_count, default=60, metavar="N", help="of the newest runs; default: 60"
    )
    shown = flags.add_argument_group("what to show (publish, dashboard)")
    shown.add_argument(
        "--prices", type=Path, metavar="FILE", help="TOML: [usd_per_hour] with device = price"
    )
    hub = flags.add_argument_group("what to send to the Hugging Face Hub (publish)")
    hub.add_argument(
        "--hub",
        action="store_true",
        help="model cards, not reports: show what they would get from the benchmarks",
    )
    hub.add_argument("--dataset", metavar="NAME", help="dataset repository of the raw records")
    hub.add_argument(
        "--repo",
        action="extend",
        type=_words,
        default=[],
        metavar="A,B",
        help="of the checkpoints only these",
    )
    sent = hub.add_mutually_exclusive_group()
    sent.add_argument("--create-pr", action="store_true", help="send it, as pull requests")
    sent.add_argument("--commit", action="store_true", help="send it, as commits")
    releases = flags.add_argument_group("which releases to compare (compare)")
    pair: dict[str, Any] = {"nargs": 2, "metavar": ("OLD", "NEW")}
    releases.add_argument("--transformers", help="versions of transformers", **pair)
    releases.add_argument("--torch", help="versions of torch", **pair)
    releases.add_argument("--bisect", action="store_true", help="name the first release")
    where = flags.add_argument_group("where things are")
    for flag, default, text in (
        ("--scripts", ROOT / "fixed_tests", "folder of the scripts"),
        ("--expectations", ROOT / "tools" / "expectations.toml", "what is known not to pass"),
        ("--results", ROOT / "results", "folder of the runs"),
        ("--database", ROOT / "hardware_compatibility_matrix.duckdb", "made by ingest"),
        ("--benchmarks", ROOT / "benchmarks", "folder of what benchmark measured"),
        ("--output", ROOT, "folder to publish in"),
    ):
        where.add_argument(flag, type=Path, default=default, metavar="PATH", help=text)
    flags.add_argument("--json", action="store_true", help="answer in JSON (devices)")
    return flags


def _shard(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    index, count = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= index <= count:
        raise argparse.ArgumentTypeError(f"{text!r} is not a part such as 1/3, 2/3 or 3/3")
    return index, count


def _words(text: str) -> list[str]:
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise argparse.ArgumentTypeError(f"{text!r} has an empty name")
    return words


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from error


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from error


def _count(text: str) -> int:
    count = _whole(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return count


def _counts(text: str) -> list[int]:
    return list(map(_count, _words(text)))


def _natural(text: str) -> int:
    count = _whole(text)
    if count < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return count


def _gibibytes(text: str) -> int:
    return int(_seconds(text) * 2**30)


def _seconds(text: str) -> float:
    seconds = _number(text)
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return seconds


def _amount(text: str) -> float:
    amount = _number(text)
    if not 0 <= amount < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number of at least 0")
    return amount


def _share(text: str) -> float:
    share = _amount(text)
    if share > 1:
        raise argparse.ArgumentTypeError(f"{text} is more than 1")
    return share


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):  # a console without UTF-8 must not end a run
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    sys.exit(main())
