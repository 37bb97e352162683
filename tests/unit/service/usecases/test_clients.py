"""Listing, publishing, rolling back, downloading and deleting versions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load
from sqlalchemy import Engine, event
from torch import Tensor

from service.domain.client import ClientSettings
from service.domain.version import CANDIDATE, LIVE, Version, VersionSummary
from service.errors import (
    AliasConflict,
    InvalidName,
    InvalidRequest,
    NothingToRollBackTo,
    UnknownAlias,
    UnknownCheckpoint,
    UnknownVersion,
    VersionInUse,
)
from service.store.open_store import open_embedded
from service.store.tensor_bytes import metadata_of
from service.store.version_store import VersionStore, encode_sample
from service.usecases import clients as usecase
from service.usecases.clients import Clients
from tests.contract.values import CLIENT, a_draft


@pytest.fixture
def store(tmp_path: Path) -> Iterator[VersionStore]:
    with open_embedded(tmp_path / "data", sync=False) as opened:
        yield opened


@pytest.fixture
def clients(store: VersionStore) -> Clients:
    return Clients(store, lambda version: {})


def publish(store: VersionStore, value: float, client: str = CLIENT) -> Version:
    sample = store.put_samples(client, [encode_sample(torch.zeros(1, 4, 4, dtype=torch.uint8))])[0]
    digest, size_bytes = store.put_weights(client, {"head.bias": torch.full((2,), value)}, {"kind": "delta"})
    draft = a_draft(client)
    samples = tuple(replace(reference, digest=sample) for reference in draft.samples)
    return store.publish(
        replace(draft, samples=samples, weights_digest=digest, weights_bytes=size_bytes), [LIVE]
    ).version


def test_versions_clients_and_aliases_are_found(store: VersionStore, clients: Clients) -> None:
    made = [publish(store, value) for value in (1.0, 2.0)]
    publish(store, 1.0, "line-2")
    assert clients.versions(CLIENT) == [VersionSummary.of(version) for version in made]
    assert clients.version(CLIENT, 2) == made[1]
    assert [client.name for client in clients.list()] == [CLIENT, "line-2"]
    assert clients.get("line-2").versions == 1
    assert clients.alias(CLIENT, LIVE).version == 2


def test_lists_are_read_in_pages(store: VersionStore, clients: Clients, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usecase, "VERSIONS_PER_READ", 2)
    made = [VersionSummary.of(publish(store, value)) for value in (1.0, 2.0, 3.0, 4.0, 5.0)]
    for name in ("line-2", "line-3"):
        publish(store, 1.0, name)
    store.delete_version(CLIENT, 2)
    kept = [made[0], *made[2:]]
    pages = [clients.versions(CLIENT, after, limit) for after, limit in ((0, 3), (4, 3), (0, 4), (5, 9))]
    assert pages == [kept[:3], kept[3:], kept, []]
    assert [move.revision for move in clients.history(CLIENT, after=1, limit=3)] == [2, 3, 4]
    late = datetime.now(UTC) + timedelta(days=1)
    assert [move.revision for move in clients.history(CLIENT, late, 1, 3)] == [2, 3, 4]
    assert clients.live(CLIENT) == clients.live(CLIENT, late) == 5
    assert [client.name for client in clients.list(after=CLIENT, limit=1)] == ["line-2"]
    assert [client.name for client in clients.list({"line-3", CLIENT, "unknown"})] == [CLIENT, "line-3"]
    assert clients.list({CLIENT})[0].live == 5


def test_a_list_of_versions_reads_no_sample(store: VersionStore, clients: Clients) -> None:
    publish(store, 1.0)
    read: list[str] = []

    def record(*call: Any) -> None:
        read.append(call[2])

    event.listen(Engine, "before_cursor_execute", record)
    try:
        assert clients.versions(CLIENT)[0].samples == 2
    finally:
        event.remove(Engine, "before_cursor_execute", record)
    assert read
    assert not any("samples.digest" in statement for statement in read)


def test_each_rollback_goes_one_version_further_back(store: VersionStore, clients: Clients) -> None:
    for value in (1.0, 2.0, 3.0):
        publish(store, value)
    assert [clients.rollback(CLIENT).version for _ in range(2)] == [2, 1]
    with pytest.raises(NothingToRollBackTo):
        clients.rollback(CLIENT)
    with pytest.raises(UnknownAlias):
        clients.rollback(CLIENT, "canary")
    with pytest.raises(AliasConflict):
        clients.rollback(CLIENT, expected_revision=1)


def test_an_alias_is_moved_by_compare_and_swap(store: VersionStore, clients: Clients) -> None:
    publish(store, 1.0)
    publish(store, 2.0)
    assert clients.move_alias(CLIENT, "canary", 1, 0).reason == "set"
    assert clients.move_alias(CLIENT, LIVE, 1, 2).revision == 3
    with pytest.raises(AliasConflict):
        clients.move_alias(CLIENT, LIVE, 2, 2)


def test_the_history_at_a_time_ends_with_the_last_move_before_it(store: VersionStore, clients: Clients) -> None:
    publish(store, 1.0)
    publish(store, 2.0)
    clients.move_alias(CLIENT, "canary", 2, None)
    clients.rollback(CLIENT)
    first, second, canary, back = clients.history(CLIENT)
    just_before = timedelta(microseconds=1)
    assert clients.history(CLIENT, first.moved_at - just_before) == ()
    assert clients.history(CLIENT, second.moved_at - just_before) == (first,)
    assert clients.history(CLIENT, canary.moved_at) == (first, second, canary)
    assert clients.history(CLIENT, datetime.now(UTC)) == (first, second, canary, back)
    assert clients.history(CLIENT, second.moved_at) == (first, second)


def test_a_time_without_a_zone_is_rejected(store: VersionStore, clients: Clients) -> None:
    publish(store, 1.0)
    naive = datetime.fromisoformat("2026-03-01T14:31:00")
    with pytest.raises(InvalidRequest, match="2026-03-01T14:31:00Z"):
        clients.history(CLIENT, naive)


def test_weights_are_completed_with_those_of_the_checkpoint(store: VersionStore) -> None:
    def start_weights(version: Version) -> Mapping[str, Tensor]:
        assert version.draft.meta_model == "surfaces"
        return {"conv.weight": torch.ones(3), "head.bias": torch.zeros(5)}

    publish(store, 1.5)
    content = Clients(store, start_weights).weights(CLIENT, 1)
    read = load(content)
    assert torch.equal(read["conv.weight"], torch.ones(3))
    assert torch.equal(read["head.bias"], torch.full((2,), 1.5))
    assert metadata_of(content) == {"kind": "delta"}


def test_weights_of_an_unknown_checkpoint_are_not_returned_in_part(store: VersionStore) -> None:
    def start_weights(version: Version) -> Mapping[str, Tensor]:
        raise UnknownCheckpoint(f"no checkpoint {version.draft.meta_model!r}")

    publish(store, 1.5)
    with pytest.raises(UnknownCheckpoint):
        Clients(store, start_weights).weights(CLIENT, 1)


def test_settings_can_only_name_a_model_that_the_service_offers(store: VersionStore) -> None:
    def find_model(name: str) -> None:
        if name != "paper":
            raise UnknownCheckpoint(f"there is no model {name!r}; the available models are paper")

    clients = Clients(store, lambda _version: {}, find_model)
    chosen = ClientSettings(model="paper")
    assert clients.update_settings(CLIENT, chosen) == chosen
    with pytest.raises(InvalidRequest, match="no model 'huge'; the available models are paper"):
        clients.update_settings(CLIENT, ClientSettings(model="huge"))
    with pytest.raises(InvalidRequest, match="no model 'huge'"):
        clients.change_settings(CLIENT, {"model": "huge"})
    assert clients.settings(CLIENT) == chosen
    assert clients.change_settings(CLIENT, {"model": None}) == ClientSettings()


def test_deleting_a_version_or_client_leaves_the_others_intact(store: VersionStore, clients: Clients) -> None:
    publish(store, 1.0)
    publish(store, 2.0)
    publish(store, 1.0, "line-2")
    with pytest.raises(VersionInUse):
        clients.delete_version(CLIENT, 2)
    clients.delete_version(CLIENT, 1)
    with pytest.raises(UnknownVersion):
        clients.weights(CLIENT, 1)
    assert clients.delete("line-2").versions == 1
    assert [client.name for client in clients.list()] == [CLIENT]
    assert store.check().whole
    assert store.collect(grace_s=0.0).removed == 0


@pytest.mark.parametrize(
    "call",
    [
        lambda clients: clients.get("../x"),
        lambda clients: clients.versions("Line"),
        lambda clients: clients.version("", 1),
        lambda clients: clients.history("a b"),
        lambda clients: clients.alias(CLIENT, "7"),
        lambda clients: clients.move_alias(CLIENT, "7", 1, None),
        lambda clients: clients.rollback(CLIENT, "a/b"),
        lambda clients: clients.weights("x" * 65, 1),
        lambda clients: clients.delete_version("é", 1),
        lambda clients: clients.delete("."),
    ],
)
def test_an_invalid_name_is_rejected(clients: Clients, call: Callable[[Clients], object]) -> None:
    with pytest.raises(InvalidName):
        call(clients)


def test_the_candidate_is_promoted_at_the_expected_revision_only(store: VersionStore, clients: Clients) -> None:
    for value in (1.0, 2.0):
        publish(store, value)
    clients.move_alias(CLIENT, CANDIDATE, 1, None)
    with pytest.raises(AliasConflict):
        clients.promote(CLIENT, 1)
    assert clients.promote(CLIENT, 2).version == clients.alias(CLIENT, LIVE).version == 1
    with pytest.raises(InvalidName):
        clients.promote("No name")


def test_versions_are_compared_in_the_order_of_the_request(store: VersionStore, clients: Clients) -> None:
    for value in (1.0, 2.0):
        publish(store, value)
    compared = clients.diff(CLIENT, 2, 1)
    assert (compared.before.number, compared.after.number) == (2, 1)
    with pytest.raises(UnknownVersion):
        clients.diff(CLIENT, 1, 3)
