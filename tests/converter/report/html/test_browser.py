"""The page in a real browser: what is drawn, what can be sorted and searched, what it asks the network for."""

import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select

from converter.report.html.charts import ON_PAPER, PART, ROW
from converter.report.html.formats import UNKNOWN
from converter.report.html.page import save_page
from tests.converter.report.html.reports import HOSTILE, bare_report, full_report

pytestmark = pytest.mark.slow

SCREENSHOTS = Path(__file__).parents[4] / "docs" / "pictures" / "screenshots.py"
LAYERS = 30
PHONE, DESKTOP = 360, 1100
SCREEN = 800
"""Pixels of its height."""
SHEETS = 8
"""Of a report with every section."""
READABLE = 4.5
"""The contrast that WCAG asks of texts at level AA."""

COLOURS = """
const opaque = (element) => {
  for (; element; element = element.parentElement) {
    const colour = getComputedStyle(element).backgroundColor;
    if (!colour.startsWith("rgba(")) return colour;
  }
};
return [...document.querySelectorAll(arguments[0])].map((element) => [
  getComputedStyle(element)[element instanceof SVGElement ? "fill" : "color"], opaque(element)]);
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    Image.effect_noise((684, 426), 60).convert("RGB").save(folder / "samples.png")
    reports = {
        "full": full_report(LAYERS),
        "large": full_report(150),
        "bare": bare_report(),
        "hostile": full_report(name=HOSTILE, class_name=HOSTILE),
    }
    return {
        name: save_page(report, folder / "samples.png", folder / f"{name}.html")
        for name, report in reports.items()
    }


@pytest.fixture
def full(browser: Chrome, files: dict[str, Path]) -> Chrome:
    return opened(browser, files["full"])


def opened(browser: Chrome, file: Path, width: int = DESKTOP, scheme: str = "light") -> Chrome:
    size = {"width": width, "height": SCREEN, "deviceScaleFactor": 1, "mobile": width == PHONE}
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    for log in ("browser", "performance"):
        browser.get_log(log)  # what earlier pages said
    browser.get(file.as_uri())
    return browser


def one(browser: Chrome, selector: str) -> WebElement:
    return browser.find_element(By.CSS_SELECTOR, selector)


def every(browser: Chrome, selector: str) -> list[WebElement]:
    return browser.find_elements(By.CSS_SELECTOR, selector)


def column(browser: Chrome, table: str, number: int) -> list[str]:
    cells = f"return [...document.querySelectorAll('#{table} tbody tr:not([hidden]) > :nth-child({number})')]"
    return browser.execute_script(f"{cells}.map((cell) => cell.textContent)")


def names(browser: Chrome, chart: WebElement) -> list[str]:
    """Names of the bars from the top down, by where they are drawn."""
    marks = [(mark.location["y"], mark.find_element(By.TAG_NAME, "text").text) for mark in chart_marks(chart)]
    return [name for _, name in sorted(marks)]


def chart_marks(chart: WebElement) -> list[WebElement]:
    return chart.find_elements(By.CSS_SELECTOR, ".mark")


def chart_named(browser: Chrome, title: str) -> WebElement:
    return next(chart for chart in every(browser, ".chart") if title in chart.text)


def contrast(one_colour: str, other: str) -> float:
    """(L1 + 0.05) / (L2 + 0.05) of WCAG 2, for colours like ``rgb(27, 29, 31)``."""

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
        red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    dark, light = sorted((luminance(one_colour), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_contrast_is_that_of_wcag() -> None:
    assert contrast("rgb(0, 0, 0)", "rgb(255, 255, 255)") == pytest.approx(21.0)
    assert contrast("rgb(118, 118, 118)", "rgb(255, 255, 255)") == pytest.approx(4.54, abs=0.01)


def test_charts_are_drawn(full: Chrome) -> None:
    bars = chart_named(full, "Range of each activation")
    widths = [mark.find_element(By.CSS_SELECTOR, ".bar").rect["width"] for mark in chart_marks(bars)]
    ranges = list(full_report(LAYERS).calibration.ranges.values())
    scale = max(widths) / max(ranges)
    assert widths == pytest.approx([value * scale for value in ranges], abs=1.0)
    curve = chart_named(full, "Batch-norm KL divergence")
    assert 20 < len(chart_marks(curve)) <= 48
    line = curve.find_element(By.TAG_NAME, "polyline").rect
    assert line["width"] > 300
    assert line["height"] == pytest.approx(170, abs=3)


@pytest.mark.parametrize("how", ["click", "keyboard"])
def test_a_table_is_sorted(how: str, full: Chrome) -> None:
    before = column(full, "speed", 4)
    head = next(head for head in every(full, "#speed th") if "Images/s" in head.text)
    button = head.find_element(By.TAG_NAME, "button")
    for direction in ("ascending", "descending"):
        if how == "click":
            button.click()
        else:
            button.send_keys(Keys.ENTER if direction == "ascending" else Keys.SPACE)
        figures = [float(text.replace(",", "")) for text in column(full, "speed", 4)]
        assert figures == sorted(figures, reverse=direction == "descending")
        assert head.get_attribute("aria-sort") == direction
    assert sorted(before) == sorted(column(full, "speed", 4))


def test_names_are_sorted_by_their_numbers_and_unknown_figures_stay_last(full: Chrome) -> None:
    tensor, *_, amax, _, _ = every(full, "#edges th button")
    tensor.click()
    assert column(full, "edges", 1)[:2] == ["layer0.conv.weight", "layer1.conv.weight"]
    assert column(full, "edges", 1)[-2:] == [f"relu_{LAYERS - 2}", f"relu_{LAYERS - 1}"]
    for _ in range(2):  # ascending, descending
        amax.click()
        assert set(column(full, "edges", 4)[-LAYERS:]) == {UNKNOWN}


def test_a_search_filters(full: Chrome) -> None:
    search = one(full, "input[data-filters=edges]")
    search.send_keys("CONV2D_7")
    assert column(full, "edges", 1) == ["relu_7", "layer7.conv.weight"]
    assert one(full, "#quantizers output").text == f"2 of {2 * LAYERS}"
    search.send_keys(Keys.BACKSPACE * 8)
    assert len(column(full, "edges", 1)) == 2 * LAYERS
    assert one(full, "#quantizers output").text == ""


def test_bars_are_ordered(full: Chrome) -> None:
    chart = chart_named(full, "KL divergence with this layer alone")
    worst_first = names(full, chart)
    assert worst_first == [f"relu_{i}" for i in range(LAYERS)]
    Select(chart.find_element(By.TAG_NAME, "select")).select_by_visible_text("best first")
    assert names(full, chart) == worst_first[::-1]


def test_a_mark_is_explained_on_focus_and_the_arrow_keys_move(full: Chrome) -> None:
    chart = chart_named(full, "Range of each activation")
    tip = one(full, ".tip")
    assert not tip.is_displayed()
    reached = [mark for mark in chart_marks(chart) if mark.get_attribute("tabindex") == "0"]
    assert len(reached) == 1
    chart.find_element(By.TAG_NAME, "select").send_keys(Keys.TAB)
    assert tip.text == "relu_0: amax 2.50"
    ActionChains(full).send_keys(Keys.ARROW_DOWN).perform()
    assert tip.text == "relu_1: amax 4.83"
    ActionChains(full).send_keys(Keys.END).perform()
    assert tip.text.startswith(f"relu_{LAYERS - 1}: ")
    ActionChains(full).send_keys(Keys.ESCAPE).perform()
    assert not tip.is_displayed()


def test_a_mark_is_explained_under_the_pointer(full: Chrome) -> None:
    curve = chart_named(full, "Label loss")
    full.execute_script("arguments[0].scrollIntoView({block: 'center'})", curve)
    ActionChains(full).move_to_element(chart_marks(curve)[10]).perform()
    tip = one(full, ".tip")
    assert tip.text.startswith("step 60: ")
    assert 0 <= tip.rect["x"] <= DESKTOP - tip.rect["width"]


@pytest.mark.parametrize("name", ["full", "bare", "hostile"])
def test_nothing_is_asked_of_the_network_and_no_error_is_logged(
    name: str, browser: Chrome, files: dict[str, Path]
) -> None:
    opened(browser, files[name])
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert files[name].as_uri() in urls
    assert [url for url in urls if not url.startswith("data:")] == [files[name].as_uri()]
    assert browser.get_log("browser") == []


def test_a_hostile_name_is_only_a_name(browser: Chrome, files: dict[str, Path]) -> None:
    opened(browser, files["hostile"])
    assert one(browser, "h1").text == f"{HOSTILE} in INT8"
    assert len(every(browser, "script")) == 1
    assert len(every(browser, "img")) == 1


@pytest.mark.parametrize("name", ["full", "large", "bare", "hostile"])
def test_a_phone_needs_no_scrolling_sideways(name: str, browser: Chrome, files: dict[str, Path]) -> None:
    opened(browser, files[name], width=PHONE)
    assert browser.execute_script("return innerWidth") == PHONE
    assert browser.execute_script("return document.documentElement.scrollWidth") == PHONE


@pytest.mark.parametrize(("width", "rows"), [(PHONE, 3), (DESKTOP, 1)])
def test_the_first_screen_has_the_numbers_and_the_picture(
    width: int, rows: int, browser: Chrome, files: dict[str, Path]
) -> None:
    opened(browser, files["full"], width=width)
    boxes = [number.rect for number in every(browser, ".numbers > div")]
    assert len(boxes) == 3
    assert len({box["y"] for box in boxes}) == rows
    assert max(box["y"] + box["height"] for box in boxes) < one(browser, "header img").rect["y"] < SCREEN
    assert one(browser, "nav").rect["y"] < one(browser, "main").rect["y"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_are_readable(scheme: str, browser: Chrome, files: dict[str, Path]) -> None:
    opened(browser, files["full"], scheme=scheme)
    browser.execute_script("document.querySelector('.mark').focus()")
    for text in (
        "h1, h2, h3, p, dt, dd, li, a, caption, th, td, small, code, figcaption, pre, select, input, label",
        "summary, footer",
        ".chart text",
        ".tip",
        ".todo",
    ):
        found = browser.execute_script(COLOURS, text)
        assert found, text
        assert min(contrast(*pair) for pair in found) >= READABLE, text


def test_bars_stand_out_from_the_page_and_from_each_other(full: Chrome) -> None:
    ((bar, page), *_), ((marked, _), *_) = (
        full.execute_script(COLOURS, selector) for selector in (".mark:not(.marked) .bar", ".marked .bar")
    )
    assert min(contrast(bar, page), contrast(marked, page)) >= 3
    assert bar != marked


def test_the_page_follows_the_systems_colours(browser: Chrome, files: dict[str, Path]) -> None:
    def colours(scheme: str) -> Any:
        return opened(browser, files["bare"], scheme=scheme).execute_script(COLOURS, "h1")

    ((light_text, light_page),), ((dark_text, dark_page),) = colours("light"), colours("dark")
    assert (light_text, light_page) != (dark_text, dark_page)
    assert contrast(light_page, "rgb(0, 0, 0)") > contrast(dark_page, "rgb(0, 0, 0)")


def test_it_is_read_without_a_script(browser: Chrome, files: dict[str, Path]) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        opened(browser, files["full"])
        assert not any(control.is_displayed() for control in every(browser, ".control"))
        assert len(column(browser, "edges", 1)) == 2 * LAYERS
        assert names(browser, chart_named(browser, "Range of each"))[0] == "relu_0"
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def shown(elements: list[WebElement]) -> int:
    return sum(element.is_displayed() for element in elements)


def test_a_printed_page_has_the_options_and_the_first_of_long_tables_and_charts(full: Chrome) -> None:
    visible = "return document.querySelector('#options tr').checkVisibility()"
    rows, bars = every(full, "#tensors tbody tr"), chart_marks(chart_named(full, "Range of each"))
    lines = every(full, ".on-paper")
    assert not full.execute_script(visible)
    assert (shown(rows), shown(bars), shown(lines)) == (len(rows), len(bars), 0)
    full.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert not one(full, "nav").is_displayed()
        assert full.execute_script(visible)
        assert shown(rows) == shown(bars) == ON_PAPER
        texts = [line.text for line in lines]
        for count, what in ((len(rows), "rows"), (len(bars), "bars")):
            assert count > ON_PAPER
            assert any(
                text.startswith(f"The first {ON_PAPER} of {count} {what} are printed;") for text in texts
            )
        box = one(full, ".tall")
        assert box.rect["height"] >= one(full, ".tall table").rect["height"]
        parts = [part for part in every(full, ".rows > svg") if part.is_displayed()]
        assert max(part.rect["height"] for part in parts) <= ROW * PART  # what no page divides
    finally:
        full.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_the_report_of_a_large_network_fits_few_sheets(
    browser: Chrome, files: dict[str, Path], tmp_path: Path
) -> None:
    sheets = runpy.run_path(str(SCREENSHOTS))["printed"](opened(browser, files["large"]), tmp_path / "a.pdf")
    assert len(re.findall(rb"/Type\s*/Page\b", sheets.read_bytes())) <= SHEETS


def test_a_large_page_is_small_enough_to_open_at_once(browser: Chrome, files: dict[str, Path]) -> None:
    """Within a second on a slow machine: the time goes by the number of elements, which a test can hold."""
    page = opened(browser, files["large"])
    assert page.execute_script("return document.querySelectorAll('*').length") < 10_000
    assert files["large"].stat().st_size < 1_000_000


def test_screenshots_are_of_each_width_and_scheme(
    browser: Chrome, files: dict[str, Path], tmp_path: Path
) -> None:
    """``browser`` is asked for so that the test is skipped without one."""
    made = runpy.run_path(str(SCREENSHOTS))["main"](files["bare"], tmp_path)
    sizes, corners = {}, {}
    for path in made[:-1]:
        with Image.open(path) as image:
            sizes[path.stem], corners[path.stem] = image.size, image.getpixel((0, 0))
    for width, height in ((390, 844), (1280, 800)):
        assert sizes[f"{width}-light"] == sizes[f"{width}-dark"] == (width, height)
        assert corners[f"{width}-light"] != corners[f"{width}-dark"]
        assert sizes[f"{width}-light-whole"][1] > height
    assert made[-1].read_bytes().startswith(b"%PDF")
