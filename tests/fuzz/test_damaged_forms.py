"""Damaged multipart bodies against the whole service: each gets a response, never 500, and memory does not grow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import anyio
import numpy as np
import pytest

from tests.fuzz.conftest import cases, resident_mib, seed
from tests.generated import striped
from tests.in_process import Web
from tests.mutations import FORM, FormCase, damaged_form, encode_form, valid_forms

ALLOWED = {200, 201, 400, 404, 409, 413, 415, 422, 503}
BUSY_SHARE = 0.01
"""At most this share of the responses may be 503: where the machine is busy, a form can exceed its time limit."""
GROWTH_MIB = 64.0


async def send_case(app: Any, case: FormCase) -> tuple[int, bytes]:
    """Send a case to the application. Return the status and the body of the response."""
    pending = [
        {"type": "http.request", "body": piece, "more_body": index < len(case.pieces) - 1}
        for index, piece in enumerate(case.pieces)
    ]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if not pending:
            await anyio.sleep_forever()  # the sender stays connected and waits for the response
        return pending.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    headers = [(b"host", b"127.0.0.1"), (b"content-type", case.content_type)]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": case.path, "raw_path": case.path.encode(), "query_string": b"", "root_path": "", "headers": headers,
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8000),
    }  # fmt: skip
    await app(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


async def run_cases(app: Any, generator: np.random.Generator, forms: Sequence[Any], count: int) -> Counter[int]:
    """Try `count` cases and count the statuses. Fail at the first status that is not allowed."""
    counts: Counter[int] = Counter()
    for _ in range(count):
        case = damaged_form(generator, forms)
        status, body = await send_case(app, case)
        counts[status] += 1
        assert status in ALLOWED, (status, body, case)
    return counts


@pytest.mark.slow
def test_every_damaged_form_gets_a_response_and_leaks_no_memory(web: Web, print_line: Callable[[str], None]) -> None:
    count, generator = cases("forms", 400), np.random.default_rng(seed())
    forms = valid_forms(striped(2, 4), striped(2, 13))
    app = web.transport.app
    for path, parts in forms:
        status, body = web.portal.call(send_case, app, FormCase(path, FORM, (encode_form(parts),)))
        assert status in {200, 201}, body
    counts = web.portal.call(run_cases, app, generator, forms, count // 4)
    before_mib = resident_mib()
    for _ in range(3):
        web("DELETE", "/clients/line")
        counts += web.portal.call(run_cases, app, generator, forms, count // 4)
    grown_mib = resident_mib() - before_mib
    print_line(
        f"{counts.total():,} damaged forms: {dict(sorted(counts.items()))}; the process grew by {grown_mib:.1f} MiB"
    )
    assert len(counts) >= 4
    assert counts[503] <= BUSY_SHARE * counts.total()
    assert grown_mib < GROWTH_MIB
    assert "anole_decoder_processes_lost_total 0.0" in web("GET", "/metrics").text
