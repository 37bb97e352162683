"""Rules for the names of clients, aliases and classes, and for idempotency keys."""

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
    return _validate_name("client", text)


def validate_alias_name(text: str) -> str:
    """Return `text` if it is a valid alias name: like a client name, but not a number.

    Raises:
        InvalidName: it is not.
    """
    name = _validate_name("alias", text)
    if name.isdigit():
        raise InvalidName(f"the alias name {name!r} looks like a version number; use a name that contains a letter")
    return name


def validate_label(text: str) -> str:
    """Return a class label in Unicode NFC, without surrounding blanks.

    Raises:
        InvalidName: it is empty, longer than 64 code points, or has control, bidirectional or unassigned characters.
    """
    label = unicodedata.normalize("NFC", text).strip()
    if not label:
        raise InvalidName("a label is empty; give every sample the name of its class")
    if len(label) > MAX_LABEL_CODE_POINTS:
        raise InvalidName(f"a label has {len(label)} characters; at most {MAX_LABEL_CODE_POINTS} are allowed")
    if any(unicodedata.category(character) in _FORBIDDEN_CATEGORIES for character in label):
        raise InvalidName(f"the label {label!r} contains a control, formatting or unassigned character; use plain text")
    return label


def validate_idempotency_key(text: str) -> str:
    """Return `text` if it is a valid idempotency key: 1 to 255 visible ASCII characters.

    Raises:
        InvalidRequest: it is not.
    """
    visible = text.isascii() and text.isprintable() and " " not in text
    if not visible or not 1 <= len(text) <= MAX_IDEMPOTENCY_KEY_CHARACTERS:
        raise InvalidRequest(
            f"the Idempotency-Key of {len(text)} characters is not valid; use 1 to {MAX_IDEMPOTENCY_KEY_CHARACTERS} "
            "visible ASCII characters without blanks, such as a UUID"
        )
    return text


def _validate_name(kind: str, text: str) -> str:
    if not _NAME.fullmatch(text):
        shown = text if len(text) <= 80 else text[:80] + "…"
        raise InvalidName(f"the {kind} name {shown!r} is not valid; use {_NAME_RULE}")
    return text
