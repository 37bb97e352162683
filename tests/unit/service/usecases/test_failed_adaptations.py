"""What an adaptation leaves that makes no version: nothing, also if its client is deleted meanwhile."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from service.domain.client import ClientSettings
from service.domain.version import Publication
from service.errors import ClientDeleted, ClientExists, JobCancelled, ModalityUnsupported, StoreFull, UnknownClient
from service.runtime.adapt_queue import JobControl
from service.store.version_store import VersionStore
from service.usecases.adapt import Adaptation
from tests.unit.service.usecases.adapting import CLIENT, KEY, adapt, command, in_stage


@pytest.mark.parametrize("mode", ["extend", "replace"])
@pytest.mark.parametrize("again", [False, True], ids=["deleted", "deleted and created again"])
def test_an_adaptation_of_a_client_that_is_deleted_meanwhile_stores_nothing(
    store: VersionStore, adaptation: Adaptation, mode: Any, again: bool
) -> None:
    adapt(adaptation, command(samples=2))
    deletions = iter([True])

    def delete() -> None:
        for _ in deletions:
            store.delete_client(CLIENT)
            if again:
                store.update_settings(CLIENT, ClientSettings())

    with pytest.raises(ClientDeleted, match="was deleted while the request was waiting or running"):
        adapt(adaptation, command(samples=2, seed=1, mode=mode), in_stage("store", delete))
    if not again:
        with pytest.raises(UnknownClient):  # there is no row and no blob left
            store.delete_client(CLIENT)
    else:
        assert store.catalog.versions(CLIENT) == ()
        assert store.delete_client(CLIENT).blobs == 0


def test_a_client_that_keeps_no_samples_has_none_on_the_disk_when_it_is_deleted_during_an_adaptation(
    store: VersionStore, adaptation: Adaptation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deletion comes after the last look at the settings, and takes them with it."""
    store.update_settings(CLIENT, ClientSettings(retain_samples=False))
    record = store.publish

    def publish(*arguments: Any, **options: Any) -> Publication:
        store.delete_client(CLIENT)
        return record(*arguments, **options)

    monkeypatch.setattr(store, "publish", publish)
    with pytest.raises(ClientDeleted):
        adapt(adaptation, command(mode="replace"))
    with pytest.raises(UnknownClient):
        store.delete_client(CLIENT)


def test_texts_for_a_model_that_takes_none_are_rejected_with_its_name(adaptation: Adaptation) -> None:
    request = command()
    described = tuple(replace(upload, second="a note") for upload in request.uploads)
    with pytest.raises(ModalityUnsupported, match="the model 'tiny' takes images alone"):
        adapt(adaptation, replace(request, uploads=described))


def test_samples_of_a_client_that_keeps_none_are_never_written(
    store: VersionStore, adaptation: Adaptation, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.update_settings(CLIENT, ClientSettings(retain_samples=False))
    written: list[Any] = []
    monkeypatch.setattr(store, "put_samples", lambda _, samples: written.extend(samples))
    adapt(adaptation, command(mode="replace"))
    assert written == []


def test_a_request_that_arrived_before_its_client_was_deleted_makes_no_version(
    store: VersionStore, adaptation: Adaptation
) -> None:
    adapt(adaptation, command())
    arrived = command(seed=1, mode="replace", client_created_at=store.catalog.created_at(CLIENT))
    store.delete_client(CLIENT)
    with pytest.raises(ClientDeleted):
        adapt(adaptation, arrived)
    assert store.catalog.clients() == ()


@pytest.mark.parametrize("mode", ["extend", "replace"])
@pytest.mark.parametrize("stage", ["decode", "store"])
def test_of_two_requests_that_create_the_same_client_the_later_one_makes_no_version(
    store: VersionStore, adaptation: Adaptation, mode: Any, stage: Any
) -> None:
    """The other request comes before this one looks at the client, or after."""
    others = iter([True])

    def create() -> None:
        for _ in others:
            adapt(adaptation, command(new_client=True))

    with pytest.raises(ClientExists, match="choose another name"):
        adapt(adaptation, command(seed=1, mode=mode, new_client=True), in_stage(stage, create))
    (made,) = store.catalog.versions(CLIENT)
    assert store.collect(grace_s=0).removed == 0
    assert made.number == 1


def test_the_preliminary_version_of_a_new_client_does_not_stop_the_full_one(adaptation: Adaptation) -> None:
    made = adapt(adaptation, command(samples=2, steps=1, first="prototypes", new_client=True))
    assert made.version.number == 2


def test_an_adaptation_that_is_stopped_before_its_version_is_recorded_leaves_no_blob(
    store: VersionStore, adaptation: Adaptation, monkeypatch: pytest.MonkeyPatch
) -> None:
    control, put = JobControl(), store.put_weights

    def put_and_stop(*arguments: Any) -> tuple[str, int]:
        stored = put(*arguments)
        control.stop(JobCancelled("enough"))
        return stored

    monkeypatch.setattr(store, "put_weights", put_and_stop)
    with pytest.raises(JobCancelled):
        adapt(adaptation, command(), control)
    with pytest.raises(UnknownClient):
        store.delete_client(CLIENT)


def test_a_failed_extension_deletes_only_what_no_version_needs(
    store: VersionStore, adaptation: Adaptation, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapt(adaptation, command())
    monkeypatch.setattr(store, "put_weights", lambda *_: (_ for _ in ()).throw(StoreFull("full")))
    with pytest.raises(StoreFull):
        adapt(adaptation, command(seed=1))
    assert store.check().whole
    assert store.collect(grace_s=0.0).removed == 0


def test_a_retry_after_the_second_stage_failed_does_not_publish_the_first_stage_again(
    store: VersionStore, adaptation: Adaptation, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = command(samples=2, steps=2, first="prototypes", idempotency=KEY)
    first = JobControl()
    first.on_change(lambda: first.first and first.stop(JobCancelled("the process ends")))
    with pytest.raises(JobCancelled):
        adapt(adaptation, request, first)
    again = JobControl()
    outcome = adapt(adaptation, request, again)
    assert [made.version.number for made in (first.first, again.first, outcome)] == [1, 1, 2]
    assert (again.first.published, again.first.live) == (first.first.published, first.first.live)
    assert len(store.catalog.versions(CLIENT)) == 2
