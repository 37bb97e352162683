"""The web page in a real browser: teach two classes, adapt, and judge a picture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.e2e.browsing import TIMEOUT_MS, needs_browser, opened_page, started_browser
from tests.e2e.conftest import Served

pytestmark = needs_browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started_browser() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with opened_page(browser) as page:
        yield page


def pictures(served: Served, label: str) -> list[Path]:
    return sorted((served.data / "demo" / "support" / label).glob("*.png"))


def test_two_classes_are_taught_and_a_picture_is_judged(served: Served, page: Page) -> None:
    page.goto(served.url)
    page.get_by_label("Name of the client").fill("page-line")
    for label, shown in (("good", "clean"), ("defect", "scratch")):
        page.get_by_label(f"Choose pictures for {label}").set_input_files(pictures(served, shown))
    page.get_by_role("button", name="Adapt", exact=True).click()

    expect(page.get_by_text("Version 1 is live")).to_be_visible(timeout=TIMEOUT_MS)
    expect(page.get_by_text("of 100 pictures")).to_be_visible()
    page.get_by_role("link", name="Judge a picture").click()
    (unseen, *_) = sorted((served.data / "demo" / "queries" / "scratch").glob("*.png"))
    expect(page.get_by_role("heading", name="Judge with page-line")).to_be_visible()
    page.get_by_label("Choose pictures", exact=True).set_input_files(unseen)

    expect(page.locator(".call-label")).to_have_text("defect", timeout=TIMEOUT_MS)


def test_a_first_visitor_judges_a_picture_of_the_demo(served: Served, page: Page) -> None:
    only_the_demo = {"clients": [{"client": "demo", "live": 1, "versions": 1, "aliases": []}]}
    page.route("**/clients", lambda route: route.fulfill(json=only_the_demo))
    page.goto(f"{served.url}/#/teach")
    page.get_by_role("link", name="Look at the demo").click()
    page.get_by_role("button", name="Try a picture of the demo").click()

    card = page.locator(".judged-card")
    name = card.get_by_role("img").get_attribute("alt")
    assert name is not None
    expect(card.locator(".call-label")).to_have_text(name.partition("-")[0])


def test_the_camera_takes_ten_pictures_in_a_row(served: Served, page: Page) -> None:
    page.goto(f"{served.url}/#/teach")
    page.get_by_role("button", name="Camera for good").click()
    page.get_by_role("dialog").get_by_role("button", name="Take 10 in a row").click()

    expect(page.get_by_role("dialog").get_by_text("10 pictures")).to_be_visible(timeout=TIMEOUT_MS)
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.get_by_text("10 new pictures in 1 class", exact=True)).to_be_visible()
