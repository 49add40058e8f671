"""The report in a real browser: no console error, no request, what is clicked does what it says, nothing runs that
somebody wrote into the data.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.clrft.run_folders import EVIL

BROWSER, DRIVER = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(BROWSER is None or DRIVER is None, reason="needs chromium and chromedriver"),
]
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--window-size=1280,900"),
)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """A headless Chromium with a profile of its own that keeps its log of requests."""
    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for word in (*QUIET, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    yield browser
    browser.quit()


@pytest.fixture
def page(driver: webdriver.Chrome, report: Path) -> webdriver.Chrome:
    """The page, freshly opened from the disk in light colours, the logs empty."""
    light = {"features": [{"name": "prefers-color-scheme", "value": "light"}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", light)
    driver.get_log("browser"), driver.get_log("performance")
    driver.get((report / "index.html").as_uri())
    return driver


def requests(driver: webdriver.Chrome) -> list[str]:
    """Addresses that were asked for."""
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    return [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]


def column(page: webdriver.Chrome, table: str, number: int) -> list[str]:
    """Texts of a table's column."""
    script = (
        "return [...document.getElementById(arguments[0]).tBodies[0].rows].map(r => r.cells[arguments[1]].textContent)"
    )
    found: list[str] = page.execute_script(script, table, number)
    return found


def test_the_page_asks_for_nothing_says_nothing_and_runs_nothing_that_was_written_into_the_data(
    page: webdriver.Chrome, report: Path
) -> None:
    assert page.get_log("browser") == []
    asked = [url for url in requests(page) if not url.startswith("data:")]
    assert asked == [(report / "index.html").as_uri()]
    assert page.execute_script("return window.cracked") is None
    assert EVIL in page.execute_script("return document.body.textContent")


def test_the_policy_stops_scripts_styles_and_requests_that_are_not_the_pages_own(page: webdriver.Chrome) -> None:
    script = """
    const added = document.createElement('script'); added.textContent = 'window.cracked = 2';
    document.body.append(added);
    const styled = document.createElement('div'); styled.setAttribute('style', 'width: 7px');
    document.body.append(styled);
    return [window.cracked ?? null, styled.style.width];
    """
    cracked, _ = page.execute_script(script)
    assert cracked is None
    blocked = page.execute_async_script(
        "const done = arguments[0]; fetch('https://example.org/').then(() => done('sent'), () => done('blocked'))"
    )
    assert blocked == "blocked"
    assert not [url for url in requests(page) if "example.org" in url]


def test_a_table_is_sorted_by_mouse_and_keyboard_numbers_as_numbers_what_is_missing_last(
    page: webdriver.Chrome,
) -> None:
    headings = page.find_elements(By.CSS_SELECTOR, "#table-headline thead th")
    names = [heading.text.strip() for heading in headings]
    place = names.index("forgetting")
    button = headings[place].find_element(By.TAG_NAME, "button")
    before = column(page, "table-headline", 0)
    assert before == ["sft", "grpo"]  # forgetting 1.0 and 0.5
    button.click()
    assert headings[place].get_attribute("aria-sort") == "ascending"
    assert column(page, "table-headline", 0) == ["grpo", "sft"]
    button.send_keys(Keys.ENTER)
    assert headings[place].get_attribute("aria-sort") == "descending"
    assert column(page, "table-headline", 0) == ["sft", "grpo"]
    button.send_keys(Keys.SPACE)
    assert headings[place].get_attribute("aria-sort") is None
    assert column(page, "table-headline", 0) == before


def test_every_class_orders_value_is_shown_on_demand(page: webdriver.Chrome) -> None:
    value = page.find_element(By.CSS_SELECTOR, "#table-headline .orders")
    button = page.find_element(By.CSS_SELECTOR, "[aria-controls='table-headline']")
    assert not value.is_displayed()
    button.click()
    assert value.is_displayed() and button.get_attribute("aria-pressed") == "true"
    button.click()
    assert not value.is_displayed()


def test_the_page_is_light_or_dark_as_the_system_says_or_the_button(page: webdriver.Chrome) -> None:
    def background() -> str:
        return str(page.execute_script("return getComputedStyle(document.body).backgroundColor"))

    assert background() == "rgb(255, 255, 255)"
    page.find_element(By.ID, "theme").click()
    assert background() == "rgb(20, 23, 28)"
    page.refresh()
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
    assert background() == "rgb(20, 23, 28)"
    assert page.find_element(By.ID, "theme").text == "Light"


def test_navigation_leads_to_its_section_and_the_first_key_past_the_navigation(page: webdriver.Chrome) -> None:
    page.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB)
    active = page.switch_to.active_element
    assert active.text == "Skip to the answer" and active.is_displayed()
    active.send_keys(Keys.ENTER)
    assert page.current_url.endswith("#main")
    page.find_element(By.CSS_SELECTOR, "nav a[href='#definitions']").click()
    assert page.current_url.endswith("#definitions")


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_is_no_wider_than_the_window(page: webdriver.Chrome, width: int) -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    for fold in page.find_elements(By.TAG_NAME, "details"):
        page.execute_script("arguments[0].open = true", fold)
    wide: Any = page.execute_script("return document.documentElement.scrollWidth")
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert wide <= width
