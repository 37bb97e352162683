"""Traces in the format of OpenTelemetry: one span for a request, and one for each stage of its work.

`start` turns them on. Before that, nothing is recorded and nothing of OpenTelemetry is imported. Stages run in threads
of queues and batches, so their spans are recorded when they have ended, with the context of the request.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final

from service.errors import InvalidSettings

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

_NANOSECONDS: Final = 1_000_000_000
_SERVER_ERROR: Final = 500


@dataclass(frozen=True, slots=True)
class _Recorder:
    provider: TracerProvider

    def record(self, name: str, started_s: float, ended_s: float, parent: Context | None) -> None:
        tracer = self.provider.get_tracer("anole")
        offset_ns = time.time_ns() - int(time.monotonic() * _NANOSECONDS)
        span = tracer.start_span(name, parent, start_time=offset_ns + int(started_s * _NANOSECONDS))
        span.end(offset_ns + int(ended_s * _NANOSECONDS))


_recorder: _Recorder | None = None


def start(provider: TracerProvider | None = None) -> None:
    """Record spans from now on.

    Args:
        provider: where spans go. By default to the collector that OpenTelemetry's variables name, by OTLP over HTTP.

    Raises:
        InvalidSettings: the extra `otel` is not installed.
    """
    global _recorder  # noqa: PLW0603 - one for the process, as in OpenTelemetry itself
    if _recorder is None:
        _recorder = _Recorder(provider or _exporting())


def stop() -> None:
    """Send the spans that are left, and record no more."""
    global _recorder
    recorder, _recorder = _recorder, None
    if recorder is not None:
        recorder.provider.shutdown()


def current() -> Context | None:
    """Return the context that later spans of this request belong to; None while nothing is recorded."""
    if _recorder is None:
        return None
    from opentelemetry import context

    return context.get_current()


def record(name: str, started_s: float, ended_s: float | None = None, parent: Context | None = None) -> None:
    """Record a stage.

    Args:
        name: of the stage.
        started_s: when it started, in seconds of `time.monotonic`.
        ended_s: when it ended; default: now.
        parent: as `current` returned it; default: the context of this thread.
    """
    if _recorder is not None:
        _recorder.record(name, started_s, time.monotonic() if ended_s is None else ended_s, parent)


def follow(name: str, work: Future[Any]) -> None:
    """Record a stage from now until the future is done."""
    if _recorder is not None:
        started_s, parent = time.monotonic(), current()
        work.add_done_callback(lambda _: record(name, started_s, parent=parent))


class RequestSpan:
    """The span of a request. It is the parent of what is recorded in its context, until it ends.

    Attributes:
        trace_id: 32 hexadecimal digits, for log lines.
        traceresponse: the value of the response header of that name (W3C Trace Context Level 2).
    """

    def __init__(self, recorder: _Recorder, headers: Iterable[tuple[bytes, bytes]]) -> None:
        from opentelemetry import context, trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        carrier = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}
        parent = TraceContextTextMapPropagator().extract(carrier)
        tracer = recorder.provider.get_tracer("anole")
        self._span: Span = tracer.start_span("request", parent, trace.SpanKind.SERVER)
        self._token = context.attach(trace.set_span_in_context(self._span, parent))
        self._detach = context.detach
        found = self._span.get_span_context()
        self.trace_id = f"{found.trace_id:032x}"
        self.traceresponse = f"00-{self.trace_id}-{found.span_id:016x}-{found.trace_flags:02x}"

    def end(self, method: str, route: str, status: int) -> None:
        """End the span.

        Args:
            method: of the request.
            route: its template, such as `/clients/{client}`.
            status: of the response.
        """
        from opentelemetry.trace import StatusCode

        self._detach(self._token)
        self._span.update_name(f"{method} {route}")
        self._span.set_attributes(
            {"http.request.method": method, "http.route": route, "http.response.status_code": status}
        )
        if status >= _SERVER_ERROR:
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


def begin_request(headers: Iterable[tuple[bytes, bytes]]) -> RequestSpan | None:
    """Begin the span of a request, as a child of the caller's if its headers say so; None while nothing is recorded."""
    return None if _recorder is None else RequestSpan(_recorder, headers)


def _exporting() -> TracerProvider:
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise InvalidSettings(
            f"the variables of OpenTelemetry ask for traces, which need the extra otel ({error}); install it with "
            "`pip install -e '.[otel]'`, or set OTEL_TRACES_EXPORTER=none"
        ) from error
    resource = Resource.create({SERVICE_VERSION: metadata.version("anole")})
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: "anole"}))
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider
