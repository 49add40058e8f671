"""Size of a report and how soon a browser shows it, for 50 runs (10 methods x 5 class orders of 5 tasks).

    python -m benchmarks.report [--runs FOLDER] [--loads 7]

Needs Chromium, its driver and selenium (extra ``test``). Makes run folders of the size of real ones, unless some are
named, writes their report, and opens it from the disk in a fresh headless browser for every load. Writes
benchmarks/results/report.json.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from benchmarks.compare import write_runs
from clrft.cli.report import report_of
from clrft.runs.provenance import hardware, versions
from clrft.runs.read import find_runs
from clrft.utils.files import write_json_atomic

METHODS, ORDERS, TASKS = 10, 5, 5
RESULT = Path(__file__).parent / "results" / "report.json"
WORDS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--window-size=1280,900"),
)
PAINTS = """
const done = arguments[0];
new PerformanceObserver(list => {
  const found = Object.fromEntries(list.getEntries().map(entry => [entry.name, entry.startTime]));
  if ('first-contentful-paint' in found) {
    const whole = performance.getEntriesByType('navigation')[0];
    done({...found, interactive: whole.domInteractive, loaded: whole.loadEventEnd});
  }
}).observe({type: 'paint', buffered: true});
"""


def load(page: Path) -> dict[str, Any]:
    """Milliseconds from the beginning of the navigation, in a browser that has seen nothing yet."""
    with tempfile.TemporaryDirectory() as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = str(shutil.which("chromium"))
        for word in (*WORDS, f"--user-data-dir={profile}"):
            options.add_argument(word)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        browser = webdriver.Chrome(options=options, service=Service(str(shutil.which("chromedriver"))))
        try:
            browser.get(page.as_uri())
            paints: dict[str, Any] = browser.execute_async_script(PAINTS)
            return {
                **paints,
                "console": len(browser.get_log("browser")),
                "browser": browser.capabilities["browserVersion"],
            }
        finally:
            browser.quit()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, help="folder of runs (default: 50 made ones)")
    parser.add_argument("--loads", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        sweep = options.runs or Path(place) / "many"
        if options.runs is None:
            write_runs(sweep, METHODS, ORDERS, TASKS, np.random.default_rng(0))
        found = find_runs([sweep])
        began, processor = time.perf_counter(), time.process_time()
        page, *others = report_of(found, [sweep], Path(place) / "report", mix=["all"])
        seconds, processor = time.perf_counter() - began, time.process_time() - processor
        loads = [load(page) for _ in range(options.loads)]
        paints = [one["first-contentful-paint"] for one in loads]
        result = {
            "runs": len(found.runs),
            "left_out": len(found.left_out),
            "page_megabytes": round(page.stat().st_size / 1e6, 2),
            "files_beside": len(others),
            "beside_megabytes": round(sum(path.stat().st_size for path in others) / 1e6, 2),
            "seconds_to_write": round(seconds, 1),
            "processor_seconds_to_write": round(processor, 1),
            "first_paint_ms": {"median": round(statistics.median(paints)), "all": [round(one) for one in paints]},
            "loaded_ms": round(statistics.median(one["loaded"] for one in loads)),
            "console_messages": sum(one["console"] for one in loads),
            "browser": f"Chromium {loads[0]['browser']}, headless",
        }
    write_json_atomic(RESULT, {"schema": 1, "versions": versions(), "hardware": hardware(), "result": result})
    print(result)


if __name__ == "__main__":
    main()
