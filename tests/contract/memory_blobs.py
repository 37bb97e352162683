"""Blobs in a dictionary: the fake that must pass the same contract tests as the real stores."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from service.domain.client import validate_client_name
from service.errors import VersionCorrupt
from service.store.ports import BlobEntry, Blobs


@dataclass
class _Held:
    content: bytes
    put_at_s: float


class MemoryBlobs(Blobs):
    """Args: clock: the time in seconds, which the test moves."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self.held: dict[str, dict[str, _Held]] = {}

    def put(self, space: str, contents: Sequence[bytes]) -> tuple[str, ...]:
        with self._lock:
            held = self.held.setdefault(validate_client_name(space), {})
            digests = tuple(hashlib.sha256(content).hexdigest() for content in contents)
            for digest, content in zip(digests, contents, strict=True):
                held[digest] = _Held(bytes(content), self._clock())
            return digests

    def get(self, space: str, digest: str) -> bytes:
        found = self.held.get(validate_client_name(space), {}).get(digest)
        if found is None or hashlib.sha256(found.content).hexdigest() != digest:
            raise VersionCorrupt(f"blob {digest} of {space!r} is missing or damaged")
        return found.content

    def missing(self, space: str, digests: Collection[str]) -> frozenset[str]:
        return frozenset(digests) - self.held.get(validate_client_name(space), {}).keys()

    def delete(self, space: str, digests: Collection[str]) -> None:
        with self._lock:
            for digest in digests:
                self.held.get(validate_client_name(space), {}).pop(digest, None)

    def sweep(self, space: str, *, older_than_s: float) -> int:
        with self._lock:
            if not self.held.get(validate_client_name(space), {"": None}):
                del self.held[space]
        return 0

    def spaces(self) -> Iterator[str]:
        yield from sorted(self.held)

    def entries(self, space: str) -> Iterator[BlobEntry]:
        for digest, held in sorted(self.held.get(validate_client_name(space), {}).items()):
            yield BlobEntry(digest, len(held.content), self._clock() - held.put_at_s)

    def ping(self) -> None:
        """Memory is always there."""
