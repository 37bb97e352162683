"""Blobs as objects of an S3-compatible store: ``<prefix>/<space>/<digest>``. Knows no rows and no weights format.

An object comes into being whole or not at all, and an answered write is durable: both are the store's promise. A blob
is written with "create if absent" (``If-None-Match: *``), so of racing writers the first one wins. Where something is
there already it is read: damaged, or so old that a collection could come before its publish, it is written over.

Requests are repeated by the library on server errors and broken connections, for a few seconds; then the error is ours.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, Literal, TypeVar

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError
from obstore.store import S3Store

from service.domain.names import validate_client_name
from service.errors import InvalidName, StoreFull, StoreUnavailable, VersionCorrupt
from service.store.clock import utc_now
from service.store.ports import BlobEntry, Blobs

if TYPE_CHECKING:
    from obstore.store import ObjectStore, S3Config

REQUESTS_AT_ONCE: Final = 16
FRESH_S: Final = 600.0
"""A blob that is put again keeps its age up to here; far below the grace of a collection."""

_ABSENT: Final = (NotFoundError, FileNotFoundError)
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_REQUEST_TIMEOUT: Final = timedelta(seconds=10)
_CONNECT_TIMEOUT: Final = timedelta(seconds=2)
_REPEATED_FOR: Final = timedelta(seconds=5)
_ATTEMPTS: Final = 4
_NO_SPACE: Final = re.compile(r"\b507\b|StorageFull|QuotaExceeded|InsufficientStorage")

Given = TypeVar("Given")
Result = TypeVar("Result")


def s3_store(bucket: str, prefix: str, *, endpoint: str | None = None, region: str | None = None) -> S3Store:
    """A bucket of S3, or of what speaks like it at `endpoint`; nothing is asked of it yet.

    Credentials come from where the S3 library looks for them: AWS's environment variables, or the machine's own role.
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
        retry_config={"max_retries": 5, "retry_timeout": _REPEATED_FOR},
    )


class ObjectBlobs(Blobs):
    """Blobs in an object store, shared by any number of threads, processes and machines.

    Args:
        store: of the library; a bucket with a prefix of its own.
        shown: what messages call it; without credentials.
        clock: the time of day, UTC, against which the store's own times are read.
    """

    def __init__(self, store: ObjectStore, shown: str, clock: Callable[[], datetime] = utc_now) -> None:
        self._store = store
        self._shown = shown
        self._clock = clock

    def put(self, space: str, contents: Sequence[bytes]) -> tuple[str, ...]:
        """See `Blobs.put`."""
        prefix = validate_client_name(space)
        digests = tuple(hashlib.sha256(content).hexdigest() for content in contents)
        wanted = dict(zip(digests, contents, strict=True))
        with self._translated(f"storing in {space!r}"):
            _together(lambda item: self._put(f"{prefix}/{item[0]}", item[0], item[1]), wanted.items())
        return digests

    def _put(self, path: str, digest: str, content: bytes) -> None:
        mode: Literal["create", "overwrite"] = "create"
        for _ in range(_ATTEMPTS):
            try:
                obstore.put(self._store, path, content, mode=mode, use_multipart=False)
                return
            except AlreadyExistsError:  # 412: it is there; or 409: another write of that name at the same moment
                if self._whole_and_fresh(path, digest):
                    return
                mode = "overwrite"
        raise StoreUnavailable(f"{_ATTEMPTS} writes of {path} in {self._shown} met other writes of it; try again")

    def _whole_and_fresh(self, path: str, digest: str) -> bool:
        try:
            found = obstore.get(self._store, path)
            age_s = self._age_s(found.meta["last_modified"])
            return age_s < FRESH_S and hashlib.sha256(found.bytes()).hexdigest() == digest
        except _ABSENT:  # removed since
            return False

    def get(self, space: str, digest: str) -> bytes:
        """See `Blobs.get`."""
        path = self._path(space, digest)
        with self._translated(f"reading {digest} of {space!r}"):
            try:
                content = bytes(obstore.get(self._store, path).bytes())
            except _ABSENT as error:
                raise VersionCorrupt(f"blob {digest} of {space!r} is missing; restore it from a backup") from error
        if hashlib.sha256(content).hexdigest() != digest:
            raise VersionCorrupt(
                f"blob {digest} of {space!r} is damaged: its {len(content)} bytes do not match its digest; "
                "restore it from a backup"
            )
        return content

    def missing(self, space: str, digests: Collection[str]) -> frozenset[str]:
        """See `Blobs.missing`."""
        wanted = {digest: self._path(space, digest) for digest in digests}
        with self._translated(f"looking in {space!r}"):
            there = _together(self._there, wanted.values())
        return frozenset(digest for digest, found in zip(wanted, there, strict=True) if not found)

    def _there(self, path: str) -> bool:
        try:
            obstore.head(self._store, path)
        except _ABSENT:
            return False
        return True

    def delete(self, space: str, digests: Collection[str]) -> None:
        """See `Blobs.delete`."""
        validate_client_name(space)
        paths = [self._path(space, digest) for digest in digests]
        with self._translated(f"deleting in {space!r}"):
            _together(self._delete, paths)

    def _delete(self, path: str) -> None:
        try:
            obstore.delete(self._store, path)
        except _ABSENT:
            return

    def sweep(self, space: str, *, older_than_s: float) -> int:
        """See `Blobs.sweep`: a cut-off write leaves nothing here, and a space is its objects."""
        validate_client_name(space)
        return 0

    def spaces(self) -> Iterator[str]:
        """See `Blobs.spaces`."""
        with self._translated("listing"):
            prefixes = obstore.list_with_delimiter(self._store)["common_prefixes"]
        yield from sorted(name for name in (prefix.rstrip("/") for prefix in prefixes) if _is_space(name))

    def entries(self, space: str) -> Iterator[BlobEntry]:
        """See `Blobs.entries`."""
        prefix = validate_client_name(space)
        with self._translated(f"listing {space!r}"):
            listed = [meta for chunk in obstore.list(self._store, f"{prefix}/") for meta in chunk]
        for meta in sorted(listed, key=lambda meta: meta["path"]):
            name = meta["path"].removeprefix(f"{prefix}/")
            if _DIGEST.fullmatch(name):
                yield BlobEntry(name, meta["size"], self._age_s(meta["last_modified"]))

    def ping(self) -> None:
        """See `Blobs.ping`."""
        with self._translated("listing"):
            next(iter(obstore.list(self._store, chunk_size=1)), None)

    def _path(self, space: str, digest: str) -> str:
        if not _DIGEST.fullmatch(digest):
            raise VersionCorrupt(f"{digest[:80]!r} is not a SHA-256 in hexadecimal; the row that names it is damaged")
        return f"{validate_client_name(space)}/{digest}"

    def _age_s(self, modified: datetime) -> float:
        return (self._clock() - modified).total_seconds()

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        try:
            yield
        except (BaseError, OSError) as error:  # the library gives what has a name of its own in Python that name
            said = " ".join(str(error).split())[:300]
            if _NO_SPACE.search(said):
                raise StoreFull(f"no space left in {self._shown} ({doing}); free some; reading goes on") from error
            raise StoreUnavailable(f"the blobs in {self._shown} cannot be reached ({doing}): {said}") from error


def _together(call: Callable[[Given], Result], items: Iterable[Given]) -> list[Result]:
    """The results in order; the requests run side by side, because most of each is waiting."""
    listed = list(items)
    if len(listed) < 2:
        return [call(item) for item in listed]
    with ThreadPoolExecutor(min(len(listed), REQUESTS_AT_ONCE), "anole-blobs") as pool:
        return list(pool.map(call, listed))


def _is_space(name: str) -> bool:
    try:
        return validate_client_name(name) == name
    except InvalidName:  # not ours
        return False
