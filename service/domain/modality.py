"""What may come with an image: a text, such as an operator's note, or numbers, such as sensor readings."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from typing import Any, Final

from models.config import NetConfig
from models.modalities.given import Given, kind_taken, size_taken, takes
from service.errors import InvalidRequest, ModalityCountMismatch, ModalityUnsupported

MAX_TEXT_CODE_POINTS: Final = 500
MAX_NUMBERS: Final = 1024
MAX_VALUE: Final = 1e9

IMAGE: Final = "image"


def read_given(texts: Sequence[str], vectors: Sequence[str], count: int) -> tuple[Given | None, ...]:
    """Return what comes with each of `count` images; None for an image without.

    Args:
        texts: one for each image, in the same order, or none; an empty one is missing.
        vectors: JSON arrays of numbers, the same way.
        count: number of images.

    Raises:
        ModalityCountMismatch: there is another number of them than of images.
        InvalidRequest: there are both, or one is not valid.
    """
    texts, vectors = (values if any(values) else () for values in (texts, vectors))
    if texts and vectors:
        raise InvalidRequest("the request has texts and vectors; send one of them, whichever the model takes")
    if not texts and not vectors:
        return (None,) * count
    name, given = ("texts", texts) if texts else ("vectors", vectors)
    if len(given) != count:
        raise ModalityCountMismatch(
            f"the request has {count} images and {len(given)} {name}; send one for each image, in the same order, "
            "empty for an image without"
        )
    if texts:
        return tuple(_text(index, text) for index, text in enumerate(texts))
    return tuple(_numbers(index, text) for index, text in enumerate(vectors))


def require_taken(config: NetConfig, model: str, given: Sequence[Given | None]) -> None:
    """Check that a model takes what came with the images.

    Raises:
        ModalityUnsupported: it does not.
    """
    refused = next((one for one in given if one is not None and not takes(config, one)), None)
    if refused is None:
        return
    sent = "texts" if isinstance(refused, str) else f"vectors of {len(refused)} numbers"
    allowed = {
        "none": "images alone",
        "text": "texts beside images",
    }.get(kind_taken(config), f"vectors of {size_taken(config)} numbers beside images")
    raise ModalityUnsupported(
        f"the request has {sent}, but the model {model!r} takes {allowed}; leave them out, or set the client's model "
        "to one that takes them (GET /models: takes)"
    )


def modalities_of(config: NetConfig, given: Sequence[Given | None]) -> list[str] | None:
    """Return the modalities that a version was taught with.

    None for a model that takes images alone, and for a version of a frozen backbone that has no notes: it is the same
    as ever.
    """
    taught = any(one is not None and takes(config, one) for one in given)
    if not taught:
        return None if config.second == "none" else [IMAGE]
    return [IMAGE, kind_taken(config)]


def _text(index: int, text: str) -> str | None:
    cleaned = " ".join(unicodedata.normalize("NFC", text).split())
    written_out = len(unicodedata.normalize("NFKC", cleaned).casefold())  # one character can stand for eighteen
    if max(len(cleaned), written_out) > MAX_TEXT_CODE_POINTS:
        ligatures = f", {written_out} with its ligatures written out" if written_out > len(cleaned) else ""
        raise InvalidRequest(
            f"text {index} has {len(cleaned)} characters{ligatures}; at most {MAX_TEXT_CODE_POINTS} are allowed: "
            "shorten it"
        )
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in cleaned):
        raise InvalidRequest(f"text {index} contains a control character; use plain text")
    return cleaned or None


def _numbers(index: int, text: str) -> tuple[float, ...] | None:
    if text.strip() in ("", "null"):
        return None
    try:
        numbers = json.loads(text)
    except (ValueError, RecursionError):
        numbers = None
    if not isinstance(numbers, list) or not 1 <= len(numbers) <= MAX_NUMBERS or not all(map(_is_number, numbers)):
        raise InvalidRequest(
            f"vector {index} is not valid; send a JSON array of 1 to {MAX_NUMBERS} numbers from {-MAX_VALUE:g} to "
            f"{MAX_VALUE:g}, such as [21.5, 0.03]"
        )
    return tuple(float(number) for number in numbers)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MAX_VALUE
