"""Kills processes that use a store and checks the store after each kill: a short form of `make crash`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.book import Book, Page, complaint, passed
from tests.crash.campaign import kill_at_every_call, kill_at_random
from tests.crash.judge import Said, judge
from tests.crash.life import Life, live
from tests.crash.seeded import BUGS
from tests.crash.steps import CLIENTS, EVERY_KIND, KINDS, choose

KILLS = 60


@pytest.mark.slow
def test_killed_at_random_moments_the_store_keeps_what_it_acknowledged_and_no_partial_version() -> None:
    found = kill_at_random(KILLS, seed=20)
    assert found.wrong == ()
    assert (found.deaths, found.acknowledged > 0) == (KILLS, True)


@pytest.mark.slow
def test_killed_before_any_write_of_a_first_publish_the_store_has_no_partial_version() -> None:
    found = kill_at_every_call(("keyed",))
    assert found.wrong == ()
    assert found.deaths > 50


@pytest.mark.slow
@pytest.mark.parametrize(
    "kinds",
    [
        ("publish", "publish", "roll_back"), ("publish", "publish", "delete"), ("publish", "abandon", "collect"),
        ("publish",) * 4 + ("settings", "collect"), ("publish", "erase"), ("decay",), ("patient",),
    ],
    ids="-".join,
)  # fmt: skip
def test_killed_before_any_write_of_a_step_the_store_loses_nothing_and_collects_the_rest(
    kinds: tuple[str, ...],
) -> None:
    found = kill_at_every_call(kinds, calm=len(kinds) - 1)
    assert found.wrong == ()
    assert found.deaths > 2


@pytest.mark.parametrize("name", [name for name, bug in BUGS.items() if bug.by == "calls"])
def test_a_seeded_fault_is_found_by_killing_at_every_write(name: str) -> None:
    kinds = BUGS[name].kinds
    assert kill_at_every_call(kinds, calm=len(kinds) - 1, bug=name).wrong


def test_a_run_without_kills_matches_the_model_for_every_kind_of_step(tmp_path: Path) -> None:
    said: list[Said] = []
    live(Life(tmp_path, {}, kinds=EVERY_KIND), said.append)
    assert {line.step.kind for line in said} == set(KINDS) == set(EVERY_KIND)
    assert judge(tmp_path, {}, said).wrong == ()


def test_the_check_reports_results_that_did_not_happen(tmp_path: Path) -> None:
    said: list[Said] = []
    live(Life(tmp_path, {}, kinds=("publish", "publish")), said.append)
    again = choose("publish", {}, 2, CLIENTS[0])
    assert again is not None
    assert judge(tmp_path, {}, [*said, Said(again, 3)]).wrong


def test_an_interrupted_step_happened_completely_or_not_at_all(tmp_path: Path) -> None:
    said: list[Said] = []
    live(Life(tmp_path, {}, kinds=("publish", "publish")), said.append)
    cut_off = said[:-1]
    assert cut_off[-1].result is None
    assert judge(tmp_path, {}, cut_off).wrong == ()
    assert judge(tmp_path, {}, said[:2]).wrong != ()


def test_the_model_tells_a_right_number_from_a_wrong_one() -> None:
    publish = choose("publish", {}, 0, CLIENTS[0])
    assert publish is not None
    book: Book = passed({}, publish, 1)[-1]
    assert book[CLIENTS[0]].latest == 1
    assert complaint(book, publish, 2) is None
    assert complaint(book, publish, 1) is not None
    assert passed(book, publish, 2)[-1] != {CLIENTS[0]: Page(2)}
