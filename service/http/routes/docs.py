"""The landing page, the OpenAPI description, and Swagger UI at /docs.

All files of Swagger UI come from an installed package, not from other hosts. They and the description stay in memory.
"""

from __future__ import annotations

import functools
from importlib import resources
from typing import Final

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

from service.http.dependencies import ContextDep
from service.http.routes import console
from service.http.schemas import resources as schemas

router = APIRouter(include_in_schema=False)

_ASSETS: Final = "fastapi_swagger.resources"
_MEDIA_TYPES: Final = {
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
    "favicon-32x32.png": "image/png",
}
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Anole API</title>
<link rel="icon" href="docs/favicon-32x32.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="page"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
_START: Final = """SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#page",
  deepLinking: true,
  tryItOutEnabled: true,
  displayRequestDuration: true,
  defaultModelsExpandDepth: 0,
  validatorUrl: null,
});
"""


@router.get("/", response_model=schemas.ServiceInfo)
async def landing(request: Request, response: Response, context: ContextDep) -> schemas.ServiceInfo | Response:
    """Return links and limits, and whether a key is required. A browser gets the web page instead."""
    if console.wants_page(request):
        return console.page(request)
    response.headers["Vary"] = "Accept"
    settings = context.settings
    return schemas.ServiceInfo(
        service="anole",
        version=request.app.version,
        access="open" if context.services.keys.open else "key",
        docs="/docs",
        openapi="/openapi.json",
        clients="/clients",
        limits=schemas.RequestLimits(
            files=settings.max_files,
            adapt_body_bytes=settings.adapt_body_bytes,
            predict_body_bytes=settings.predict_body_bytes,
        ),
    )


async def description(request: Request) -> Response:
    """Return the OpenAPI description. FastAPI's own route would serialise it at each request."""
    return Response(request.app.description_json, media_type="application/json")


@router.get("/docs")
async def docs() -> Response:
    """Return the page of Swagger UI."""
    return Response(_PAGE, media_type="text/html; charset=utf-8", headers={"Content-Security-Policy": _POLICY})


@router.get("/docs/start.js")
async def start() -> Response:
    """Return the start script. It is a file of its own so that the page can forbid inline scripts."""
    return Response(_START, media_type="text/javascript; charset=utf-8")


@router.get("/docs/{name}")
async def asset(name: str) -> Response:
    """Return a file of Swagger UI."""
    if name not in _MEDIA_TYPES:
        raise HTTPException(404)
    return Response(_content(name), media_type=_MEDIA_TYPES[name], headers={"Cache-Control": "max-age=86400"})


@functools.cache
def _content(name: str) -> bytes:
    return resources.files(_ASSETS).joinpath(name).read_bytes()
