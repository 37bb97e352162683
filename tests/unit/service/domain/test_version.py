"""Rules for labels and idempotency keys."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.version import (
    clean_file_name,
    comparable_label,
    validate_idempotency_key,
    validate_label,
    validate_part,
)
from service.errors import InvalidName, InvalidRequest


@pytest.mark.parametrize(
    ("text", "label"),
    [("dent", "dent"), ("  dent ", "dent"), ("Kratzer außen", "Kratzer außen"), ("e\u0301", "é"), ("傷", "傷")]
    + [
        (text, text)
        for text in ("می\u200cشود", "می\u200cبینم", "क्\u200dष", "😀", "👩\u200d🔧", "🏳\ufe0f\u200d🌈", "👍🏽")
    ]
    + [(text, text) for text in ("🇩🇪", "1\ufe0f\u20e3", "\U0001fae9", "✔\ufe0f ok")],
)
def test_a_label_is_normalised(text: str, label: str) -> None:
    assert validate_label(text) == label


@pytest.mark.parametrize(
    "text",
    ["a\u200db", "ü\u200cber", "de\u200dnt", "\u200cمی", "می\u200d", "عا\u200c\u200cم", "д\u200dж", "5\u200d6"],
)
def test_a_joiner_where_it_has_no_effect_is_rejected(text: str) -> None:
    with pytest.raises(InvalidName, match="formatting"):
        validate_label(text)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Scratch", "scratch"),
        ("STRASSE", "straße"),
        ("می\u200cبینم", "میبینم"),
        ("\uff21", "a"),
        ("no dent", "nodent"),
        ("✔", "✔\ufe0f"),
    ],
)
def test_labels_that_are_easily_confused_are_comparable(first: str, second: str) -> None:
    assert comparable_label(first) == comparable_label(second)
    assert comparable_label(first) != comparable_label("dent")


@pytest.mark.parametrize("text", ["a.png", "", "傷 (2).png", "a/b\\c.png", "می\u200cشود.png"])
def test_an_ordinary_file_name_is_kept(text: str) -> None:
    assert clean_file_name(text) == text


@given(st.text())
def test_a_cleaned_file_name_has_no_control_character_and_at_most_255_bytes(text: str) -> None:
    name = clean_file_name(text)
    assert len(name.encode()) <= 255
    assert not any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in name)
    assert clean_file_name(name) == name


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
