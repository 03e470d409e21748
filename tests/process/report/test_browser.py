"""The report in a real browser: drawn, quiet, without a network, on wide and narrow screens and paper."""

from __future__ import annotations

import base64
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver import ActionChains
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select, WebDriverWait

from stitch_sweep.report.findings import derive_findings
from stitch_sweep.report.page.page import Page
from stitch_sweep.report.reading import load_experiment
from tests.support.reports import make_folder

BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
DRIVER = shutil.which("chromedriver")
DRAWN = "return document.documentElement.dataset.drawn === 'true'"
PHONE, WIDE = 390, 1400


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    if BROWSER is None or DRIVER is None:
        if os.environ.get("STITCH_SWEEP_REQUIRE_BROWSER"):
            pytest.fail(
                "STITCH_SWEEP_REQUIRE_BROWSER is set, but there is no browser with its driver"
            )
        pytest.skip(
            "no browser: chromium and chromedriver (Debian: chromium-driver) are not installed"
        )
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.execute_cdp_cmd("Network.enable", {})
    offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    driver.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    folder = make_folder(tmp_path_factory.mktemp("browser") / "sweep", measured=True, sanity=True,
                         samples=2, pairs=(("a", "b"), ("c", "d")), failed=((0, 1),),
                         unconverged=((2, 2),))  # fmt: skip
    page = Page("Model stitching: sweep")
    page.add(derive_findings(load_experiment(folder)))
    path = folder / "report.html"
    path.write_text(page.html())
    return path


def opened(browser, page: Path, width: int = WIDE, dark: bool = False):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    for kind in ("browser", "performance"):
        browser.get_log(kind)  # what earlier pages left
    browser.get(page.as_uri())
    WebDriverWait(browser, 60).until(lambda b: b.execute_script(DRAWN))
    return browser


def chosen(group) -> list[str]:
    """Sender and receiver layer of the cell that is shown."""
    selects = group.find_elements(By.CSS_SELECTOR, ".cell select")
    return [select.first_selected_option.text for select in map(Select, selects)]


def complaints(browser) -> list[str]:
    return [entry["message"] for entry in browser.get_log("browser")]


def test_everything_is_drawn_without_a_network_and_without_complaint(browser, report):
    page = opened(browser, report)
    drawn = page.execute_script(
        "return [...document.querySelectorAll('.heat, .chart, [data-figure]')].map(plot => {"
        "  const marks = plot.querySelectorAll('.main-svg .plot path, .main-svg .plot image,"
        "    .main-svg .heatmaplayer image, .main-svg text');"
        "  const box = plot.getBoundingClientRect();"
        "  const name = plot.id || plot.dataset.figure || plot.className;"
        "  return [name, marks.length, box.width, box.height];"
        "})"
    )
    names = {name for name, *_ in drawn}
    # Two pairs of two matrices and two charts, two ladders, two kinds of quantities by region,
    # correlations, probes, importances.
    assert len(drawn) == 4 + 4 + 2 + 2 + 1 + 1 + 1, names
    for name, marks, width, height in drawn:
        assert marks > 5, name
        assert width > 150, name
        assert height > 120, name
    assert complaints(page) == []
    requests = re.findall(r'"url":"((?:https?|wss?|ftp):[^"]*)"', str(page.get_log("performance")))
    assert requests == []
    pictures = page.execute_script(
        "return [...document.images].map(i => [i.naturalWidth, i.complete])"
    )
    assert len(pictures) == 3 * 4
    assert all(width == 8 and complete for width, complete in pictures)


def test_cells_show_their_numbers_and_marks(browser, report):
    page = opened(browser, report)
    texts = page.execute_script(
        "return [...document.querySelectorAll('.heat')].map(plot =>"
        " [...plot.querySelectorAll('.heatmap-label, .textpoint')].map(t => t.textContent))"
    )
    task = texts[1]
    assert sorted(text for text in task if text.endswith("*")) == ["0.90*"]
    assert task.count("×") == 1
    assert len([text for text in task if re.fullmatch(r"\d\.\d\d\*?", text)]) == 15


@pytest.mark.parametrize("width", [320, PHONE, 800, WIDE])
def test_no_screen_is_too_narrow(browser, report, width):
    page = opened(browser, report, width)
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    page.execute_script("document.querySelectorAll('details').forEach(d => { d.open = true })")
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    # What is wider scrolls within itself, and can be reached with the keyboard.
    beyond = page.execute_script(
        "return [...document.querySelectorAll('body *')].filter(e => {"
        "  const box = e.getBoundingClientRect();"
        "  return box.right > innerWidth + 1 && box.width > 0 && !e.closest('.scroll, .plot, pre, nav');"
        "}).map(e => e.tagName + '.' + e.className)"
    )
    assert beyond == []


def test_a_window_that_changes_takes_its_figures_along(browser, report):
    page = opened(browser, report, WIDE)
    size = {"width": PHONE, "height": 900, "deviceScaleFactor": 1, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    widest = (
        "return Math.max(...[...document.querySelectorAll('.chart .main-svg')]"
        ".map(s => s.getBoundingClientRect().width))"
    )
    WebDriverWait(page, 20).until(lambda b: b.execute_script(widest) <= PHONE)
    assert complaints(page) == []


def test_a_click_opens_the_cell_and_a_menu_changes_the_value(browser, report):
    page = opened(browser, report)
    group = page.find_element(By.ID, "pair0")
    heat = group.find_elements(By.CLASS_NAME, "heat")[1]
    # As a reader does: the pointer goes to the number and clicks it.
    number = heat.find_elements(By.CSS_SELECTOR, ".heatmap-label text")[6]
    assert number.text == "0.50"
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", heat)
    ActionChains(page).move_to_element(number).pause(0.1).click().perform()
    WebDriverWait(page, 10).until(lambda _: chosen(group) == ["1", "3"])
    rows = group.find_elements(By.CSS_SELECTOR, ".cell tbody tr")
    assert [row.text.split()[2] for row in rows] == ["mse", "task"]
    assert "0.500" in rows[1].text
    lines = group.find_elements(By.CSS_SELECTOR, ".cell .chart path.js-line")
    assert len(lines) == 2 * 2 * 2  # two losses, two trials, two charts

    Select(group.find_element(By.CSS_SELECTOR, "select.value")).select_by_visible_text("CKA")
    label = "return arguments[0].querySelector('.heatmap-label').textContent"
    WebDriverWait(page, 10).until(lambda b: b.execute_script(label, heat) == "0.90")
    assert complaints(page) == []


def test_a_failed_cell_says_why(browser, report):
    page = opened(browser, report)
    group = page.find_element(By.ID, "pair1")
    rows, columns = map(Select, group.find_elements(By.CSS_SELECTOR, ".cell select"))
    rows.select_by_visible_text("0")
    columns.select_by_visible_text("1")
    assert (
        "failed: the loss is not finite" in group.find_element(By.CSS_SELECTOR, ".cell tbody").text
    )
    assert group.find_element(By.CSS_SELECTOR, ".cell .none").is_displayed()


def test_an_address_can_point_at_a_trial(browser, report):
    page = opened(browser, report)
    trial = page.execute_script(
        "const d = JSON.parse(document.getElementById('data').textContent);"
        "return d.groups[1].variants[0].trials[3][2][1]"
    )
    page.execute_script("location.hash = 'trial=' + encodeURIComponent(arguments[0])", trial)
    group = page.find_element(By.ID, "pair1")
    WebDriverWait(page, 10).until(lambda _: chosen(group) == ["3", "2"])


@pytest.mark.parametrize("dark", [False, True])
def test_texts_can_be_read_on_their_ground(browser, report, dark):
    page = opened(browser, report, dark=dark)
    least = page.execute_script(
        """
        const numbers = (c) => c.match(/[\\d.]+/g).map(Number);
        const light = (c) => {
          const [r, g, b] = numbers(c).map(v => v / 255)
            .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
          return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const ground = (e) => {
          for (; e; e = e.parentElement) {
            const c = getComputedStyle(e).backgroundColor;
            if (numbers(c)[3] !== 0) return c;
          }
          return "rgb(255, 255, 255)";
        };
        const found = [];
        for (const e of document.querySelectorAll(
            "p, li, td, th, h1, h2, h3, h4, dd, dt, a, figcaption, summary, label,"
            + " .xtick text, .ytick text, .xtitle, .ytitle, .legendtext, .annotation-text")) {
          const style = getComputedStyle(e);
          const colour = e instanceof SVGElement ? style.fill : style.color;
          const [a, b] = [light(colour), light(ground(e))];
          found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.tagName, colour]);
        }
        return found.sort((a, b) => a[0] - b[0])[0];
        """
    )
    assert least[0] >= 4.5, least


def test_numbers_in_cells_can_be_read(browser, report):
    page = opened(browser, report)
    fills = page.execute_script(
        "return [...new Set([...document.querySelectorAll('.heatmap-label text')]"
        ".map(t => getComputedStyle(t).fill))]"
    )
    assert set(fills) <= {"rgb(0, 0, 0)", "rgb(255, 255, 255)"}


def test_paper_is_light_and_holds_every_figure(browser, report):
    page = opened(browser, report, dark=True)
    page.execute_script(
        "matchMedia('print').addEventListener('change', e => {"
        "  if (e.matches) window.onPaper = ["
        "    getComputedStyle(document.body).backgroundColor,"
        "    Math.max(...[...document.querySelectorAll('.main-svg')]"
        "      .map(s => s.getBoundingClientRect().width))"
        "  ];"
        "});"
    )
    answer = page.execute_cdp_cmd("Page.printToPDF", {"printBackground": False})
    paper = base64.b64decode(answer["data"])
    assert paper.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", paper)) > 3
    ground, widest = page.execute_script("return window.onPaper")
    assert ground == "rgb(255, 255, 255)"
    assert widest <= 700
    # And the screen is as it was.
    assert page.execute_script("return document.querySelectorAll('details[open]').length") == 0
    assert complaints(page) == []


def test_without_scripts_the_page_still_tells(browser, report):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(report.as_uri())
        text = browser.find_element(By.TAG_NAME, "main").text
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert "4 networks on digits" in text
    assert "figures/" in text
