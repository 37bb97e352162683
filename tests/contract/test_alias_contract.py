"""Contract of every `Catalog` for aliases: moves, If-Match revisions, rollback, history."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.domain.version import LIVE
from service.errors import AliasConflict, NothingToRollBackTo, ServiceError, UnknownAlias
from service.store.catalog.catalog import Catalog
from tests.contract.values import CLIENT, a_draft


@pytest.fixture
def three(catalog: Catalog) -> Catalog:
    """A catalog with versions 1 to 3, each of which went live."""
    for _ in range(3):
        catalog.publish(a_draft(), [LIVE])
    return catalog


def set_to(catalog: Catalog, version: int, *, revision: int | None = None, alias: str = LIVE) -> None:
    catalog.move_alias(CLIENT, alias, version, expected_revision=revision)


def test_a_move_records_the_previous_and_the_new_version(three: Catalog) -> None:
    move = three.move_alias(CLIENT, LIVE, 1, expected_revision=3)
    assert (move.revision, move.version, move.previous, move.reason, move.restores) == (4, 1, 3, "set", None)
    assert three.alias(CLIENT, LIVE) == move


def test_only_the_expected_revision_is_moved(three: Catalog) -> None:
    for stale in (0, 2, 4):
        with pytest.raises(AliasConflict, match="revision 3"):
            set_to(three, 1, revision=stale)
    assert three.alias(CLIENT, LIVE).revision == 3
    set_to(three, 1, revision=3)


def test_revision_zero_means_that_the_alias_is_new(three: Catalog) -> None:
    set_to(three, 2, revision=0, alias="canary")
    with pytest.raises(AliasConflict):
        set_to(three, 2, revision=0, alias="canary")
    with pytest.raises(AliasConflict, match="revision 0, not 1"):
        set_to(three, 2, revision=1, alias="other")


def test_exactly_one_of_two_racing_moves_from_one_revision_wins(three: Catalog) -> None:
    for revision in range(3, 23):
        together = threading.Barrier(2)

        def move(version: int, revision: int = revision, together: threading.Barrier = together) -> bool:
            together.wait()
            try:
                set_to(three, version, revision=revision)
            except AliasConflict:
                return False
            return True

        with ThreadPoolExecutor(2) as pool:
            won = list(pool.map(move, (1, 2)))
        assert sorted(won) == [False, True]
        assert three.alias(CLIENT, LIVE).version == won.index(True) + 1


def test_a_read_is_never_older_than_an_acknowledged_move(three: Catalog) -> None:
    acknowledged = 3
    stop = threading.Event()
    stale: list[int] = []

    def read() -> None:
        while not stop.is_set():
            least = acknowledged
            found = three.alias(CLIENT, LIVE).revision
            if found < least:
                stale.append(found)

    with ThreadPoolExecutor(3) as pool:
        readers = [pool.submit(read) for _ in range(3)]
        try:
            for i in range(40):
                acknowledged = three.move_alias(CLIENT, LIVE, i % 3 + 1, expected_revision=None).revision
        finally:
            stop.set()
        for reader in readers:
            reader.result()
    assert stale == []


def test_rolling_back_twice_goes_two_versions_back(three: Catalog) -> None:
    first = three.roll_back(CLIENT, LIVE)
    assert (first.version, first.previous, first.reason, first.restores) == (2, 3, "rollback", 2)
    second = three.roll_back(CLIENT, LIVE)
    assert (second.version, second.previous, second.restores) == (1, 2, 1)
    with pytest.raises(NothingToRollBackTo, match="version 1"):
        three.roll_back(CLIENT, LIVE)
    assert three.alias(CLIENT, LIVE) == second


def test_after_a_roll_back_a_new_version_rolls_back_to_what_was_live_before_it(three: Catalog) -> None:
    three.roll_back(CLIENT, LIVE)
    three.publish(a_draft(), [LIVE])
    assert [three.roll_back(CLIENT, LIVE).version for _ in range(2)] == [2, 1]


def test_rolling_back_skips_deleted_versions(three: Catalog) -> None:
    three.delete_version(CLIENT, 2)
    assert three.roll_back(CLIENT, LIVE).version == 1


def test_rolling_back_skips_moves_that_changed_nothing(three: Catalog) -> None:
    set_to(three, 3)
    set_to(three, 3)
    assert three.roll_back(CLIENT, LIVE).version == 2


def test_rolling_back_leaves_other_aliases_alone(three: Catalog) -> None:
    set_to(three, 1, alias="canary")
    set_to(three, 2, alias="canary")
    three.roll_back(CLIENT, LIVE)
    assert three.alias(CLIENT, "canary").version == 2
    assert three.roll_back(CLIENT, "canary").version == 1


def test_rolling_back_can_require_a_revision(three: Catalog) -> None:
    with pytest.raises(AliasConflict):
        three.roll_back(CLIENT, LIVE, expected_revision=2)
    assert three.roll_back(CLIENT, LIVE, expected_revision=3).version == 2


def test_an_alias_that_was_never_set_is_unknown(three: Catalog) -> None:
    with pytest.raises(UnknownAlias, match="canary"):
        three.alias(CLIENT, "canary")
    with pytest.raises(UnknownAlias, match="canary"):
        three.roll_back(CLIENT, "canary")


def test_the_history_lists_every_move_oldest_first(three: Catalog) -> None:
    three.roll_back(CLIENT, LIVE)
    set_to(three, 1, alias="canary")
    moves = three.history(CLIENT)
    assert [(move.alias, move.revision, move.version, move.reason) for move in moves] == [
        (LIVE, 1, 1, "adapt"),
        (LIVE, 2, 2, "adapt"),
        (LIVE, 3, 3, "adapt"),
        (LIVE, 4, 2, "rollback"),
        ("canary", 1, 1, "set"),
    ]


def test_the_history_up_to_a_time_ends_there(three: Catalog) -> None:
    moves = three.history(CLIENT)
    for i, move in enumerate(moves):
        assert three.history(CLIENT, at=move.moved_at) == moves[: i + 1]
        assert three.history(CLIENT, at=move.moved_at - timedelta(microseconds=1)) == moves[:i]
    elsewhere = moves[1].moved_at.astimezone(tz=None) - timedelta(0)
    assert three.history(CLIENT, at=elsewhere) == moves[:2]
    assert three.history(CLIENT, at=datetime(2000, 1, 1, tzinfo=UTC)) == ()


class AliasModel:
    """A model of an alias as a stack of versions: a move pushes one, a rollback pops some."""

    def __init__(self) -> None:
        self.versions = 0
        self.deleted: set[int] = set()
        self.stack: list[int] = []

    def publish(self) -> None:
        self.versions += 1
        self.stack.append(self.versions)

    def move(self, version: int) -> bool:
        if not 1 <= version <= self.versions or version in self.deleted:
            return False
        self.stack.append(version)
        return True

    def roll_back(self, _version: int = 0) -> bool:
        below = [i for i, version in enumerate(self.stack[:-1]) if version not in self.deleted | {self.stack[-1]}]
        if not below:
            return False
        del self.stack[below[-1] + 1 :]
        return True

    def delete(self, version: int) -> bool:
        if not 1 <= version <= self.versions or version in self.deleted or version == self.stack[-1]:
            return False
        self.deleted.add(version)
        return True


STEPS = st.lists(
    st.one_of(
        st.just(("publish", 0)),
        st.tuples(st.sampled_from(["move", "delete"]), st.integers(1, 6)),
        st.just(("roll back", 0)),
    ),
    max_size=14,
)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_aliases_behave_like_a_stack_of_versions(catalog: Catalog, steps: list[tuple[str, int]]) -> None:
    client = f"client-{len(catalog.clients())}"
    model = AliasModel()
    catalog.publish(a_draft(client), [LIVE])
    model.publish()
    for step, version in steps:
        done, expected = _apply_to_both(catalog, model, client, step, version)
        assert done == expected
        assert catalog.alias(client, LIVE).version == model.stack[-1]


def _apply_to_both(catalog: Catalog, model: AliasModel, client: str, step: str, version: int) -> tuple[bool, bool]:
    """Apply one step to the catalog and to the model; return whether each accepted it."""
    if step == "publish":
        catalog.publish(a_draft(client), [LIVE])
        model.publish()
        return True, True
    try:
        if step == "move":
            catalog.move_alias(client, LIVE, version, expected_revision=None)
        elif step == "delete":
            catalog.delete_version(client, version)
        else:
            catalog.roll_back(client, LIVE)
        done = True
    except ServiceError:
        done = False
    expected: dict[str, Callable[[int], bool]] = {
        "move": model.move,
        "delete": model.delete,
        "roll back": model.roll_back,
    }
    return done, expected[step](version)


def test_the_tag_of_a_move_matches_only_the_client_that_it_was_read_from(catalog: Catalog) -> None:
    (move,) = catalog.publish(a_draft(), [LIVE]).moves
    assert move.tag == catalog.alias(CLIENT, LIVE).tag
    moved = catalog.move_alias(CLIENT, LIVE, 1, expected_revision=move.tag)
    for outdated in (move.tag, f"00000000-{moved.revision}"):
        with pytest.raises(AliasConflict):
            catalog.roll_back(CLIENT, LIVE, expected_revision=outdated)
    catalog.delete_client(CLIENT)
    catalog.publish(a_draft(), [LIVE])
    with pytest.raises(AliasConflict):
        catalog.move_alias(CLIENT, LIVE, 1, expected_revision=move.tag)
    assert catalog.alias(CLIENT, LIVE).revision == move.revision
