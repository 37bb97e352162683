"""The requests for versions as files."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Final

import httpx

from service.client.request import Request
from service.client.requests import client
from service.http.schemas.resources import AdaptResponse

TIMEOUT: Final = httpx.Timeout(300.0, connect=5.0)
"""In seconds. An export may take minutes on a busy machine."""


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """Options of an export.

    Attributes:
        format: "onnx"; "openvino", a zip; or "torch", a .pt2 program of `torch.export`.
        precision: "float32", or "int8", which is faster on processors and less accurate.
        batch: whether the file takes several images of one size at once.
    """

    format: str = "onnx"
    precision: str = "float32"
    batch: bool = False


def export(name: str, version: int, options: ExportOptions) -> Request[bytes]:
    """GET /clients/{client}/versions/{version}/export."""
    params = {**asdict(options), "batch": "true" if options.batch else "false"}
    arguments = {"params": params, "timeout": TIMEOUT}
    return Request("GET", f"{client(name).path}/versions/{version}/export", bytes, arguments)


def import_version(name: str, content: bytes, publish: str | None) -> Request[AdaptResponse]:
    """POST /clients/{client}/versions."""
    arguments = {
        "content": content,
        "headers": {"Content-Type": "application/octet-stream"},
        "params": {} if publish is None else {"publish": publish},
    }
    return Request(
        "POST", f"{client(name).path}/versions", AdaptResponse.model_validate_json, arguments, repeatable=False
    )
