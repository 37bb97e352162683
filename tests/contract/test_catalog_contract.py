"""Contract of every `Catalog`: versions, deletion, listing, holding, idempotency."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from service.domain.client import ClientSettings
from service.domain.job import Origin
from service.domain.version import LIVE, Idempotency, Lineage
from service.errors import (
    ClientDeleted,
    ClientExists,
    IdempotencyMismatch,
    ParentSuperseded,
    StoreUnavailable,
    UnknownAlias,
    UnknownClient,
    UnknownVersion,
    VersionInUse,
)
from service.store.catalog.catalog import Catalog
from tests.contract.values import CLIENT, a_draft, digest_of


def test_a_version_is_read_as_it_was_published(catalog: Catalog) -> None:
    draft = a_draft(report={"b": [1, 2.5, None], "a": {"ü": "Kratzer"}, "gate": {"reasons": []}})
    before = datetime.now(UTC)
    made = catalog.publish(draft, [LIVE])
    assert made.version.draft == draft
    assert made.version.number == 1
    assert before <= made.version.created_at <= datetime.now(UTC)
    assert catalog.version(CLIENT, 1) == made.version
    assert list(catalog.version(CLIENT, 1).draft.report) == ["b", "a", "gate"]


def test_samples_keep_their_order(catalog: Catalog) -> None:
    names = [f"dent-{i}" for i in (3, 11, 2, 1, 30)]
    catalog.publish(a_draft(samples=names), [])
    assert [sample.name for sample in catalog.version(CLIENT, 1).draft.samples] == [f"{name}.png" for name in names]


def test_samples_keep_the_part_that_they_show(catalog: Catalog) -> None:
    draft = a_draft()
    draft = replace(draft, samples=(replace(draft.samples[0], part="0417"), draft.samples[1]))
    catalog.publish(draft, [])
    assert [sample.part for sample in catalog.version(CLIENT, 1).draft.samples] == ["0417", None]
    assert catalog.problems() == ()


def test_each_stored_sample_has_the_first_version_that_keeps_it(catalog: Catalog) -> None:
    with pytest.raises(UnknownClient):
        catalog.first_versions(CLIENT)
    catalog.publish(replace(a_draft(samples=["dent-0", "dent-1"]), samples_kept=False), [])
    catalog.publish(a_draft(samples=["dent-1", "dent-2"]), [])
    catalog.publish(a_draft(samples=["dent-2", "dent-3"]), [])
    catalog.publish(a_draft("other", samples=["dent-4"]), [])
    expected = {digest_of("dent-1"): 2, digest_of("dent-2"): 2, digest_of("dent-3"): 3}
    assert catalog.first_versions(CLIENT) == expected
    assert catalog.first_versions(CLIENT, digest_of("dent-2")) == {digest_of("dent-2"): 2}
    assert catalog.first_versions(CLIENT, digest_of("dent-4")) == {}
    catalog.delete_version(CLIENT, 2)
    assert catalog.first_versions(CLIENT) == {digest_of("dent-2"): 3, digest_of("dent-3"): 3}


def test_names_and_labels_are_never_run_as_sql(catalog: Catalog) -> None:
    nasty = "'; DROP TABLE versions; --"
    draft = a_draft()
    draft = replace(draft, samples=(replace(draft.samples[0], label=nasty, name="../\u202e%s'\""),), classes=(nasty,))
    assert catalog.publish(draft, []).version.draft == draft
    assert catalog.version(CLIENT, 1).draft == draft


def test_versions_of_a_client_are_numbered_from_one(catalog: Catalog) -> None:
    numbers = [catalog.publish(a_draft(client), []).version.number for client in ("a", "b", "a", "a", "b")]
    assert numbers == [1, 1, 2, 3, 2]
    assert [version.number for version in catalog.versions("a")] == [1, 2, 3]


def test_racing_publishes_get_distinct_numbers_without_gaps(catalog: Catalog) -> None:
    def publish(i: int) -> tuple[int, int]:
        made = catalog.publish(a_draft(weights=f"w{i}"), [LIVE])
        return made.version.number, made.moves[0].revision

    with ThreadPoolExecutor(8) as pool:
        made = sorted(pool.map(publish, range(40)))
    assert made == [(i, i) for i in range(1, 41)]
    assert catalog.alias(CLIENT, LIVE).version == 40


def test_a_failed_guard_records_nothing_and_uses_no_number(catalog: Catalog) -> None:
    def guard() -> None:
        raise StoreUnavailable("a blob is gone")

    with pytest.raises(StoreUnavailable, match="a blob is gone"):
        catalog.publish(a_draft(), [LIVE], guard=guard)
    assert catalog.clients() == ()
    assert catalog.publish(a_draft(), [LIVE]).version.number == 1


def test_a_held_version_moves_no_alias(catalog: Catalog) -> None:
    made = catalog.publish(a_draft(), [])
    assert (made.moves, made.live) == ((), None)
    with pytest.raises(UnknownAlias):
        catalog.alias(CLIENT, LIVE)
    catalog.publish(a_draft(), [LIVE])
    assert catalog.publish(a_draft(), []).live == 2


def test_one_publish_can_move_several_aliases(catalog: Catalog) -> None:
    made = catalog.publish(a_draft(), [LIVE, "canary"])
    assert [(move.alias, move.version, move.revision, move.reason) for move in made.moves] == [
        (LIVE, 1, 1, "adapt"),
        ("canary", 1, 1, "adapt"),
    ]
    assert made.live == 1


def test_the_latest_version_is_the_newest_that_is_not_deleted(catalog: Catalog) -> None:
    assert catalog.latest(CLIENT) is None
    for _ in range(3):
        catalog.publish(a_draft(), [])
    catalog.delete_version(CLIENT, 3)
    latest = catalog.latest(CLIENT)
    assert latest is not None
    assert latest.number == 2
    catalog.delete_version(CLIENT, 2)
    catalog.delete_version(CLIENT, 1)
    assert catalog.latest(CLIENT) is None


@pytest.mark.parametrize(
    "call",
    [
        lambda catalog: catalog.client("unknown"),
        lambda catalog: catalog.versions("unknown"),
        lambda catalog: catalog.version("unknown", 1),
        lambda catalog: catalog.alias("unknown", LIVE),
        lambda catalog: catalog.history("unknown"),
        lambda catalog: catalog.move_alias("unknown", LIVE, 1, expected_revision=None),
        lambda catalog: catalog.roll_back("unknown", LIVE),
        lambda catalog: catalog.delete_version("unknown", 1),
        lambda catalog: catalog.delete_client("unknown"),
    ],
)
def test_every_method_reports_an_unknown_client(catalog: Catalog, call: Callable[[Catalog], object]) -> None:
    catalog.publish(a_draft(), [LIVE])
    with pytest.raises(UnknownClient, match="unknown"):
        call(catalog)


@pytest.mark.parametrize("number", [0, -1, 2, 10**12])
def test_every_method_reports_an_unknown_version(catalog: Catalog, number: int) -> None:
    catalog.publish(a_draft(), [LIVE])
    with pytest.raises(UnknownVersion):
        catalog.version(CLIENT, number)
    with pytest.raises(UnknownVersion):
        catalog.delete_version(CLIENT, number)
    with pytest.raises(UnknownVersion):
        catalog.move_alias(CLIENT, LIVE, number, expected_revision=None)
    assert catalog.alias(CLIENT, LIVE).revision == 1


def test_a_deleted_version_is_gone_and_its_number_stays_taken(catalog: Catalog) -> None:
    catalog.publish(a_draft(), [])
    made = catalog.publish(a_draft(weights="second"), [])
    assert catalog.delete_version(CLIENT, 2) == made.version
    with pytest.raises(UnknownVersion, match="deleted"):
        catalog.version(CLIENT, 2)
    with pytest.raises(UnknownVersion, match="deleted"):
        catalog.delete_version(CLIENT, 2)
    with pytest.raises(UnknownVersion, match="deleted"):
        catalog.move_alias(CLIENT, LIVE, 2, expected_revision=None)
    assert [version.number for version in catalog.versions(CLIENT)] == [1]
    assert catalog.publish(a_draft(), []).version.number == 3


def test_a_version_that_an_alias_points_at_is_not_deleted(catalog: Catalog) -> None:
    catalog.publish(a_draft(), [LIVE, "canary"])
    catalog.publish(a_draft(), [LIVE])
    with pytest.raises(VersionInUse, match="canary"):
        catalog.delete_version(CLIENT, 1)
    with pytest.raises(VersionInUse, match="live"):
        catalog.delete_version(CLIENT, 2)
    assert len(catalog.versions(CLIENT)) == 2


def test_a_deleted_client_leaves_nothing_and_can_be_created_again(catalog: Catalog) -> None:
    key = Idempotency("key-1", digest_of("body"))
    catalog.publish(a_draft(), [LIVE], idempotency=key)
    catalog.publish(a_draft("line-2"), [LIVE])
    catalog.delete_client(CLIENT)
    assert [client.name for client in catalog.clients()] == ["line-2"]
    assert catalog.recall(CLIENT, key) is None
    with catalog.holding(CLIENT) as needed:
        assert needed == frozenset()
    made = catalog.publish(a_draft(), [LIVE], idempotency=key)
    assert (made.version.number, made.moves[0].revision, made.replayed) == (1, 1, False)


def test_a_listing_shows_versions_and_aliases(catalog: Catalog) -> None:
    assert catalog.clients() == ()
    catalog.publish(a_draft("b"), [LIVE])
    catalog.publish(a_draft("a"), [LIVE])
    moved = catalog.publish(a_draft("a"), [LIVE, "canary"]).moves
    catalog.publish(a_draft("a"), [])
    catalog.delete_version("a", 3)
    a, b = catalog.clients()
    assert (a.name, a.versions, a.latest) == ("a", 2, 3)
    assert a.aliases == {move.alias: move for move in moved}
    assert (b.name, b.versions, b.latest, list(b.aliases)) == ("b", 1, 1, [LIVE])
    assert catalog.client("a") == a


def base_of(catalog: Catalog) -> int | None:
    base = catalog.lineage(CLIENT).base
    return None if base is None else base.number


def test_an_extension_builds_on_held_versions_that_extend_the_live_one(catalog: Catalog) -> None:
    assert catalog.lineage(CLIENT) == Lineage()
    catalog.publish(a_draft(), [])
    catalog.publish(a_draft(parent=1), [LIVE], extends=True)
    assert base_of(catalog) == 2
    catalog.publish(a_draft(parent=2), [], extends=True)
    catalog.publish(a_draft(parent=3), [], extends=True)
    catalog.publish(a_draft(parent=None), [])  # starts anew, and was held
    lineage = catalog.lineage(CLIENT)
    assert [version and version.number for version in (lineage.live, lineage.base, lineage.newest)] == [2, 4, 5]
    with pytest.raises(ParentSuperseded):
        catalog.publish(a_draft(parent=2), [], extends=True)
    catalog.delete_version(CLIENT, 4)
    assert base_of(catalog) == 3


def test_an_extension_does_not_build_on_versions_that_were_rolled_back(catalog: Catalog) -> None:
    catalog.publish(a_draft(), [LIVE])
    catalog.publish(a_draft(parent=1), [LIVE])
    catalog.publish(a_draft(parent=2), [])
    catalog.roll_back(CLIENT, LIVE)
    assert base_of(catalog) == 1
    catalog.publish(a_draft(parent=1), [], extends=True)
    assert base_of(catalog) == 4
    catalog.move_alias(CLIENT, LIVE, 2, expected_revision=None)
    assert base_of(catalog) == 3


def test_without_a_live_version_an_extension_builds_on_the_newest(catalog: Catalog) -> None:
    catalog.publish(a_draft(), [])
    catalog.publish(a_draft(), [])
    assert base_of(catalog) == 2
    catalog.delete_version(CLIENT, 2)
    assert base_of(catalog) == 1


def test_holding_a_client_returns_its_required_blobs(catalog: Catalog) -> None:
    catalog.publish(a_draft(weights="w1", samples=["dent-1", "dent-2"]), [])
    catalog.publish(a_draft(weights="w2", samples=["dent-2", "dent-3"]), [])
    catalog.publish(a_draft("line-2", weights="w3", samples=["dent-4"]), [])
    with catalog.holding(CLIENT) as needed:
        assert needed == {digest_of(name) for name in ("w1", "w2", "dent-1", "dent-2", "dent-3")}
    catalog.delete_version(CLIENT, 1)
    with catalog.holding(CLIENT) as needed:
        assert needed == {digest_of(name) for name in ("w2", "dent-2", "dent-3")}
    with catalog.holding("unknown") as needed:
        assert needed == frozenset()


def test_no_publish_commits_while_the_client_is_held(catalog: Catalog) -> None:
    catalog.publish(a_draft(), [])
    guarded = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        with catalog.holding(CLIENT):
            racing = pool.submit(catalog.publish, a_draft(), [LIVE], guard=guarded.set)
            assert not guarded.wait(0.05)
        assert racing.result().version.number == 2
    assert guarded.is_set()


def test_a_repeated_request_gets_the_first_publication(catalog: Catalog) -> None:
    key = Idempotency("key-1", digest_of("body"))
    assert catalog.recall(CLIENT, key) is None
    first = catalog.publish(a_draft(weights="first"), [LIVE], idempotency=key)
    assert not first.replayed
    catalog.publish(a_draft(weights="later"), [LIVE])
    for again in (catalog.publish(a_draft(weights="again"), [LIVE], idempotency=key), catalog.recall(CLIENT, key)):
        assert again == replace(first, replayed=True)
    assert len(catalog.versions(CLIENT)) == 2
    assert catalog.alias(CLIENT, LIVE).version == 2


def test_an_idempotency_key_cannot_be_used_for_two_requests(catalog: Catalog) -> None:
    catalog.publish(a_draft(), [LIVE], idempotency=Idempotency("key-1", digest_of("body")))
    other = Idempotency("key-1", digest_of("another body"))
    with pytest.raises(IdempotencyMismatch, match="key-1"):
        catalog.recall(CLIENT, other)
    with pytest.raises(IdempotencyMismatch, match="version 1"):
        catalog.publish(a_draft(), [LIVE], idempotency=other)
    assert len(catalog.versions(CLIENT)) == 1


def test_clients_do_not_share_idempotency_keys(catalog: Catalog) -> None:
    key = Idempotency("key-1", digest_of("body"))
    catalog.publish(a_draft(), [LIVE], idempotency=key)
    assert catalog.recall("line-2", key) is None
    assert not catalog.publish(a_draft("line-2"), [LIVE], idempotency=key).replayed


def test_a_failed_publish_does_not_record_its_idempotency_key(catalog: Catalog) -> None:
    key = Idempotency("key-1", digest_of("body"))

    def guard() -> None:
        raise StoreUnavailable("a blob is gone")

    with pytest.raises(StoreUnavailable):
        catalog.publish(a_draft(), [LIVE], guard=guard, idempotency=key)
    assert catalog.recall(CLIENT, key) is None
    assert not catalog.publish(a_draft(), [LIVE], idempotency=key).replayed


def test_a_replay_outlives_its_version(catalog: Catalog) -> None:
    key = Idempotency("key-1", digest_of("body"))
    first = catalog.publish(a_draft(), [], idempotency=key)
    catalog.delete_version(CLIENT, 1)
    again = catalog.recall(CLIENT, key)
    assert again is not None
    assert again.version.number == 1
    assert again.version.deleted_at is not None
    assert again.version.draft == replace(first.version.draft, samples=())


def test_only_one_of_racing_requests_with_the_same_key_publishes(catalog: Catalog) -> None:
    key = Idempotency("key-1", digest_of("body"))
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda i: catalog.publish(a_draft(weights=f"w{i}"), [LIVE], idempotency=key), range(16)))
    assert sum(not publication.replayed for publication in made) == 1
    assert len({publication.version.draft.weights_digest for publication in made}) == 1
    assert len(catalog.versions(CLIENT)) == 1


def test_only_one_of_racing_requests_creates_a_client(catalog: Catalog) -> None:
    def create(number: int) -> bool:
        try:
            catalog.publish(a_draft(weights=f"w{number}"), [LIVE], origin=Origin(new_client=True))
        except ClientExists:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(create, range(16))) == 1
    assert len(catalog.versions(CLIENT)) == 1


def test_a_repeated_request_that_created_its_client_gets_the_first_publication(catalog: Catalog) -> None:
    key = Idempotency("key-1", digest_of("body"))
    first = catalog.publish(a_draft(), [LIVE], idempotency=key, origin=Origin(new_client=True))
    again = catalog.publish(a_draft(), [LIVE], idempotency=key, origin=Origin(new_client=True))
    assert (again.version, again.replayed) == (first.version, True)


def test_a_client_that_only_has_settings_is_not_created_again(catalog: Catalog) -> None:
    catalog.update_settings(CLIENT, ClientSettings())
    with pytest.raises(ClientExists, match="leave out the header"):
        catalog.publish(a_draft(), [LIVE], origin=Origin(new_client=True))
    assert catalog.versions(CLIENT) == ()


def test_an_undamaged_catalog_reports_no_problem(catalog: Catalog) -> None:
    catalog.publish(a_draft(), [LIVE])
    assert catalog.problems() == ()
    catalog.ping()


@pytest.mark.parametrize("reference", [LIVE, 1])
@pytest.mark.parametrize(
    ("report", "expected"),
    [
        ({}, (None, None)),
        ({"unknown_threshold": None, "temperature": None}, (None, None)),
        ({"unknown_threshold": 0.2500001, "temperature": 1.5}, (0.75, 1.5)),  # a familiarity is recorded
    ],
)
def test_predictions_get_the_threshold_and_the_temperature_if_there_are_any(
    catalog: Catalog, reference: str | int, report: dict[str, float | None], expected: tuple[float | None, float | None]
) -> None:
    catalog.publish(a_draft(report=report), [LIVE])
    served = catalog.served(CLIENT, reference)
    assert (served.unknown_threshold, served.temperature) == expected


def test_a_version_is_recorded_only_for_the_client_that_it_was_made_for(catalog: Catalog) -> None:
    catalog.publish(a_draft(), [LIVE])
    created_at = catalog.created_at(CLIENT)
    assert created_at == catalog.lineage(CLIENT).client_created_at == catalog.client(CLIENT).created_at
    catalog.publish(a_draft(), [LIVE], origin=Origin(created_at))
    catalog.delete_client(CLIENT)
    assert catalog.created_at(CLIENT) is None
    with pytest.raises(ClientDeleted):
        catalog.publish(a_draft(), [LIVE], origin=Origin(created_at))
    assert catalog.names() == ()
    catalog.publish(a_draft(), [LIVE])
    with pytest.raises(ClientDeleted):
        catalog.publish(a_draft(), [LIVE], origin=Origin(created_at))
    assert catalog.client(CLIENT).latest == 1
