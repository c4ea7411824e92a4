"""A browser without a window, for pages that are scripts."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from helpers.missing import unavailable

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
HOW = "apt-get install chromium chromium-driver; pip install selenium"


def needs(why: str) -> str:
    """Return the message for a machine without a browser: why, and what would help."""
    return f"{why}; a browser test needs: {HOW}"


@contextmanager
def browser(width: int, height: int) -> Iterator[Any]:
    """Give a driver of a headless browser whose window shows so many pixels."""
    program = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        unavailable(needs(f"no {'chromedriver' if program else 'chromium'} is installed"))
    try:
        from selenium import webdriver
    except ImportError:
        unavailable(needs("selenium is not installed"))
    options = webdriver.ChromeOptions()
    options.binary_location = str(program)
    # Tests may run as root, where the sandbox of the browser does not start.
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--force-prefers-reduced-motion"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        started.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        yield started
    finally:
        started.quit()


def complaints(driver: Any) -> list[str]:
    """Return what the browser's console has said: errors and warnings."""
    return [entry["message"] for entry in driver.get_log("browser")]


def address(page: Path, fragment: str = "") -> str:
    """Return the address of a file."""
    return page.resolve().as_uri() + fragment
