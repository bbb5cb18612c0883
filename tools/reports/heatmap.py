"""The matrix as a picture: families × checks for a few columns, families × columns for many.

Rows run through several panels like the columns of a newspaper, so that hundreds of families still
give a picture of a shape that a page can show. Lengths are inches, from the upper left corner.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.markers import MarkerStyle
from matplotlib.patches import Rectangle
from matplotlib.textpath import TextPath
from matplotlib.transforms import Affine2D

from tools.reports import form, picture
from tools.reports.data import OUTCOMES, Cell, Column, Family, Matrix, Outcome
from tools.reports.picture import DPI, FAINT, FONT, INK, LINE

MAX_CHECK_COLUMNS = 3  # columns of the matrix that get a block of families × checks each

_CELL = 0.15
_GAP = 0.012
_MARGIN = 0.3
_PANEL_GAP = 0.35
_TITLE = 0.62  # height of the headline of a block
_FOOT = 0.75
_LETTER_WIDTH = 0.066  # of the font of the labels, on average
_MIN_WIDTH = 9.0
_SHAPE = 1.5  # width : height that the panels come close to
_PALER = {"pass": "#9fd8c6", "not_run": "white"}  # than on the pages: the others must stand out
_DARK = ("fail", "crash", "flaky", "mock")  # colours that need a white letter


@dataclass(frozen=True)
class _Block:
    """Families × names; a cell without an outcome stays blank."""

    title: str
    subtitle: str
    names: tuple[str, ...]
    groups: Mapping[str, Sequence[Family]]
    outcomes: Mapping[tuple[str, str], Outcome]

    @property
    def label_width(self) -> float:
        names = [family.name for families in self.groups.values() for family in families]
        return _LETTER_WIDTH * max(map(len, [*map(_label, names), *self.groups])) + 0.1

    @property
    def panel_width(self) -> float:
        return self.label_width + _CELL * len(self.names)

    @property
    def head(self) -> float:
        """Height of the names, which are written upwards."""
        return _LETTER_WIDTH * max(map(len, map(_label, self.names))) + 0.1


def render_heatmap(matrix: Matrix) -> bytes:
    """The picture as PNG: equal bytes for equal data (and version of matplotlib)."""
    if len(matrix.columns) <= MAX_CHECK_COLUMNS:
        blocks = [_checks_block(matrix, column) for column in matrix.columns]
    else:
        blocks = [_columns_block(matrix)]
    panels = [_panels(block) for block in blocks]
    widths = [
        len(rows) * (block.panel_width + _PANEL_GAP) - _PANEL_GAP
        for block, rows in zip(blocks, panels, strict=True)
    ]
    width = max([*widths, _MIN_WIDTH]) + 2 * _MARGIN
    scale = min(2.0, max(1.0, width / 12))
    heights = [
        _TITLE * scale + block.head + _CELL * max(map(len, rows)) + _PANEL_GAP
        for block, rows in zip(blocks, panels, strict=True)
    ]
    height = sum(heights) + _FOOT * scale + _MARGIN
    with picture.style():
        canvas = _Canvas(width, height, scale)
        top = _MARGIN
        for block, rows, block_height in zip(blocks, panels, heights, strict=True):
            _draw_block(canvas, block, rows, top)
            top += block_height
        _draw_legend(canvas, top + 0.1)
        return picture.png(canvas.figure)


def _checks_block(matrix: Matrix, column: Column) -> _Block:
    cells = matrix.column_cells(column)
    # Checks that most families have come first; "script" stands for all checks of its family.
    found = Counter(check.name for cell in cells for check in cell.checks)
    del found["script"]
    names = [name for name, _ in found.most_common()] or ["script"]
    outcomes: dict[tuple[str, str], Outcome] = {}
    for family in matrix.families:
        cell = matrix.cells.get((family.name, column))
        known = {check.name: check.outcome for check in cell.checks} if cell else {}
        whole = cell.outcome if cell else OUTCOMES["not_run"]
        for name in names:
            if cell is None or not cell.measured or list(known) == ["script"]:
                outcomes[family.name, name] = whole
            elif name in known:
                outcomes[family.name, name] = known[name]
    return _Block(
        _label(column.label, 60),
        _subtitle(matrix, column),
        tuple(names),
        matrix.architectures,
        outcomes,
    )


def _columns_block(matrix: Matrix) -> _Block:
    outcomes = {
        (family.name, column.label): matrix.outcome(family, column)
        for family in matrix.families
        for column in matrix.columns
    }
    subtitle = f"{len(matrix.families)} families on {len(matrix.columns)} devices and settings"
    names = tuple(column.label for column in matrix.columns)
    return _Block(
        "Families and devices",
        _incomplete(matrix.cells.values()) + subtitle,
        names,
        matrix.architectures,
        outcomes,
    )


def _subtitle(matrix: Matrix, column: Column) -> str:
    passing = matrix.counts(column)["pass"]
    words = [f"{passing} of {len(matrix.families)} families pass every check"]
    for environment, _ in matrix.environments(column)[:1]:
        facts = form.environment_facts(environment)
        names = ("transformers", "torch")
        words += [f"{name} {facts[name]}" for name in names if name in facts]
        words += [facts["hardware"]]
    return _incomplete(matrix.column_cells(column)) + _label(" · ".join(words), 130)


def _incomplete(cells: Iterable[Cell]) -> str:
    return "" if all(cell.complete for cell in cells) else "INCOMPLETE RUN · "


def _label(value: str, limit: int = 30) -> str:
    """`value` in letters that the font has."""
    return form.one_line(value, limit).encode("cp1252", "replace").decode("cp1252")


def _panels(block: _Block) -> list[list[Family | str]]:
    """The rows in as many panels as come closest to the wanted shape; a str is a heading."""
    rows = sum(len(families) + 2 for families in block.groups.values())

    def distance(count: int) -> float:
        width = count * (block.panel_width + _PANEL_GAP)
        return abs(width / (block.head + _TITLE + _CELL * rows / count) - _SHAPE)

    count = min(range(1, 40), key=distance)
    height = max(3, -(-rows // count))
    while len(panels := _fill(block.groups, height)) > count:
        height += 1
    return panels


def _fill(groups: Mapping[str, Sequence[Family]], height: int) -> list[list[Family | str]]:
    """Panels of at most `height` rows: each group under its heading, repeated where it goes on."""
    panels: list[list[Family | str]] = [[]]
    for name, families in groups.items():
        gap = [""] if panels[-1] else []
        if len(panels[-1]) + len(gap) + 2 > height:  # no heading without a row below it
            panels.append([])
            gap = []
        panels[-1] += [*gap, name]
        for family in families:
            if len(panels[-1]) >= height:
                panels.append([name])
            panels[-1].append(family)
    return panels


class _Canvas:
    """A figure measured in inches from its upper left corner.

    `scale` enlarges headlines and legend, so that a wide picture shown small can still be read.
    """

    def __init__(self, width: float, height: float, scale: float) -> None:
        self.scale = scale
        self.figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
        self.axes = self.figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
        self.axes.axis("off")

    def text(self, x: float, y: float, value: str, **style: Any) -> None:
        known: dict[str, Any] = {"color": INK, "size": 7.5, "parse_math": False}
        self.axes.text(x, y, value, **known | style)

    def cells(self, outcome: Outcome, places: Sequence[tuple[float, float]], size: float) -> None:
        """Squares whose upper left corners are `places`, with the letter of `outcome`."""
        side = size - 2 * _GAP
        squares = [Rectangle((x + _GAP, y + _GAP), side, side) for x, y in places]
        face = _PALER.get(outcome.key, outcome.colour)
        edge = LINE if outcome.key == "not_run" else face
        self.axes.add_collection(
            PatchCollection(squares, facecolor=face, edgecolor=edge, linewidth=0.5)
        )
        if outcome.letter:
            x, y = zip(*((x + size / 2, y + size / 2) for x, y in places), strict=True)
            colour = "white" if outcome.key in _DARK else INK
            area = 26 * (size / _CELL) ** 2
            # One collection of markers: thousands of texts would take minutes.
            self.axes.scatter(x, y, area, marker=_letter(outcome.letter), color=colour, linewidth=0)


def _letter(letter: str) -> MarkerStyle:
    path = TextPath((0, 0), letter, prop=FontProperties(family=FONT, weight="bold"))
    box = path.get_extents()
    centred = path.transformed(Affine2D().translate(-(box.x0 + box.x1) / 2, -(box.y0 + box.y1) / 2))
    return MarkerStyle(centred)


def _draw_block(
    canvas: _Canvas, block: _Block, panels: Sequence[Sequence[Family | str]], top: float
) -> None:
    scale = canvas.scale
    title, subtitle = top + 0.12 * scale, top + 0.38 * scale
    canvas.text(_MARGIN, title, block.title, size=15 * scale, weight="bold", va="center")
    canvas.text(_MARGIN, subtitle, block.subtitle, size=8.5 * scale, color=FAINT, va="center")
    first_row = top + _TITLE * scale + block.head
    places: dict[str, list[tuple[float, float]]] = {}
    for number, rows in enumerate(panels):
        left = _MARGIN + number * (block.panel_width + _PANEL_GAP)
        first_cell = left + block.label_width
        for index, name in enumerate(block.names):
            x = first_cell + (index + 0.5) * _CELL
            canvas.text(x, first_row - 0.05, _label(name), rotation=90, ha="center", va="bottom")
        for index, row in enumerate(rows):
            y = first_row + index * _CELL
            if isinstance(row, str):
                if row:
                    canvas.text(left, y + _CELL / 2, _label(row), weight="bold", va="center")
                continue
            x = first_cell - 0.06
            canvas.text(x, y + _CELL / 2, _label(row.name), ha="right", va="center_baseline")
            for column, name in enumerate(block.names):
                if outcome := block.outcomes.get((row.name, name)):
                    places.setdefault(outcome.key, []).append((first_cell + column * _CELL, y))
    for key, found in places.items():
        canvas.cells(OUTCOMES[key], found, _CELL)


def _draw_legend(canvas: _Canvas, top: float) -> None:
    scale = canvas.scale
    side, gap, size = _CELL * scale, 0.06 * scale, 7.5 * scale
    x = _MARGIN
    for outcome in OUTCOMES.values():
        canvas.cells(outcome, [(x, top)], side)
        canvas.text(x + side + gap, top + side / 2, outcome.word, size=size, va="center")
        x += side + 5 * gap + 1.15 * scale * _LETTER_WIDTH * len(outcome.word)
    note = "blank: the check does not apply to the family"
    canvas.text(_MARGIN, top + 2.3 * side, note, size=size, color=FAINT, va="center")
