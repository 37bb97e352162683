"""Teach in a real browser: names of classes, zips with faults, and a service that fails for a while."""

from __future__ import annotations

import base64
import io
import json
import zipfile
from collections.abc import Iterator

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, Route, expect

from service.client import Client
from tests.e2e.browsing import (
    adapt,
    choose,
    class_card,
    drop,
    files,
    name_classes,
    needs_browser,
    opened_page,
    started_browser,
)
from tests.e2e.conftest import COARSE, FINE, labelled
from tests.generated import striped

pytestmark = [needs_browser, pytest.mark.slow]

LOST = {
    "job": "lost",
    "state": "failed",
    "problem": {"code": "worker_lost", "title": "Worker lost", "detail": "the worker ended", "status": 503},
}
NOT_LOADED = "Failed to load resource"
IN_FLIGHT = "Failed to load resource: the server responded with a status of 409"
DROP_AND_LEAVE = """(target, [content, address]) => {
    const bytes = Uint8Array.from(atob(content), (each) => each.charCodeAt(0));
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File([bytes], "parts.zip", { type: "application/zip" }));
    target.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
    location.hash = address;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started_browser() as started:
        yield started


def faulty_archive() -> bytes:
    """Return a zip with two pictures, an encrypted one, one that unpacks to more than it declares, and a text."""
    contents = {"fine/1.png": FINE[0], "coarse/2.png": COARSE[0], "coarse/secret.png": COARSE[1]}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, content in contents.items():
            zipped.writestr(f"a/b/{name}", content)
        zipped.writestr("a/b/coarse/bomb.png", bytes(10_000_000))
        zipped.writestr("a/notes.txt", "a text")
    archive = bytearray(buffer.getvalue())
    archive[directory_entry(archive, b"secret.png") + 8] |= 1
    size = directory_entry(archive, b"bomb.png") + 24
    archive[size : size + 4] = (1000).to_bytes(4, "little")
    return bytes(archive)


def directory_entry(archive: bytearray, name: bytes) -> int:
    """Return where the entry of a file begins in the central directory."""
    return archive.rindex(b"PK\x01\x02", 0, archive.rindex(name))


def unusual_files() -> bytes:
    """Return a zip of two folders with an empty file, a text and half a PNG that are called pictures, and two GIFs."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zipped:
        zipped.writestr("fine/empty.png", b"")
        zipped.writestr("fine/text.jpg", b"a text")
        zipped.writestr("fine/half.png", FINE[0][:100])
        for label, content in (("fine", FINE[1]), ("coarse", COARSE[1])):
            converted = io.BytesIO()
            Image.open(io.BytesIO(content)).save(converted, "GIF")
            zipped.writestr(f"{label}/{label}.gif", converted.getvalue())
    return buffer.getvalue()


def few_files(route: Route) -> None:
    """Answer as a service that accepts four files in a request."""
    if "json" not in route.request.headers["accept"]:
        route.continue_()
        return
    service = route.fetch().json()
    service["limits"]["files"] = 4
    route.fulfill(body=json.dumps(service), content_type="application/json")


def adapt_with_a_failure(page: Page, taken_out: str) -> None:
    """Adapt; the second request fails. Take out a picture that had arrived, then try again."""
    requests = 0

    def fail_the_second(route: Route) -> None:
        nonlocal requests
        requests += 1
        if requests == 2:
            route.abort()
        else:
            route.continue_()

    page.route("**/adapt", fail_the_second)
    page.get_by_role("button", name="Adapt", exact=True).click()
    again = page.get_by_role("button", name="Try again")
    expect(again).to_be_visible()
    page.get_by_role("button", name=f"Remove {taken_out}", exact=True).click()
    again.click()
    expect(page.get_by_text("No new pictures yet")).to_be_visible()
    page.unroute("**/adapt")


def test_the_classes_of_a_client_are_read_again_and_a_new_name_may_begin_like_one_of_them(
    browser: Browser, url: str, line: str
) -> None:
    with opened_page(browser, expected=(NOT_LOADED,)) as page:
        page.route("**/clients/line/samples*", lambda route: route.abort())
        page.goto(f"{url}/#/teach/{line}")
        again = page.get_by_role("button", name="Try again")
        expect(again).to_be_visible()
        expect(page.get_by_role("region", name="Class")).to_have_count(0)
        page.unroute("**/clients/line/samples*")
        again.click()
        expect(class_card(page, "fine")).to_contain_text("8 known")

        page.get_by_role("button", name="Add a class").click()
        field = page.get_by_label("Name of the class")
        field.fill("")
        field.press_sequentially("fine")
        expect(page.get_by_text("Another class is called fine too.")).to_be_visible()
        field.press_sequentially("st caf\u0065\u0301")
        expect(page.get_by_text("Another class is called")).to_have_count(0)
        expect(class_card(page, "finest caf\u00e9")).to_have_count(1)

        page.goto(f"{url}/#/teach")
        page.get_by_label("Name of the client").fill(line)
        expect(page.get_by_text("line exists already.")).to_be_visible()


def test_a_zip_with_faults_names_what_it_leaves_out_and_stays_with_its_client(
    browser: Browser, url: str, line: str
) -> None:
    with opened_page(browser) as page:
        page.goto(f"{url}/#/teach")
        expect(page.get_by_role("heading", name="Teach something new")).to_be_visible()
        content = base64.b64encode(faulty_archive()).decode()
        page.get_by_role("main").evaluate(DROP_AND_LEAVE, [content, f"#/teach/{line}"])
        expect(page.get_by_role("heading", name=f"Teach {line}")).to_be_visible()
        page.goto(f"{url}/#/teach")
        expect(class_card(page, "fine")).to_contain_text("1 picture")
        expect(class_card(page, "coarse")).to_contain_text("1 picture")
        expect(page.get_by_text("3 files were left out")).to_be_visible()
        for left_out in ("b/coarse/secret.png (encrypted)", "b/coarse/bomb.png (damaged)", "notes.txt (not a picture)"):
            expect(page.get_by_text(f"parts.zip/a/{left_out}")).to_be_visible()


def test_trying_again_after_a_lost_answer_makes_no_second_version(browser: Browser, url: str) -> None:
    keys: list[str] = []

    def remember(route: Route) -> None:
        keys.append(route.request.headers["idempotency-key"])
        route.continue_()

    def lose(route: Route) -> None:
        route.fulfill(body=f"event: failed\ndata: {json.dumps(LOST)}\n\n", content_type="text/event-stream")

    with opened_page(browser, expected=(IN_FLIGHT,)) as page, Client(url) as anole:
        page.goto(f"{url}/#/teach")
        name_classes(page, "lost", "fine", "coarse")
        choose(page, "fine", FINE)
        choose(page, "coarse", COARSE)
        page.route("**/adapt", remember)
        page.route("**/jobs/*/events", lose)
        page.get_by_role("button", name="Adapt", exact=True).click()
        again = page.get_by_role("button", name="Try again")
        expect(again).to_be_visible()
        page.unroute("**/jobs/*/events")
        again.click()
        expect(page.get_by_role("region", name="Result: version 1")).to_be_visible()
        assert len(anole.versions("lost")) == 1
        assert len(set(keys)) == 1 < len(keys)
        page.get_by_label("Choose pictures for fine", exact=True).set_input_files(files(striped(2, 4, seed=3), "new"))
        expect(class_card(page, "fine")).to_contain_text("2 new, 8 known")
        adapt(page, version=2)
        assert len(set(keys)) == 2


def test_pictures_taken_out_after_their_part_had_arrived_are_not_kept(browser: Browser, url: str) -> None:
    with opened_page(browser, expected=(NOT_LOADED,)) as page, Client(url) as anole:
        page.route(f"{url}/", few_files)
        page.goto(f"{url}/#/teach")
        name_classes(page, "retried", "fine", "coarse")
        choose(page, "fine", FINE[:4])
        choose(page, "coarse", COARSE[:4])
        adapt_with_a_failure(page, "fine-0.png")
        names = sorted(sample.name for sample in anole.samples("retried"))
        assert names == [
            "coarse-0.png",
            "coarse-1.png",
            "coarse-2.png",
            "coarse-3.png",
            "fine-1.png",
            "fine-2.png",
            "fine-3.png",
        ]

        expect(class_card(page, "fine")).to_contain_text("3 known")
        page.get_by_role("button", name="Add a class").click()
        page.get_by_label("Name of the class").fill("medium")
        choose(page, "medium", striped(6, 7))
        adapt_with_a_failure(page, "medium-0.png")
        added = {sample.name for sample in anole.samples("retried")} - set(names)
        assert added == {f"medium-{index}.png" for index in range(1, 6)}


def test_a_zip_dropped_on_a_class_keeps_its_folders_and_only_readable_pictures_are_sent(
    browser: Browser, url: str
) -> None:
    with opened_page(browser) as page, Client(url) as anole:
        page.goto(f"{url}/#/teach")
        name_classes(page, "unusual", "fine", "other")
        drop(class_card(page, "other"), "parts.zip", "application/zip", unusual_files())
        expect(page.get_by_text("parts.zip/fine/empty.png (empty)")).to_be_visible()
        expect(class_card(page, "fine").get_by_role("button", name="half.png: cannot be read")).to_be_visible()
        page.get_by_role("button", name="Remove 2 pictures that cannot be read").click()
        page.get_by_role("button", name="Adapt", exact=True).click()
        expect(page.get_by_role("region", name="Result: version 1")).to_be_visible()
        assert {(sample.label, sample.name) for sample in anole.samples("unusual")} == {
            ("fine", "fine.gif"),
            ("coarse", "coarse.gif"),
        }


def test_a_new_client_does_not_join_one_that_was_made_meanwhile_unasked(browser: Browser, url: str) -> None:
    with opened_page(browser) as page, Client(url) as anole:
        page.goto(f"{url}/#/teach")
        name_classes(page, "taken", "fine", "coarse")
        choose(page, "fine", FINE[:2])
        choose(page, "coarse", COARSE[:2])
        anole.adapt("taken", labelled(fine=FINE[4:6], coarse=COARSE[4:6]))
        page.get_by_role("button", name="Adapt", exact=True).click()
        expect(page.get_by_role("alert")).to_contain_text("There is a client of this name by now.")
        expect(page.get_by_text("taken exists already.")).to_be_visible()
        assert len(anole.versions("taken")) == 1
        page.get_by_role("button", name="Adapt", exact=True).click()
        expect(page.get_by_role("region", name="Result: version 2")).to_be_visible()


def test_an_adaptation_is_found_again_when_the_page_was_loaded_anew_meanwhile(browser: Browser, url: str) -> None:
    with opened_page(browser) as page:
        page.goto(f"{url}/#/teach")
        name_classes(page, "reloaded", "fine", "coarse")
        choose(page, "fine", FINE[:2])
        choose(page, "coarse", COARSE[:2])
        page.route("**/jobs/*/events", lambda _: None)  # the page hears nothing of its job
        with page.expect_request("**/jobs/*/events"):
            page.get_by_role("button", name="Adapt", exact=True).click()
        page.unroute("**/jobs/*/events")
        page.reload()
        expect(page.get_by_role("heading", name="Teach reloaded")).to_be_visible()
        expect(page.get_by_role("region", name="Result: version 1")).to_be_visible()
        page.reload()
        expect(class_card(page, "fine")).to_contain_text("2 known")
        expect(page.get_by_role("region", name="Result: version 1")).to_have_count(0)


def test_a_key_for_other_clients_is_told_so_when_it_names_a_new_one(browser: Browser, url: str) -> None:
    refused = {"code": "unknown_client", "title": "Unknown client", "detail": "there is no client 'theirs'"}
    with opened_page(browser, expected=(NOT_LOADED,)) as page:
        page.route("**/adapt", lambda route: route.fulfill(status=404, json=refused))
        page.goto(f"{url}/#/teach")
        name_classes(page, "theirs", "fine", "coarse")
        choose(page, "fine", FINE[:1])
        choose(page, "coarse", COARSE[:1])
        page.get_by_role("button", name="Adapt", exact=True).click()
        expect(page.get_by_role("alert")).to_contain_text("Your key may not teach a client of this name.")


def test_classes_stay_as_they_were_sent_and_the_end_is_told_in_another_view(
    browser: Browser, url: str, line: str
) -> None:
    with opened_page(browser) as page:
        held: list[Route] = []

        def hold(route: Route) -> None:
            held.append(route)

        page.route("**/adapt", hold)
        page.goto(f"{url}/#/teach")
        name_classes(page, "left", "fine", "coarse")
        choose(page, "fine", FINE[:2])
        choose(page, "coarse", COARSE[:2])
        with page.expect_request("**/adapt"):
            page.get_by_role("button", name="Adapt", exact=True).click()
        expect(page.get_by_label("Name of the client")).to_be_disabled()
        expect(page.get_by_label("Name of the class").first).to_be_disabled()
        expect(page.get_by_role("button", name="Remove class coarse")).to_be_disabled()
        page.goto(f"{url}/#/judge/{line}")
        expect(page.get_by_role("heading", name=f"Judge with {line}")).to_be_visible()
        held[0].continue_()
        expect(page.locator(".toast")).to_contain_text("Version 1 of left is ready.")
        expect(page.get_by_role("heading", name=f"Judge with {line}")).to_be_visible()
        page.locator(".toast").get_by_role("button", name="Open Teach").click()
        expect(page.get_by_role("region", name="Result: version 1")).to_be_visible()
