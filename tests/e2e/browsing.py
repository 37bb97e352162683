"""Headless Chromium with a fake camera, driven by Playwright."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Dialog,
    FilePayload,
    Locator,
    Page,
    Request,
    expect,
    sync_playwright,
)

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
    "--use-fake-device-for-media-stream=device-count=2",
]
_REFUSED = "Failed to load resource: the server responded with a status of 401"
_DROP = """(target, [name, type, content]) => {
    const bytes = Uint8Array.from(atob(content), (each) => each.charCodeAt(0));
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File([bytes], name, { type }));
    for (const event of ["dragover", "drop"])
        target.dispatchEvent(new DragEvent(event, { dataTransfer, bubbles: true, cancelable: true }));
}"""
_PASTE = """(content) => {
    const bytes = Uint8Array.from(atob(content), (each) => each.charCodeAt(0));
    const clipboardData = new DataTransfer();
    clipboardData.items.add(new File([bytes], "image.png", { type: "image/png" }));
    document.body.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true, cancelable: true }));
}"""

needs_browser = pytest.mark.skipif(
    EXECUTABLE is None,
    reason="NO BROWSER: the web page is not tested; install one, on Debian with `apt-get install chromium`",
)


@contextmanager
def started_browser() -> Iterator[Browser]:
    """Start a browser."""
    expect.set_options(timeout=TIMEOUT_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=EXECUTABLE, args=_ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened_page(
    browser: Browser, width: int = 1280, height: int = 860, locale: str = "en-GB", expected: tuple[str, ...] = ()
) -> Iterator[Page]:
    """Open a window without cookies.

    Script errors, blocked files and requests to other hosts fail the test. A question before leaving is answered yes.

    Args:
        browser: opens the window.
        width: of the window in pixels.
        height: of the window in pixels.
        locale: language of the browser.
        expected: how error messages begin that the test provokes.
    """
    context = browser.new_context(viewport={"width": width, "height": height}, locale=locale, permissions=["camera"])
    page = context.new_page()
    page.set_default_timeout(TIMEOUT_MS)
    failures: list[str] = []

    def check_message(message: ConsoleMessage) -> None:
        if message.type == "error" and not message.text.startswith((_REFUSED, *expected)):
            failures.append(message.text)

    def check_request(request: Request) -> None:
        address = urlsplit(request.url)
        if address.scheme not in ("blob", "data") and address.hostname != "127.0.0.1":
            failures.append(f"request to {request.url}")

    def answer(dialog: Dialog) -> None:
        if dialog.type == "beforeunload":
            dialog.accept()
            return
        failures.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    page.on("pageerror", lambda error: failures.append(str(error)))
    page.on("console", check_message)
    page.on("request", check_request)
    page.on("dialog", answer)
    try:
        yield page
    finally:
        context.close()
    assert not failures, "\n".join(failures)


def files(contents: list[bytes], name: str) -> list[FilePayload]:
    """Return PNGs as a file dialog gives them, with numbered names."""
    return [
        {"name": f"{name}-{index}.png", "mimeType": "image/png", "buffer": each} for index, each in enumerate(contents)
    ]


def drop(target: Locator, name: str, kind: str, content: bytes) -> None:
    """Drop one file on an element."""
    target.evaluate(_DROP, [name, kind, base64.b64encode(content).decode()])


def paste(page: Page, content: bytes) -> None:
    """Paste a PNG from the clipboard of the page."""
    page.evaluate(_PASTE, base64.b64encode(content).decode())


def name_classes(page: Page, client: str, *names: str) -> None:
    """Name the new client and its first classes."""
    page.get_by_label("Name of the client").fill(client)
    for index, name in enumerate(names):
        page.get_by_label("Name of the class").nth(index).fill(name)


def choose(page: Page, label: str, contents: list[bytes], name: str = "") -> None:
    """Choose pictures for a class."""
    page.get_by_label(f"Choose pictures for {label}", exact=True).set_input_files(files(contents, name or label))
    expect(class_card(page, label)).to_contain_text(f"{len(contents)} picture")


def class_card(page: Page, label: str) -> Locator:
    """Return the card of a class in Teach."""
    return page.get_by_role("region", name=f"Class {label}", exact=True)


def adapt(page: Page, version: int = 1) -> Locator:
    """Adapt, and return the result once it is shown."""
    page.get_by_role("button", name="Adapt", exact=True).click()
    result = page.get_by_role("region", name=f"Result: version {version}")
    expect(result).to_be_visible()
    return result
