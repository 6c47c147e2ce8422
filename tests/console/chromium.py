"""A real browser: the system's Chromium, driven by Playwright, which brings none of its own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, Page, sync_playwright

EXECUTABLE = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MISSING = "no Chromium on this machine (Debian: apt-get install --no-install-recommends chromium), so no page was looked at"


@contextmanager
def chromium() -> Iterator[Browser]:
    assert EXECUTABLE is not None, MISSING
    sandbox = [] if os.geteuid() else ["--no-sandbox"]  # Chromium's own cannot be had by root
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=EXECUTABLE, args=["--disable-gpu", "--disable-dev-shm-usage", *sandbox])
        try:
            yield browser
        finally:
            browser.close()


def overflow(page: Page) -> int:
    """By how many pixels the page is wider than the window. What scrolls in a box of its own does not count."""
    return int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))
