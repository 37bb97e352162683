"""The web page in a real browser, against a real service, driven by its visible texts and roles."""

from __future__ import annotations

import io
import re
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import onnx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Request, Route, expect

from service.client import AdaptOptions, Client
from tests.e2e.browsing import (
    adapt,
    choose,
    class_card,
    drop,
    files,
    name_classes,
    needs_browser,
    opened_page,
    paste,
    started_browser,
)
from tests.e2e.conftest import COARSE, FINE, START_LIMIT_S, create_key, labelled, serving
from tests.generated import striped

pytestmark = [needs_browser, pytest.mark.slow]

FIRST_PAGE_BYTES = 150_000
PHONE = (360, 740)
TABLET = (820, 1180)
MARKUP = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started_browser() as started:
        yield started


NO_STORAGE = """Object.defineProperty(window, "localStorage", {
    get() { throw new DOMException("denied", "SecurityError"); },
});"""
FAILED = "Failed to load resource"


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zipped:
        for sample in labelled(fine=FINE[:3], coarse=COARSE[:4]):
            zipped.writestr(f"parts/{sample.label}/{sample.name}", sample.content)
    return buffer.getvalue()


def test_two_classes_from_the_file_dialog_are_taught_and_the_estimate_is_read(browser: Browser, url: str) -> None:
    with opened_page(browser) as page:
        page.goto(f"{url}/#/teach")
        name_classes(page, "dialog", "fine", "coarse")
        choose(page, "fine", FINE)
        choose(page, "coarse", COARSE)
        result = adapt(page)
        expect(result).to_contain_text(re.compile(r"Recognise[sd] (about|every picture)"))
        expect(result).to_contain_text(re.compile("Version 1 is (live|held back)"))
        expect(class_card(page, "fine")).to_contain_text("8 known")


def test_a_zip_that_is_dropped_fills_the_classes_that_its_folders_name(browser: Browser, url: str) -> None:
    with opened_page(browser) as page:
        page.goto(f"{url}/#/teach")
        expect(page.get_by_role("heading", name="Teach something new")).to_be_visible()
        drop(page.get_by_role("main"), "parts.zip", "application/zip", archive())
        expect(class_card(page, "fine")).to_contain_text("3 pictures")
        expect(class_card(page, "coarse")).to_contain_text("4 pictures")


def test_a_folder_fills_the_classes_that_its_folders_name(browser: Browser, url: str, tmp_path: Path) -> None:
    zipfile.ZipFile(io.BytesIO(archive())).extractall(tmp_path)
    (tmp_path / "parts" / "notes.txt").write_text("not a picture")
    with opened_page(browser) as page:
        page.goto(f"{url}/#/teach")
        page.get_by_label("Choose a folder").set_input_files(tmp_path / "parts")
        expect(class_card(page, "fine")).to_contain_text("3 pictures")
        expect(class_card(page, "coarse")).to_contain_text("4 pictures")
        expect(page.get_by_text("1 file was left out")).to_be_visible()
        expect(page.get_by_text("parts/notes.txt (not a picture)")).to_be_visible()


def test_a_picture_dropped_on_a_class_joins_that_class(browser: Browser, url: str) -> None:
    with opened_page(browser) as page:
        page.goto(f"{url}/#/teach")
        drop(class_card(page, "defect"), "part.png", "image/png", FINE[0])
        expect(class_card(page, "defect")).to_contain_text("1 picture")
        expect(class_card(page, "good")).to_contain_text("0 pictures")


def test_a_picture_that_is_pasted_joins_the_first_class_without_pictures(browser: Browser, url: str) -> None:
    with opened_page(browser) as page:
        page.goto(f"{url}/#/teach")
        choose(page, "good", FINE[:1])
        paste(page, COARSE[0])
        expect(class_card(page, "defect")).to_contain_text("1 picture")
        expect(class_card(page, "good")).to_contain_text("1 picture")


def test_the_camera_fills_a_class_with_ten_pictures(browser: Browser, url: str) -> None:
    with opened_page(browser) as page:
        page.goto(f"{url}/#/teach")
        page.get_by_role("button", name="Camera for good").click()
        expect(page.get_by_label("Live picture of the camera")).to_have_js_property("paused", False)
        expect(page.get_by_label("Live picture of the camera")).not_to_have_js_property("videoWidth", 0)
        page.get_by_role("button", name="Take 10 in a row").click()
        expect(page.get_by_role("dialog")).to_contain_text("10 pictures")
        page.get_by_role("button", name="Close").click()
        expect(class_card(page, "good")).to_contain_text("10 pictures")


def test_a_new_class_is_named_at_once(browser: Browser, url: str) -> None:
    with opened_page(browser) as page:
        page.goto(f"{url}/#/teach")
        page.get_by_role("button", name="Add a class").click()
        expect(class_card(page, "class 3").get_by_label("Name of the class")).to_be_focused()
        page.keyboard.type("dent")
        expect(class_card(page, "dent")).to_be_visible()


def test_a_version_that_the_gate_held_back_is_published_anyway(browser: Browser, url: str) -> None:
    with opened_page(browser) as page:
        page.goto(f"{url}/#/teach")
        name_classes(page, "held", "one", "other")
        choose(page, "one", striped(4, 4, seed=1))
        choose(page, "other", striped(4, 4, seed=2))
        result = adapt(page)
        expect(result).to_contain_text("Version 1 is held back")
        expect(result).to_contain_text(re.compile(r"It recognises about [\d.]+% of new pictures\. To go live it needs"))
        result.get_by_role("button", name="Publish anyway").click()
        result.get_by_role("button", name="Publish version 1").click()
        expect(result).to_contain_text("Version 1 is live")
        result.get_by_role("link", name="Judge a picture").click()
        expect(page.get_by_role("heading", name="Judge with held")).to_be_visible()


def test_classes_keep_their_order_after_a_reload(browser: Browser, url: str) -> None:
    with opened_page(browser) as page:
        page.goto(f"{url}/#/teach")
        name_classes(page, "ordered", "zebra", "apple")
        choose(page, "zebra", FINE)
        choose(page, "apple", COARSE)
        adapt(page)
        titles = page.locator(".group-title")
        expect(titles).to_have_text(["zebra", "apple"])
        page.reload()
        expect(titles).to_have_text(["zebra", "apple"])


def test_leaving_asks_while_pictures_wait_in_teach(browser: Browser, url: str) -> None:
    with opened_page(browser) as page:
        page.goto(f"{url}/#/teach")
        page.get_by_role("button", name="Add a class").click()
        choose(page, "good", FINE[:1])
        with page.expect_event("dialog") as asked:
            page.reload()
        assert asked.value.type == "beforeunload"


def test_a_fault_of_the_page_is_shown_with_a_way_to_reload(browser: Browser, url: str) -> None:
    with opened_page(browser, expected=("TypeError",)) as page:
        page.route("**/models*", lambda route: route.fulfill(json={"models": [None]}))
        page.goto(f"{url}/#/overview")
        expect(page.get_by_role("alert")).to_contain_text("The page itself failed")
        page.unroute_all()
        page.get_by_role("button", name="Reload").click()
        expect(page.get_by_role("heading", name="Overview")).to_be_visible()


def test_the_overview_is_of_all_clients(browser: Browser, url: str, line: str) -> None:
    with opened_page(browser) as page:
        page.goto(f"{url}/#/overview")
        picker = page.get_by_role("combobox", name="Client")
        expect(picker.locator("option:checked")).to_have_text("All clients")
        picker.select_option(line)
        expect(page.get_by_role("heading", name=f"Teach {line}")).to_be_visible()


def test_adapt_is_above_the_bar_of_the_views_on_a_phone(browser: Browser, url: str) -> None:
    with opened_page(browser, *PHONE) as page:
        page.goto(f"{url}/#/teach")
        choose(page, "good", FINE)
        choose(page, "defect", COARSE)
        expect(page.get_by_role("button", name="Adapt", exact=True)).to_be_enabled()
        page.evaluate("scrollTo(0, 0)")
        button = page.get_by_role("button", name="Adapt", exact=True).bounding_box()
        bar = page.get_by_role("navigation").bounding_box()
        assert button is not None
        assert bar is not None
        assert button["y"] + button["height"] <= bar["y"]


def test_versions_are_compared_published_and_rolled_back(browser: Browser, url: str, line: str) -> None:
    with opened_page(browser) as page:
        page.goto(f"{url}/#/versions/{line}")
        page.get_by_role("button", name="Compare").click()
        difference = page.get_by_role("region", name="From version 1 to version 2")
        expect(difference).to_contain_text("16 pictures kept, 8 added, 0 removed.")
        expect(difference).to_contain_text("New classes: medium.")
        first = page.get_by_role("listitem").filter(has=page.get_by_role("heading", name="Version 1"))
        first.get_by_role("button", name="Publish").click()
        page.get_by_role("dialog").get_by_role("button", name="Publish version 1").click()
        expect(page.get_by_text("Version 1 went live, after version 2")).to_be_visible()
        page.get_by_role("button", name="Back to version 2").click()
        page.get_by_role("dialog", name="Are you sure?").get_by_role("button", name="Go back to version 2").click()
        expect(page.get_by_text("Rolled back from version 1 to version 2")).to_be_visible()
        expect(page.get_by_role("button", name="Back to version 1")).to_be_visible()


def test_a_version_is_exported_and_the_last_day_of_its_log_is_shown(browser: Browser, url: str, line: str) -> None:
    with opened_page(browser) as page, Client(url) as anole:
        anole.change_settings(line, {"log_predictions": True})
        anole.predict(line, FINE[:3])
        until = time.monotonic() + START_LIMIT_S
        while len(anole.predictions(line)) < 3 and time.monotonic() < until:  # logged off the path of the request
            threading.Event().wait(0.05)
        page.goto(f"{url}/#/versions/{line}")
        second = page.get_by_role("listitem").filter(has=page.get_by_role("heading", name="Version 2"))
        with page.expect_download() as downloading:
            second.get_by_role("button", name="Export as ONNX").click()
        assert downloading.value.suggested_filename == f"{line}-2.onnx"
        assert onnx.load(downloading.value.path()).graph.output[0].name == "scores"
        expect(second.get_by_role("button", name="Export as ONNX")).to_be_enabled()
        expect(page.get_by_text("In the last 24 hours it judged 3 pictures")).to_be_visible()


def test_the_overview_names_the_clients_that_drift(browser: Browser, url: str, line: str, other_line: str) -> None:
    def drifting(route: Route) -> None:
        answer = route.fetch().json()
        for client in answer["clients"]:
            client["drifting"] = client["client"] == line
        route.fulfill(json=answer)

    with opened_page(browser) as page:
        page.route("**/clients?drift=true", drifting)
        page.goto(f"{url}/#/overview")
        changed = page.get_by_role("listitem").filter(has_text="pictures have changed: see Versions")
        expect(changed.get_by_role("heading")).to_have_text([line])
        expect(page.get_by_role("listitem").filter(has=page.get_by_role("heading", name=other_line))).to_be_visible()


def test_a_rollback_fails_if_someone_else_has_moved_the_alias_meanwhile(browser: Browser, url: str, line: str) -> None:
    conflict = "Failed to load resource: the server responded with a status of 412"
    with opened_page(browser, expected=(conflict,)) as page, Client(url) as anole:
        page.goto(f"{url}/#/versions/{line}")
        expect(page.get_by_text("Version 2 is live.")).to_be_visible()
        anole.rollback(line)
        page.get_by_role("button", name="Back to version 1").click()
        page.get_by_role("dialog").get_by_role("button", name="Go back to version 1").click()
        expect(page.get_by_role("alert")).to_contain_text("Someone else changed what is live in the meantime")
        second = page.get_by_role("listitem").filter(has=page.get_by_role("heading", name="Version 2"))
        second.get_by_role("button", name="Publish").click()
        page.get_by_role("dialog").get_by_role("button", name="Publish version 2").click()
        expect(page.get_by_role("main").get_by_text("Version 2 is live.")).to_be_visible()
        expect(page.get_by_role("alert")).to_have_count(0)


def test_without_storage_and_with_a_malformed_address_the_page_opens(browser: Browser, url: str) -> None:
    with opened_page(browser) as page:
        page.add_init_script(NO_STORAGE)
        page.goto(f"{url}/#/teach/%E0%A4%A")
        expect(page.get_by_role("heading", name="Teach something new")).to_be_visible()
        page.get_by_role("button", name="Switch to: Dark").click()
        page.get_by_role("button", name="中文").click()
        expect(page.get_by_role("heading", name="教点新东西")).to_be_visible()
        expect(page.locator("html")).to_have_attribute("data-theme", "dark")


def test_a_report_is_read_again_after_a_failure_and_a_question_ends_with_its_address(
    browser: Browser, url: str, line: str, other_line: str
) -> None:
    with opened_page(browser, expected=(FAILED,)) as page:
        page.goto(f"{url}/#/versions/{other_line}")
        expect(page.get_by_role("heading", name=f"Versions of {other_line}")).to_be_visible()
        page.goto(f"{url}/#/versions/{line}")
        second = page.get_by_role("listitem").filter(has=page.get_by_role("heading", name="Version 2", exact=True))
        page.route(f"**/clients/{line}/versions/2", lambda route: route.fulfill(status=502), times=1)
        second.get_by_role("button", name="Report").click()
        second.get_by_role("alert").get_by_role("button", name="Try again").click()
        second.get_by_text("pictures were recognised when it had not seen them").click()
        second.get_by_role("button", name="8 pictures of medium taken for medium").click()
        pictures = page.get_by_role("dialog", name="medium, recognised").get_by_role("img")
        expect(pictures).to_have_count(8)
        expect(pictures.first).not_to_have_js_property("naturalWidth", 0)
        page.get_by_role("button", name="Close").click()
        page.get_by_role("button", name="Publish", exact=True).click()
        expect(page.get_by_role("dialog")).to_contain_text(f"of {line} judge from now on")
        page.go_back()
        expect(page.get_by_role("heading", name=f"Versions of {other_line}")).to_be_visible()
        expect(page.get_by_role("dialog")).to_have_count(0)


def test_an_adaptation_is_followed_past_a_failed_request(browser: Browser, url: str) -> None:
    with opened_page(browser, expected=(FAILED,)) as page:
        page.route("**/jobs/*/events", lambda route: route.abort())
        page.route(re.compile("/jobs/[^/]+$"), lambda route: route.abort())
        page.goto(f"{url}/#/teach")
        name_classes(page, "followed", "fine", "coarse")
        choose(page, "fine", FINE)
        choose(page, "coarse", COARSE)
        page.get_by_role("button", name="Adapt", exact=True).click()
        expect(page.get_by_text("The service does not answer. Waiting for it")).to_be_visible()
        page.unroute_all()
        expect(page.get_by_role("region", name="Result: version 1")).to_be_visible()


def test_the_page_asks_for_a_key_and_keeps_it_where_scripts_cannot_read_it(
    browser: Browser, checkpoint: Path, tmp_path: Path
) -> None:
    key = create_key(tmp_path, "predict", "adapt")
    with (
        serving(tmp_path, checkpoint, ANOLE_DEMO="false") as running,
        opened_page(browser, *PHONE) as page,
    ):
        page.goto(running.url)
        page.get_by_label("Key").fill("a wrong key")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert")).to_contain_text("This key is not valid")
        assert overflow(page) == 0
        page.get_by_label("Key").fill(key)
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("heading", name="Teach something new")).to_be_visible()
        (cookie,) = page.context.cookies()
        assert cookie["httpOnly"]
        assert cookie["sameSite"] == "Strict"
        stored = page.evaluate("JSON.stringify([localStorage, sessionStorage, document.cookie])")
        assert key not in stored
        with Client(running.url, key=key) as anole:
            anole.adapt("line", labelled(fine=FINE[:4], coarse=COARSE[:4]), AdaptOptions(publish="always"))
            anole.move_alias("line", "live", 1)
        page.goto(f"{running.url}/#/versions/line")
        page.reload()  # the page does not know yet that the client exists
        expect(page.get_by_text("Version 1 went live, after version 1 by tablet")).to_be_visible()
        page.get_by_role("button", name="Sign out tablet").click()
        expect(page.get_by_text("This service needs a key.")).to_be_visible()
        assert page.context.cookies() == []


def test_a_key_without_a_scope_sees_no_stored_pictures_and_the_bar_fits_a_tablet(
    browser: Browser, url: str, line: str
) -> None:
    session = {
        "keys_required": True, "authenticated": True, "name": "tablet", "scopes": ["predict"], "clients": ["*"],
    }  # fmt: skip
    with opened_page(browser, *TABLET) as page:
        page.route("**/session", lambda route: route.fulfill(json=session))
        page.goto(f"{url}/#/teach/{line}")
        expect(page.get_by_text("Your key may look and judge, but not teach.")).to_be_visible()
        expect(page.get_by_text("8 pictures it knows already")).to_have_count(0)
        expect(page.get_by_role("button", name="Sign out tablet")).to_be_in_viewport(ratio=1)
        assert overflow(page) == 0
        page.goto(f"{url}/#/versions/{line}")
        second = page.get_by_role("listitem").filter(has=page.get_by_role("heading", name="Version 2", exact=True))
        second.get_by_role("button", name="Report").click()
        second.get_by_text("pictures were recognised when it had not seen them").click()
        second.get_by_role("button", name="8 pictures of medium taken for medium").click()
        expect(page.get_by_role("dialog")).to_contain_text("medium-0.png")
        expect(page.get_by_role("dialog").get_by_role("img")).to_have_count(0)


def test_the_language_is_the_browsers_until_another_one_is_chosen(browser: Browser, url: str) -> None:
    with opened_page(browser, locale="zh-CN") as page:
        page.goto(f"{url}/#/teach")
        expect(page.get_by_role("heading", name="教点新东西")).to_be_visible()
        page.get_by_role("button", name="English").click()
        expect(page.get_by_role("heading", name="Teach something new")).to_be_visible()
        page.reload()
        expect(page.get_by_role("heading", name="Teach something new")).to_be_visible()
        page.get_by_role("button", name="中文").click()
        expect(page.get_by_role("button", name="开始适应")).to_be_visible()


def test_reasons_of_the_gate_are_in_the_language_of_the_page(browser: Browser, url: str) -> None:
    with Client(url) as anole:
        anole.adapt("reasons", labelled(one=FINE[:1], other=COARSE[:1]))
    with opened_page(browser, locale="zh-CN") as page:
        page.goto(f"{url}/#/versions/reasons")
        page.get_by_role("button", name="报告").click()
        expect(page.get_by_text("每个类别只有一张图片")).to_be_visible()
        page.get_by_role("button", name="English").click()
        expect(page.get_by_text("each class has one picture only")).to_be_visible()


@pytest.mark.parametrize("details", [[], [{"code": "of_a_later_release", "values": {}, "text": "a new reason"}]])
def test_a_reason_without_a_text_is_shown_as_the_service_says_it(
    browser: Browser, url: str, line: str, details: list[object]
) -> None:
    def answer(route: Route) -> None:
        version = route.fetch().json()
        version["report"]["gate"] |= {"reasons": ["a new reason"], "details": details}
        route.fulfill(json=version)

    with opened_page(browser, locale="zh-CN") as page:
        page.route(f"**/clients/{line}/versions/1", answer)
        page.goto(f"{url}/#/versions/{line}")
        first = page.get_by_role("article").filter(has=page.get_by_role("heading", name="版本 1"))
        first.get_by_role("button", name="报告").click()
        expect(page.get_by_role("listitem").filter(has_text="A new reason.").last).to_have_attribute("lang", "en")


def overflow(page: Page) -> int:
    """Return by how many pixels the page is wider than its window."""
    root = "document.documentElement"
    return int(page.evaluate(f"{root}.scrollWidth - {root}.clientWidth"))


VIEWS = {
    "teach": "Teach something new", "teach/line": "Teach line", "judge/line": "Judge with line",
    "versions/line": "Versions of line", "overview": "Overview",
}  # fmt: skip


@pytest.mark.parametrize("locale", ["en-GB", "zh-CN"])
def test_no_view_scrolls_sideways_on_a_phone(browser: Browser, url: str, line: str, locale: str) -> None:
    assert line
    with opened_page(browser, *PHONE, locale) as page:
        for view, title in VIEWS.items():
            page.goto(f"{url}/#/{view}")
            heading = page.get_by_role("heading", level=1)
            expect(heading).to_be_visible() if locale == "zh-CN" else expect(heading).to_have_text(title)
            page.wait_for_load_state("networkidle")
            assert overflow(page) == 0, view


def test_labels_and_file_names_with_markup_are_shown_as_text(browser: Browser, url: str) -> None:
    with opened_page(browser) as page:
        page.goto(f"{url}/#/teach")
        name_classes(page, "markup", MARKUP, "coarse")
        choose(page, MARKUP, FINE, name="<b onclick=alert(2)>")
        choose(page, "coarse", COARSE)
        expect(page.get_by_role("button", name="<b onclick=alert(2)>-0.png").first).to_be_visible()
        adapt(page)
        page.get_by_role("link", name="Versions").click()
        expect(page.get_by_role("listitem").filter(has_text=MARKUP).first).to_be_visible()
        page.goto(f"{url}/#/judge/markup")
        if page.get_by_role("heading", name="Judge with markup").is_visible():
            page.get_by_label("Choose pictures", exact=True).set_input_files(files(FINE[:1], "<b onclick=alert(2)>"))
            expect(page.get_by_role("main")).to_contain_text(MARKUP)
        assert page.locator("img[src=x], b[onclick]").count() == 0


def test_the_first_page_transfers_little(browser: Browser, url: str) -> None:
    with opened_page(browser) as page:
        requests: list[Request] = []

        def note(request: Request) -> None:
            requests.append(request)

        page.on("requestfinished", note)
        page.goto(url)
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        page.wait_for_load_state("networkidle")
        assert 0 < sum(request.sizes()["responseBodySize"] for request in requests) < FIRST_PAGE_BYTES


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_in_any_view(
    browser: Browser, url: str, line: str, scheme: Literal["light", "dark"]
) -> None:
    assert line
    with opened_page(browser) as page:
        page.emulate_media(color_scheme=scheme)
        found: list[tuple[str, str, str]] = []
        for view in VIEWS:
            page.goto(f"{url}/#/{view}")
            expect(page.get_by_role("heading", level=1)).to_be_visible()
            page.wait_for_load_state("networkidle")
            found += [
                (view, violation["id"], violation["nodes"][0]["html"])
                for violation in Axe().run(page).response["violations"]
                if violation["impact"] in ("serious", "critical")
            ]
        assert found == []
