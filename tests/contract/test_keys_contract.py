"""Contract of every `Keys` implementation."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from service.domain.key import Grant, KeyRecord, new_key, record_of
from service.errors import InvalidKey, UnknownKey
from service.store.open_store import StoreLocation, open_keys
from service.store.ports import Keys

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> StoreLocation:
    return StoreLocation(tmp_path, request.getfixturevalue("empty_catalog") if request.param == "postgresql" else None)


@pytest.fixture
def keys(place: StoreLocation) -> Iterator[Keys]:
    opened = open_keys(place)
    yield opened
    opened.close()


def a_record(name: str = "camera 7", clients: tuple[str, ...] = ("line-1", "line-2")) -> KeyRecord:
    return record_of(new_key(), Grant(name, ("predict", "adapt"), clients), NOON)


def test_records_are_read_back_in_order_of_creation(keys: Keys) -> None:
    records = [a_record("b"), a_record("a", ("*",)), a_record("'; DROP TABLE api_keys; --")]
    for record in records:
        keys.add(record)
    assert keys.all() == tuple(records)


def test_two_keys_cannot_have_the_same_prefix(keys: Keys) -> None:
    record = a_record()
    keys.add(record)
    with pytest.raises(InvalidKey):
        keys.add(dataclasses.replace(record, digest="0" * 64))
    assert keys.all() == (record,)


def test_a_second_revocation_keeps_the_time_of_the_first(keys: Keys) -> None:
    first, second = a_record(), a_record()
    keys.add(first)
    keys.add(second)
    revoked = keys.revoke(first.prefix)
    assert revoked.revoked_at is not None
    assert keys.revoke(first.prefix) == revoked
    assert keys.all() == (revoked, second)


def test_revoking_an_unknown_key_fails(keys: Keys) -> None:
    with pytest.raises(UnknownKey, match="anole_nothing1"):
        keys.revoke("anole_nothing1")


def test_what_one_process_writes_another_reads_at_once(keys: Keys, place: StoreLocation) -> None:
    other = open_keys(place)
    try:
        record = a_record()
        keys.add(record)
        assert other.all() == (record,)
        other.revoke(record.prefix)
        assert keys.all()[0].revoked_at is not None
    finally:
        other.close()
