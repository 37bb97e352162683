"""Reads a repository of The Update Framework over HTTP. Nothing on the way has to be trusted, only the first root."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import httpx
from pydantic import ValidationError
from tuf.api.exceptions import DownloadError, DownloadHTTPError, RepositoryError
from tuf.api.metadata import Metadata, TargetFile, Timestamp
from tuf.api.serialization import DeserializationError
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from models.atomic_files import sync
from service.edge.errors import RepositoryUnusable
from service.edge.rings import CUSTOM, ChannelState, channel_path

TIMEOUT_S: Final = 20.0
_CHUNK: Final = 64 * 1024
_TIMESTAMP: Final = "timestamp.json"
_MAX_TIMESTAMP_BYTES: Final = 16_384


class HttpFetcher(FetcherInterface):
    """Downloads with httpx, and counts what was transferred.

    Attributes:
        requests: sent so far.
        received_bytes: content received so far.
    """

    def __init__(self, client: httpx.Client) -> None:
        self._client = client
        self.requests = 0
        self.received_bytes = 0

    def _fetch(self, url: str) -> Iterator[bytes]:
        self.requests += 1
        request = self._client.build_request("GET", url, headers={"Accept-Encoding": "identity"})
        response = self._client.send(request, stream=True)
        if response.status_code != httpx.codes.OK:
            response.close()
            raise DownloadHTTPError(f"{url} gives {response.status_code}", response.status_code)
        return self._chunks(response)

    def _chunks(self, response: httpx.Response) -> Iterator[bytes]:
        try:
            for chunk in response.iter_bytes(_CHUNK):
                self.received_bytes += len(chunk)
                yield chunk
        except httpx.HTTPError as error:
            raise DownloadError(f"{response.url} ended early: {error}") from error
        finally:
            response.close()

    def changed(self, url: str, etag: str | None) -> tuple[bytes, str | None] | None:
        """Fetch a small file unless it still has the given ETag: its content and ETag, or None."""
        self.requests += 1
        headers = {"Accept-Encoding": "identity", **({"If-None-Match": etag} if etag else {})}
        with self._client.stream("GET", url, headers=headers) as response:
            if response.status_code == httpx.codes.NOT_MODIFIED:
                return None
            if response.status_code != httpx.codes.OK:
                raise DownloadHTTPError(f"{url} gives {response.status_code}", response.status_code)
            content = bytearray()
            for chunk in response.iter_bytes(_CHUNK):
                content += chunk
                if len(content) > _MAX_TIMESTAMP_BYTES:
                    raise DownloadError(f"{url} is longer than {_MAX_TIMESTAMP_BYTES} bytes")
            self.received_bytes += len(content)
            return bytes(content), response.headers.get("etag")


class TrustedRepository:
    """A repository that is read with The Update Framework's client.

    Args:
        url: of the repository: the folder with ``metadata/`` and ``targets/``.
        folder: where verified metadata are kept, so that older ones are refused later.
        root: the root metadata that are trusted from the beginning, from a source of their own.
        client: for HTTP.

    Attributes:
        fetcher: counts requests and bytes.
    """

    def __init__(self, url: str, folder: Path, root: bytes, client: httpx.Client) -> None:
        self._url = url.rstrip("/")
        self._folder = folder
        self._root = root
        self.fetcher = HttpFetcher(client)
        self._etag: str | None = None
        self._delivered: tuple[bytes, str | None] = (b"", None)
        self._updater: Updater | None = None

    def has_news(self) -> bool:
        """Ask whether the repository has changed since the last `refresh`, by one conditional request.

        Raises:
            RepositoryUnusable: it cannot be reached, or has not been signed for too long.
        """
        try:
            found = self.fetcher.changed(f"{self._url}/metadata/{_TIMESTAMP}", self._etag)
        except (DownloadError, httpx.HTTPError) as error:
            raise RepositoryUnusable(f"the repository {self._url} cannot be reached: {error}") from error
        if found is not None:
            self._delivered = found
            if found[0] != self._kept_timestamp():
                return True
            self._etag = found[1]
        expires = self.expires()
        if expires is not None and expires <= datetime.now(UTC):
            raise RepositoryUnusable(
                f"the repository was last signed for the time until {expires:%Y-%m-%d %H:%M} UTC, and nothing newer "
                "comes: it is frozen, or `anole release renew` does not run"
            )
        return self._updater is None

    def refresh(self) -> None:
        """Fetch and verify the metadata: signatures, versions and expiry.

        Raises:
            RepositoryUnusable: one of them is not acceptable, or cannot be fetched. What was verified before stays.
            OSError: the metadata cannot be written.
        """
        self._updater = None
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            updater = Updater(
                str(self._folder),
                f"{self._url}/metadata",
                target_base_url=f"{self._url}/targets",
                fetcher=self.fetcher,
                config=UpdaterConfig(max_root_rotations=64),
                bootstrap=self._root,
            )
            updater.refresh()
        except (RepositoryError, DownloadError) as error:
            raise RepositoryUnusable(f"the repository {self._url} is refused: {_reason(error)}") from error
        for path in sorted(self._folder.rglob("*.json")):
            sync(path)
        for path in (self._folder / "root_history", self._folder, self._folder.parent):
            sync(path)
        content, etag = self._delivered
        self._etag = etag if content == self._kept_timestamp() else None
        self._updater = updater

    def channel(self, channel: str) -> ChannelState | None:
        """What a channel offers, as of the last `refresh`; None if there is no such channel.

        Raises:
            RepositoryUnusable: its data are not of the format of this release of Anole.
        """
        target = self._target(channel_path(channel))
        if target is None:
            return None
        try:
            return ChannelState.model_validate((target.custom or {}).get(CUSTOM))
        except ValidationError as error:
            raise RepositoryUnusable(
                f"the data of channel {channel!r} cannot be read; update Anole on the device: {error}"
            ) from error

    def sha256(self, path: str) -> str:
        """SHA-256 (hex) of a target. Raises RepositoryUnusable if the repository has no such target."""
        target = self._target(path)
        if target is None or "sha256" not in target.hashes:
            raise RepositoryUnusable(f"the repository {self._url} has no file {path!r} with a SHA-256")
        return target.hashes["sha256"]

    def download(self, path: str, file: Path, max_bytes: int) -> None:
        """Download a target and verify its length and digest.

        Raises:
            RepositoryUnusable: it cannot be fetched, is not what was signed, or is longer than `max_bytes`.
            OSError: it cannot be written.
        """
        target = self._target(path)
        if self._updater is None or target is None:
            raise RepositoryUnusable(f"the repository {self._url} has no file {path!r}")
        if target.length > max_bytes:
            raise RepositoryUnusable(f"{path} has {target.length} bytes; at most {max_bytes} are allowed")
        try:
            self._updater.download_target(target, str(file))
        except (RepositoryError, DownloadError) as error:
            raise RepositoryUnusable(f"{path} is refused: {_reason(error)}") from error

    def expires(self) -> datetime | None:
        """Until when the newest verified metadata are valid; None before the first `refresh`."""
        try:
            return Metadata[Timestamp].from_bytes(self._kept_timestamp()).signed.expires
        except DeserializationError:
            return None

    def _kept_timestamp(self) -> bytes:
        path = self._folder / _TIMESTAMP
        return path.read_bytes() if path.is_file() else b""

    def _target(self, path: str) -> TargetFile | None:
        if self._updater is None:
            raise RepositoryUnusable(f"the repository {self._url} has not been read yet")
        return self._updater.get_targetinfo(path)


def _reason(error: Exception) -> str:
    """The error with its causes, on one line."""
    texts = []
    current: BaseException | None = error
    while current is not None:
        texts.append(str(current) or type(current).__name__)
        current = current.__cause__
    return ": ".join(dict.fromkeys(texts))


def root_version(content: bytes) -> int:
    """The version of root metadata. Raises RepositoryUnusable if the content is none."""
    try:
        signed: dict[str, Any] = json.loads(content)["signed"]
        if signed["_type"] != "root":
            raise KeyError("_type")
        return int(signed["version"])
    except (ValueError, KeyError, TypeError) as error:
        raise RepositoryUnusable("the trusted root is not root metadata; copy metadata/1.root.json") from error
