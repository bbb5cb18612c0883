"""`benchmark_reports/`: tables, a page for each family, CSV, JSON and plots, from the records.

Of several records of the same thing the newest that is not noisy counts, else the newest.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tools import prices, results
from tools.reports import form, markdown, picture
from tools.reports.data import ReportError
from tools.results import BrokenRecord

Record = dict[str, Any]
KEY = ("family", "device", "dtype", "batch", "length", "weights", "size")
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
MARKS = {"noisy": " (noisy)", "extrapolated": " (extrapolated)"}


def load(folder: Path) -> list[Record]:
    """The records below `folder` that count, by family. Errors: ReportError for a broken one."""
    found: dict[tuple[Any, ...], Record] = {}
    for path in sorted(folder.glob("*/*.json")):
        try:
            record = results.read_benchmark(path)
        except BrokenRecord as error:
            raise ReportError(f"{path}: {error.problem}; delete it, or measure again") from error
        key = tuple(record[name] for name in KEY)
        if key in found and record["status"] == "noisy" and found[key]["status"] == "measured":
            continue
        found[key] = record
    return sorted(found.values(), key=lambda record: [str(record[name]) for name in KEY])


def published(reports: Path) -> list[Record]:
    """The records that the published reports were made of; none where there are no reports."""
    path = reports / "benchmarks.json"
    found: list[Record] = json.loads(path.read_text("utf-8")) if path.exists() else []
    return found


def render(
    records: Sequence[Record], scripts: str, per_hour: Mapping[str, float] | None = None
) -> dict[str, bytes]:
    """All files of the reports by name; `scripts` is the way from there to the scripts.

    With `per_hour`, what an hour of each device costs in $, they have the cost of calls and tokens.
    """
    texts = {"README.md": overview(records, per_hour or {}), "benchmarks.csv": table(records)}
    texts["benchmarks.json"] = json.dumps(list(records), indent=1, sort_keys=True) + "\n"
    for family, of_family in grouped(records, "family").items():
        texts[f"families/{family}.md"] = page(family, of_family, scripts)
    files = {name: text.encode() for name, text in texts.items()}
    with picture.style():
        for name, draw in PLOTS.items():
            files[f"{name}.png"] = picture.png(draw(records))
    return files


def grouped(records: Iterable[Record], key: str) -> dict[str, list[Record]]:
    """The records by one of their values, sorted by it."""
    found: defaultdict[str, list[Record]] = defaultdict(list)
    for record in records:
        found[str(record[key])].append(record)
    return dict(sorted(found.items()))


def overview(records: Sequence[Record], per_hour: Mapping[str, float]) -> str:
    """README.md: how it was measured, then a table for each architecture."""
    counts = {status: len(of) for status, of in grouped(records, "status").items()}
    told = ", ".join(f"{number} {status}" for status, number in counts.items())
    families = len({record["family"] for record in records})
    lines = [
        f"{markdown.MARKER}\n",
        "# Benchmarks\n",
        (
            f"{families} families, {len(records)} measurements: {told}. "
            "[What a figure means](../docs/benchmarks.md), and what it does not. "
            "All figures: [CSV](benchmarks.csv), [JSON](benchmarks.json).\n"
        ),
        *(f"![{name}]({name}.png)\n" for name in PLOTS),
    ]
    if rows := errors(records):
        header = ["predicted", "device", "records", "median error", "90 % are below"]
        lines += [
            "## How far predictions are off\n",
            (
                "Of models of full size: the memory before anything was built, and what models of "
                "less depth say of a whole one.\n"
            ),
            markdown.table(header, rows, 3) + "\n",
        ]
    for architecture, of_architecture in grouped(records, "architecture").items():
        lines.append(f"## {markdown.text(architecture)}\n")
        header = [
            "family", "device", "type", "batch", "latency [95 %]", "per second", "tokens/s",
            "memory", "parameters", "of roofline",
        ]  # fmt: skip
        rows = [row(record) for record in of_architecture]
        if per_hour:
            header += ["$ / 1,000 calls", "$ / 1 M tokens"]
            rows = [[*row(record), *costs(record, per_hour)] for record in of_architecture]
        lines.append(markdown.table(header, rows, len(header) - 3) + "\n")
    return "\n".join(lines)


def row(record: Record) -> list[str]:
    """A line of the overview."""
    family = f"[{markdown.text(record['family'])}](families/{form.path(record['family'])}.md)"
    start = [family, markdown.text(record["device"]), record["dtype"], str(record["batch"])]
    if record["status"] in ("skip", "error"):
        reason = markdown.text(form.one_line(record["reason"], 80))
        return [*start, f"{record['status']}: {reason}", *[form.NOTHING] * 5]
    if record["status"] == "extrapolated":
        found = record["extrapolated"]
        latency = form.duration(found["latency_seconds"]) + MARKS["extrapolated"]
        memory = form.memory(found["resident_bytes"])
        return [*start, latency, form.NOTHING, form.NOTHING, memory, form.NOTHING, form.NOTHING]
    tokens = record.get("generation")
    share = of_roofline(record)
    return [
        *start,
        form.interval(record["latency"]) + MARKS.get(record["status"], ""),
        f"{record['throughput_per_second']:.3g}",
        f"{tokens['tokens_per_second']:.3g}" if tokens else form.NOTHING,
        form.memory(peak(record)),
        form.count(record["parameters"]),
        f"{share:.0%}" if share else form.NOTHING,
    ]


def errors(records: Sequence[Record]) -> list[list[str]]:
    """How far what was predicted is from what was measured, for each kind and device."""
    rows = []
    for what, pairs in PREDICTED.items():
        for device, of_device in grouped(records, "device").items():
            full = [record for record in of_device if record["size"] == "full"]
            if off := sorted(abs(told / seen - 1) for told, seen in pairs(full)):
                middle, most = np.percentile(off, [50, 90])
                number = form.count(len(off))
                rows.append([what, markdown.text(device), number, f"{middle:.1%}", f"{most:.1%}"])
    return rows


def memory_pairs(records: Sequence[Record]) -> list[tuple[float, float]]:
    """Peak memory predicted and measured; that of graphs is not predicted (nor are their FLOPs)."""
    return [
        (record["predicted"]["run"], peak(record))
        for record in records
        if record.get("flops") and record["predicted"] and record["predicted"]["run"]
    ]


def extrapolated_latencies(records: Sequence[Record]) -> list[tuple[float, float]]:
    """Latencies continued from less depth, and measured."""
    return [
        (record["extrapolated"]["latency_seconds"], record["latency"]["median"])
        for record in timed(records)
        if record.get("extrapolated")
    ]


def extrapolated_memory(records: Sequence[Record]) -> list[tuple[float, float]]:
    """Peak memory continued from less depth, and measured."""
    return [
        (record["extrapolated"]["resident_bytes"], record["memory"]["resident"])
        for record in records
        if record.get("extrapolated") and record.get("memory")
    ]


PREDICTED = {
    "memory": memory_pairs,
    "latency, extrapolated": extrapolated_latencies,
    "memory, extrapolated": extrapolated_memory,
}


def peak(record: Record) -> int:
    """The most memory that a measured model took: of its device, or of its process."""
    return int(record["memory"]["device"] or record["memory"]["resident"])


def costs(record: Record, per_hour: Mapping[str, float]) -> list[str]:
    """What 1,000 calls and a million tokens cost on the device of a record, in $."""
    price, tokens = per_hour.get(record["device"]), record.get("generation")
    seconds = record["latency"]["median"] if record["status"] == "measured" else None
    times = (
        (seconds, 1000),
        (tokens and seconds and 1 / tokens["tokens_per_second"], 1_000_000),
    )
    return [
        f"{prices.of_calls(price, each, calls):.3g}" if price is not None and each else form.NOTHING
        for each, calls in times
    ]


def of_roofline(record: Record) -> float | None:
    """Achieved operations per second over those of a matrix product on the same device."""
    if not record.get("flops"):
        return None
    achieved = record["flops"] / record["latency"]["median"]
    return float(achieved / record["roofline"]["flops_per_second"])


def page(family: str, records: Sequence[Record], scripts: str) -> str:
    """The page of a family: every figure of every record, and how to measure it again."""
    lines = [f"{markdown.MARKER}\n", f"# {markdown.text(family)}\n"]
    first = records[0]
    lines.append(
        f"{markdown.text(first['model_class'] or '')}, published as "
        f"{markdown.text(first['checkpoint'] or 'no checkpoint')}; "
        f"[its script](../{scripts}/test_hf_{form.path(family)}.py)\n"
    )
    for record in records:
        title = f"{record['device']}, {record['dtype']}, batch {record['batch']}"
        flags = f"--family {family} --device {record['device']} --dtype {record['dtype']}"
        flags += f" --batch {record['batch']}" + (
            f" --length {record['length']}" if record["length"] else ""
        )
        lines.append(f"## {markdown.text(title)}\n")
        lines.append(markdown.table(["", ""], [list(pair) for pair in facts(record)]) + "\n")
        lines.append(f"`nox -s benchmark -- {flags}`\n")
    return "\n".join(lines)


def facts(record: Record) -> Iterable[tuple[str, str]]:
    """What a record says, in words."""
    yield "status", record["status"] + (f": {record['reason']}" if record["reason"] else "")
    for noise in record["noise"]:
        yield "noise", noise
    yield from of_weights(record)
    if shapes := record.get("inputs"):
        yield "inputs", ", ".join(f"{n} {'×'.join(map(str, s))}" for n, s in shapes.items())
    if latency := record.get("latency"):
        values = {key: form.duration(latency[key]) for key in ("median", "p90", "p99", "iqr")}
        yield "latency", ", ".join(f"{key} {value}" for key, value in values.items())
        yield "calls", f"{latency['count']}, after {record['warm_up_calls']} to warm up"
        yield "load", form.seconds(record["load_seconds"])
        yield "first call", form.duration(record["first_call_seconds"])
        yield "computed in", record["precision"]
    if generation := record.get("generation"):
        yield "first token", form.duration(generation["first_token_seconds"])
        yield "each further token", form.duration(generation["token_seconds"])
    if needs := record["predicted"]:
        yield "memory predicted", form.memory(needs["run"] or needs["weights"])
    if memory := record.get("memory"):
        yield "memory measured", form.memory(peak(record))
        yield "memory while loading", form.memory(memory["loading"])
    if record.get("flops"):
        yield "operations of a call", f"{record['flops'] / 1e9:.4g} GFLOP"
    if found := record.get("extrapolated"):
        depths = " and ".join(map(str, found["depths"]))
        yield "extrapolated from", f"{depths} of {found['layers']} layers"
        yield "latency extrapolated", form.duration(found["latency_seconds"])
        yield "memory extrapolated", form.memory(found["resident_bytes"])
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    yield "measured", f"{record['started']} with {versions}"
    if device := record.get("device_facts"):
        yield "on", f"{device.get('name')}, {record['threads']} threads"


def of_weights(record: Record) -> Iterable[tuple[str, str]]:
    """What a record says of its weights, and of what they give in a pipeline."""
    revision = f", revision {record['revision']}" if record["revision"] else ""
    yield "weights", f"{record['weights']}, {record['size']} size{revision}"
    if piped := record["pipeline"]:
        why = f": {piped['reason']}" if piped["reason"] else f", gives {piped['output']}"
        yield f"pipeline {piped['task']}", piped["status"] + why


def table(records: Sequence[Record]) -> str:
    """`benchmarks.csv`: a line for each record."""
    file = io.StringIO()
    names = [*KEY, "architecture", "status", "reason", "parameters", "flops"]
    latency = ["median", "low", "high", "p90", "p99", "iqr", "count"]
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*names, *(f"latency_{name}" for name in latency), "memory", "predicted"])
    for record in records:
        values = record.get("latency", {})
        memory = record.get("memory", {})
        writer.writerow(
            [
                *(record.get(name) for name in names),
                *(values.get(name) for name in latency),
                memory.get("device") or memory.get("resident"),
                (record["predicted"] or {}).get("run"),
            ]
        )
    return file.getvalue()


def timed(records: Sequence[Record]) -> list[Record]:
    """Those that were measured while nothing else was going on."""
    return [record for record in records if record["status"] == "measured"]


def blank(width: float, height: float, x: str, y: str = "") -> tuple[Figure, Axes]:
    """A figure to draw in."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure, axes


def coloured(records: Sequence[Record]) -> Iterator[tuple[str, str, list[Record]]]:
    """The records by device, each with its colour."""
    for colour, (device, found) in zip(
        itertools.cycle(COLOURS), grouped(records, "device").items()
    ):
        yield colour, device, found


def draw_latency(records: Sequence[Record]) -> Figure:
    """Latency of each family by device, with the interval of its median."""
    found = [record for record in timed(records) if record["batch"] == 1]
    families = sorted({r["family"] for r in found}, key=lambda f: _fastest(f, found))
    figure, axes = blank(9, 1.5 + 0.17 * len(families), "latency of a call, batch 1 (ms)")
    for colour, device, of_device in coloured(found):
        middle = [record["latency"]["median"] * 1e3 for record in of_device]
        reach = [
            [(r["latency"]["median"] - r["latency"]["low"]) * 1e3 for r in of_device],
            [(r["latency"]["high"] - r["latency"]["median"]) * 1e3 for r in of_device],
        ]
        places = [families.index(record["family"]) for record in of_device]
        axes.errorbar(middle, places, xerr=reach, fmt="o", ms=3, color=colour, label=device)
    axes.set_yticks(range(len(families)), families, fontsize=6)
    axes.set_xscale("log")
    if families:
        axes.legend(fontsize=7)
    return figure


def _fastest(family: str, records: Sequence[Record]) -> float:
    return min(float(r["latency"]["median"]) for r in records if r["family"] == family)


def draw_throughput(records: Sequence[Record]) -> Figure:
    """How throughput grows with the batch, relative to batch 1."""
    figure, axes = blank(6, 4, "batch", "throughput over that of batch 1")
    for colour, _, of_device in coloured(timed(records)):
        series: defaultdict[tuple[str, str], dict[int, float]] = defaultdict(dict)
        for r in of_device:
            series[r["family"], r["dtype"]][r["batch"]] = r["throughput_per_second"]
        for values in series.values():
            if len(values) > 1 and 1 in values:
                batches = sorted(values)
                axes.plot(batches, [values[b] / values[1] for b in batches], color=colour, lw=0.7)
    return figure


def draw_memory(records: Sequence[Record]) -> Figure:
    """Predicted against measured peak memory."""
    figure, axes = blank(5, 5, "predicted (MiB)", "measured (MiB)")
    pairs = [(told / 2**20, seen / 2**20) for told, seen in memory_pairs(records)]
    axes.loglog(*zip(*pairs, strict=True) if pairs else ([], []), "o", ms=3, color=COLOURS[0])
    if pairs:
        ends = [min(map(min, pairs)), max(map(max, pairs))]
        axes.loglog(ends, ends, color=picture.FAINT, lw=0.7)
    return figure


def draw_roofline(records: Sequence[Record]) -> Figure:
    """Achieved operations per second over operations per byte of weights, below the roofline."""
    figure, axes = blank(6, 4, "operations per byte of weights", "operations per second")
    found = [record for record in timed(records) if record.get("flops")]
    for colour, device, of_device in coloured(found):
        intensity = [r["flops"] / r["model_bytes"] for r in of_device]
        achieved = [r["flops"] / r["latency"]["median"] for r in of_device]
        axes.loglog(intensity, achieved, "o", ms=3, color=colour, label=device)
        roof = of_device[-1]["roofline"]
        ends = sorted([*intensity, roof["flops_per_second"] / roof["bytes_per_second"]])
        height = [min(roof["flops_per_second"], x * roof["bytes_per_second"]) for x in ends]
        axes.loglog(ends, height, color=colour, lw=0.8)
    if found:
        axes.legend(fontsize=7)
    return figure


PLOTS = {
    "latency": draw_latency,
    "throughput": draw_throughput,
    "memory": draw_memory,
    "roofline": draw_roofline,
}
