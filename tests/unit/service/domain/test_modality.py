"""What may come with an image: texts and vectors of a request, and whether a model takes them."""

from __future__ import annotations

import pytest

from models.config import NetConfig
from models.images.preprocessing import ImageConfig
from service.domain.modality import modalities_of, read_given, require_taken
from service.errors import InvalidRequest, ModalityCountMismatch, ModalityUnsupported

IMAGE = ImageConfig(channels=1, side=16)
ALONE, TEXT = NetConfig("conv4", IMAGE), NetConfig("conv4", IMAGE, second="text")
READINGS = NetConfig("conv4", IMAGE, second="vector", second_size=2)


def test_texts_are_normalised_and_an_empty_one_is_missing() -> None:
    assert read_given(("  Drive\n side ", ""), (), 2) == ("Drive side", None)


def test_vectors_are_json_arrays_and_an_empty_one_or_null_is_missing() -> None:
    assert read_given((), ("[1, -2.5]", "", "null"), 3) == ((1.0, -2.5), None, None)


def test_a_request_without_either_has_none_for_each_image() -> None:
    assert read_given((), (), 2) == (None, None)


@pytest.mark.parametrize(("texts", "vectors"), [(("a",), ()), ((), ("[1]", "[2]", "[3]"))])
def test_another_number_than_of_images_is_an_error(texts: tuple[str, ...], vectors: tuple[str, ...]) -> None:
    with pytest.raises(ModalityCountMismatch, match="2 images"):
        read_given(texts, vectors, 2)


def test_texts_and_vectors_cannot_be_combined() -> None:
    with pytest.raises(InvalidRequest, match="one of them"):
        read_given(("a",), ("[1]",), 1)


@pytest.mark.parametrize(
    "vector", ["x", "1", "[]", "[true]", '["1"]', "[NaN]", "[Infinity]", "[1e999]", "[[1]]", "[" * 4000, "{}", "[1e10]"]
)
def test_a_vector_that_is_no_array_of_numbers_in_range_is_an_error(vector: str) -> None:
    with pytest.raises(InvalidRequest, match="vector 0"):
        read_given((), (vector,), 1)


@pytest.mark.parametrize("text", ["a" * 501, "\ufdfa" * 30, "a\x00b", "\ud800"])
def test_a_text_that_is_too_long_or_not_plain_is_an_error(text: str) -> None:
    with pytest.raises(InvalidRequest, match="text 0"):
        read_given((text,), (), 1)


def test_a_model_takes_what_its_net_was_made_for() -> None:
    require_taken(TEXT, "notes", ["a", None])
    require_taken(READINGS, "readings", [(1.0, 2.0)])
    require_taken(ALONE, "images", [None])
    for config, given in ((ALONE, "a"), (TEXT, (1.0,)), (READINGS, "a"), (READINGS, (1.0,))):
        with pytest.raises(ModalityUnsupported, match="'some model' takes"):
            require_taken(config, "some model", [given])


def test_a_version_says_what_it_was_taught_with() -> None:
    assert modalities_of(ALONE, [None]) is None
    assert modalities_of(TEXT, [None, (1.0,)]) == ["image"]
    assert modalities_of(TEXT, [None, "a"]) == ["image", "text"]


def test_empty_fields_count_as_not_sent() -> None:
    assert read_given(("",), ("", ""), 3) == (None, None, None)
    assert read_given(("a",), ("",), 1) == ("a",)
