"""Keys: their form, what is kept of them, who is recognised, and how long what is known is believed."""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime

import pytest

from service.domain.key import ANONYMOUS, Grant, as_scopes, new_key, prefix_of, record_of
from service.errors import InvalidKey, InvalidName, KeyMissing, KeyRefused, StoreUnavailable
from service.usecases.keys import FRESH_S, STALE_S, KeyCache, admit_first, create
from tests.unit.service.fakes import FakeKeys

GRANT = Grant("camera 7", ("predict",), ("line",))
NOW = datetime(2026, 3, 1, tzinfo=UTC)


class Clock:
    """Monotonic seconds that move when told."""

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
def book(keys: FakeKeys, clock: Clock) -> KeyCache:
    return KeyCache(keys, open_without_keys=False, clock=clock)


def test_a_key_names_itself_and_carries_256_random_bits() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(re.fullmatch(r"anole_[a-z2-7]{8}_[A-Za-z0-9_-]{43}", key) for key in keys)
    assert len(base64.urlsafe_b64decode(keys.pop().split("_", 2)[2] + "=")) * 8 == 256


def test_neither_the_key_nor_any_part_of_its_secret_is_kept(keys: FakeKeys) -> None:
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
def test_a_grant_that_breaks_a_rule_is_refused(name: str, scopes: tuple[str, ...], clients: tuple[str, ...]) -> None:
    with pytest.raises((InvalidKey, InvalidName)):
        Grant(name, scopes, clients)  # type: ignore[arg-type]


def test_words_that_name_no_scope_are_named() -> None:
    assert as_scopes(["admin", "predict", "predict"]) == ("predict", "admin")
    with pytest.raises(InvalidKey, match="root"):
        as_scopes(["predict", "root"])


@pytest.mark.parametrize(
    "wrong", ["", "anole_", "anole_abcdefgh_short", "ANOLE_abcdefgh_" + "x" * 43, "anole_abcdefgh_" + "é" * 43, "\n"]
)
def test_what_has_not_the_form_of_a_key_is_none_and_not_repeated(wrong: str) -> None:
    assert prefix_of(wrong.encode()) is None
    with pytest.raises(InvalidKey) as refused:
        record_of(wrong, GRANT, NOW)
    assert not wrong.strip() or wrong == "anole_" or wrong not in str(refused.value)


def test_whoever_presents_a_key_is_recognised_with_its_scopes_and_clients(keys: FakeKeys, book: KeyCache) -> None:
    one, _ = create(keys, GRANT, NOW)
    every, _ = create(keys, Grant("all", ("predict", "adapt", "admin"), ("*",)), NOW)
    book.read()
    caller = book.caller(one.encode())
    assert (caller.scopes, caller.clients) == (frozenset({"predict"}), frozenset({"line"}))
    assert caller.can_access("line")
    assert not caller.can_access("line-2")
    assert book.caller(every.encode()).can_access("anything")


def test_no_key_a_wrong_one_and_bytes_that_are_no_text_are_refused(keys: FakeKeys, book: KeyCache) -> None:
    key, record = create(keys, GRANT, NOW)
    book.read()
    with pytest.raises(KeyMissing):
        book.caller(None)
    said = set()
    wrong = [key[:-1].encode(), (key + "x").encode(), b"", b"\xff\xfe", new_key().encode(), record.prefix.encode()]
    wrong.append(f"{record.prefix}_{new_key().split('_', 2)[2]}".encode())
    for presented in wrong:
        with pytest.raises(KeyRefused) as refused:
            book.caller(presented)
        said.add(str(refused.value))
    keys.revoke(record.prefix)
    book.read()
    with pytest.raises(KeyRefused) as refused:
        book.caller(key.encode())
    assert said == {str(refused.value)}  # which of these it is, is not told


def test_a_revoked_key_is_refused_once_what_is_known_is_no_longer_fresh(
    keys: FakeKeys, book: KeyCache, clock: Clock
) -> None:
    key, record = create(keys, GRANT, NOW)
    book.read()
    keys.revoke(record.prefix)
    fresh = []
    for passed_s in (FRESH_S - 0.01, 0.02):
        clock.now += passed_s
        fresh.append(book.fresh)
    assert fresh == [True, False]
    book.read()
    with pytest.raises(KeyRefused):
        book.caller(key.encode())
    assert FRESH_S < STALE_S <= 5.0


def test_keys_that_cannot_be_read_again_are_believed_for_five_seconds_and_no_longer(
    keys: FakeKeys, book: KeyCache, clock: Clock
) -> None:
    create(keys, GRANT, NOW)
    book.read()
    keys.raises = StoreUnavailable("the disk is gone")
    clock.now += STALE_S - 0.1
    book.read()
    clock.now += 0.2
    with pytest.raises(StoreUnavailable):
        book.read()


def test_a_service_is_open_only_where_it_may_be_and_no_key_was_ever_made(keys: FakeKeys, book: KeyCache) -> None:
    may_be = KeyCache(keys, open_without_keys=True)
    for known in (may_be, book):
        known.read()
    assert may_be.caller(None) is ANONYMOUS
    assert may_be.caller(b"left over from elsewhere") is ANONYMOUS
    with pytest.raises(KeyMissing):
        book.caller(None)
    _, record = create(keys, GRANT, NOW)
    may_be.read()
    with pytest.raises(KeyMissing):
        may_be.caller(None)
    keys.revoke(record.prefix)
    may_be.read()
    with pytest.raises(KeyMissing):
        may_be.caller(None)  # revoking the last key does not open the door


def test_a_key_made_elsewhere_is_admitted_once_and_stays_revoked(keys: FakeKeys) -> None:
    key = f"anole_ab12cd34_{'f' * 64}"
    record = admit_first(keys, key, GRANT, NOW)
    assert admit_first(keys, key, GRANT, NOW) == record
    keys.revoke(record.prefix)
    assert admit_first(keys, key, GRANT, NOW).revoked_at is not None
    assert len(keys.kept) == 1
    with pytest.raises(InvalidKey, match="another key"):
        admit_first(keys, f"anole_ab12cd34_{'0' * 64}", GRANT, NOW)
