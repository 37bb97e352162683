"""The rules for names: clients, aliases, class labels and idempotency keys."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from service.errors import InvalidName, InvalidRequest

MAX_LABEL_CODE_POINTS: Final = 64

MAX_IDEMPOTENCY_KEY_CHARACTERS: Final = 255

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")

_NAME_RULE = "1 to 64 of a-z, 0-9, '.', '_' and '-', starting with a letter or a digit"

_FORBIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def validate_client_name(text: str) -> str:
    """Return `text` if it is a valid client name.

    Raises:
        InvalidName: it is not.
    """
    return _name("client", text)


def validate_alias_name(text: str) -> str:
    """Return `text` if it is a valid alias name: the client's rule, and not a number (that would name a version).

    Raises:
        InvalidName: it is not.
    """
    name = _name("alias", text)
    if name.isdigit():
        raise InvalidName(f"alias {name!r}: digits alone name a version; use a name with a letter in it")
    return name


def validate_label(text: str) -> str:
    """Return a class label in Unicode NFC, stripped of surrounding blanks.

    Raises:
        InvalidName: empty, longer than 64 code points, or with control, bidirectional or unassigned characters.
    """
    label = unicodedata.normalize("NFC", text).strip()
    if not label:
        raise InvalidName("a label is empty; give every sample the name of its class")
    if len(label) > MAX_LABEL_CODE_POINTS:
        raise InvalidName(f"a label has {len(label)} characters; at most {MAX_LABEL_CODE_POINTS} are allowed")
    if any(unicodedata.category(character) in _FORBIDDEN_CATEGORIES for character in label):
        raise InvalidName(f"label {label!r} holds a control, formatting or unassigned character; use plain text")
    return label


def idempotency_key(text: str) -> str:
    """Return `text` if it can be an idempotency key: 1 to 255 visible ASCII characters.

    Raises:
        InvalidRequest: it cannot.
    """
    visible = text.isascii() and text.isprintable() and " " not in text
    if not visible or not 1 <= len(text) <= MAX_IDEMPOTENCY_KEY_CHARACTERS:
        raise InvalidRequest(
            f"an Idempotency-Key of {len(text)} characters was sent; use 1 to {MAX_IDEMPOTENCY_KEY_CHARACTERS} "
            "visible ASCII characters without blanks, such as a UUID"
        )
    return text


def _name(kind: str, text: str) -> str:
    if not _NAME.fullmatch(text):
        shown = text if len(text) <= 80 else text[:80] + "…"
        raise InvalidName(f"{kind} name {shown!r} is not allowed; use {_NAME_RULE}")
    return text
