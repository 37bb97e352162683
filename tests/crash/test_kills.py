"""Kills processes that use a store and checks the store after each kill: a short form of `make crash`."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.store.open_store import StoreLocation
from tests.crash.campaign import kill_at_every_call, kill_at_random
from tests.crash.checks import Event, check_store
from tests.crash.faults import FAULTS
from tests.crash.model import ClientState, State, states_during, wrong_result
from tests.crash.run import Run, perform_run
from tests.crash.steps import CLIENTS, EVERY_KIND, KINDS, choose

KILLS = 60


@pytest.mark.slow
def test_killed_at_random_moments_the_store_keeps_what_it_acknowledged_and_no_partial_version() -> None:
    found = kill_at_random(KILLS, seed=20)
    assert found.problems == ()
    assert (found.kills, found.acknowledged > 0) == (KILLS, True)


@pytest.mark.slow
def test_killed_before_any_write_of_a_first_publish_the_store_has_no_partial_version() -> None:
    found = kill_at_every_call(("keyed",))
    assert found.problems == ()
    assert found.kills > 50


@pytest.mark.slow
@pytest.mark.parametrize(
    "kinds",
    [
        ("publish", "publish", "roll_back"), ("publish", "publish", "delete"),
        ("publish", "abandoned_write", "collect"),
        ("publish",) * 4 + ("settings", "collect"), ("publish", "delete_client"),
        ("damaged_blob",), ("collect_between",), ("publish", "deleted_between"),
        ("publish", "backup", "delete_client", "backup"),
    ],
    ids="-".join,
)  # fmt: skip
def test_killed_before_any_write_of_a_step_the_store_loses_nothing_and_collects_leftovers(
    kinds: tuple[str, ...],
) -> None:
    found = kill_at_every_call(kinds, safe_steps=len(kinds) - 1)
    assert found.problems == ()
    assert found.kills > 2


@pytest.mark.parametrize("name", [name for name, fault in FAULTS.items() if fault.found_by == "calls"])
def test_a_seeded_fault_is_found_by_killing_at_every_write(name: str) -> None:
    kinds = FAULTS[name].kinds
    assert kill_at_every_call(kinds, safe_steps=len(kinds) - 1, fault=name).problems


def test_a_run_without_kills_matches_the_model_for_every_kind_of_step(tmp_path: Path) -> None:
    events: list[Event] = []
    perform_run(Run(StoreLocation(tmp_path), {}, kinds=EVERY_KIND), events.append)
    assert {event.step.kind for event in events} == set(KINDS) == set(EVERY_KIND)
    assert check_store(StoreLocation(tmp_path), {}, events).problems == ()


def test_the_check_reports_results_that_did_not_happen(tmp_path: Path) -> None:
    events: list[Event] = []
    perform_run(Run(StoreLocation(tmp_path), {}, kinds=("publish", "publish")), events.append)
    again = choose("publish", {}, 2, CLIENTS[0])
    assert again is not None
    assert check_store(StoreLocation(tmp_path), {}, [*events, Event(again, 3)]).problems


def test_an_interrupted_step_happened_completely_or_not_at_all(tmp_path: Path) -> None:
    events: list[Event] = []
    perform_run(Run(StoreLocation(tmp_path), {}, kinds=("publish", "publish")), events.append)
    interrupted = events[:-1]
    assert interrupted[-1].result is None
    assert check_store(StoreLocation(tmp_path), {}, interrupted).problems == ()
    assert check_store(StoreLocation(tmp_path), {}, events[:2]).problems != ()


def test_the_model_accepts_the_right_version_number_only() -> None:
    publish = choose("publish", {}, 0, CLIENTS[0])
    assert publish is not None
    state: State = states_during({}, publish, 1)[-1]
    assert state[CLIENTS[0]].latest == 1
    assert wrong_result(state, publish, 2) is None
    assert wrong_result(state, publish, 1) is not None
    assert states_during(state, publish, 2)[-1] != {CLIENTS[0]: ClientState(2)}
