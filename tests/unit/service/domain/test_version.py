"""Rules for labels and idempotency keys."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.version import validate_idempotency_key, validate_label, validate_part
from service.errors import InvalidName, InvalidRequest


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


def test_a_part_is_named_by_the_rules_for_labels() -> None:
    assert validate_part(" 0417/e\u0301 ") == "0417/é"
    for text in ("", " ", "a\nb", "x" * 65):
        with pytest.raises(InvalidName, match="part"):
            validate_part(text)


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
