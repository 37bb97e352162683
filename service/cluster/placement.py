"""What the settings mean on a cluster: which nodes can use the store, and what replicas are given."""

from __future__ import annotations

from pathlib import Path

from service.errors import InvalidSettings
from service.runtime.device import usable_cores
from service.settings import Settings
from service.store.open_store import StoreLocation


def require_usable_store(settings: Settings, nodes: int) -> None:
    """Return if so many nodes can use the store.

    Raises:
        InvalidSettings: the store is on the disk of one of them.
    """
    if nodes > 1 and not StoreLocation.of(settings).shared:
        raise InvalidSettings(
            f"the cluster of Ray has {nodes} nodes, and the store is in a folder, which only one node can use; keep "
            "the store on PostgreSQL and S3 (ANOLE_CATALOG_URL and ANOLE_BLOBS_URL, see docs/operation.md), or use a "
            "cluster with one node"
        )


def replica_settings(settings: Settings) -> Settings:
    """Return the settings for replicas: without keys, with absolute paths, and with one thread per operation."""
    models = tuple(str(Path(model).absolute()) if Path(model).exists() else model for model in settings.model)
    own = {"data": settings.data.absolute(), "model": models, "workers": usable_cores()}
    return settings.model_copy(update={**own, "bootstrap_key": None, "api_key": None, "demo": False})
