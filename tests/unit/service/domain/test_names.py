"""Rules for names, labels and idempotency keys."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.names import validate_alias_name, validate_client_name, validate_idempotency_key, validate_label
from service.errors import InvalidName, InvalidRequest


@pytest.mark.parametrize("name", ["a", "0", "line-1", "cam.front_left", "x" * 64, "1..2"])
def test_valid_client_names_are_accepted(name: str) -> None:
    assert validate_client_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "A", "-a", ".a", "_a", "a b", "a/b", "..", "ä", "a\n", "a\0", "x" * 65, "x" * 10_000, "%2e", "a#"]
)
def test_invalid_client_names_are_rejected(name: str) -> None:
    with pytest.raises(InvalidName, match="1 to 64 of a-z") as caught:
        validate_client_name(name)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("name", ["live", "canary", "v1", "2026-03"])
def test_valid_alias_names_are_accepted(name: str) -> None:
    assert validate_alias_name(name) == name


@pytest.mark.parametrize("name", ["1", "007"])
def test_an_alias_name_cannot_be_a_version_number(name: str) -> None:
    with pytest.raises(InvalidName, match="version number"):
        validate_alias_name(name)


@pytest.mark.parametrize(
    ("text", "label"),
    [("dent", "dent"), ("  dent ", "dent"), ("Kratzer außen", "Kratzer außen"), ("e\u0301", "é"), ("傷", "傷")],
)
def test_a_label_is_normalised(text: str, label: str) -> None:
    assert validate_label(text) == label


@pytest.mark.parametrize("text", ["", " \t", "a\nb", "a\0", "\u202edent", "a\u200bb", "\ud800", "\ufdd0", "x" * 65])
def test_a_misleading_label_is_rejected(text: str) -> None:
    with pytest.raises(InvalidName, match="label"):
        validate_label(text)


@given(st.text(max_size=80))
def test_a_valid_label_is_not_changed_by_a_second_validation(text: str) -> None:
    try:
        label = validate_label(text)
    except InvalidName:
        return
    assert validate_label(label) == label
    assert unicodedata.is_normalized("NFC", label)
    assert 1 <= len(label) <= 64


@pytest.mark.parametrize("key", ["1", "2f8e1c1a-9a57-4d5b-8a53-0d6c3c1f9a11", "~!x", "k" * 255])
def test_valid_idempotency_keys_are_accepted(key: str) -> None:
    assert validate_idempotency_key(key) == key


@pytest.mark.parametrize("key", ["", " ", "a b", "a\n", "ü", "\x7f", "k" * 256])
def test_invalid_idempotency_keys_are_rejected(key: str) -> None:
    with pytest.raises(InvalidRequest, match="1 to 255"):
        validate_idempotency_key(key)
