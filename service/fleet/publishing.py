"""Publishes a version of the store to a channel."""

from __future__ import annotations

import functools
from typing import Any

import torch

from models.checkpoint import Checkpoint, load_checkpoint, shipped_digests
from service.domain.version import LIVE, Version
from service.edge.bundle import MAX_RELEASE_BYTES
from service.errors import InvalidRequest, UnknownCheckpoint
from service.fleet.release import ReleaseRules, build_release, build_start, served
from service.fleet.repository import SignedRepository
from service.fleet.rollout import Fleet
from service.runtime.loaded_checkpoint import LoadedCheckpoint
from service.settings import Settings
from service.store.open_store import StoreLocation, open_store
from service.store.version_store import VersionStore

__all__ = ["ReleaseRules", "publish_version"]


def publish_version(
    settings: Settings,
    repository: SignedRepository,
    what: tuple[str, int | None],
    channel: str,
    percent: int,
    rules: ReleaseRules,
) -> dict[str, Any]:
    """Publish a version of a client.

    Args:
        settings: name the store and the checkpoints.
        repository: to publish in.
        what: client name, and version number or None for the live version.
        channel: name of the channel.
        percent: of the channel's devices.
        rules: of the release.

    Returns:
        JSON data about what was published.

    Raises:
        UnknownClient, UnknownVersion, UnknownAlias: there is no such version.
        UnknownCheckpoint: its checkpoint is not here.
        InvalidRequest: devices cannot predict with it, or the channel does not take it now.
    """
    with open_store(StoreLocation.of(settings), missing="reject") as store:
        version = _version(store, *what)
        loaded = LoadedCheckpoint(_checkpoint(settings, version), torch.device("cpu"))
        try:
            release = build_release(store, version, loaded, rules)
        finally:
            loaded.close()
    start = build_start(loaded.checkpoint)
    content = release.to_bytes()
    if len(content) > MAX_RELEASE_BYTES:
        raise InvalidRequest(f"the release has {len(content)} bytes; devices accept at most {MAX_RELEASE_BYTES}")
    rollout = Fleet(repository).publish(channel, release, start, percent)
    return {
        "client": version.draft.client,
        "version": version.number,
        "channel": channel,
        "percent": rollout.percent,
        "target": rollout.target,
        "start": rollout.start,
        "release_bytes": len(content),
        "start_bytes": len(start.to_bytes()),
    }


def _version(store: VersionStore, client: str, number: int | None) -> Version:
    if number is None:
        number = served(store, client, LIVE).number
    return store.catalog.version(client, number)


def _checkpoint(settings: Settings, version: Version) -> Checkpoint:
    """The checkpoint that a version was adapted from: one that the settings name, or a shipped one."""
    digest = version.draft.meta_model_digest
    loaders = [functools.partial(load_checkpoint, name, settings.allow_factory) for name in settings.model]
    shipped = shipped_digests().get(digest)
    if shipped is not None:
        loaders.insert(0, functools.partial(load_checkpoint, shipped))
    for load in loaders:
        checkpoint = load()
        if checkpoint.digest == digest:
            return checkpoint
    raise UnknownCheckpoint(
        f"version {version.number} was adapted from checkpoint {version.draft.meta_model!r} with digest "
        f"{digest[:12]}…, which is not here; name it with ANOLE_MODEL, or adapt again"
    )
