"""Kills processes within a commit of SQLite; `make crash` covers all system calls and more steps."""

from __future__ import annotations

import pytest

from tests.crash.campaign import Found
from tests.crash.traced import Untraceable, kill_at_every_system_call


def traced(call: str, *, bug: str | None = None) -> Found:
    try:
        return kill_at_every_system_call(("publish", "keyed"), calls=(call,), bug=bug)
    except Untraceable as reason:
        pytest.skip(f"STRACE IS NOT THERE, so no death within a commit of SQLite was tried: {reason}")


@pytest.mark.slow
@pytest.mark.parametrize("call", ["fdatasync", "fsync", "rename"])
def test_killed_at_any_system_call_of_a_publish_the_store_loses_nothing_and_has_no_partial_version(call: str) -> None:
    found = traced(call)
    assert found.wrong == ()
    assert found.deaths > 0


@pytest.mark.slow
def test_a_commit_without_a_journal_is_found_by_killing_within_it() -> None:
    assert traced("pwrite64", bug="committed_without_journal").wrong
