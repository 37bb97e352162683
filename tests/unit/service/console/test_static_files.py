"""The scripts and texts of the page fit together, and load nothing from elsewhere."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import get_args

import pytest

from service.domain.reason import ReasonCode
from service.http.problems import INTERNAL, PROBLEMS

STATIC = Path(__file__).parents[4] / "service" / "console" / "static"
OWN = sorted(path for path in STATIC.rglob("*.js") if path.parent.name != "vendor")
LANGUAGES = ("en", "zh")
REASON_CODES = get_args(ReasonCode)
PROBLEM_CODES = {problem.code for problem in [*PROBLEMS.values(), INTERNAL]}
NEVER_CAUSED_BY_THE_PAGE = {
    "archive_invalid", "archive_too_large", "field_duplicate", "field_invalid", "field_missing", "field_unknown",
    "fields_conflict", "form_malformed", "head_ambiguous", "idempotency_mismatch", "invalid_recipe", "invalid_task",
    "label_count_mismatch", "media_type_unsupported", "modality_count_mismatch", "no_samples",
    "nothing_to_upgrade", "parameter_invalid", "part_count_mismatch", "precondition_invalid", "too_many_parts",
    "unknown_alias", "version_in_use",
}  # fmt: skip
ONLY_OF_THE_PAGE = {
    "camera_insecure", "camera_lost", "camera_missing", "camera_refused", "no_answer", "page_failed",
    "name_refused", "name_taken", "numbers_malformed", "replace_in_parts", "unreachable",
}  # fmt: skip
MAX_LINES = 500
IMPORTED = re.compile(r"""^(?:import |(?:import|export|\}).* from )["']([^"'\s]+)["'];$""", re.MULTILINE)
SCRIPTS_WITHOUT_TEXTS = [path for path in OWN if path.parent.name != "texts"]


def texts(language: str) -> dict[str, str]:
    content = (STATIC / "texts" / f"{language}.js").read_text(encoding="utf-8")
    found = re.findall(r'^  (?:"([\w.]+)"|(\w+)): (.+),$', content, re.MULTILINE)
    keys = [quoted or plain for quoted, plain, _ in found]
    assert len(keys) == len(set(keys)), "a text is there twice"
    return dict(zip(keys, (value for _, _, value in found), strict=True))


def used(path: Path) -> set[str]:
    return set(re.findall(r'\bt\(\s*"([\w.]+)"', path.read_text(encoding="utf-8")))


def name(path: Path) -> str:
    return path.relative_to(STATIC).as_posix()


def test_the_languages_have_the_same_texts() -> None:
    assert list(texts("en")) == list(texts("zh"))


def test_a_text_has_the_same_values_in_each_language() -> None:
    values = [
        {key: set(re.findall(r"\{\w+\}", text)) for key, text in texts(language).items()} for language in LANGUAGES
    ]
    assert values[0] == values[1]


@pytest.mark.parametrize("path", SCRIPTS_WITHOUT_TEXTS, ids=name)
def test_every_text_that_is_used_exists(path: Path) -> None:
    assert used(path) - texts("en").keys() == set()


def test_every_text_is_used() -> None:
    content = "".join(path.read_text(encoding="utf-8") for path in SCRIPTS_WITHOUT_TEXTS)
    composed = set(re.findall(r"`([\w.]+\.)\$\{", content))
    unused = {
        key
        for key in texts("en")
        if f'"{key}"' not in content and not key.startswith(tuple(composed)) and f"{key}:" not in content
    }
    assert unused - {"teach", "judge", "versions", "overview"} == set()


@pytest.mark.parametrize("path", OWN, ids=name)
def test_a_script_imports_only_files_of_the_page(path: Path) -> None:
    content = path.read_text(encoding="utf-8")
    for target in IMPORTED.findall(content):
        assert target.startswith("."), target
        assert (STATIC / posixpath.normpath(posixpath.join(name(path.parent), target))).is_file(), target


@pytest.mark.parametrize("path", OWN, ids=name)
def test_a_script_is_short_and_never_writes_markup(path: Path) -> None:
    content = path.read_text(encoding="utf-8")
    assert len(content.splitlines()) <= MAX_LINES
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|dangerouslySetInnerHTML|\beval\(", content
    )


def test_every_reason_of_the_gate_has_a_text() -> None:
    written = {key.removeprefix("reason.") for key in texts("en") if key.startswith("reason.")}
    assert {code for code in written if "." not in code} == set(REASON_CODES)


def test_every_problem_that_a_user_of_the_page_can_meet_has_a_text() -> None:
    written = {key.removeprefix("problem.") for key in texts("en") if key.startswith("problem.")}
    assert written - ONLY_OF_THE_PAGE - {"not_found"} == PROBLEM_CODES - NEVER_CAUSED_BY_THE_PAGE


def test_the_page_has_no_inline_script_or_style_and_no_other_host() -> None:
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<style|style=|\son\w+=|<script(?![^>]*\ssrc=)", page)
    for path in [STATIC / "index.html", *STATIC.rglob("*.css"), *OWN]:
        hosts = re.findall(r"(?:https?:)?//[a-z][\w-]*\.[\w.-]+", re.sub(r"http://www\.w3\.org", "", path.read_text()))
        assert hosts == [], path
