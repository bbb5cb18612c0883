"""The Markdown of the reports, read by a Markdown parser."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from tests.matrix_factory import EXPECTED, Results, check, checks, full_results
from tools.publish import END
from tools.reports.data import Matrix, Run
from tools.reports.markdown import (
    FOLDED,
    MARKER,
    MAX_OPEN_CHECKS,
    block,
    render_column,
    render_matrix,
    render_summary,
    text,
)
from tools.reports.tables import document

SCRIPTS, PAGE = "../fixed_tests", "../dashboard/index.html"
HOSTILE = (
    "<script>alert(1)</script> a|b `c` ```\n# heading\n- item\n\n| x | y |\n| --- | --- |\n"
    "[link](javascript:alert(1)) ![p](http://evil/x.png) <!-- matrix:end --> $x$ ~~s~~ "
    "http://evil www.evil.com <img src=x onerror=alert(1)> \\| \\ @user \u202e \x1b[31mred"
)


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Matrix:
    return full_results(tmp_path_factory.mktemp("full")).matrix(*EXPECTED)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Matrix:
    made = Results(tmp_path_factory.mktemp("hostile"))
    reasons = [check("forward", "fail", HOSTILE), check("golden", "skip", HOSTILE)]
    facts: dict[str, Any] = {"device_name": HOSTILE, "checkpoint": HOSTILE}
    made.run("20261123T183000Z-aaaaaa", {"bert": reasons}, **facts)
    made.run(
        "20261123T183001Z-aaaaaa",
        {"vit": [check("forward", "skip", HOSTILE)]},
        **facts,
    )
    return made.matrix()


def tokens(markdown: str) -> list[Token]:
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(markdown)


def tables(markdown: str) -> list[list[list[str]]]:
    """All tables as rows of cells, each cell as the text that a reader sees."""
    found: list[list[list[str]]] = []
    for before, token in zip([None, *tokens(markdown)], tokens(markdown), strict=False):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type == "inline" and before and before.type in ("td_open", "th_open"):
            words = [t.content for t in token.children or [] if t.type in ("text", "code_inline")]
            found[-1][-1].append("".join(words))
    return found


def assert_same_cells_in_each_row(markdown: str) -> None:
    """Rows with cells too few or too many would be filled or cut by the renderer, unseen."""
    outside = re.sub(r"^(`{3,}).*?^\1$", "", markdown, flags=re.DOTALL | re.MULTILINE)
    width = 0
    for line in outside.splitlines():
        pipes = len(re.findall(r"(?<!\\)(?:\\\\)*\|", line))
        assert not line.startswith("|") or width in (0, pipes), line
        width = pipes if line.startswith("|") else 0


def pages(matrix: Matrix) -> list[str]:
    columns = [render_column(matrix, column, SCRIPTS, PAGE) for column in matrix.columns]
    return [
        render_matrix(matrix, SCRIPTS, PAGE),
        render_summary(matrix, "reports", "page.html"),
        *columns,
    ]


def test_every_row_of_every_table_has_the_same_cells(matrix: Matrix, hostile: Matrix) -> None:
    for page in pages(matrix) + pages(hostile):
        assert tables(page)
        assert_same_cells_in_each_row(page)


def test_the_matrix_has_each_family_once_under_its_architecture(matrix: Matrix) -> None:
    found = [t for t in tables(render_matrix(matrix, SCRIPTS, PAGE)) if t[0][0] == "family"]
    families = [row[0] for rows in found for row in rows[1:]]
    assert families == [family.name for family in matrix.families]
    assert len(found) == len(matrix.architectures)
    [row] = [row for rows in found for row in rows if row[0] == "roberta"]
    assert row[1:3] == ["🟡 expected 5/6", "⏭ skip ⚠ incomplete"]


def test_cells_link_to_scripts_or_explanations_that_are_there(matrix: Matrix) -> None:
    page = render_matrix(matrix, SCRIPTS, PAGE)
    column = {c.slug: render_column(matrix, c, SCRIPTS, PAGE) for c in matrix.columns}
    links = re.findall(r"\]\((\w+)\.md#([\w-]+)\)", page)
    assert ("cpu", "electra") in links
    for slug, anchor in links:
        headings = re.findall(r"^#+ (.*)$", column[slug], re.MULTILINE)
        assert anchor in [heading.lower().replace(" ", "-") for heading in headings]
    assert "[✅ pass 6/6](../fixed_tests/test_hf_bert.py)" in page


def test_counts_add_up_to_all_families(matrix: Matrix) -> None:
    [counts] = [t for t in tables(render_matrix(matrix, SCRIPTS, PAGE)) if t[0][0] == "outcome"]
    *rows, total = counts[1:]
    assert total == ["all families", "9", "9"]
    assert [sum(int(row[column]) for row in rows) for column in (1, 2)] == [9, 9]


def test_an_incomplete_run_is_shown_loudly_on_every_page(matrix: Matrix) -> None:
    for page in pages(matrix):
        assert "> [!WARNING]\n> **Incomplete runs" in page
        assert "20261123T190000Z-cccccc` finished 3 of 4 scripts" in page


def test_a_page_tells_what_does_not_pass_and_how_to_repeat_it(matrix: Matrix) -> None:
    page = render_column(matrix, matrix.columns[0], SCRIPTS, PAGE)
    fences = [(t.info, t.content) for t in tokens(page) if t.type == "fence"]
    assert ("text", "golden ended with fail\n") in fences
    command = "python fixed_tests/test_hf_roberta.py --device cpu --checks golden\n"
    assert ("sh", command) in fences
    assert "value 0.0015, bound 1e-06" in page
    assert "Expectation (cause: transformers): the mask is built from the wrong axis" in page
    assert "models/x/modeling\\_x.py:12 (5.23.0)" in page
    assert page.index("### electra") < page.index("### roberta"), "expected ones come last"


def test_a_page_groups_what_was_skipped_or_not_measured(matrix: Matrix) -> None:
    cpu, cuda = (tables(render_column(matrix, c, SCRIPTS, PAGE)) for c in matrix.columns)
    assert ["gradients", "gradients ended with skip", "2", "t5, vit"] in [r for t in cpu for r in t]
    rows = [row for table in cuda for row in table]
    assert ["⏭ skip", "no cuda device", "1", "roberta"] in rows
    assert ["⛔ not run", "the run ended before this job", "1", "vit"] in rows


def test_a_stand_in_is_in_no_table_of_verdicts_or_measurements(matrix: Matrix) -> None:
    page = render_column(matrix, matrix.columns[0], SCRIPTS, PAGE)
    assert "### llava" not in page
    rows = [row for table in tables(page) for row in table if "llava" in "".join(row)]
    assert rows == [["🔷 mock", "pillow is missing", "1", "llava"]]


def test_measurements_are_shown_with_units(matrix: Matrix) -> None:
    page = render_column(matrix, matrix.columns[1], SCRIPTS, PAGE)
    bert = ["bert", "encoder_only", "3.2 s", "2 ms", "512 MiB", "236,420"]
    assert bert in [row for table in tables(page) for row in table]


def test_hardware_and_software_are_named(matrix: Matrix) -> None:
    rows = [
        row for t in tables(render_column(matrix, matrix.columns[0], SCRIPTS, PAGE)) for row in t
    ]
    for fact in (["hardware", "EPYC 9654"], ["kind", "hardware"], ["transformers", "5.23.0"]):
        assert fact in rows


def test_one_device_is_not_compared_with_itself(tmp_path: Path) -> None:
    made = Results(tmp_path)
    made.run("20261123T183000Z-aaaaaa", {"bert": checks()})
    page = render_matrix(made.matrix(), SCRIPTS, PAGE)
    assert "n/a: only cpu was measured" in page
    assert "| recommended" not in page


def test_foreign_text_is_never_markup(hostile: Matrix) -> None:
    for page in pages(hostile):
        for token in tokens(page):
            assert token.type != "html_block" or token.content.strip() in (MARKER, *FOLDED)
            for child in token.children or []:
                assert child.type not in ("html_inline", "s_open", "em_open")
                address = child.attrGet("href") or child.attrGet("src") or ""
                assert "evil" not in str(address)
                assert "javascript" not in str(address)
        assert "\x1b" not in page
        assert "\u202e" not in page
        headings = [t for t in tokens(page) if t.type == "heading_open"]
        assert len(headings) == len(re.findall(r"^#+ (?!heading)", page, re.MULTILINE))


def test_foreign_text_cannot_end_the_summary(hostile: Matrix) -> None:
    run = Run("<!-- matrix:end -->", None, False, False, 1, 0, ("<!-- matrix:end -->",), 0)
    summary = render_summary(Matrix(hostile.cells, (run,)), "reports", "page.html")
    assert "matrix:end" in summary
    assert END not in summary


@pytest.mark.parametrize("value", ["a|b", "`", "\\|", "a\\", "*x*", "a\nb", "<b>", "https://x.y"])
def test_text_is_read_as_it_was_meant(value: str) -> None:
    [[_, [cell]]] = tables(f"| h |\n| --- |\n| {text(value)} |\n")
    assert cell == " ".join(value.split())


@pytest.mark.parametrize("value", ["```\nout", "````\n```", "plain", "a\n\n# b"])
def test_a_block_is_not_closed_by_its_content(value: str) -> None:
    [fence, rest] = tokens(f"{block(value)}\n\nafter")[:2]
    assert (fence.type, fence.content) == ("fence", f"{value}\n")
    assert rest.type == "paragraph_open"


def test_a_page_stays_small_enough_to_be_rendered(tmp_path: Path) -> None:
    made = Results(tmp_path)
    failing = [check(f"c{i}", "fail", "z" * 5000) for i in range(40)]
    made.run("20261123T183000Z-aaaaaa", {f"family{i}": failing for i in range(20)})
    matrix = made.matrix()
    page = render_column(matrix, matrix.columns[0], SCRIPTS, PAGE)
    assert page.count("--checks") == MAX_OPEN_CHECKS
    assert "10 more families are left out here" in page
    assert len(page) < 700_000


def test_a_family_that_others_confirm_is_marked(matrix: Matrix) -> None:
    family = matrix.families[0].name
    marked = replace(matrix, confirmed={family: {"timm": "1.0"}})
    rows = [row for t in tables(render_matrix(marked, SCRIPTS, PAGE)) for row in t]
    assert [row[0] for row in rows if "☑" in row[0]] == [f"{family} ☑"]
    assert document(marked)["families"][0]["confirmed"] == {"timm": "1.0"}
