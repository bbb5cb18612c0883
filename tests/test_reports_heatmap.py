"""The heat map: stable bytes, a fitting shape, and a colour for each outcome that occurs."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import pytest
from PIL import Image

from tests.matrix_factory import EXPECTED, Results, check, checks, full_results
from tools.reports.data import OUTCOMES, Family, Matrix
from tools.reports.heatmap import _fill, render_heatmap


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Matrix:
    return full_results(tmp_path_factory.mktemp("full")).matrix(*EXPECTED)


def picture(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def colours(data: bytes) -> set[tuple[int, ...]]:
    found = picture(data).convert("RGB").getcolors(1 << 24) or []
    return {colour for count, colour in found if isinstance(colour, tuple) and count > 100}


def near(wanted: str, found: set[tuple[int, ...]]) -> bool:
    """Whether `wanted` ("#rrggbb") is in the picture, whose palette shifts colours a little."""
    rgb = bytes.fromhex(wanted[1:])
    return any(max(abs(a - b) for a, b in zip(rgb, c, strict=True)) < 8 for c in found)


def test_the_same_data_gives_the_same_bytes_without_metadata(matrix: Matrix) -> None:
    data = render_heatmap(matrix)
    assert data == render_heatmap(matrix)
    assert set(picture(data).info) <= {"dpi"}


def test_each_outcome_is_drawn_in_its_colour(matrix: Matrix) -> None:
    found = colours(render_heatmap(matrix))
    for outcome in OUTCOMES.values():
        if outcome.key not in ("pass", "not_run"):  # these are paler
            assert near(outcome.colour, found), outcome.word


@pytest.mark.parametrize("devices", [1, 2, 5])
def test_few_devices_show_checks_and_many_show_devices(tmp_path: Path, devices: int) -> None:
    made = Results(tmp_path)
    families = {f"family{i:03}": checks() for i in range(30)}
    for index in range(devices):
        made.run(f"20261123T18300{index}Z-aaaaaa", families, device=f"cuda:{index}")
    width, height = picture(render_heatmap(made.matrix())).size
    assert 1000 < width < 5000
    assert 0.4 < width / height < 2.5


def test_names_that_the_font_lacks_do_not_warn(tmp_path: Path) -> None:
    made = Results(tmp_path)
    reasons = [check("模型", "fail"), check("forward")]
    made.run("20261123T183000Z-aaaaaa", {"模型": reasons}, device_name="$x^2$ 模型 \\frac")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert render_heatmap(made.matrix())


def test_a_script_that_died_fills_its_row(tmp_path: Path) -> None:
    made = Results(tmp_path)
    made.run("20261123T183000Z-aaaaaa", {"bert": [check("script", "crash")]})
    assert near(OUTCOMES["crash"].colour, colours(render_heatmap(made.matrix())))


@pytest.mark.parametrize("height", [3, 4, 7, 100])
def test_panels_hold_every_row_once_under_its_heading(height: int) -> None:
    groups = {
        name: [Family(f"{name}{i}", name, None, "") for i in range(count)]
        for name, count in (("a", 1), ("b", 5), ("c", 2))
    }
    panels = _fill(groups, height)
    rows = [row for panel in panels for row in panel if isinstance(row, Family)]
    assert rows == [family for families in groups.values() for family in families]
    for panel in panels:
        assert len(panel) <= height
        assert isinstance(panel[0], str)
        assert isinstance(panel[-1], Family), "no heading without a row below it"
        heading = ""
        for row in panel:
            heading = row if isinstance(row, str) else heading
            assert isinstance(row, str) or row.architecture == heading
