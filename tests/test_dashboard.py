"""The dashboard in a real Chromium: each view of the page and of the app, on a desk and a phone."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from werkzeug.serving import make_server

from generator import registry
from tests.matrix_factory import Results, check, checks, full_results
from tools import bench_dashboard
from tools.__main__ import main
from tools.bench_dashboard import DEVICES, cells, replay
from tools.dashboard import page as pages
from tools.dashboard.app import NO_RUN, Answers, Sources, as_csv, make
from tools.reports.data import load_matrix
from tools.scripts import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

HOSTILE = (
    "</pre></script><script>window.hacked = 1</script><img src=//evil.example/x onerror=hacked=1> "
    "\" ' & {{ 7 * 7 }} <b>bold</b> \u202e \x1b[31mred ]]> -->"
)
DESK, PHONE = (1280, 800), (390, 844)
VIEWS = {
    "overview": "Overview",
    "matrix": "Compatibility",
    "performance": "Performance",
    "history": "History",
    "runs": "How a run went",
    "environment": "Environment",
}


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of real cells on three devices in 16 nights."""
    path = tmp_path_factory.mktemp("replayed") / "matrix.duckdb"
    real = cells(ROOT / "compatibility_reports" / "matrix.json", 40)
    replay(path, real, {name: DEVICES[name] for name in ("cpu", "cuda", "xpu")}, 16)
    return path


def write_page(database: Path, file: Path, prices: Path | None = None) -> Path:
    shown = pages.load(database, load_matrix(database), ROOT / "fixed_tests", prices)
    file.write_text(pages.render(shown, "../fixed_tests"), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def file(replayed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    (folder / "prices.toml").write_text("[usd_per_hour]\ncpu = 0.4\ncuda = 3.5\n")
    return write_page(replayed, folder / "index.html", folder / "prices.toml")


@contextmanager
def opened(browser: Browser, url: str, size: tuple[int, int] = DESK) -> Iterator[Page]:
    """A tab at `url`; an error in its console, or a request to elsewhere, is an error."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]})
    tab, wrong = context.new_page(), []
    own = url.partition("#")[0].rpartition("/")[0]
    tab.on("console", lambda told: told.type == "error" and wrong.append(told.text))
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on(
        "request",
        lambda asked: asked.url.startswith((own, "data:", "blob:")) or wrong.append(asked.url),
    )
    tab.goto(url)
    try:
        yield tab
        assert wrong == []
    finally:
        context.close()


def wait(tab: Page) -> None:
    tab.wait_for_selector("html[data-ready]")


def go(tab: Page, address: str) -> None:
    tab.evaluate("address => { location.hash = address }", address)


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_each_view_of_the_page_is_shown(
    browser: Browser, file: Path, size: tuple[int, int]
) -> None:
    with opened(browser, file.as_uri(), size) as tab:
        wait(tab)
        for view, title in VIEWS.items():
            go(tab, f"view={view}")
            tab.wait_for_selector(f"main > h2:text-is('{title}')")
            figures = {"performance": 2, "history": 1, "runs": 1}.get(view, 0)
            tab.wait_for_function(
                "n => document.querySelectorAll('.figure svg.main-svg .trace').length >= n",
                arg=figures,
            )
            assert tab.locator(".figure").count() == figures
            assert tab.locator("nav a[aria-current]").inner_text() == {
                "matrix": "Compatibility",
                "runs": "Runs",
            }.get(view, title)
            wide = tab.evaluate("document.documentElement.scrollWidth - innerWidth")
            assert wide <= 0, f"{view} is wider than the window"


def test_what_is_shown_is_what_was_measured(browser: Browser, file: Path, replayed: Path) -> None:
    matrix = load_matrix(replayed)
    with opened(browser, file.as_uri() + "#view=matrix") as tab:
        wait(tab)
        assert tab.locator("#heat tbody tr").count() == len(matrix.families)
        for family in matrix.families[:5]:
            shown = tab.locator(
                f"#heat tr:has(th a:text-is('{family.name}')) .cell"
            ).all_inner_texts()
            expected = [matrix.cells.get((family.name, column)) for column in matrix.columns]
            for text, cell in zip(shown, expected, strict=True):
                assert (f"{cell.passed}/{cell.total}" if cell else "not run") in text


def test_filters_are_in_the_address(browser: Browser, file: Path) -> None:
    with opened(browser, file.as_uri() + "#view=matrix") as tab:
        wait(tab)
        tab.fill("input[name=text]", "wav2vec2")
        tab.select_option("select[name=only]", "cuda")
        names = tab.locator("#heat tbody tr:visible th").all_inner_texts()
        assert names
        assert all("wav2vec2" in name for name in names)
        assert tab.locator("#heat thead th:visible").count() == 3
        assert tab.locator("output").inner_text().startswith(f"{len(names)} of ")
        address = tab.url
    with opened(browser, address) as again:
        wait(again)
        assert again.locator("#heat tbody tr:visible th").all_inner_texts() == names
        assert again.locator("#heat thead th:visible").count() == 3


def test_a_link_to_a_cell_opens_it_and_the_keyboard_goes_on(browser: Browser, file: Path) -> None:
    family = "wav2vec2"
    with opened(browser, f"{file.as_uri()}#family={family}&device=cuda") as tab:
        wait(tab)
        dialog = tab.locator("dialog[open]")
        assert dialog.locator("h3").inner_text() == f"{family} on cuda"
        assert f"python fixed_tests/test_hf_{family}.py --device cuda" in dialog.inner_text()
        assert "median latency" in dialog.inner_text()
        tab.keyboard.press("Escape")
        tab.wait_for_selector("dialog:not([open])", state="attached")
        focused = "document.activeElement.getAttribute('aria-label')"
        assert tab.evaluate(focused).startswith(f"{family} on cuda:")
        tab.keyboard.press("ArrowLeft")
        assert tab.evaluate(focused).startswith(f"{family} on cpu:")
        tab.keyboard.press("Enter")
        tab.wait_for_selector("dialog[open]")
        assert "device=cpu" in tab.url


def test_sorting_puts_the_worst_first(browser: Browser, file: Path) -> None:
    with opened(browser, file.as_uri() + "#view=matrix&sort=worst") as tab:
        wait(tab)
        first = tab.locator("#heat tbody tr").first
        assert first.locator(".cell.fail, .cell.error, .cell.not_run, .cell.skip").count() >= 1
        tab.click("#heat thead button:text-is('family')")
        names = tab.locator("#heat tbody th").all_inner_texts()
        assert names[0][0] < names[-1][0]
        tab.click("#heat thead button:text-is('family')")
        assert tab.locator("#heat tbody th").all_inner_texts() == names[::-1]
        assert tab.locator("th[aria-sort=descending]").inner_text().startswith("family")


def test_everything_has_a_name_for_screen_readers(browser: Browser, file: Path) -> None:
    unnamed = """() => [...document.querySelectorAll(
        'a, button, input, select, [role=img], [role=region]')].filter((e) => e.checkVisibility()
        && !(e.ariaLabel || e.labels?.length || e.innerText?.trim() || e.closest('.figure')))
        .map((e) => e.outerHTML)"""
    with opened(browser, file.as_uri()) as tab:
        wait(tab)
        for view, title in VIEWS.items():
            go(tab, f"view={view}")
            tab.wait_for_selector(f"main > h2:text-is('{title}')")
            assert tab.evaluate(unnamed) == []


def test_dark_and_light_differ(browser: Browser, file: Path) -> None:
    shades = []
    for scheme in ("dark", "light"):
        context = browser.new_context(color_scheme=scheme)
        tab = context.new_page()
        tab.goto(file.as_uri())
        shades.append(tab.evaluate("getComputedStyle(document.body).backgroundColor"))
        context.close()
    assert shades == ["rgb(15, 20, 25)", "rgb(255, 255, 255)"]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Results in which every text that a script or a machine gives is hostile."""
    made = Results(tmp_path_factory.mktemp("hostile"))
    bad = [check("forward", "fail", HOSTILE), check("golden", "fail", HOSTILE + "y" * 1_000_000)]
    facts: dict[str, Any] = {"device_name": HOSTILE, "checkpoint": HOSTILE}
    for night in range(4):
        found = bad if night > 1 else checks()
        made.run(f"2026112{night}T183000Z-aaaaaa", {"bert": found, "gpt2": checks()}, **facts)
    made.matrix()
    return made


HARMLESS = "() => !window.hacked && !document.querySelector('img, b, main script, dialog script')"


def test_foreign_text_is_never_markup_on_the_page(
    browser: Browser, hostile: Results, tmp_path: Path
) -> None:
    file = write_page(hostile.database, tmp_path / "index.html")
    assert "evil.example" not in file.read_text(encoding="utf-8"), "it is packed"
    with opened(browser, file.as_uri()) as tab:
        wait(tab)
        for address in (*(f"view={view}" for view in VIEWS), "family=bert&device=cpu"):
            go(tab, address)
            tab.wait_for_timeout(200)
            assert tab.evaluate(HARMLESS)
        reasons = tab.locator("dialog pre:not(.command)").all_inner_texts()
        assert reasons[0].startswith("</pre></script><script>window.hacked = 1</script><img src=")
        assert "\u202e" not in reasons[0]
        assert "\x1b" not in reasons[0]
        assert max(map(len, reasons)) < 3000


@contextmanager
def served(answers: Answers) -> Iterator[str]:
    """The app on a free port of this machine."""
    server = make_server("127.0.0.1", 0, make(answers).server, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()


def answers_of(made: Results) -> Answers:
    return Answers(Sources(made.folder, made.database, ROOT / "fixed_tests"))


def test_a_run_is_shown_while_it_goes_on(browser: Browser, tmp_path: Path) -> None:
    made = Results(tmp_path)
    with served(answers_of(made)) as url, opened(browser, url) as tab:
        tab.wait_for_selector(f"text={NO_RUN}")
        families = {"bert": checks(), "gpt2": checks(golden="fail")}
        made.run("20261123T183000Z-aaaaaa", families, not_run=["vit"], ended=False)
        tab.wait_for_selector("text=2 of 3")
        tab.wait_for_selector("text=runs, or was killed")
        told = tab.locator("#live-failures").inner_text()
        assert "golden ended with fail" in told
        assert "python fixed_tests/test_hf_gpt2.py --device cpu --checks golden" in told
        tab.wait_for_selector("#live-timeline svg.main-svg .trace")
        made.run("20261123T190000Z-bbbbbb", {"t5": checks()})
        tab.wait_for_selector("text=1 of 1")  # the newest is followed


def test_the_app_shows_two_runs_trends_and_all_results(browser: Browser, replayed: Path) -> None:
    answers = Answers(Sources(replayed.parent / "none", replayed, ROOT / "fixed_tests"))
    with served(answers) as url:
        for view, figure in (("compare", "#compared"), ("trends", "#trend")):
            with opened(browser, url + view, PHONE if view == "trends" else DESK) as tab:
                tab.wait_for_selector(f"{figure} svg.main-svg .trace")
                tab.wait_for_selector("table, main > p")
                with tab.expect_download() as download:
                    tab.click("text=Save as CSV")
                text = download.value.path().read_text(encoding="utf-8")
                assert len(text.splitlines()) > 10
        with opened(browser, url + "results") as tab:
            frame = tab.frame_locator("iframe")
            frame.locator("h2:text-is('Overview')").wait_for()


def test_without_data_the_app_says_what_to_run(browser: Browser, tmp_path: Path) -> None:
    with served(answers_of(Results(tmp_path))) as url:
        for view, told in (
            ("", "nox -s matrix"),
            ("compare", "nox -s ingest"),
            ("trends", "nox -s"),
        ):
            with opened(browser, url + view) as tab:
                tab.wait_for_selector(f"main >> text={told}")


def test_foreign_text_is_never_markup_in_the_app(browser: Browser, hostile: Results) -> None:
    with served(answers_of(hostile)) as url:
        for view, sign in (("", "#live-failures table"), ("compare", "table"), ("trends", "table")):
            with opened(browser, url + view) as tab:
                tab.wait_for_selector(sign)
                tab.wait_for_timeout(200)
                assert tab.evaluate(
                    HARMLESS.replace("img, b, main script", "main img, main b, main script")
                )
                if view == "":
                    assert "<script>window.hacked = 1</script>" in tab.inner_text("#live-failures")


def test_other_hosts_and_unknown_runs_are_refused(hostile: Results) -> None:
    answers = answers_of(hostile)
    with served(answers) as url:
        address = url.removeprefix("http://").rstrip("/")
        for host, status in ((address, 200), ("evil.example:80", 403), ("evil.example", 403)):
            connection = http.client.HTTPConnection(address)
            connection.request("GET", "/", headers={"Host": host})
            answer = connection.getresponse()
            assert answer.status == status
            assert "connect-src 'self'" in answer.headers["Content-Security-Policy"]
            connection.close()
        connection = http.client.HTTPConnection(address)
        connection.request("GET", "/scripts/..%2Fpyproject.toml", headers={"Host": address})
        assert b"[project]" not in connection.getresponse().read()
        connection.close()
    with pytest.raises(KeyError):
        answers.watch.progress("../elsewhere")


def test_csv_files_hold_no_formulas(hostile: Results) -> None:
    assert as_csv([{"a": "=1+1", "b": 0.5}]) == "a,b\n'=1+1,0.5\n"
    rows = answers_of(hostile).compared("20261120T183000Z-aaaaaa", "20261123T183000Z-aaaaaa")
    assert rows[0]["verdict before"] == "pass"
    assert rows[0]["verdict after"] == "unexpected"


def test_a_broken_record_is_told_and_the_others_are_shown(tmp_path: Path) -> None:
    made = full_results(tmp_path)
    broken = made.folder / "20261123T183000Z-aaaaaa" / "bert-cpu.json"
    broken.write_text("{")
    progress = answers_of(made).watch.progress("20261123T183000Z-aaaaaa")
    assert progress.finished == progress.asked - 1
    assert "bert-cpu.json" in progress.problems[0]


def test_equal_data_gives_equal_bytes(replayed: Path, file: Path, tmp_path: Path) -> None:
    again = write_page(replayed, tmp_path / "index.html", file.parent / "prices.toml")
    assert again.read_bytes() == file.read_bytes()


def test_estimates_have_their_error_and_decide_nothing(replayed: Path, tmp_path: Path) -> None:
    prices = tmp_path / "prices.toml"
    prices.write_text("[usd_per_hour]\nxpu = 2\n")
    matrix = load_matrix(replayed)
    shown = pages.load(replayed, matrix, ROOT / "fixed_tests", prices)
    latency = shown.estimates["latency"]
    assert 1 < latency.half < latency.most < 4
    missing = {(f.name, c) for f in matrix.families for c in matrix.columns} - matrix.cells.keys()
    assert missing <= latency.values.keys()
    document = pages.matrix_document(shown, "scripts")
    for family, told in zip(matrix.families, document["families"], strict=True):
        estimated = set(told["estimates"])
        assert not {c.slug for c in matrix.columns if (family.name, c) in matrix.cells} & estimated
        for slug, each in told["estimates"].items():
            assert each["latency"]["error"] == latency.most
            assert slug not in told["cells"]
            hourly = each["latency"]["value"] / 1e6 / 3600 * 2 * 1000
            assert each["cost"]["value"] == pytest.approx(hourly)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[usd_per_hour]\ncpu = -1\n", "cpu = -1 is no price"),
        ("[usd_per_hour]\ncpu = 'x'\n", "cpu = 'x' is no price"),
        ("[euro]\ncpu = 1\n", "must hold one table"),
        ("[", "cannot be read"),
    ],
)
def test_a_wrong_price_list_is_refused(
    replayed: Path,
    tmp_path: Path,
    text: str,
    told: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry, "read", dict)  # which takes most of the time else
    prices = tmp_path / "prices.toml"
    prices.write_text(text)
    where = ["--database", str(replayed), "--output", str(tmp_path), "--prices", str(prices)]
    assert main(["publish", *where]) == 2
    assert told in capsys.readouterr().err


def test_the_study_finds_what_it_puts_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_dashboard, "PLACES", 4)
    text = bench_dashboard.study(series=40, noises=(0.01,))
    [row] = [line for line in text.splitlines() if line.startswith("| 1.0%")]
    cells_ = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells_[2:4] == ["100.0%", "100.0%"], "steps of 10 and 20 %"
