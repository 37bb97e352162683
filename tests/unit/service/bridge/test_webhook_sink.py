"""Webhooks: signature, retries, and responses that reject a verdict."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.bridge.config import WebhookSink
from service.bridge.sinks.base import VerdictRejected
from service.bridge.sinks.webhook import Webhook, signature
from service.client import InvalidInput
from tests.unit.service.bridge.conftest import BAD, GOOD, Scripted, run, running, verdict

URL = "https://mes.example/verdicts"


def webhook(*statuses: int, **config: Any) -> tuple[Webhook, list[httpx.Request]]:
    """Return a sink whose receiver responds with these statuses, then 204, and the requests that it gets."""
    seen: list[httpx.Request] = []
    left = list(statuses)

    def receive(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(left.pop(0) if left else 204)

    sink = Webhook(WebhookSink(type="webhook", url=URL, **config), httpx.MockTransport(receive), lambda: 1_700_000_000)
    return sink, seen


def test_the_request_is_signed_as_standard_webhooks_describes(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("whsec_" + base64.b64encode(b"key of the receiver").decode(), encoding="utf-8")
    sink, seen = webhook(secret_file=secret)
    one = verdict()

    async def main() -> None:
        async with sink.connected():
            await sink.send(one)

    run(main())
    (request,) = seen
    assert json.loads(request.content) == {"type": "verdict", "data": one.fields()}
    assert request.headers["webhook-id"] == one.picture.id
    expected = signature("key of the receiver", one.picture.id, "1700000000", request.content)
    assert request.headers["webhook-signature"] == expected


def test_a_secret_that_is_no_base64_is_rejected_at_the_start(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("whsec_a secret with blanks", encoding="utf-8")
    with pytest.raises(InvalidInput, match="what follows whsec_ in the secret of a webhook is not Base64"):
        webhook(secret_file=secret)


def test_the_signature_is_that_of_the_published_example() -> None:
    # https://github.com/standard-webhooks/standard-webhooks, the test vector of its libraries
    body = b'{"test": 2432232314}'
    signed = signature("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", body)
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_request_that_fails_is_repeated_with_the_same_id() -> None:
    sink, seen = webhook(500, 429, 408)

    async def main() -> None:
        source = Scripted()
        source.put("1")
        async with running([source], [(sink, 9)]) as bridge:
            while not bridge.counters.sinks["webhook"].sent:
                await asyncio.sleep(0)

    run(main())
    assert len({request.headers["webhook-id"] for request in seen}) == 1
    assert len(seen) == 4


def test_a_response_that_rejects_a_verdict_says_so() -> None:
    sink, _ = webhook(404)

    async def main() -> None:
        async with sink.connected():
            await sink.send(verdict())

    with pytest.raises(VerdictRejected, match="404"):
        run(main())


def test_only_the_chosen_results_are_sent() -> None:
    sink, seen = webhook(results=["fail"])

    async def main() -> None:
        async with sink.connected():
            await sink.send(verdict(GOOD))
            await sink.send(verdict(BAD))

    run(main())
    assert [json.loads(request.content)["data"]["result"] for request in seen] == ["fail"]
