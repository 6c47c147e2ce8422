"""A real browser: the system's Chromium, driven by Playwright, which brings none of its own."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, ViewportSize, expect, sync_playwright

from tests.conftest import PATIENCE_S
from tests.console.conftest import Desk

T = TypeVar("T")

EXECUTABLE = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MISSING = "no Chromium on this machine (Debian: apt-get install --no-install-recommends chromium), so no page was looked at"

WIDE, NARROW = ViewportSize(width=1280, height=800), ViewportSize(width=390, height=844)


def apart(work: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine in a thread of its own, because Playwright runs its loop in this one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


@contextmanager
def chromium() -> Iterator[Browser]:
    assert EXECUTABLE is not None, MISSING
    sandbox = [] if os.geteuid() else ["--no-sandbox"]  # Chromium's own cannot be had by root
    expect.set_options(timeout=1000 * PATIENCE_S)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=EXECUTABLE, args=["--disable-gpu", "--disable-dev-shm-usage", *sandbox])
        try:
            yield browser
        finally:
            browser.close()


def overflow(page: Page) -> int:
    """By how many pixels the page is wider than the window. What scrolls in a box of its own does not count."""
    return int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


class Watched:
    """A window of a person, and what its pages complain of."""

    def __init__(self, context: BrowserContext, base: str) -> None:
        self.page: Page = context.new_page()
        self.base = base
        self.complaints: list[str] = []
        self.strangers: list[str] = []
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", self._look)

    def _note(self, message: ConsoleMessage) -> None:
        """Whatever a browser complains of: violations of the policy, too. A status that a test asked for is none."""
        if message.type in ("error", "warning") and not re.search(r"status of (401|404|503)|ERR_CONNECTION", message.text):
            self.complaints.append(message.text)

    def _look(self, request: Request) -> None:
        if not request.url.startswith(self.base):
            self.strangers.append(request.url)

    def open(self, path: str) -> None:
        self.page.goto(self.base + path)

    def log_in(self, key: str) -> None:
        self.open("/console/login")
        self.page.get_by_label("Your operator key").fill(key)
        self.page.get_by_role("button", name="Log in").click()
        expect(self.page.get_by_role("heading", level=1)).to_have_text("Duty now")


@contextmanager
def window(browser: Browser, desk: Desk, **options: Any) -> Iterator[Watched]:
    """A person's window, logged in; at its end no page may have complained or asked anybody else."""
    key = apart(desk.key())
    context = browser.new_context(**({"viewport": WIDE} | options))
    try:
        watched = Watched(context, desk.daemon.operator)
        watched.log_in(key.shown)
        yield watched
        assert (watched.complaints, watched.strangers) == ([], [])
    finally:
        context.close()
