"""The web page: at / for browsers, with its scripts, styles and texts under /console.

The files are served as they are in the repository; there is no build step. They stay in memory.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import PurePosixPath
from typing import Final

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

from service.http.content_types import quality

router = APIRouter(include_in_schema=False)

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "media-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PAGE: Final = "index.html"
_MEDIA_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".json": "application/json",
    ".txt": "text/plain; charset=utf-8",
}


@dataclass(frozen=True, slots=True)
class _File:
    """A file of the page, also compressed, with the ETag of each form."""

    media_type: str
    content: bytes
    compressed: bytes
    digest: str


def wants_page(request: Request) -> bool:
    """Whether the sender is a browser that opens a page. Other senders get JSON, also those that accept anything."""
    return quality(request, "text/html") > quality(request, "application/json")


def page(request: Request) -> Response:
    """Return the page."""
    response = _respond(request, _files()[_PAGE])
    response.headers["Content-Security-Policy"] = POLICY
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers["Vary"] = "Accept, Accept-Encoding"
    return response


@router.get("/console/{file}")
async def console_file(request: Request, file: str) -> Response:
    """Return a file of the page."""
    found = _files().get(file)
    if found is None or file == _PAGE:
        raise HTTPException(404)
    return _respond(request, found)


@router.get("/console/{folder}/{script}")
async def console_script(request: Request, folder: str, script: str) -> Response:
    """Return a file from a folder of the page."""
    return await console_file(request, f"{folder}/{script}")


def _respond(request: Request, file: _File) -> Response:
    """Return the file, or 304 if the browser has it. A browser asks each time, so an upgrade shows at once."""
    compress = "gzip" in request.headers.get("accept-encoding", "")
    etag = f'"{file.digest}{"-gzip" if compress else ""}"'
    headers = {"ETag": etag, "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
    if etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    if compress:
        headers["Content-Encoding"] = "gzip"
    return Response(file.compressed if compress else file.content, headers=headers, media_type=file.media_type)


@functools.cache
def _files() -> Mapping[str, _File]:
    return dict(_walk(resources.files("service").joinpath("console", "static"), PurePosixPath()))


def _walk(folder: Traversable, path: PurePosixPath) -> list[tuple[str, _File]]:
    found: list[tuple[str, _File]] = []
    for entry in folder.iterdir():
        inner = path / entry.name
        if entry.is_dir():
            found += _walk(entry, inner)
        elif inner.suffix in _MEDIA_TYPES:
            content = entry.read_bytes()
            digest = hashlib.sha256(content).hexdigest()[:32]
            found.append(
                (str(inner), _File(_MEDIA_TYPES[inner.suffix], content, gzip.compress(content, mtime=0), digest))
            )
    return found
