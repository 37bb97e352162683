"""Blobs as objects of an S3-compatible store: ``<prefix>/<space>/<digest>``.

The store guarantees that objects are written whole or not at all, and that an acknowledged write is durable. Blobs are
written with "create if absent" (``If-None-Match: *``), so the first of several racing writers wins. An existing object
is read, and overwritten if it is damaged or so old that it could be collected before its version is published.

The library retries server errors and broken connections for a few seconds, then raises.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, Literal

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError
from obstore.store import S3Store

from service.domain.client import validate_client_name
from service.errors import StoreFull, StoreUnavailable
from service.store.ports import (
    BlobEntry,
    Blobs,
    is_digest,
    is_space,
    missing_blob,
    run_parallel,
    sha256,
    utc_now,
    validate_digest,
    verify_content,
)

if TYPE_CHECKING:
    from obstore.store import ObjectStore, S3Config

FRESH_S: Final = 600.0
"""From this age on, a blob that is put again is rewritten to reset its age. It is far below `GRACE_S`."""

_NOT_FOUND: Final = (NotFoundError, FileNotFoundError)
_REQUEST_TIMEOUT: Final = timedelta(seconds=10)
_CONNECT_TIMEOUT: Final = timedelta(seconds=2)
_RETRY_TIMEOUT: Final = timedelta(seconds=5)
_WRITE_ATTEMPTS: Final = 4
_NO_SPACE: Final = re.compile(r"\b507\b|StorageFull|QuotaExceeded|InsufficientStorage")


def s3_store(bucket: str, prefix: str, *, endpoint: str | None = None, region: str | None = None) -> S3Store:
    """Return a bucket of S3 or of a compatible store at `endpoint`, without connecting to it.

    Credentials come from AWS's environment variables or the machine's role.
    """
    config: S3Config = {}
    if endpoint is not None:
        config["endpoint"] = endpoint
    if region is not None:
        config["region"] = region
    plain = endpoint is not None and endpoint.startswith("http://")
    return S3Store(
        bucket,
        prefix=prefix or None,
        config=config,
        client_options={"timeout": _REQUEST_TIMEOUT, "connect_timeout": _CONNECT_TIMEOUT, "allow_http": plain},
        retry_config={"max_retries": 5, "retry_timeout": _RETRY_TIMEOUT},
    )


class ObjectBlobs(Blobs):
    """Blobs in an object store, shared by any number of threads, processes and machines.

    Args:
        store: a bucket and a prefix that nothing else uses.
        display_url: its URL for messages, without credentials.
        clock: the time of day, UTC, to compare with the store's times.
    """

    def __init__(self, store: ObjectStore, display_url: str, clock: Callable[[], datetime] = utc_now) -> None:
        self._store = store
        self._display_url = display_url
        self._clock = clock

    def put(self, space: str, contents: Sequence[bytes]) -> tuple[str, ...]:
        prefix = validate_client_name(space)
        digests = tuple(map(sha256, contents))
        wanted = dict(zip(digests, contents, strict=True))
        with self._translated(f"storing in {space!r}"):
            run_parallel(lambda item: self._put(f"{prefix}/{item[0]}", item[0], item[1]), wanted.items())
        return digests

    def _put(self, path: str, digest: str, content: bytes) -> None:
        mode: Literal["create", "overwrite"] = "create"
        for _ in range(_WRITE_ATTEMPTS):
            try:
                obstore.put(self._store, path, content, mode=mode, use_multipart=False)
                return
            except AlreadyExistsError:  # 412: it exists; or 409: another write of the same name at the same moment
                if self._is_intact_and_fresh(path, digest):
                    return
                mode = "overwrite"
        raise StoreUnavailable(
            f"{_WRITE_ATTEMPTS} writes of {path} in {self._display_url} met other writers; try again"
        )

    def _is_intact_and_fresh(self, path: str, digest: str) -> bool:
        try:
            found = obstore.get(self._store, path)
            age_s = self._age_s(found.meta["last_modified"])
            return age_s < FRESH_S and sha256(bytes(found.bytes())) == digest
        except _NOT_FOUND:  # deleted since
            return False

    def get(self, space: str, digest: str) -> bytes:
        path = self._path(space, digest)
        with self._translated(f"reading {digest} of {space!r}"):
            try:
                return verify_content(bytes(obstore.get(self._store, path).bytes()), space, digest)
            except _NOT_FOUND as error:
                raise missing_blob(space, digest) from error

    def missing(self, space: str, digests: Collection[str]) -> frozenset[str]:
        wanted = {digest: self._path(space, digest) for digest in digests}
        with self._translated(f"looking in {space!r}"):
            exists = run_parallel(self._exists, wanted.values())
        return frozenset(digest for digest, found in zip(wanted, exists, strict=True) if not found)

    def _exists(self, path: str) -> bool:
        try:
            obstore.head(self._store, path)
        except _NOT_FOUND:
            return False
        return True

    def delete(self, space: str, digests: Collection[str]) -> None:
        validate_client_name(space)
        paths = [self._path(space, digest) for digest in digests]
        with self._translated(f"deleting in {space!r}"):
            run_parallel(self._delete, paths)

    def _delete(self, path: str) -> None:
        try:
            obstore.delete(self._store, path)
        except _NOT_FOUND:
            return

    def sweep(self, space: str, *, older_than_s: float) -> int:
        """See `Blobs.sweep`. Interrupted writes leave nothing behind, and a space is just its objects."""
        validate_client_name(space)
        return 0

    def spaces(self) -> Iterator[str]:
        with self._translated("listing"):
            prefixes = obstore.list_with_delimiter(self._store)["common_prefixes"]
        yield from sorted(filter(is_space, (prefix.rstrip("/") for prefix in prefixes)))

    def entries(self, space: str) -> Iterator[BlobEntry]:
        prefix = validate_client_name(space)
        with self._translated(f"listing {space!r}"):
            listed = [meta for chunk in obstore.list(self._store, f"{prefix}/") for meta in chunk]
        for meta in sorted(listed, key=lambda meta: meta["path"]):
            name = meta["path"].removeprefix(f"{prefix}/")
            if is_digest(name):
                yield BlobEntry(name, meta["size"], self._age_s(meta["last_modified"]))

    def ping(self) -> None:
        with self._translated("listing"):
            next(iter(obstore.list(self._store, chunk_size=1)), None)

    def _path(self, space: str, digest: str) -> str:
        return f"{validate_client_name(space)}/{validate_digest(digest)}"

    def _age_s(self, modified: datetime) -> float:
        return (self._clock() - modified).total_seconds()

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        try:
            yield
        except (BaseError, OSError) as error:  # the library raises some of Python's own errors
            reason = " ".join(str(error).split())[:300]
            if _NO_SPACE.search(reason):
                raise StoreFull(f"no space left in {self._display_url} ({doing}); free some; reads continue") from error
            raise StoreUnavailable(f"the blobs in {self._display_url} cannot be reached ({doing}): {reason}") from error
