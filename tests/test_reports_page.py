"""The HTML page of the matrix: self-contained, harmless, and complete without JavaScript."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.matrix_factory import EXPECTED, Results, check, checks, full_results
from tools.reports.data import OUTCOMES, Matrix
from tools.reports.page import render_page

VOID = {"meta", "input", "br"}
HOSTILE = (
    "</pre></script><script>alert(1)</script> <img src=//evil onerror=alert(1)> \" ' & "
    "{{ 7 * 7 }} {% raw %} \u202e \x1b[31mred ]]> -->"
)


class Page(HTMLParser):
    """All elements of a page with their attributes, and the text of each."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: dict[int, str] = {}
        self.open: list[int] = []
        self.feed(html)
        self.close()
        assert self.open == [], "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(len(self.elements) - 1)

    def handle_endtag(self, tag: str) -> None:
        assert self.elements[self.open.pop()][0] == tag

    def handle_data(self, data: str) -> None:
        for index in self.open:
            self.texts[index] = self.texts.get(index, "") + data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attrs for name, attrs in self.elements if name == tag]

    def text(self, tag: str, **wanted: str) -> list[str]:
        """The texts of all elements `tag` that have the attributes `wanted`."""
        return [
            self.texts.get(index, "").strip()
            for index, (name, attrs) in enumerate(self.elements)
            if name == tag and wanted.items() <= attrs.items()
        ]


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Matrix:
    return full_results(tmp_path_factory.mktemp("full")).matrix(*EXPECTED)


@pytest.fixture(scope="module")
def page(matrix: Matrix) -> Page:
    return Page(render_page(matrix, "../fixed_tests"))


def assert_needs_no_network(page: Page) -> None:
    for tag, attrs in page.elements:
        assert "src" not in attrs, tag
        assert tag not in ("link", "iframe", "object", "embed", "base")
        assert not any(name.startswith("on") for name in attrs), attrs
        if tag == "a":
            assert attrs["href"].startswith(("#", "../fixed_tests/"))
    [policy] = [a["content"] for a in page.all("meta") if "http-equiv" in a]
    assert policy.startswith("default-src 'none'")
    assert len(page.all("script")) == len(page.all("style")) == 1


def test_the_page_needs_no_network(page: Page) -> None:
    assert_needs_no_network(page)


def test_the_table_is_complete_without_javascript(page: Page, matrix: Matrix) -> None:
    assert page.text("th", scope="row") == [family.name for family in matrix.families]
    shown = page.text("td", **{"data-device": "cpu"})
    assert shown == [matrix.cells[row.name, matrix.columns[0]].text for row in matrix.families]
    assert page.text("td", **{"data-device": "cuda"}).count("⛔ not run") == 5
    [form] = page.all("form")
    assert "hidden" in form, "what needs JavaScript is shown by it"


def test_the_page_is_labelled_for_screen_readers(page: Page) -> None:
    assert page.all("html") == [{"lang": "en"}]
    headers = page.all("th")
    assert {header["scope"] for header in headers} == {"row", "col"}
    badges = [a for a in page.all("a") if "badge" in a.get("class", "")]
    assert "roberta on cpu: 🟡 expected 5/6, details" in [a["aria-label"] for a in badges]
    [region] = [a for a in page.all("div") if a.get("role") == "region"]
    assert region["aria-label"]
    assert region["tabindex"] == "0"


def test_each_cell_links_to_its_details(page: Page, matrix: Matrix) -> None:
    targets = [a["href"] for a in page.all("a") if a["href"].startswith("#")]
    sections = ["#" + section["id"] for section in page.all("section")]
    assert len(targets) == len(set(targets)) == len(matrix.cells)
    assert set(targets) == set(sections)


def test_details_tell_reason_numbers_expectation_and_command(page: Page) -> None:
    [roberta] = page.text("section", id="cell-cpu-roberta")
    for part in (
        "golden: 🟡 expected fail",
        "golden ended with fail",
        "value 0.0015, bound 1e-06",
        "Expectation (cause: transformers): the mask is built from the wrong axis",
        "Where: models/x/modeling_x.py:12 (5.23.0)",
        "python fixed_tests/test_hf_roberta.py --device cpu --checks golden",
        "forward, determinism, save_load, gradients, export",
        "EPYC 9654",
        "20261123T183000Z-aaaaaa",
    ):
        assert part in roberta
    [llava] = page.text("section", id="cell-cpu-llava")
    assert "a stand-in ran" in llava
    assert "median latency" not in llava


def test_incomplete_runs_are_shown_loudly(page: Page) -> None:
    [warning] = page.text("div", **{"class": "warning"})
    assert "20261123T190000Z-cccccc finished 3 of 4 scripts" in warning


def test_a_complete_matrix_has_no_warning(tmp_path: Path) -> None:
    made = Results(tmp_path)
    made.run("20261123T183000Z-aaaaaa", {"bert": checks()})
    page = Page(render_page(made.matrix(), "../fixed_tests"))
    assert page.text("div", **{"class": "warning"}) == []
    assert any(text.startswith("No device is recommended") for text in page.text("p"))


def test_each_outcome_can_be_filtered_and_has_a_colour(page: Page) -> None:
    options = [attrs.get("value") for attrs in page.all("option")]
    [style] = page.text("style")
    for key, outcome in OUTCOMES.items():
        assert key in options
        assert f".{key} {{ --outcome: {outcome.colour}; }}" in style
    assert len({outcome.colour for outcome in OUTCOMES.values()}) == len(OUTCOMES)


def test_foreign_text_is_never_markup(tmp_path: Path) -> None:
    made = Results(tmp_path)
    made.run(
        "20261123T183000Z-aaaaaa",
        {"bert": [check("forward", "fail", HOSTILE), check("golden", "fail", "y" * 1_000_000)]},
        device_name=HOSTILE,
        checkpoint=HOSTILE,
    )
    html = render_page(made.matrix(), "../fixed_tests")
    page = Page(html)
    assert_needs_no_network(page)
    assert page.all("img") == []
    [reason, *_] = page.text("pre")
    assert reason.startswith("</pre></script><script>alert(1)</script> <img")
    assert "{{ 7 * 7 }}" in reason
    assert "\x1b" not in html
    assert "\u202e" not in html
    assert len(html) < 60_000
