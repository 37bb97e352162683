"""Headless Chromium with a fake camera, driven by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

TIMEOUT_MS = 120_000
EXECUTABLE = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
]

needs_browser = pytest.mark.skipif(
    EXECUTABLE is None,
    reason="NO BROWSER: the web page is not tested; install one, on Debian with `apt-get install chromium`",
)


@contextmanager
def started_browser() -> Iterator[Browser]:
    """Start a browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=EXECUTABLE, args=_ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened_page(browser: Browser, width: int = 1280, height: int = 860, locale: str = "en-GB") -> Iterator[Page]:
    """Open a window without cookies. A script that fails, or a file that the policy blocks, fails the test."""
    context = browser.new_context(viewport={"width": width, "height": height}, locale=locale, permissions=["camera"])
    page = context.new_page()
    page.set_default_timeout(TIMEOUT_MS)
    failures: list[str] = []
    page.on("pageerror", lambda error: failures.append(str(error)))
    page.on("console", lambda line: failures.append(line.text) if "Content Security Policy" in line.text else None)
    try:
        yield page
    finally:
        context.close()
    assert failures == []
