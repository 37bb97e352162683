"""Text as a vector."""

from __future__ import annotations

import pytest
import torch

from models.modalities.text import TEXT_SIZE, text_vector


def similarity(first: str, second: str) -> float:
    return float(text_vector(first) @ text_vector(second))


def test_a_text_gives_a_vector_of_length_1() -> None:
    vector = text_vector("scratch on drive side")
    assert vector.shape == (TEXT_SIZE,)
    assert float(vector.norm()) == pytest.approx(1)


def test_the_hash_never_changes() -> None:
    vector = text_vector("Ab")
    assert vector[vector != 0].abs() == pytest.approx(10**-0.5)
    assert (vector > 0).nonzero().flatten().tolist() == [67, 96, 109]
    assert (vector < 0).nonzero().flatten().tolist() == [31, 55, 154, 161, 435, 494, 505]


def test_case_width_and_blanks_do_not_count() -> None:
    assert torch.equal(text_vector("  Drive   SIDE "), text_vector("drive side"))
    assert torch.equal(text_vector("\uff21\uff11"), text_vector("a1"))


def test_a_typing_error_changes_little_and_another_word_much() -> None:
    assert similarity("operator side", "operatr side") > 0.6
    assert similarity("operator side", "4417") < 0.3


def test_a_text_without_characters_gives_zeros() -> None:
    assert not text_vector("  ").any()
