"""Traces of real requests: which spans they have, whose children they are, and that none are recorded unless asked."""

from __future__ import annotations

import http.server
import io
import sys
import threading
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from PIL import Image

from service import tracing
from service.errors import InvalidSettings
from service.settings import tracing_requested
from tests.in_process import Web

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
ADAPT = {"decode", "queue", "prepare", "adapt", "examine", "store"}


def picture(tone: int, seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(tone, tone + 20, (32, 32), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


SAMPLES = [("samples", (f"{seed}.png", picture(tone, seed))) for seed, tone in enumerate((20, 20, 200, 200))]
FORM = {"client": "line", "labels": ["dark", "dark", "light", "light"], "publish": "always"}


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    """The spans that have been recorded."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing.start(provider)
    yield exporter
    tracing.stop()


def named(spans: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in spans.get_finished_spans()}


def stages_of(request: ReadableSpan, found: dict[str, ReadableSpan]) -> set[str]:
    """The names of the spans in the request, after a check that they belong to it."""
    assert request.context is not None
    children = {name: span for name, span in found.items() if span is not request}
    for span in children.values():
        assert span.parent is not None
        assert (span.parent.trace_id, span.parent.span_id) == (request.context.trace_id, request.context.span_id)
        assert span.start_time is not None
        assert span.end_time is not None
        assert span.start_time <= span.end_time
    return set(children)


def test_an_adaptation_has_a_span_for_each_stage_in_the_trace_of_the_caller(
    web: Web, spans: InMemorySpanExporter
) -> None:
    response = web("POST", "/adapt", data=FORM, files=SAMPLES, headers=TRACEPARENT)
    assert response.status_code == 201
    found = named(spans)
    request = found["POST /adapt"]
    assert request.parent is not None
    assert (f"{request.parent.trace_id:032x}", f"{request.parent.span_id:016x}") == (TRACE, CALLER)
    assert request.attributes == {
        "http.request.method": "POST",
        "http.route": "/adapt",
        "http.response.status_code": 201,
    }
    assert stages_of(request, found) == ADAPT


def test_a_prediction_has_spans_and_folds_the_weights_once(web: Web, spans: InMemorySpanExporter) -> None:
    web("POST", "/adapt", data=FORM, files=SAMPLES)
    images = [("images", SAMPLES[0][1])]
    for stages in ({"decode", "queue", "fold", "predict"}, {"decode", "queue", "predict"}):
        spans.clear()
        response = web("POST", "/predict", data={"client": "line"}, files=images)
        found = named(spans)
        assert stages_of(found["POST /predict"], found) == stages
        context = found["POST /predict"].context
        assert context is not None
        ids = f"{context.trace_id:032x}-{context.span_id:016x}"
        assert response.headers["traceresponse"] == f"00-{ids}-{context.trace_flags:02x}"


def test_the_spans_of_a_job_belong_to_the_request_that_asked_for_it(web: Web, spans: InMemorySpanExporter) -> None:
    headers = {"Prefer": "respond-async", **TRACEPARENT}
    job = web("POST", "/adapt", data=FORM, files=SAMPLES, headers=headers).json()["job"]
    assert '"version":1' in web("GET", f"/jobs/{job}/events").text
    found = named(spans)
    del found["GET /jobs/{job}/events"]
    assert stages_of(found["POST /adapt"], found) == ADAPT


def test_only_an_error_of_the_service_marks_its_span(web: Web, spans: InMemorySpanExporter) -> None:
    response = web("POST", "/predict", data={"client": "line"}, files=[("images", SAMPLES[0][1])])
    assert response.status_code == 404
    failing = tracing.begin_request([])
    assert failing is not None
    failing.end("GET", "/clients", 500)
    found = named(spans)
    assert (found["POST /predict"].status.is_ok, found["GET /clients"].status.is_ok) == (True, False)


def test_nothing_is_recorded_unless_tracing_was_started(web: Web) -> None:
    response = web("GET", "/livez", headers=TRACEPARENT)
    assert "traceresponse" not in response.headers
    assert tracing.current() is None
    assert tracing.begin_request([]) is None


@pytest.mark.parametrize(
    ("variables", "requested"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, False),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_TRACES_EXPORTER": "otlp"}, False),
    ],
)
def test_the_standard_variables_say_whether_traces_are_sent(
    variables: dict[str, str], requested: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert tracing_requested() is requested


def test_an_exporter_that_is_not_supported_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "zipkin")
    with pytest.raises(InvalidSettings, match="'zipkin'; otlp and none are supported"):
        tracing_requested()


def test_without_the_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(InvalidSettings, match=r"\[otel\]"):
        tracing.start()


class Collector(http.server.BaseHTTPRequestHandler):
    """Receives spans by OTLP over HTTP."""

    received: ClassVar[list[tuple[str, bytes]]] = []

    def do_POST(self) -> None:
        self.received.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


def test_spans_are_sent_to_the_collector_that_the_variables_name(monkeypatch: pytest.MonkeyPatch) -> None:
    server = http.server.HTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        tracing.start()
        tracing.record("a stage", 0.0)
        tracing.stop()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    ((path, body),) = Collector.received
    assert path == "/v1/traces"
    assert b"a stage" in body
    assert b"anole" in body
