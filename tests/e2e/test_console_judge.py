"""Judge in a real browser: verdicts for pictures from everywhere, and for the live camera."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from PIL import Image
from playwright.sync_api import Browser, Route, expect

from service.client import AdaptOptions, Client
from tests.e2e.browsing import class_card, files, needs_browser, opened_page, paste, started_browser
from tests.e2e.conftest import COARSE, FINE, labelled
from tests.generated import encoded, striped

pytestmark = [needs_browser, pytest.mark.slow]

MAX_CARD_HEIGHT = 340
UNPLUG = """() => {
    const [track] = document.querySelector("video").srcObject.getTracks();
    track.stop();
    track.dispatchEvent(new Event("ended"));
}"""
OTHER_CAMERA_PLAYS = """(first) => {
    const video = document.querySelector("video");
    return video.srcObject?.id !== first && !video.paused && video.videoWidth > 0;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started_browser() as started:
        yield started


def test_a_known_picture_is_judged_with_a_map(browser: Browser, url: str, line: str) -> None:
    with opened_page(browser) as page:
        page.goto(f"{url}/#/judge/{line}")
        page.get_by_label("Choose pictures", exact=True).set_input_files(files(striped(1, 13, seed=9), "part"))
        known = page.get_by_role("listitem").filter(has_text="part-0.png")
        expect(known.get_by_role("status")).to_contain_text("coarse")
        the_map = known.get_by_role("img", name="What spoke for coarse")
        expect(the_map).to_have_count(0)
        page.get_by_label("Show what decided").check()
        expect(the_map).to_be_visible()
        expect(page.get_by_text("Red areas spoke for the class")).to_be_visible()


def test_a_wrong_verdict_is_taught_with_its_right_label(browser: Browser, url: str, line: str) -> None:
    with opened_page(browser) as page:
        page.goto(f"{url}/#/judge/{line}")
        page.get_by_label("Choose pictures", exact=True).set_input_files(files(striped(1, 13, seed=9), "part"))
        page.get_by_role("button", name="Wrong? Teach it").click()
        page.get_by_role("group", name="What is it really?").get_by_role("button", name="fine").click()
        expect(page.locator(".toast")).to_be_visible()
        page.get_by_role("button", name="Open Teach").click()
        expect(page.locator(".toast")).to_have_count(0)
        expect(class_card(page, "fine")).to_contain_text("1 new, 8 known")


def test_a_verdict_of_an_earlier_version_says_so_and_the_picture_is_judged_again(
    browser: Browser, url: str, line: str
) -> None:
    with opened_page(browser) as page, Client(url) as anole:
        page.goto(f"{url}/#/judge/{line}")
        page.get_by_label("Choose pictures", exact=True).set_input_files(files(striped(1, 13, seed=9), "early"))
        early = page.get_by_role("listitem").filter(has_text="early-0.png")
        expect(early.get_by_role("status")).to_contain_text("coarse")
        anole.rollback(line)
        page.get_by_label("Choose pictures", exact=True).set_input_files(files(striped(1, 13, seed=8), "late"))
        expect(page.get_by_text("Version 1 is live.")).to_be_visible()
        expect(early).to_contain_text("Version 2 judged this.")
        anole.move_alias(line, "live", 2)
        early.get_by_role("button", name="Judge with version 1").click()
        expect(page.get_by_text("Version 2 is live.")).to_be_visible()
        expect(early).not_to_contain_text("judged this")


def test_notes_are_taught_and_judged_and_a_verdict_says_what_it_is_made_from(browser: Browser, url: str) -> None:
    unexplained = "Failed to load resource: the server responded with a status of 422"
    with opened_page(browser, expected=(unexplained,)) as page, Client(url) as anole:
        anole.adapt("noted", labelled(fine=FINE[:3], coarse=COARSE[:3]), AdaptOptions(publish="always"))
        anole.change_settings("noted", {"model": "surface-notes", "uncertainty": "bayes"})
        page.goto(f"{url}/#/judge/noted")
        expect(page.get_by_role("heading", name="Judge with noted")).to_be_visible()
        expect(page.get_by_label("Note for the next pictures")).to_have_count(0)

        page.get_by_role("link", name="Teach").click()
        for label, contents in (("fine", FINE[3:6]), ("coarse", COARSE[3:6])):
            page.get_by_label(f"Choose pictures for {label}").set_input_files(files(contents, label))
            page.get_by_label(f"Note for the new pictures of {label}").fill(f"{label} side")
        page.get_by_role("button", name="fine-0.png", exact=True).click()
        page.get_by_label("Note for this picture").fill("shift 2")
        page.keyboard.press("Escape")
        page.get_by_text("More choices").click()
        page.get_by_label("go live in any case").check()
        page.get_by_role("button", name="Adapt", exact=True).click()
        expect(page.get_by_text("Version 2 is live")).to_be_visible()
        texts = [sample.text for sample in anole.version("noted", 2).sample_list if sample.text]
        assert sorted(texts) == ["coarse side"] * 3 + ["fine side"] * 2 + ["shift 2"]

        page.get_by_role("link", name="Judge", exact=True).click()
        page.get_by_label("Choose pictures", exact=True).set_input_files(files(striped(1, 13, seed=9), "plain"))
        plain = page.get_by_role("listitem").filter(has_text="plain-0.png")
        expect(plain).to_contain_text("From the picture alone.")
        expect(plain).to_contain_text("because it was taught with few pictures")
        page.get_by_label("Note for the next pictures").fill("coarse side")
        page.get_by_label("Choose pictures", exact=True).set_input_files(files(striped(1, 13, seed=9), "noted"))
        expect(page.get_by_role("listitem").filter(has_text="noted-0.png")).to_contain_text(
            "From the picture and the note “coarse side”."
        )


def test_numbers_are_checked_taught_and_judged(browser: Browser, url: str) -> None:
    unexplained = "Failed to load resource: the server responded with a status of 422"
    with opened_page(browser, expected=(unexplained,)) as page, Client(url) as anole:
        anole.adapt("measured", labelled(fine=FINE[:3], coarse=COARSE[:3]), AdaptOptions(publish="always"))
        anole.change_settings("measured", {"model": "readings"})
        page.goto(f"{url}/#/teach/measured")
        for label, contents, numbers in (("fine", FINE[3:6], "21.5 0.03"), ("coarse", COARSE[3:6], "18")):
            page.get_by_label(f"Choose pictures for {label}").set_input_files(files(contents, label))
            page.get_by_label(f"Numbers for the new pictures of {label} (2 each)").fill(numbers)
        expect(page.get_by_text("The numbers for coarse-0.png are not right: type 2")).to_be_visible()
        expect(page.get_by_role("button", name="Adapt", exact=True)).to_be_disabled()
        page.get_by_label("Numbers for the new pictures of coarse (2 each)").fill("18; -0.5")
        page.get_by_text("More choices").click()
        page.get_by_label("go live in any case").check()
        page.get_by_role("button", name="Adapt", exact=True).click()
        expect(page.get_by_text("Version 2 is live")).to_be_visible()
        vectors = [sample.vector for sample in anole.version("measured", 2).sample_list if sample.vector]
        assert sorted(vectors) == [[18.0, -0.5]] * 3 + [[21.5, 0.03]] * 3

        page.get_by_role("link", name="Judge", exact=True).click()
        field = page.get_by_label("Numbers for the next pictures (2)")
        for name, numbers, expected in (
            ("wrong", "18", "The numbers for this picture are not right."),
            ("right", "18, -0.5", "From the picture and the numbers 18, -0.5."),
        ):
            field.fill(numbers)
            page.get_by_label("Choose pictures", exact=True).set_input_files(files(striped(1, 13, seed=9), name))
            expect(page.get_by_role("listitem").filter(has_text=f"{name}-0.png")).to_contain_text(expected)


def test_several_pictures_have_a_line_with_totals_and_low_cards(browser: Browser, url: str, line: str) -> None:
    with opened_page(browser) as page:
        page.goto(f"{url}/#/judge/{line}")
        page.get_by_label("Choose pictures", exact=True).set_input_files(files(striped(2, 13, seed=9), "part"))
        expect(page.get_by_text(re.compile(r"^2 pictures: .*[0-2] unknown$"))).to_be_visible()
        heights = page.locator(".judged-card").evaluate_all("cards => cards.map((card) => card.offsetHeight)")
        assert max(heights) <= MAX_CARD_HEIGHT


def test_the_classes_that_the_verdict_did_not_name_are_offered_first(browser: Browser, url: str, line: str) -> None:
    with opened_page(browser) as page:
        page.goto(f"{url}/#/judge/{line}")
        page.get_by_label("Choose pictures", exact=True).set_input_files(files(striped(1, 13, seed=9), "part"))
        page.get_by_role("button", name="Wrong? Teach it").click()
        expect(page.locator(".chip").last).to_have_text("coarse")


def test_a_picture_of_something_else_is_unknown(browser: Browser, url: str, line: str) -> None:
    with opened_page(browser) as page:
        page.goto(f"{url}/#/judge/{line}")
        page.get_by_label("Choose pictures", exact=True).set_input_files(
            files([encoded(Image.new("L", (40, 40)))], "black")
        )
        verdict = page.get_by_role("listitem").filter(has_text="black-0.png").get_by_role("status")
        expect(verdict).to_contain_text("It looks like none of the classes")


def test_a_picture_that_is_pasted_is_judged(browser: Browser, url: str, line: str) -> None:
    with opened_page(browser) as page:
        page.goto(f"{url}/#/judge/{line}")
        expect(page.get_by_role("heading", name="Judge with line")).to_be_visible()
        paste(page, striped(1, 13, seed=9)[0])
        expect(page.get_by_role("listitem").filter(has_text="image.png").get_by_role("status")).to_contain_text(
            "coarse"
        )


def test_pictures_that_are_cleared_while_they_wait_are_not_sent(browser: Browser, url: str, line: str) -> None:
    with opened_page(browser) as page:
        held: list[Route] = []

        def hold_the_first(route: Route) -> None:
            if held:
                route.continue_()
            held.append(route)

        page.route("**/predict", hold_the_first)
        page.goto(f"{url}/#/judge/{line}")
        chooser = page.get_by_label("Choose pictures", exact=True)
        with page.expect_request("**/predict"):
            chooser.set_input_files(files(striped(3, 13, seed=9), "part"))
        page.get_by_role("button", name="Clear 3").click()
        held[0].continue_()
        chooser.set_input_files(files(striped(1, 13, seed=9), "last"))
        expect(page.get_by_role("listitem").filter(has_text="last-0.png").get_by_role("status")).to_contain_text(
            "coarse"
        )
        assert len(held) == 2


def test_the_live_camera_is_judged_and_a_frame_is_kept(browser: Browser, url: str, line: str) -> None:
    with opened_page(browser) as page:
        page.goto(f"{url}/#/judge/{line}")
        page.get_by_role("button", name="Live camera").click()
        live = page.get_by_role("region", name="Live camera")
        expect(live.get_by_role("list", name="Probability of each class")).to_be_visible()
        live.get_by_role("button", name="Keep this picture").click()
        page.get_by_role("button", name="Stop the camera").click()
        expect(live).to_have_count(0)
        kept = page.get_by_role("listitem").filter(has_text="camera-")
        expect(kept.get_by_role("list", name="Probability of each class")).to_be_visible()


def test_one_frame_is_sent_at_a_time_after_another_camera_was_chosen(browser: Browser, url: str, line: str) -> None:
    with opened_page(browser) as page:
        sent: list[Route] = []

        def leave_unanswered(route: Route) -> None:
            sent.append(route)

        page.route("**/predict", leave_unanswered)
        page.goto(f"{url}/#/judge/{line}")
        with page.expect_request("**/predict"):
            page.get_by_role("button", name="Live camera").click()
        live = page.get_by_role("region", name="Live camera")
        first = page.evaluate("document.querySelector('video').srcObject.id")
        live.get_by_label("Which camera").select_option(index=1)
        page.wait_for_function(OTHER_CAMERA_PLAYS, arg=first)
        with page.expect_request("**/predict"):
            live.get_by_role("button", name="Keep this picture").click()
        expect(page.get_by_role("img", name=re.compile("^camera-"))).to_be_visible()
        assert len(sent) == 2


def test_a_camera_that_is_unplugged_is_said_and_clearing_leaves_other_clients_pictures(
    browser: Browser, url: str, line: str, other_line: str
) -> None:
    with opened_page(browser) as page:
        page.goto(f"{url}/#/judge/{line}")
        page.get_by_label("Choose pictures", exact=True).set_input_files(files(striped(1, 13, seed=9), "stays"))
        expect(page.get_by_role("listitem").filter(has_text="stays-0.png").get_by_role("status")).to_be_visible()
        page.goto(f"{url}/#/judge/{other_line}")
        expect(page.get_by_role("heading", name=f"Judge with {other_line}")).to_be_visible()
        page.get_by_label("Choose pictures", exact=True).set_input_files(files(striped(1, 13, seed=9), "goes"))
        page.get_by_role("button", name="Clear 1").click()
        expect(page.locator(".judged-card")).to_have_count(0)
        page.get_by_role("combobox", name="Client").select_option(line)
        expect(page.get_by_text("stays-0.png").first).to_be_visible()
        page.get_by_role("button", name="Live camera").click()
        live = page.get_by_role("region", name="Live camera")
        expect(live.get_by_role("list", name="Probability of each class")).to_be_visible()
        page.evaluate(UNPLUG)
        expect(live.get_by_role("alert")).to_contain_text("The camera is gone")
        expect(live.get_by_text("Waiting for the first picture")).to_be_visible()
        expect(live.get_by_role("button", name="Keep this picture")).to_be_disabled()
        live.get_by_role("button", name="Try again").click()
        expect(live.get_by_role("list", name="Probability of each class")).to_be_visible()
