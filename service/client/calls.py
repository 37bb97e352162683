"""Each call of the API as a value: what to send and how to read the answer. Nothing is sent here."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Final, Generic, TypeVar
from urllib.parse import quote

from service.client.reports import VersionDiff, read_diff, read_report
from service.client.types import (
    Adapted,
    AdaptOptions,
    AliasInfo,
    ClientInfo,
    History,
    ImageVerdict,
    LabelledFile,
    Predicted,
    ServiceProblem,
    ServiceUnreachable,
    VersionInfo,
)

T = TypeVar("T")

Part = tuple[str, tuple[str | None, bytes]]
"""Name of a form field and (file name or None, content)."""

_PROBLEM_MEDIA_TYPE: Final = "application/problem+json"


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, free of the HTTP library: status, headers by lower-case name, body."""

    status: int
    headers: Mapping[str, str]
    content: bytes


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request and the reader of its answer.

    Attributes:
        method: HTTP method.
        path: below the service's address.
        read: turns the JSON of a good answer into a value; gets the raw bytes if `raw`.
        parts: of a multipart form; empty: no form.
        query: parameters.
        headers: sent with it.
        body: JSON data, if any.
        repeatable: sending it twice does no more than sending it once.
        raw: the answer is no JSON.
    """

    method: str
    path: str
    read: Callable[[Any], T]
    parts: Sequence[Part] = ()
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None
    repeatable: bool = True
    raw: bool = False

    def result(self, reply: Reply) -> T:
        """Read the answer.

        Raises:
            ServiceProblem: the service refused or failed.
            ServiceUnreachable: what answered is not this service.
        """
        if reply.status >= 300:
            raise problem(reply)
        try:
            return self.read(reply.content if self.raw else _json(reply.content))
        except (ValueError, KeyError, TypeError) as error:
            raise ServiceUnreachable(
                f"{self.method} {self.path} was answered with something else than Anole's JSON; check the address"
            ) from error


def problem(reply: Reply) -> ServiceProblem | ServiceUnreachable:
    """The error that a bad answer stands for."""
    media_type = reply.headers.get("content-type", "").partition(";")[0]
    if media_type != _PROBLEM_MEDIA_TYPE:
        return ServiceUnreachable(
            f"the answer has status {reply.status} and is no problem of Anole's; check the address and what is between"
        )
    delay = reply.headers.get("retry-after", "")
    request_id = reply.headers.get("x-request-id", "")
    return ServiceProblem(json.loads(reply.content), int(delay) if delay.isdecimal() else None, request_id)


def adapt(client: str, samples: Sequence[LabelledFile], options: AdaptOptions, key: str | None) -> Call[Adapted]:
    """POST /adapt with one file a sample."""
    parts: list[Part] = [("labels", (None, sample.label.encode())) for sample in samples]
    parts += [("samples", (sample.name, sample.content)) for sample in samples]
    return _adapt(client, parts, options, key)


def adapt_archive(client: str, archive: tuple[str, bytes], options: AdaptOptions, key: str | None) -> Call[Adapted]:
    """POST /adapt with a zip of class folders."""
    return _adapt(client, [("archive", archive)], options, key)


def predict(client: str, images: Sequence[tuple[str, bytes]], reference: Mapping[str, str]) -> Call[Predicted]:
    """POST /predict; `reference` holds a version or an alias, or nothing."""
    fields = {"client": client, **reference}
    parts: list[Part] = [(name, (None, value.encode())) for name, value in fields.items()]
    parts += [("images", image) for image in images]
    return Call("POST", "/predict", _predicted, parts)


def clients() -> Call[tuple[ClientInfo, ...]]:
    """GET /clients."""
    return Call("GET", "/clients", lambda data: tuple(map(_client, data["clients"])))


def client(name: str) -> Call[ClientInfo]:
    """GET /clients/{c}."""
    return Call("GET", _path(name), _client)


def versions(name: str) -> Call[tuple[VersionInfo, ...]]:
    """GET /clients/{c}/versions."""
    return Call("GET", _path(name, "versions"), lambda data: tuple(map(_version, data["versions"])))


def history(name: str, at: datetime | None) -> Call[History]:
    """GET /clients/{c}/history."""
    query = {} if at is None else {"at": at.isoformat()}
    return Call("GET", _path(name, "history"), _history, query=query)


def alias(name: str, alias_name: str) -> Call[AliasInfo]:
    """GET /clients/{c}/aliases/{alias}."""
    return Call("GET", _path(name, "aliases", alias_name), _alias)


def move_alias(name: str, alias_name: str, version: int, etag: str | None) -> Call[AliasInfo]:
    """PUT /clients/{c}/aliases/{alias}; with an ETag only if it still holds."""
    headers = {} if etag is None else {"If-Match": etag}
    path = _path(name, "aliases", alias_name)
    return Call("PUT", path, _alias, headers=headers, body={"version": version}, repeatable=etag is None)


def rollback(name: str, alias_name: str) -> Call[AliasInfo]:
    """POST /clients/{c}/rollback."""
    return Call("POST", _path(name, "rollback"), _alias, query={"alias": alias_name}, repeatable=False)


def delete(name: str, version: int | None) -> Call[None]:
    """DELETE a version, or the whole client."""
    path = _path(name) if version is None else _path(name, "versions", str(version))
    return Call("DELETE", path, lambda _: None, raw=True, repeatable=False)


def weights(name: str, version: int) -> Call[bytes]:
    """GET /clients/{c}/versions/{v}/weights."""
    return Call("GET", _path(name, "versions", str(version), "weights"), bytes, raw=True)


def diff(name: str, before: int, after: int) -> Call[VersionDiff]:
    """GET /clients/{c}/versions/{a}/diff/{b}."""
    return Call("GET", _path(name, "versions", str(before), "diff", str(after)), read_diff)


def _adapt(client: str, parts: list[Part], options: AdaptOptions, key: str | None) -> Call[Adapted]:
    fields = {"client": client, **{name: str(value) for name, value in asdict(options).items() if value is not None}}
    named: list[Part] = [(name, (None, value.encode())) for name, value in fields.items()]
    headers = {"Idempotency-Key": key or str(uuid.uuid4())}
    return Call("POST", "/adapt", read_adapted, [*named, *parts], headers=headers)


def _path(name: str, *steps: str) -> str:
    return "/".join(["/clients", quote(name, safe=""), *(quote(step, safe="") for step in steps)])


def _json(content: bytes) -> Any:
    return json.loads(content)


def read_adapted(data: Any) -> Adapted:
    """A version that was made, from its JSON."""
    return Adapted(
        client=data["client"],
        version=data["version"],
        parent=data["parent"],
        classes=tuple(data["classes"]),
        published=data["published"],
        live=data["live"],
        meta_model=data["model"],
        weights_digest=data["weights"]["digest"],
        weights_bytes=data["weights"]["bytes"],
        report=read_report(data["report"]),
    )


def _predicted(data: Any) -> Predicted:
    predictions = tuple(ImageVerdict(**item) for item in data["predictions"])
    return Predicted(data["client"], data["version"], data["weights_digest"], predictions, data["seconds"])


def _client(data: Any) -> ClientInfo:
    return ClientInfo(
        client=data["client"],
        created_at=datetime.fromisoformat(data["created_at"]),
        versions=data["versions"],
        latest=data["latest"],
        live=data["live"],
        aliases=tuple(map(_alias, data["aliases"])),
    )


def _alias(data: Any) -> AliasInfo:
    return AliasInfo(**{**data, "moved_at": datetime.fromisoformat(data["moved_at"])})


def _history(data: Any) -> History:
    at = None if data["at"] is None else datetime.fromisoformat(data["at"])
    return History(data["client"], at, data["live"], tuple(map(_alias, data["moves"])))


def _version(data: Any) -> VersionInfo:
    return VersionInfo(
        client=data["client"],
        version=data["version"],
        parent=data["parent"],
        classes=tuple(data["classes"]),
        samples=data["samples"],
        aliases=tuple(data["aliases"]),
        meta_model=data["model"],
        weights_digest=data["weights"]["digest"],
        weights_bytes=data["weights"]["bytes"],
        support_accuracy=data["support_accuracy"],
        estimated_accuracy=data["estimated_accuracy"],
        gate=data["gate"],
        created_at=datetime.fromisoformat(data["created_at"]),
    )
