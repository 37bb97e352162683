"""Rules that all blob stores share: names of blobs and spaces, verification, and parallel requests."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from service.domain.client import validate_client_name
from service.errors import InvalidName, VersionCorrupt

MAX_PARALLEL: Final = 16

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")

Item = TypeVar("Item")
Result = TypeVar("Result")


def sha256(content: bytes) -> str:
    """Return the digest that names a blob, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def is_digest(name: str) -> bool:
    """Whether a file or an object with this name is a blob."""
    return _DIGEST.fullmatch(name) is not None


def validate_digest(digest: str) -> str:
    """Return the digest. Raises VersionCorrupt if it is not a SHA-256 in hexadecimal."""
    if not is_digest(digest):
        raise VersionCorrupt(f"{digest[:80]!r} is not a SHA-256 in hexadecimal; the row that holds it is damaged")
    return digest


def is_space(name: str) -> bool:
    """Whether a folder or a prefix with this name is a space; others, such as lost+found, are ignored."""
    try:
        return validate_client_name(name) == name
    except InvalidName:
        return False


def missing_blob(space: str, digest: str) -> VersionCorrupt:
    """Return the error for a blob that does not exist."""
    return VersionCorrupt(f"blob {digest} of {space!r} is missing; restore it from a backup")


def verify_content(content: bytes, space: str, digest: str) -> bytes:
    """Return the content. Raises VersionCorrupt if it does not match the digest."""
    if sha256(content) != digest:
        raise VersionCorrupt(
            f"blob {digest} of {space!r} is damaged: its {len(content)} bytes do not match its digest; "
            "restore it from a backup"
        )
    return content


def run_parallel(call: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Return the results in order. The calls run in parallel, because they mostly wait."""
    listed = list(items)
    if len(listed) < 2:
        return [call(item) for item in listed]
    with ThreadPoolExecutor(min(len(listed), MAX_PARALLEL), "anole-blobs") as pool:
        return list(pool.map(call, listed))
