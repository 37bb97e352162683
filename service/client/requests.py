"""Every request of the API as a value that both clients send. Nothing is sent here."""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote

import httpx
from pydantic import RootModel

from service.client import files
from service.client.errors import InvalidInput
from service.client.files import ImageFile, LabelledFile
from service.client.request import Request
from service.http.schemas.reports import VersionDiff
from service.http.schemas.resources import (
    AdaptResponse,
    Alias,
    ClientInfo,
    ClientList,
    ClientSettings,
    History,
    Job,
    Liveness,
    MetaModel,
    MetaModelList,
    PredictResponse,
    Readiness,
    ServiceInfo,
    UpgradeResponse,
    VersionDetails,
    VersionInfo,
    VersionList,
)
from service.http.schemas.samples import SampleList, StoredSample
from service.http.schemas.session import SessionInfo

T = TypeVar("T")

Part = tuple[str, tuple[str | None, bytes]]
"""A part of a form as httpx takes it: the field, the file name if the part is a file, and the content."""

PAGE: Final = 1000
"""Entries of a page, the most that a service sends."""


@dataclass(frozen=True, slots=True)
class AdaptOptions:
    """Options of an adaptation. The service chooses a value for each that is None.

    Attributes:
        mode: "extend" keeps the client's earlier samples, "replace" starts without them.
        steps: number of inner steps.
        learning_rate: learning rate of the inner steps.
        seed: seed of the inner loop.
        publish: "auto", "always" or "never".
        first: "prototypes" creates a version without inner steps before the full one. Requires `on_progress`.
        new_client: create the client; if it exists, the service responds with the problem `client_exists`.
    """

    mode: str | None = None
    steps: int | None = None
    learning_rate: float | None = None
    seed: int | None = None
    publish: str | None = None
    first: str | None = None
    new_client: bool = False


def adapt_archive(
    client: str, archive: Path, options: AdaptOptions, idempotency_key: str | None
) -> Request[AdaptResponse]:
    """POST /adapt with a zip file. Raises InvalidInput."""
    return _adapt(client, [_file("archive", archive.name, files.read_file(archive))], options, idempotency_key)


def adapt(
    client: str, groups: Sequence[Sequence[LabelledFile]], options: AdaptOptions, idempotency_key: str | None
) -> list[Request[AdaptResponse]]:
    """POST /adapt for each group of samples, each extending the version before. Only the last version may go live.

    Raises:
        InvalidInput: a value cannot be sent, or the mode "replace" needs more than one request.
    """
    key = idempotency_key or str(uuid.uuid4())
    *before, last = [_samples(group) for group in groups]
    if before and options.mode == "replace":
        raise InvalidInput(
            f"these files need {len(groups)} requests, and mode=replace needs them all in one; raise ANOLE_MAX_FILES "
            "and ANOLE_ADAPT_BODY_BYTES of the service, or leave out mode=replace and delete the client first"
        )
    unpublished = replace(options, steps=0, publish="never", first=None)
    requests = [
        _adapt(client, form, _following(unpublished, index), f"{key}.{index}") for index, form in enumerate(before, 1)
    ]
    return [*requests, _adapt(client, last, _following(options, len(groups)), key)]


def _following(options: AdaptOptions, index: int) -> AdaptOptions:
    """Return the options of the request of that number: only the first one can create the client."""
    return options if index == 1 else replace(options, new_client=False)


def last_of(made: Sequence[AdaptResponse]) -> AdaptResponse:
    """Return the last of several versions that extend each other, with the notes about what each request sent."""
    *before, last = made
    earlier = [f"version {each.version}: {note}" for each in before for note in each.report.gate.notes]
    details = [
        detail.model_copy(update={"text": f"version {each.version}: {detail.text}"})
        for each in before
        for detail in each.report.gate.details
        if detail.text in each.report.gate.notes
    ]
    gate = last.report.gate
    gate = gate.model_copy(
        update={
            "reasons": [*gate.reasons, *earlier],
            "notes": [*gate.notes, *earlier],
            "details": [*gate.details, *details],
        }
    )
    return last.model_copy(update={"report": last.report.model_copy(update={"gate": gate})})


def _samples(samples: Sequence[LabelledFile]) -> list[Part]:
    form: list[Part] = [("labels", (None, _utf8(sample.label))) for sample in samples]
    form += [("parts", (None, _utf8(sample.part))) for sample in samples if sample.part is not None]
    form += _given(samples)
    return [*form, *(_file("samples", sample.name, sample.content) for sample in samples)]


def _adapt(client: str, form: list[Part], options: AdaptOptions, key: str | None) -> Request[AdaptResponse]:
    values = asdict(options)
    headers = header("Idempotency-Key", key or str(uuid.uuid4()))
    if values.pop("new_client"):
        headers["If-None-Match"] = "*"
    fields = _form({"client": client, **values})
    content = {"files": [*fields, *form], "headers": headers}
    return Request("POST", "/adapt", AdaptResponse.model_validate_json, content)


def adapt_in_job(request: Request[AdaptResponse]) -> Request[AdaptResponse | Job]:
    """The same adaptation as a job. Earlier releases with several workers respond with the version instead."""
    headers = {**request.content["headers"], "Prefer": "respond-async"}
    read = RootModel[AdaptResponse | Job].model_validate_json
    return Request("POST", request.path, lambda body: read(body).root, {**request.content, "headers": headers})


def predict(
    client: str,
    images: Sequence[ImageFile],
    version: int | None = None,
    alias: str | None = None,
    *,
    explain: bool = False,
    station: str | None = None,
) -> Request[PredictResponse]:
    """POST /predict. Raises InvalidInput."""
    fields = {"client": client, "version": version, "alias": alias, "station": station}
    form = _form({**fields, "explain": "true" if explain else None})
    parts = [image.part or "" for image in images]
    form += [("parts", (None, _utf8(part))) for part in parts if any(parts)]
    form += [*_given(images), *(_file("images", image.name, image.read()) for image in images)]
    return Request("POST", "/predict", PredictResponse.model_validate_json, {"files": form})


def _given(images: Sequence[LabelledFile | ImageFile]) -> list[Part]:
    """Return the texts and the vectors, if there are any: one for each image, empty for an image without."""
    texts = [image.text or "" for image in images]
    vectors = ["" if image.vector is None else json.dumps(list(image.vector)) for image in images]
    form: list[Part] = [("texts", (None, _utf8(text))) for text in texts if any(texts)]
    return form + [("vectors", (None, vector.encode())) for vector in vectors if any(vectors)]


def joined(responses: Sequence[PredictResponse]) -> PredictResponse:
    """Return the predictions of several requests as if they were those of one."""
    update = {
        "predictions": [prediction for response in responses for prediction in response.predictions],
        "seconds": sum(response.seconds for response in responses),
    }
    return responses[0].model_copy(update=update)


def service_info() -> Request[ServiceInfo]:
    """GET /."""
    return Request("GET", "/", ServiceInfo.model_validate_json, {"headers": {"Accept": "application/json"}})


def session() -> Request[SessionInfo]:
    """GET /session."""
    return Request("GET", "/session", SessionInfo.model_validate_json)


def liveness() -> Request[Liveness]:
    """GET /livez."""
    return Request("GET", "/livez", Liveness.model_validate_json)


def readiness() -> Request[Readiness]:
    """GET /readyz, whose response has a body of the same form if the service is not ready."""
    unready = frozenset({int(httpx.codes.SERVICE_UNAVAILABLE)})
    return Request("GET", "/readyz", Readiness.model_validate_json, statuses=unready)


def metrics() -> Request[str]:
    """GET /metrics."""
    return Request("GET", "/metrics", bytes.decode)


def models() -> Request[MetaModelList]:
    """GET /models."""
    return Request("GET", "/models", MetaModelList.model_validate_json)


def model(name: str) -> Request[MetaModel]:
    """GET /models/{name}."""
    return Request("GET", f"/models/{_quoted(name)}", MetaModel.model_validate_json)


def clients(found: Sequence[ClientInfo]) -> Request[list[ClientInfo]]:
    """GET /clients, the page after the entries that were found."""
    content = page_of(found[-1].client if found else "")
    return Request("GET", "/clients", lambda body: ClientList.model_validate_json(body).clients, content)


def client(name: str) -> Request[ClientInfo]:
    """GET /clients/{client}."""
    return Request("GET", path_of(name), ClientInfo.model_validate_json)


def versions(name: str, found: Sequence[VersionInfo]) -> Request[list[VersionInfo]]:
    """GET /clients/{client}/versions, the page after the entries that were found."""
    content = page_of(found[-1].version if found else 0)
    return Request(
        "GET", path_of(name, "versions"), lambda body: VersionList.model_validate_json(body).versions, content
    )


def version(name: str, number: int) -> Request[VersionDetails]:
    """GET /clients/{client}/versions/{version}."""
    return Request("GET", path_of(name, "versions", str(number)), VersionDetails.model_validate_json)


def settings(name: str) -> Request[ClientSettings]:
    """GET /clients/{client}/settings."""
    return Request("GET", path_of(name, "settings"), ClientSettings.model_validate_json)


def set_settings(name: str, chosen: ClientSettings) -> Request[ClientSettings]:
    """PUT /clients/{client}/settings."""
    content = {"json": chosen.model_dump(mode="json")}
    return Request("PUT", path_of(name, "settings"), ClientSettings.model_validate_json, content)


def change_settings(name: str, changes: Mapping[str, Any]) -> Request[ClientSettings]:
    """PATCH /clients/{client}/settings."""
    return Request("PATCH", path_of(name, "settings"), ClientSettings.model_validate_json, {"json": dict(changes)})


def history(name: str, at: datetime | None, after: int) -> Request[History]:
    """GET /clients/{client}/history, a page."""
    content = page_of(after)
    if at is not None:
        content["params"]["at"] = at.isoformat()
    return Request("GET", path_of(name, "history"), History.model_validate_json, content)


def new_entries(page: list[T], before: Sequence[T]) -> list[T]:
    """Return the entries of a page; none if it repeats what came before, because the service has no pages."""
    return [] if page and page[0] in before else page


def page_of(after: str | int) -> dict[str, Any]:
    """Return the parameters of a page; of the first one only its size."""
    return {"params": {"limit": PAGE, **({"after": after} if after else {})}}


def alias(name: str, alias_name: str) -> Request[Alias]:
    """GET /clients/{client}/aliases/{alias}."""
    return Request("GET", path_of(name, "aliases", alias_name), Alias.model_validate_json)


def move_alias(name: str, alias_name: str, version: int, etag: str | None) -> Request[Alias]:
    """PUT /clients/{client}/aliases/{alias}."""
    content = {"json": {"version": version}, "headers": header("If-Match", etag)}
    return Request(
        "PUT", path_of(name, "aliases", alias_name), Alias.model_validate_json, content, repeatable=etag is None
    )


def rollback(name: str, alias_name: str) -> Request[Alias]:
    """POST /clients/{client}/rollback."""
    return Request(
        "POST",
        path_of(name, "rollback"),
        Alias.model_validate_json,
        {"params": {"alias": alias_name}},
        repeatable=False,
    )


def upgrade(name: str, publish: str | None) -> Request[UpgradeResponse]:
    """POST /clients/{client}/upgrade."""
    params = {} if publish is None else {"publish": publish}
    return Request("POST", path_of(name, "upgrade"), UpgradeResponse.model_validate_json, {"params": params})


def delete(name: str, version: int | None) -> Request[None]:
    """DELETE /clients/{client}, or DELETE /clients/{client}/versions/{version}."""
    path = path_of(name) if version is None else path_of(name, "versions", str(version))
    return Request("DELETE", path, lambda _: None, repeatable=False)


def weights(name: str, version: int) -> Request[bytes]:
    """GET /clients/{client}/versions/{version}/weights."""
    return Request("GET", path_of(name, "versions", str(version), "weights"), bytes)


def diff(name: str, before: int, after: int) -> Request[VersionDiff]:
    """GET /clients/{client}/versions/{before}/diff/{after}."""
    return Request("GET", path_of(name, "versions", str(before), "diff", str(after)), VersionDiff.model_validate_json)


def samples(
    name: str, label: str | None, version: int | None, found: Sequence[StoredSample]
) -> Request[list[StoredSample]]:
    """GET /clients/{client}/samples, the page after the entries that were found."""
    content = page_of(found[-1].digest if found else "")
    content["params"].update({"label": label} if label is not None else {})
    content["params"].update({"version": version} if version is not None else {})
    return Request("GET", path_of(name, "samples"), lambda body: SampleList.model_validate_json(body).samples, content)


def sample_png(name: str, digest: str, side: int | None) -> Request[bytes]:
    """GET /clients/{client}/samples/{digest}."""
    params = {} if side is None else {"side": side}
    return Request("GET", path_of(name, "samples", digest), bytes, {"params": params})


def correct(
    name: str,
    relabel: Mapping[str, str],
    remove: Collection[str],
    publish: str | None,
    idempotency_key: str | None,
) -> Request[AdaptResponse]:
    """POST /clients/{client}/corrections."""
    body = {"relabel": dict(relabel), "remove": sorted(remove), **({} if publish is None else {"publish": publish})}
    headers = header("Idempotency-Key", idempotency_key or str(uuid.uuid4()))
    path = path_of(name, "corrections")
    return Request("POST", path, AdaptResponse.model_validate_json, {"json": body, "headers": headers})


def job(number: str) -> Request[Job]:
    """GET /jobs/{job}."""
    return Request("GET", _job_path(number), Job.model_validate_json)


def cancel_job(number: str) -> Request[Job]:
    """DELETE /jobs/{job}."""
    return Request("DELETE", _job_path(number), Job.model_validate_json, repeatable=False)


def job_events(number: str) -> str:
    """Return the path of the stream of a job's events."""
    return f"{_job_path(number)}/events"


def header(name: str, value: str | None) -> dict[str, str]:
    """Return a header with the value, or none for None. Raises InvalidInput."""
    if value is None:
        return {}
    if not value.isascii() or not value.isprintable():  # the text does not repeat the value, which may be a secret
        raise InvalidInput(f"the value for {name} has characters that a header cannot have; use printable ASCII")
    return {name: value}


def _form(fields: Mapping[str, object]) -> list[Part]:
    """Return the fields that are not None."""
    return [(name, (None, _utf8(str(value)))) for name, value in fields.items() if value is not None]


def _file(field_name: str, name: str, content: bytes) -> Part:
    return field_name, (_utf8(name).decode(), content)


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:  # an argument or a folder name that the system could not decode
        raise InvalidInput(f"{text!r} is not valid text; rename it") from error


def path_of(name: str, *steps: str) -> str:
    """Return the path of a client, or of what is below it."""
    return "/".join(["/clients", *(_quoted(step) for step in (name, *steps))])


def _job_path(number: str) -> str:
    return f"/jobs/{_quoted(number)}"


def _quoted(step: str) -> str:
    return quote(_utf8(step), safe="")
