"""Between calls and httpx: requests built, answers read, and whether to send again. Both clients use it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import httpx

from service.client import calls, files
from service.client.calls import Call, Reply
from service.client.types import Adapted, AdaptOptions, InvalidInput, LabelledFile, Predicted, ServiceUnreachable

_ATTEMPTS: Final = 4
_COME_AGAIN: Final = frozenset({429, 503})
_LONGEST_WAIT_S: Final = 30

Samples = Path | Sequence[LabelledFile | tuple[Path, str]]
"""A folder of class folders, a zip of them, or images with their labels."""


def adapt_call(client: str, samples: Samples, options: AdaptOptions, key: str | None) -> Call[Adapted]:
    """The call for any way of giving samples. Raises InvalidInput."""
    if isinstance(samples, Path):
        if samples.is_file():
            return calls.adapt_archive(client, files.archive(samples), options, key)
        return calls.adapt(client, files.labelled_folder(samples), options, key)
    read = [item if isinstance(item, LabelledFile) else files.labelled_files([item])[0] for item in samples]
    return calls.adapt(client, read, options, key)


def predict_call(
    client: str, images: Iterable[Path | bytes], version: int | None, alias: str | None
) -> Call[Predicted]:
    """The call for images as paths or bytes. Raises InvalidInput."""
    reference = {} if version is None else {"version": str(version)}
    if alias is not None:
        reference["alias"] = alias
    return calls.predict(client, files.images(images), reference)


def headers(key: str | None) -> dict[str, str]:
    """What every request carries. Raises InvalidInput."""
    if key is None:
        return {}
    if not key.isascii() or not key.isprintable():
        raise InvalidInput("the key holds characters that no key has; copy it again, without line breaks")
    return {"X-API-Key": key}


def request(http: httpx.Client | httpx.AsyncClient, call: Call[Any]) -> httpx.Request:
    """The call as httpx sends it."""
    return http.build_request(
        call.method,
        call.path,
        params=dict(call.query),
        headers=dict(call.headers),
        files=list(call.parts) or None,
        json=call.body,
    )


def reply(response: httpx.Response) -> Reply:
    """The answer, free of httpx."""
    return Reply(
        response.status_code, {name.lower(): value for name, value in response.headers.items()}, response.content
    )


def retry_delay_s(call: Call[Any], response: httpx.Response, attempt: int) -> float | None:
    """Seconds until the call is sent again; None when it is not: another status, not repeatable, tried enough."""
    delay = response.headers.get("retry-after", "")
    if response.status_code not in _COME_AGAIN or not call.repeatable or not delay.isdecimal() or attempt >= _ATTEMPTS:
        return None
    return min(int(delay), _LONGEST_WAIT_S)


def unreachable(url: httpx.URL, error: httpx.HTTPError) -> ServiceUnreachable:
    """The error for no answer at all."""
    if isinstance(error, httpx.TimeoutException):
        return ServiceUnreachable(f"{url} did not answer in time; try again, or look at its /readyz")
    return ServiceUnreachable(f"{url} cannot be reached ({error}); is the service running there?")
