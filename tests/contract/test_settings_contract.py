"""Contract of every `Catalog` for the settings of clients."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from service.domain.client import ClientSettings
from service.domain.version import LIVE
from service.errors import InvalidRequest, ParentSuperseded, UnknownClient
from service.store.catalog.catalog import Catalog
from tests.contract.values import CLIENT, a_draft, digest_of

NOTHING_KEPT = ClientSettings(retain_samples=False)


def test_a_client_without_settings_has_the_defaults(catalog: Catalog) -> None:
    with pytest.raises(UnknownClient):
        catalog.settings(CLIENT)
    catalog.publish(a_draft(), [LIVE])
    assert catalog.settings(CLIENT) == ClientSettings()


def test_the_latest_settings_are_read_back(catalog: Catalog) -> None:
    catalog.update_settings(CLIENT, ClientSettings(keep_last=3))
    assert catalog.settings(CLIENT) == ClientSettings(keep_last=3)
    catalog.update_settings(CLIENT, NOTHING_KEPT)
    assert catalog.settings(CLIENT) == NOTHING_KEPT
    catalog.update_settings("line-2", ClientSettings())
    assert catalog.settings(CLIENT) == NOTHING_KEPT


def test_updating_settings_creates_the_client(catalog: Catalog) -> None:
    catalog.update_settings(CLIENT, NOTHING_KEPT)
    assert [(client.name, client.versions, client.latest) for client in catalog.clients()] == [(CLIENT, 0, 0)]
    assert catalog.versions(CLIENT) == ()
    assert catalog.latest(CLIENT) is None
    assert catalog.publish(a_draft(), [LIVE]).version.number == 1


def test_changed_settings_keep_the_others(catalog: Catalog) -> None:
    with pytest.raises(UnknownClient):
        catalog.change_settings(CLIENT, {"floor": 0.5})
    catalog.update_settings(CLIENT, ClientSettings(keep_last=3, floor=0.5))
    expected = ClientSettings(keep_last=3, model="paper")
    assert catalog.change_settings(CLIENT, {"floor": None, "model": "paper"}) == expected
    assert catalog.settings(CLIENT) == expected
    with pytest.raises(InvalidRequest):
        catalog.change_settings(CLIENT, {"keep_last": 0})
    assert catalog.settings(CLIENT) == expected


def test_concurrent_changes_of_different_settings_are_all_kept(catalog: Catalog) -> None:
    catalog.update_settings(CLIENT, ClientSettings())
    changes = [{"keep_last": 3}, {"floor": 0.5}, {"tolerance": 0.25}, {"model": "paper"}]
    together = threading.Barrier(len(changes))

    def change(one: dict[str, object]) -> None:
        together.wait()
        catalog.change_settings(CLIENT, one)

    with ThreadPoolExecutor(len(changes)) as pool:
        list(pool.map(change, changes))
    assert catalog.settings(CLIENT) == ClientSettings(keep_last=3, floor=0.5, tolerance=0.25, model="paper")


def test_changed_settings_that_retain_no_samples_apply_to_existing_versions(catalog: Catalog) -> None:
    catalog.publish(a_draft(), [LIVE])
    assert catalog.change_settings(CLIENT, {"retain_samples": False}) == NOTHING_KEPT
    assert not catalog.version(CLIENT, 1).draft.samples_kept


def test_settings_are_deleted_with_their_client(catalog: Catalog) -> None:
    catalog.update_settings(CLIENT, NOTHING_KEPT)
    catalog.delete_client(CLIENT)
    catalog.publish(a_draft(), [LIVE])
    assert catalog.settings(CLIENT) == ClientSettings()


def test_versions_of_a_client_that_retains_no_samples_need_none(catalog: Catalog) -> None:
    catalog.publish(a_draft(weights="w1", samples=["dent-1"]), [LIVE])
    catalog.publish(a_draft("line-2", weights="w1", samples=["dent-1"]), [LIVE])
    catalog.update_settings(CLIENT, NOTHING_KEPT)
    made = catalog.publish(a_draft(weights="w2", samples=["dent-2"]), [LIVE]).version
    assert made.draft == replace(a_draft(weights="w2", samples=["dent-2"]), samples_kept=False)
    assert [version.draft.samples_kept for version in catalog.versions(CLIENT)] == [False, False]
    with catalog.holding(CLIENT) as needed:
        assert needed == {digest_of("w1"), digest_of("w2")}
    with catalog.holding("line-2") as needed:
        assert needed == {digest_of("w1"), digest_of("dent-1")}


def test_retaining_samples_again_does_not_restore_deleted_ones(catalog: Catalog) -> None:
    catalog.update_settings(CLIENT, NOTHING_KEPT)
    catalog.publish(a_draft(), [LIVE])
    catalog.update_settings(CLIENT, ClientSettings())
    catalog.publish(a_draft(), [LIVE])
    assert [version.draft.samples_kept for version in catalog.versions(CLIENT)] == [False, True]


def test_an_extension_of_a_superseded_version_is_not_recorded(catalog: Catalog) -> None:
    catalog.publish(a_draft(), [LIVE], extends=True)
    catalog.publish(a_draft(), [], extends=False)
    with pytest.raises(ParentSuperseded, match="send the request again"):
        catalog.publish(a_draft(parent=2), [LIVE], extends=True)
    with pytest.raises(ParentSuperseded):
        catalog.publish(a_draft(), [LIVE], extends=True)
    assert catalog.publish(a_draft(parent=1), [LIVE], extends=True).version.number == 3


def test_without_a_live_version_an_extension_builds_on_the_newest(catalog: Catalog) -> None:
    for _ in range(2):
        catalog.publish(a_draft(), [])
    with pytest.raises(ParentSuperseded):
        catalog.publish(a_draft(parent=1), [], extends=True)
    assert catalog.publish(a_draft(parent=2), [], extends=True).version.number == 3


def test_only_one_of_racing_extensions_of_one_version_is_recorded(catalog: Catalog) -> None:
    catalog.publish(a_draft(), [LIVE])
    together = threading.Barrier(8)

    def extend(i: int) -> bool:
        together.wait()
        try:
            catalog.publish(a_draft(weights=f"w{i}", parent=1), [LIVE], extends=True)
        except ParentSuperseded:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(extend, range(8))) == 1
    assert catalog.alias(CLIENT, LIVE).version == 2
