"""How commands find the service: the options that they share, and the client that they use."""

from __future__ import annotations

from typing import Annotated

import typer

from service.client import Client
from service.settings import load_settings

Url = Annotated[
    str | None,
    typer.Option(help="Address of the service.", show_default="ANOLE_URL, or port PORT or 8000 of 127.0.0.1"),
]
Key = Annotated[str | None, typer.Option(help="API key.", show_default="ANOLE_API_KEY")]
ClientName = Annotated[str, typer.Argument(metavar="CLIENT", help="Name of the client.")]


def connect(url: str | None, key: str | None) -> Client:
    """Return a client of the service at `url`. Without options, the settings say where it is."""
    settings = load_settings(url=url, api_key=key)
    return Client(settings.service_url, key=None if settings.api_key is None else settings.api_key.get_secret_value())
