"""Settings on a cluster of Ray: the store that its nodes can use, and what replicas are given."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.cluster.placement import replica_settings, require_usable_store
from service.errors import InvalidSettings
from service.settings import load_settings, replica_range

CATALOG = "postgresql://anole@host/catalog"
BLOBS = "s3://bucket/prefix"


@pytest.mark.parametrize("urls", [{}, {"catalog_url": CATALOG}, {"blobs_url": BLOBS}])
def test_a_store_on_a_disk_is_rejected_on_several_nodes(urls: dict[str, str]) -> None:
    settings = load_settings(**urls)
    require_usable_store(settings, 1)
    with pytest.raises(InvalidSettings, match="has 2 nodes, and the store is in a folder"):
        require_usable_store(settings, 2)


def test_a_shared_store_is_accepted_on_several_nodes() -> None:
    require_usable_store(load_settings(catalog_url=CATALOG, blobs_url=BLOBS), 2)


def test_replicas_get_no_key_and_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.safetensors").touch()
    key = "anole_" + "a" * 8 + "_" + "b" * 64
    given = load_settings(data="store", model="own.safetensors,surfaces", bootstrap_key=key, api_key=key)
    replica = replica_settings(given)
    assert (replica.data, replica.model) == (tmp_path / "store", (str(tmp_path / "own.safetensors"), "surfaces"))
    assert (replica.bootstrap_key, replica.api_key) == (None, None)


def test_the_number_of_replicas_is_fixed_or_a_range() -> None:
    assert [replica_range(load_settings(ray_predictors=text).ray_predictors) for text in ("2", "1-4")] == [
        (2, 2),
        (1, 4),
    ]
    for wrong in ("0", "4-1", "x", "1-", "100"):
        with pytest.raises(InvalidSettings, match="setting ray_adapters"):
            load_settings(ray_adapters=wrong)
