"""The report in a real browser: Debian's Chromium, headless, driven by Selenium."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featx.report import write_report

webdriver = pytest.importorskip("selenium.webdriver", reason="Selenium is not installed (the extra `test`)")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
AXE = Path(
    os.environ.get("FEATX_AXE") or Path(__file__).parents[2] / "node_modules" / "axe-core" / "axe.min.js"
)

pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="no browser: apt-get install chromium chromium-driver"
)

WIDE, PHONE = 1280, 390


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture(scope="module")
def report(tmp_path_factory, build):
    """Every part of a report: pictures, thumbnails, curves, hostile names, long names."""
    root = tmp_path_factory.mktemp("browser")
    results = build.results()
    results["rows"][1]["backbone"] = build.evil
    results["rows"].append(build.row(layer="features.3:avg", cv=0.8, test=(0.8, 0.73, 0.86)))
    results["dataset"]["classes"] = ["ants", "<script>alert(1)</script>"]
    results["dataset"]["skipped"] = [{"name": f"{'long' * 30}.jpg", "reason": "not an image"}]
    results["dataset"]["source"] = [str(root / "photos")]
    image = {"name": "test/3.jpg", "split": "test", "label": "ants", "predicted": "bees"}
    image |= {"probability": 0.981, "label_probability": 0.012}
    results["suspects"] = {"method": "m", "checked": 9, "contradicted": 1, "count": 1, "images": [image]}
    truth, predicted = [0] * 70 + [1] * 83, [0] * 66 + [1] * 4 + [1] * 78 + [0] * 5
    run = build.save(root / "run", results, truth, predicted)
    arrays = dict(np.load(run / "predictions.npz"))
    arrays["map"] = np.random.default_rng(0).normal(size=(len(truth), 2)).astype(np.float32)
    np.savez(run / "predictions.npz", **arrays)
    entries = [{"epoch": e, "loss": 1 / e, "accuracy": 0.5, "tuning_accuracy": 0.5} for e in (1, 2, 3)]
    (run / "curves.json").write_text(json.dumps({"training": {"rate 0.1": entries}}))
    (root / "photos" / "test").mkdir(parents=True)
    for i in range(len(truth)):
        Image.new("RGB", (90, 60), (i, 99, 150)).save(root / "photos" / "test" / f"{i}.jpg")
    return write_report(run)


@pytest.fixture
def show(browser, report):
    def show(width=WIDE, theme="light"):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width == PHONE}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = [{"name": "prefers-color-scheme", "value": theme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        for kind in ("browser", "performance"):
            browser.get_log(kind)  # What the page before it left.
        browser.get(report.as_uri())
        return browser

    return show


def first_column(browser, table, column=0):
    script = (
        "return Array.from(document.querySelectorAll('table')[arguments[0]].tBodies[0].rows,"
        " row => row.cells[arguments[1]].textContent)"
    )
    return browser.execute_script(script, table, column)


def heading(browser, table, column):
    return browser.find_elements("css selector", "table")[table].find_elements("css selector", "th")[column]


@pytest.mark.parametrize("width", [WIDE, PHONE])
def test_no_error_and_nothing_is_loaded(show, report, width):
    browser = show(width)
    assert browser.get_log("browser") == []
    sent = []
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            sent.append(message["params"]["request"]["url"])
    assert [url for url in sent if not url.startswith("data:")] == [report.as_uri()]
    with contextlib.suppress(Exception):
        pytest.fail(browser.switch_to.alert.text)


def test_hostile_names_are_text(show):
    browser = show()
    assert "<script>alert(1)</script>" in browser.find_element("tag name", "body").text
    assert len(browser.find_elements("tag name", "script")) == 1


def test_the_policy_holds_scripts_back(show):
    browser = show()
    script = (
        "const bad = document.createElement('script'); bad.textContent = 'window.ran = 1';"
        "document.body.append(bad); return window.ran === undefined"
    )
    assert browser.execute_script(script)


def test_tables_sort_by_click_and_by_key(show):
    browser = show()
    test_score = [c.text.replace("\n", " ") for c in browser.find_elements("css selector", "th")][:9]
    column = next(i for i, name in enumerate(test_score) if name.startswith("test"))
    before = first_column(browser, 0)
    button = heading(browser, 0, column).find_element("tag name", "button")
    button.click()
    scores = [float(text[:5]) for text in first_column(browser, 0, column)]
    assert scores == sorted(scores)
    assert scores[0] < scores[-1]
    assert heading(browser, 0, column).get_attribute("aria-sort") == "ascending"
    button.send_keys("\ue007")
    assert [float(text[:5]) for text in first_column(browser, 0, column)] == scores[::-1]
    assert heading(browser, 0, column).get_attribute("aria-sort") == "descending"
    heading(browser, 0, 0).find_element("tag name", "button").click()
    assert first_column(browser, 0) == before == [str(i + 1) for i in range(len(before))]
    assert heading(browser, 0, column).get_attribute("aria-sort") is None


@pytest.mark.parametrize(
    ("cells", "ordered"),
    [
        (
            ["1 min 14 s", "4 ms", "–", "0.42 s", "1 h 02 min"],
            ["4 ms", "0.42 s", "1 min 14 s", "1 h 02 min", "–"],
        ),
        (["1.2 GB", "991.0 MB", "12 bytes"], ["12 bytes", "991.0 MB", "1.2 GB"]),
        (
            ["+0.008 [-1, 1], p < 0.001", "best", "-0.1 [-1, 1]"],
            ["-0.1 [-1, 1]", "+0.008 [-1, 1], p < 0.001", "best"],
        ),
        (["9 of 10", "1,200 of 1,300", "70 of 83"], ["9 of 10", "70 of 83", "1,200 of 1,300"]),
        (["b10.jpg", "b9.jpg", "a.jpg"], ["a.jpg", "b9.jpg", "b10.jpg"]),
    ],
)
def test_cells_are_ordered_as_people_read_them(show, cells, ordered):
    browser = show()
    fill = (
        "const body = document.querySelectorAll('table')[0].tBodies[0];"
        "while (body.rows.length > arguments[0].length) body.lastElementChild.remove();"
        "arguments[0].forEach((text, i) => { body.rows[i].cells[1].textContent = text; })"
    )
    browser.execute_script(fill, cells)
    heading(browser, 0, 1).find_element("tag name", "button").click()
    assert first_column(browser, 0, 1) == ordered


def test_the_sum_stays_below(show):
    browser = show()
    script = (
        "const table = document.querySelector('tfoot').parentElement;"
        "table.querySelector('th button').click(); table.querySelector('th button').click();"
        "return table.rows[table.rows.length - 1].cells[0].textContent"
    )
    assert browser.execute_script(script) == "all"


def test_a_table_is_copied(show):
    browser = show()
    # The clipboard of a headless browser is nobody's; what would go there is looked at instead.
    script = (
        "const done = arguments[0]; navigator.clipboard.writeText = async text => { done(text); };"
        "document.querySelector('.tools button').click()"
    )
    lines = browser.execute_async_script(script).split("\n")
    assert lines[0].split("\t")[:2] == ["rank", "backbone"]
    assert lines[1].split("\t")[:2] == ["1", "mobilenet_v2"]


def test_the_theme_applies(show):
    def colours(theme):
        browser = show(theme=theme)
        script = "const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]"
        return [sum(map(int, c[4:-1].split(","))) for c in browser.execute_script(script)]

    light, dark = colours("light"), colours("dark")
    assert light[0] > 700 > 200 > light[1]
    assert dark[1] > 600 > 200 > dark[0]


def test_every_image_has_alt_text(show):
    browser = show()
    images = browser.find_elements("tag name", "img")
    assert len(images) == 9 + 1 + 8
    assert all(image.get_attribute("alt") for image in images)
    assert browser.execute_script(
        "return Array.from(document.images).every(image => image.complete && image.naturalWidth > 0)"
    )
    pictures = browser.find_elements("css selector", "figure > svg")
    assert len(pictures) == 9
    script = "return Array.from(arguments[0].querySelectorAll('title, desc'), e => e.textContent).join(' ')"
    assert all(len(browser.execute_script(script, picture)) > 40 for picture in pictures)


def test_a_phone_scrolls_in_one_direction(show):
    browser = show(PHONE)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= PHONE
    script = "return Array.from(document.querySelectorAll('.scroll:has(.cards)'), e => e.scrollWidth)"
    assert max(browser.execute_script(script)) <= PHONE


def test_a_phone_sorts_by_a_list(show):
    browser = show(PHONE)
    choice = browser.find_element("css selector", ".tools select")
    assert choice.is_displayed()
    assert not heading(browser, 0, 0).is_displayed()
    choice.find_element("xpath", "option[. = 'rank ↓']").click()
    assert first_column(browser, 0) == [str(i) for i in range(6, 0, -1)]


@pytest.mark.skipif(not AXE.is_file(), reason=f"no axe-core at {AXE.name}: npm install --no-save axe-core")
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [WIDE, PHONE])
def test_axe_finds_no_serious_violation(show, width, theme):
    browser = show(width, theme)
    browser.execute_script(AXE.read_text(encoding="utf-8"))
    found = browser.execute_async_script("axe.run().then(arguments[arguments.length - 1])")
    serious = [
        (one["id"], [node["html"][:200] for node in one["nodes"]])
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
    ]
    assert serious == []
    assert len(found["passes"]) > 10
