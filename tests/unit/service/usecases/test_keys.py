"""API keys: format, what is stored, which caller a key stands for, and how long keys are cached."""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime

import pytest

from service.domain.key import ANONYMOUS, Grant, KeyRecord, as_scopes, new_key, prefix_of, record_of
from service.errors import InvalidKey, InvalidName, KeyMissing, KeyRefused, StoreUnavailable
from service.usecases.keys import FRESH_S, STALE_S, KeyCache, admit_first, create
from tests.unit.service.fakes import FakeKeys

GRANT = Grant("camera 7", ("predict",), ("line",))
NOW = datetime(2026, 3, 1, tzinfo=UTC)


class Clock:
    """Monotonic seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def keys() -> FakeKeys:
    return FakeKeys()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cache(keys: FakeKeys, clock: Clock) -> KeyCache:
    return KeyCache(keys, open_without_keys=False, clock=clock)


def test_a_new_key_has_a_prefix_and_256_random_bits() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(re.fullmatch(r"anole_[a-z2-7]{8}_[A-Za-z0-9_-]{43}", key) for key in keys)
    assert len(base64.urlsafe_b64decode(keys.pop().split("_", 2)[2] + "=")) * 8 == 256


def test_no_part_of_the_secret_is_stored(keys: FakeKeys) -> None:
    key, _ = create(keys, GRANT, NOW)
    secret = key.split("_", 2)[2]
    assert key.startswith(keys.kept[0].prefix + "_")
    assert not any(secret[start : start + 8] in repr(keys.kept) for start in range(len(secret) - 8))


@pytest.mark.parametrize(
    ("name", "scopes", "clients"),
    [
        ("", ("predict",), ("line",)),
        ("x\n", ("predict",), ("line",)),
        ("x" * 65, ("predict",), ("line",)),
        ("x", (), ("line",)),
        ("x", ("root",), ("line",)),
        ("x", ("predict",), ()),
        ("x", ("predict",), ("*", "line")),
        ("x", ("predict",), ("../line",)),
    ],
)
def test_an_invalid_grant_is_rejected(name: str, scopes: tuple[str, ...], clients: tuple[str, ...]) -> None:
    with pytest.raises((InvalidKey, InvalidName)):
        Grant(name, scopes, clients)  # type: ignore[arg-type]


def test_unknown_scopes_are_reported() -> None:
    assert as_scopes(["admin", "predict", "predict"]) == ("predict", "admin")
    with pytest.raises(InvalidKey, match="root"):
        as_scopes(["predict", "root"])


VALID = f"anole_abcdefgh_{'x' * 43}"


@pytest.mark.parametrize("valid", [VALID, VALID + "x" * 85])
def test_a_key_that_was_made_elsewhere_is_accepted(valid: str) -> None:
    assert prefix_of(valid.encode()) == "anole_abcdefgh"
    assert record_of(valid, GRANT, NOW).prefix == "anole_abcdefgh"


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "\n",
        "anole_",
        "anole_abcdefgh_short",
        VALID[:-1],
        VALID + "x" * 86,
        VALID + "\n",
        VALID + "!",
        " " + VALID,
        VALID.replace("anole", "ANOLE"),
        VALID.replace("abcdefgh", "abcdefg"),
        VALID.replace("abcdefgh", "ABCDEFGH"),
        VALID[:-1] + "é",
        VALID[:-1] + "\udc80",
    ],
    ids=ascii,
)
def test_a_malformed_key_is_rejected_and_not_printed(wrong: str) -> None:
    assert prefix_of(wrong.encode("utf-8", "surrogatepass")) is None
    with pytest.raises(InvalidKey) as rejected:
        record_of(wrong, GRANT, NOW)
    with pytest.raises(InvalidKey) as rejected_empty:
        record_of("", GRANT, NOW)
    assert str(rejected.value) == str(rejected_empty.value)  # so no part of the key is in it
    assert "the key has the wrong format; a key is anole_" in str(rejected.value)


def test_a_key_identifies_its_caller_with_scopes_and_clients(keys: FakeKeys, cache: KeyCache) -> None:
    one, _ = create(keys, GRANT, NOW)
    every, _ = create(keys, Grant("all", ("predict", "adapt", "admin"), ("*",)), NOW)
    cache.read()
    caller = cache.caller(one.encode())
    assert (caller.scopes, caller.clients) == (frozenset({"predict"}), frozenset({"line"}))
    assert caller.can_access("line")
    assert not caller.can_access("line-2")
    assert cache.caller(every.encode()).can_access("anything")


def test_missing_wrong_and_non_text_keys_are_rejected(keys: FakeKeys, cache: KeyCache) -> None:
    key, record = create(keys, GRANT, NOW)
    cache.read()
    with pytest.raises(KeyMissing):
        cache.caller(None)
    messages = set()
    wrong = [key[:-1].encode(), (key + "x").encode(), b"", b"\xff\xfe", new_key().encode(), record.prefix.encode()]
    wrong.append(f"{record.prefix}_{new_key().split('_', 2)[2]}".encode())
    for presented in wrong:
        with pytest.raises(KeyRefused) as rejected:
            cache.caller(presented)
        messages.add(str(rejected.value))
    keys.revoke(record.prefix)
    cache.read()
    with pytest.raises(KeyRefused) as rejected:
        cache.caller(key.encode())
    assert messages == {str(rejected.value)}  # the message does not say which


def test_a_revoked_key_is_rejected_after_the_cache_expires(keys: FakeKeys, cache: KeyCache, clock: Clock) -> None:
    key, record = create(keys, GRANT, NOW)
    cache.read()
    keys.revoke(record.prefix)
    fresh = []
    for passed_s in (FRESH_S - 0.01, 0.02):
        clock.now += passed_s
        fresh.append(cache.fresh)
    assert fresh == [True, False]
    cache.read()
    with pytest.raises(KeyRefused):
        cache.caller(key.encode())
    assert FRESH_S < STALE_S <= 5.0


def test_the_age_of_cached_keys_counts_from_the_start_of_the_read(clock: Clock) -> None:
    class SlowKeys(FakeKeys):
        def all(self) -> tuple[KeyRecord, ...]:
            found = super().all()
            clock.now += FRESH_S  # a key that is revoked now is not in `found`
            return found

    cache = KeyCache(SlowKeys(), open_without_keys=False, clock=clock)
    cache.read()
    assert not cache.fresh


def test_cached_keys_are_used_for_five_seconds_at_most_when_the_store_fails(
    keys: FakeKeys, cache: KeyCache, clock: Clock
) -> None:
    create(keys, GRANT, NOW)
    cache.read()
    keys.raises = StoreUnavailable("the disk is gone")
    clock.now += STALE_S - 0.1
    cache.read()
    clock.now += 0.2
    with pytest.raises(StoreUnavailable):
        cache.read()


def test_a_service_is_open_only_on_loopback_and_before_the_first_key(keys: FakeKeys, cache: KeyCache) -> None:
    may_be = KeyCache(keys, open_without_keys=True)
    for known in (may_be, cache):
        known.read()
    assert may_be.caller(None) is ANONYMOUS
    assert may_be.caller(b"left over from elsewhere") is ANONYMOUS
    with pytest.raises(KeyMissing):
        cache.caller(None)
    _, record = create(keys, GRANT, NOW)
    may_be.read()
    with pytest.raises(KeyMissing):
        may_be.caller(None)
    keys.revoke(record.prefix)
    may_be.read()
    with pytest.raises(KeyMissing):
        may_be.caller(None)  # revoking the last key does not open the service


def test_a_bootstrap_key_is_stored_once_and_stays_revoked(keys: FakeKeys) -> None:
    key = f"anole_ab12cd34_{'f' * 64}"
    record = admit_first(keys, key, GRANT, NOW)
    assert admit_first(keys, key, GRANT, NOW) == record
    keys.revoke(record.prefix)
    assert admit_first(keys, key, GRANT, NOW).revoked_at is not None
    assert len(keys.kept) == 1
    with pytest.raises(InvalidKey, match="another key"):
        admit_first(keys, f"anole_ab12cd34_{'0' * 64}", GRANT, NOW)
