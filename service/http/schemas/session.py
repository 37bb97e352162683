"""The JSON of the session of a browser."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from service.http.schemas.base import Answer, RequestBody


class Login(RequestBody):
    """The key to log in with."""

    key: str = Field(max_length=256, description="an API key", examples=["anole_abcdefgh_0123456789"])


class SessionInfo(Answer):
    """Who the caller is."""

    keys_required: bool = Field(description="false: everyone who can connect has access", examples=[True])
    authenticated: bool = Field(description="whether the request has a valid key, in a header or the cookie")
    name: str | None = Field(description="name of the key; null without one", examples=["operator"])
    scopes: list[Literal["predict", "adapt", "admin"]] = Field(
        description="what the caller may do", examples=[["predict", "adapt"]]
    )
    clients: list[str] = Field(description="clients that the caller can access; `*`: all", examples=[["line-7"]])
