"""The web page at /, and its files under /console."""

from __future__ import annotations

import gzip
import re
from importlib import resources

import pytest

from tests.in_process import Web

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
LARGEST_FIRST_PAGE = 150_000


def first_page_paths(web: Web) -> list[str]:
    """Return what a browser loads first: the page, what it links, and every script that is imported from there."""
    page = web("GET", "/", headers=BROWSER).text
    waiting = re.findall(r'(?:href|src)="([^"]+)"', page)
    found: list[str] = []
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.append(path)
        folder = path.rpartition("/")[0]
        for target in re.findall(r'from "(\.[^"]+)"', web("GET", f"/{path}").text):
            steps = f"{folder}/{target}".split("/")
            while ".." in steps:
                at = steps.index("..")
                steps[at - 1 : at + 1] = []
            waiting.append("/".join(step for step in steps if step != "."))
    return [*found, "console/texts/zh.js"]


def test_a_browser_gets_the_page(web: Web) -> None:
    response = web("GET", "/", headers=BROWSER)
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert "<title>Anole</title>" in response.text
    assert response.headers["vary"] == "Accept, Accept-Encoding"


@pytest.mark.parametrize(
    "accept",
    ["text/html", "TEXT/HTML", "text/html, application/json;q=0.9", "text/html;charset=utf-8;q=0.5", "text/html;q=1.0"],
)
def test_a_sender_that_prefers_html_gets_the_page(web: Web, accept: str) -> None:
    assert "<title>Anole</title>" in web("GET", "/", headers={"Accept": accept}).text


@pytest.mark.parametrize(
    "accept",
    [
        "*/*",
        "application/json",
        "application/json, text/html;q=0.5",
        "",
        "text/html, application/json",
        "text/html;q=0",
        "text/html;q=0.0, */*",
        "text/html ; Q=0",
        "text/html;level=1;q=0.000",
        "text/htmlx",
    ],
)
def test_everyone_else_gets_json(web: Web, accept: str) -> None:
    response = web("GET", "/", headers={"Accept": accept})
    assert response.json()["service"] == "anole"
    assert response.headers["vary"] == "Accept"


def test_the_policy_forbids_everything_but_files_of_the_service(web: Web) -> None:
    policy = web("GET", "/", headers=BROWSER).headers["content-security-policy"]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"
    assert rules["frame-ancestors"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert "unsafe" not in policy


def test_the_first_page_is_small(web: Web) -> None:
    paths = first_page_paths(web)
    assert {"console/vendor/preact.mjs", "console/teach/view.js"} <= set(paths)
    responses = [web("GET", f"/{path}", headers={"Accept-Encoding": "gzip", **BROWSER}) for path in ["", *paths]]
    assert [response.status_code for response in responses] == [200] * len(responses)
    assert sum(int(response.headers["content-length"]) for response in responses) < LARGEST_FIRST_PAGE


@pytest.mark.parametrize(
    ("path", "media_type"),
    [
        ("app.js", "text/javascript; charset=utf-8"),
        ("vendor/preact.mjs", "text/javascript; charset=utf-8"),
        ("base.css", "text/css; charset=utf-8"),
        ("icon.svg", "image/svg+xml"),
    ],
)
def test_a_file_has_its_media_type_and_is_served_as_it_is(web: Web, path: str, media_type: str) -> None:
    response = web("GET", f"/console/{path}")
    assert response.headers["content-type"] == media_type
    assert response.content == resources.files("service").joinpath("console", "static", *path.split("/")).read_bytes()


def test_a_browser_that_has_a_file_gets_304(web: Web) -> None:
    plain = {"Accept-Encoding": "identity"}
    first = web("GET", "/console/app.js", headers=plain)
    assert first.headers["cache-control"] == "no-cache"
    again = web("GET", "/console/app.js", headers={**plain, "If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    other = web("GET", "/console/app.js", headers={**plain, "If-None-Match": '"0"'})
    assert other.status_code == 200


def test_a_compressed_file_has_an_etag_of_its_own(web: Web) -> None:
    plain = web("GET", "/console/app.js", headers={"Accept-Encoding": "identity"})
    compressed = web("GET", "/console/app.js", headers={"Accept-Encoding": "gzip"})
    assert compressed.headers["content-encoding"] == "gzip"
    assert compressed.headers["etag"] != plain.headers["etag"]
    assert int(compressed.headers["content-length"]) == len(gzip.compress(plain.content))


@pytest.mark.parametrize("path", ["nothing.js", "index.html", "core/nothing.js", "../app.py", "core/../../../app.py"])
def test_other_paths_are_not_found(web: Web, path: str) -> None:
    assert web("GET", f"/console/{path}").status_code == 404
