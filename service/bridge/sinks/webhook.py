"""Verdicts as signed POST requests, as https://www.standardwebhooks.com describes them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx

from service.bridge.config import WebhookSink, read_secret
from service.bridge.sinks.base import Sink, VerdictRejected
from service.bridge.verdict import Verdict
from service.client import InvalidInput

_PREFIX = "whsec_"


class Webhook(Sink):
    """A receiver of verdicts. Requests that fail, and those that get 408, 429 or 5xx, are repeated with the same id.

    Args:
        config: address, secret and the results to send.
        transport: for tests.
        clock: seconds since 1970.

    Raises:
        InvalidInput: the secret cannot be read.
    """

    connection_errors = (httpx.HTTPError,)

    def __init__(
        self,
        config: WebhookSink,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(config.name)
        self._config = config
        self._secret = read_secret(config.secret_file)
        if self._secret is not None:
            _key(self._secret)
        self._transport = transport
        self._clock = clock
        self._http: httpx.AsyncClient | None = None

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Keep connections open inside the block."""
        async with httpx.AsyncClient(transport=self._transport, timeout=self._config.timeout_s) as self._http:
            try:
                yield
            finally:
                self._http = None

    async def send(self, verdict: Verdict) -> None:
        """Send a request."""
        if verdict.result not in self._config.results:
            return
        if self._http is None:
            raise httpx.ConnectError("not connected")
        body = json.dumps({"type": "verdict", "data": verdict.fields()}).encode()
        sent = str(int(self._clock()))
        headers = {"content-type": "application/json", "webhook-id": verdict.picture.id, "webhook-timestamp": sent}
        if self._secret is not None:
            headers["webhook-signature"] = signature(self._secret, verdict.picture.id, sent, body)
        response = await self._http.post(self._config.url, content=body, headers=headers)
        if response.is_client_error and response.status_code not in {408, 429}:
            raise VerdictRejected(f"the receiver responded with {response.status_code}")
        response.raise_for_status()


def signature(secret: str, message: str, timestamp: str, body: bytes) -> str:
    """Return the header `webhook-signature`: HMAC-SHA256 of id, timestamp and body, in Base64.

    Args:
        secret: a text, or `whsec_` and Base64.
        message: id of the message.
        timestamp: seconds since 1970.
        body: the body.
    """
    signed = hmac.new(_key(secret), b".".join((message.encode(), timestamp.encode(), body)), hashlib.sha256)
    return f"v1,{base64.b64encode(signed.digest()).decode()}"


def _key(secret: str) -> bytes:
    if not secret.startswith(_PREFIX):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except ValueError as error:
        raise InvalidInput(f"what follows {_PREFIX} in the secret of a webhook is not Base64: {error}") from error
