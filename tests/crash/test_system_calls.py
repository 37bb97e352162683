"""Kills processes within a commit of SQLite; `make crash` covers all system calls and more steps."""

from __future__ import annotations

import pytest

from tests.crash.campaign import Findings
from tests.crash.system_calls import StraceUnavailable, kill_at_every_system_call


def traced(call: str, *, fault: str | None = None) -> Findings:
    try:
        return kill_at_every_system_call(("publish", "keyed"), calls=(call,), fault=fault)
    except StraceUnavailable as reason:
        pytest.skip(f"STRACE IS NOT AVAILABLE: no process was killed within a commit of SQLite ({reason})")


@pytest.mark.slow
@pytest.mark.parametrize("call", ["fdatasync", "fsync", "rename"])
def test_killed_at_any_system_call_of_a_publish_the_store_loses_nothing_and_has_no_partial_version(call: str) -> None:
    found = traced(call)
    assert found.problems == ()
    assert found.kills > 0


@pytest.mark.slow
def test_a_commit_without_a_journal_is_found_by_kills_within_it() -> None:
    assert traced("pwrite64", fault="committed_without_journal").problems
