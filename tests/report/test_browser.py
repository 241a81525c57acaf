"""The page in a real browser: Chromium without a window."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmcompress.report.files import read_report, write_report
from mmcompress.system.files import write_json

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
playwright = pytest.importorskip(
    "playwright.sync_api", reason="no playwright: pip install playwright"
)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium: apt-get install chromium, or put one on the PATH"
)

OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SECONDS = 60_000
"""How long a busy machine may take, in ms."""

BUDGET = {
    "limit": 9,
    "choices": ["dense", "int4"],
    "groups": [
        {
            "name": "text.layers.0.q",
            "modality": "text",
            "roles": ["attn.q"],
            "bytes": [4000, 500],
            "losses": [1e-9, 0.1],
            "chosen": 1,
        }
    ],
}


@pytest.fixture(scope="module")
def report(make_record, tmp_path_factory) -> Path:
    """int8 is larger and worse than int4, which has three seeds; lowrank alone has a latency."""
    root = tmp_path_factory.mktemp("runs")
    records = [make_record("int8", ratio=4.0, recall=0.85)]
    records += [make_record("int4", ratio=8.0, recall=0.86, seed=s) for s in range(3)]
    for record in records:
        record["latency"] |= {"compressed_ms": None, "no_speedup": "decoded"}
    records.append(make_record("lowrank", ratio=2.0, recall=0.87) | {"budget": BUDGET})
    for i, record in enumerate(records):
        (root / f"{i}").mkdir()
        write_json(root / f"{i}" / "run.json", record)
    write_report(read_report(root), root / "report")
    return root / "report" / "report.html"


@pytest.fixture(scope="module")
def page(report: Path, tmp_path_factory) -> Iterator:
    """The open page; what it asked for and complained about is in `asked` and `complaints`."""
    with playwright.sync_playwright() as started:
        context = started.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("profile"),
            executable_path=CHROMIUM,
            args=OPTIONS,
            viewport={"width": 1400, "height": 1000},
            timeout=SECONDS,
        )
        context.set_default_timeout(SECONDS)
        page = context.pages[0]
        page.asked, page.complaints = [], []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("console", lambda message: page.complaints.append(message.text))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.goto(report.as_uri())
        yield page
        context.close()


def names(page) -> list[str]:
    return page.locator("tbody tr:visible summary").all_inner_texts()


def test_plots_are_there_and_nothing_comes_from_elsewhere(page, report: Path) -> None:
    size, latency = page.locator(".plot svg").all()
    for picture, marks in ((size, 3), (latency, 1)):
        box = picture.bounding_box()
        assert box["width"] > 400
        assert box["height"] > 200
        assert picture.locator(".mark").count() == marks
        for mark in picture.locator(".mark").all():
            inner = mark.bounding_box()
            assert inner["width"] > 3
            assert box["x"] < inner["x"] < box["x"] + box["width"]
            assert box["y"] < inner["y"] < box["y"] + box["height"]
    assert "Not here: 2 of 3 recipes" in page.locator(".plot .note").inner_text()
    assert page.asked == [report.as_uri()]
    assert page.complaints == []


def test_hovering_shows_the_run(page, report: Path) -> None:
    tip = page.locator("#tip")
    assert tip.is_hidden()
    page.locator('.plot .mark[aria-label="int4"]').first.hover()
    shown = tip.inner_text()
    assert shown.startswith("int4\n")
    assert "86.0 ± 0.0" in shown
    assert f"{report.parents[1] / '1'}, {report.parents[1] / '2'}" in shown
    assert page.locator("tr.lit summary").inner_text() == "int4"
    page.mouse.move(2, 2)
    assert tip.is_hidden()
    assert page.locator("tr.lit").count() == 0


def test_the_table_sorts_by_mouse_and_keyboard(page) -> None:
    assert names(page) == ["lowrank", "int8", "int4"], "largest artifact first"
    stored = page.get_by_role("button", name="stored (MB)")
    heading = page.locator("th", has=stored)
    stored.click()
    assert heading.get_attribute("aria-sort") == "descending"
    assert names(page) == ["lowrank", "int8", "int4"]
    stored.press("Enter")
    assert heading.get_attribute("aria-sort") == "ascending"
    assert names(page) == ["int4", "int8", "lowrank"]
    page.get_by_role("button", name="recipe").press("Space")
    assert heading.get_attribute("aria-sort") is None
    assert names(page) == ["int4", "int8", "lowrank"]
    page.get_by_role("button", name="latency, batch 32").click()
    assert names(page)[0] == "lowrank", "rows without a value come last"


def test_a_point_is_reached_by_keyboard_and_opens_its_row(page) -> None:
    mark = page.locator('.plot .mark[tabindex="0"][aria-label="int4"]').first
    mark.focus()
    assert page.locator("#tip").inner_text().startswith("int4\n")
    mark.press("Enter")
    row = page.locator("tr", has=page.locator("summary", has_text="int4"))
    assert row.locator("code").first.is_visible()
    assert row.locator("code").first.inner_text() == "python train.py compression=int4 seed=0"
    mark.press("Escape")
    assert page.locator("#tip").is_hidden()


def test_filter_and_choice_of_a_run(page) -> None:
    page.get_by_role("searchbox").fill("LOWR")
    assert names(page) == ["lowrank"]
    assert page.locator(".mark.dim").count() == 2
    page.get_by_role("searchbox").fill("")
    assert len(names(page)) == 3
    page.get_by_role("combobox").select_option(label="lowrank, seed 0")
    assert page.locator("article:visible h3").all_inner_texts() == ["lowrank, seed 0"]
    assert page.locator("article:visible td.chosen").inner_text() == "0.1"
    assert page.complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_the_ground(page, scheme: str) -> None:
    """At least 4.5 to 1, as WCAG 2 asks of text, in the table, the notes and the axes."""
    page.emulate_media(color_scheme=scheme)
    ground = luminance(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert (ground > 0.5) == (scheme == "light")
    words = ["td", "caption", ".note", "thead button"]
    colors = [page.eval_on_selector(w, "e => getComputedStyle(e).color") for w in words]
    colors.append(page.eval_on_selector(".plot text", "e => getComputedStyle(e).fill"))
    for color in colors:
        bright, dark = sorted((luminance(color), ground), reverse=True)
        assert (bright + 0.05) / (dark + 0.05) >= 4.5


def luminance(color: str) -> float:
    """Relative luminance of `rgb(r, g, b)`."""
    parts = [float(c) / 255 for c in color[color.index("(") + 1 : -1].split(",")[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
