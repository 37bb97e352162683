"""Corrections on the web page, in a real browser against a real service."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from tests.e2e.browsing import (
    adapt,
    choose,
    class_card,
    files,
    name_classes,
    needs_browser,
    opened_page,
    started_browser,
)
from tests.e2e.conftest import COARSE, FINE
from tests.generated import striped

pytestmark = [needs_browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started_browser() as started:
        yield started


def test_a_wrong_label_is_asked_about_and_corrected(browser: Browser, url: str) -> None:
    with opened_page(browser) as page:
        page.goto(f"{url}/#/teach")
        name_classes(page, "mistake", "fine", "coarse")
        choose(page, "fine", [*FINE, *striped(1, 13, seed=5)])
        choose(page, "coarse", COARSE)
        result = adapt(page)
        expect(result).to_contain_text("1 label may be wrong")
        expect(result.get_by_text("Is this really “fine”?")).to_be_visible()
        result.get_by_role("button", name="No, coarse").click()
        result.get_by_role("button", name="Correct 1 and adapt again").click()
        expect(page.get_by_role("region", name="Result: version 2")).not_to_contain_text("may be wrong")
        expect(class_card(page, "coarse")).to_contain_text("9 known")
        page.get_by_role("link", name="Versions").click()
        page.get_by_role("button", name="Compare").click()
        expect(page.get_by_role("heading", name="1 label changed")).to_be_visible()


def test_a_known_picture_gets_another_label_and_earlier_verdicts_say_their_version(browser: Browser, url: str) -> None:
    with opened_page(browser, height=400) as page:
        page.goto(f"{url}/#/teach")
        name_classes(page, "known", "fine", "coarse")
        choose(page, "fine", [*FINE, *striped(1, 13, seed=5)])
        choose(page, "coarse", COARSE)
        adapt(page).get_by_role("link", name="Judge a picture").click()
        page.get_by_label("Choose pictures", exact=True).set_input_files(files(striped(1, 13, seed=9), "part"))
        expect(page.get_by_role("listitem").filter(has_text="part-0.png").get_by_role("status")).to_be_visible()
        page.get_by_role("link", name="Teach", exact=True).click()
        class_card(page, "fine").get_by_text("9 pictures it knows already").click()
        class_card(page, "fine").get_by_role("button", name="fine-8.png").click()
        sheet = page.get_by_role("dialog")
        expect(sheet.get_by_role("button", name="Change and adapt again")).to_be_disabled()
        sheet.get_by_label("What it is").select_option("coarse")
        sheet.get_by_role("button", name="Change and adapt again").click()
        expect(page.get_by_role("region", name="Result: version 2")).to_be_in_viewport()
        outcome = page.get_by_role("region", name="Result: version 2").locator(".pill").bounding_box()
        bar = page.get_by_role("banner").bounding_box()
        assert outcome is not None
        assert bar is not None
        assert outcome["y"] >= bar["height"]
        expect(class_card(page, "coarse")).to_contain_text("9 known")
        page.get_by_role("link", name="Judge", exact=True).click()
        outdated = page.get_by_text("Version 1 judged this.")
        expect(outdated).to_be_visible()
        page.get_by_role("button", name="Judge with version 2").click()
        expect(outdated).to_have_count(0)


def test_a_label_that_was_confirmed_is_not_asked_about_again(browser: Browser, url: str) -> None:
    with opened_page(browser) as page:
        page.goto(f"{url}/#/teach")
        name_classes(page, "confirmed", "fine", "coarse")
        choose(page, "fine", [*FINE, *striped(1, 13, seed=5)])
        choose(page, "coarse", COARSE)
        adapt(page).get_by_role("button", name="Yes").click()
        page.get_by_label("Choose pictures for coarse", exact=True).set_input_files(
            files(striped(1, 13, seed=6), "more")
        )
        expect(class_card(page, "coarse")).to_contain_text("1 new, 8 known")
        result = adapt(page, version=2)
        expect(result.get_by_text(re.compile("recognised"))).to_be_visible()
        expect(result.get_by_text("Is this really")).to_have_count(0)
