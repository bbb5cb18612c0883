"""The matrix as one self-contained HTML page: it needs no network, and no JavaScript to be read."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment as Templates
from jinja2 import FileSystemLoader, StrictUndefined
from markupsafe import Markup

from tools.reports import form
from tools.reports.data import OUTCOMES, Cell, Family, Matrix
from tools.reports.markdown import MARKER


def render_page(matrix: Matrix, scripts: str) -> str:
    """`matrix.html`; `scripts` is the relative path of the folder of scripts."""
    templates = Templates(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return templates.get_template("matrix.html.j2").render(
        marker=Markup(MARKER),
        matrix=matrix,
        outcomes=OUTCOMES,
        order={key: index for index, key in enumerate(OUTCOMES)},
        incomplete=[run for run in matrix.runs if not run.complete],
        scripts=scripts,
        form=form,
        search_text=lambda family: _search_text(matrix, family),
        cell_id=lambda cell: f"cell-{cell.column.slug}-{cell.family}",
        cell_facts=_cell_facts,
    )


def _search_text(matrix: Matrix, family: Family) -> str:
    """What the text filter looks in, in lower case."""
    words = [family.name, family.architecture, family.model_class or ""]
    for column in matrix.columns:
        if cell := matrix.cells.get((family.name, column)):
            words += [cell.outcome.word, form.one_line(cell.first_reason or "", 200)]
            words += [check.name for check in cell.open_checks]
    return " ".join(words).lower()


def _cell_facts(cell: Cell) -> dict[str, str]:
    facts = {
        "class": cell.model_class or "",
        "checkpoint": cell.checkpoint or "",
        "run": f"{cell.run_id}{'' if cell.complete else ' (incomplete)'}",
        "started": cell.run_started or "",
    }
    if cell.measured:
        facts |= {
            "script": form.seconds(cell.seconds),
            "median latency": form.duration(cell.latency_median),
            "peak memory": form.memory(cell.peak_memory_bytes),
            "parameters": form.count(cell.parameters),
        }
    if cell.environment:
        known = form.environment_facts(cell.environment)
        names = ("hardware", "driver", "Python", "torch", "transformers")
        facts |= {name: known[name] for name in names if name in known}
    return facts
