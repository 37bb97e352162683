"""Logs and figures: structlog's set-up and one Prometheus registry with every series of the service.

It knows no request and no client: labels are route templates, statuses and parts of the work, a bounded number.
Nothing is registered or configured at import.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Literal

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

METRICS_MEDIA_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_CHATTY: Final = ("alembic", "uvicorn", "python_multipart")
"""Libraries whose remarks are not worth a line each; their warnings are."""

_REQUEST_SECONDS: Final = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)

Readings = Callable[[], Mapping[str, float]]
"""Yields figures by name at the moment of a scrape; a name that ends in ``_total`` is a counter, any other a gauge."""


class _Scraped(Collector):
    """Figures that another object keeps already, read when somebody asks."""

    def __init__(self, readings: Readings) -> None:
        self._readings = readings

    def collect(self) -> Iterable[Metric]:
        """Yield one series a reading."""
        for name, value in self._readings().items():
            text = name.replace("_", " ")
            if name.endswith("_total"):
                yield CounterMetricFamily(f"anole_{name.removesuffix('_total')}", text, value=value)
            else:
                yield GaugeMetricFamily(f"anole_{name}", text, value=value)

    def describe(self) -> Iterable[Metric]:
        """Nothing is known before the first scrape, so registering reads nothing."""
        return ()


class Telemetry:
    """The service's figures in a registry of their own, so that two services in one process do not mix."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        self.requests = Counter("anole_requests", "Requests answered", ("method", "route", "status"), registry=registry)
        self.request_seconds = Histogram(
            "anole_request_seconds", "Seconds a request took", ("route",), registry=registry, buckets=_REQUEST_SECONDS
        )
        self.in_flight = Gauge("anole_requests_in_flight", "Requests being answered", registry=registry)
        self.adapt_seconds = Histogram(
            "anole_adapt_seconds", "Seconds of an adaptation by part", ("part",), registry=registry,
            buckets=_REQUEST_SECONDS,
        )  # fmt: skip
        self.predict_seconds = Histogram(
            "anole_predict_seconds", "Seconds of a prediction", registry=registry, buckets=_REQUEST_SECONDS
        )
        self.images = Counter("anole_images", "Images judged, by verdict", ("verdict",), registry=registry)
        self.versions = Counter("anole_versions", "Versions made, by the gate's decision", ("gate",), registry=registry)
        self.refused = Counter("anole_refused", "Requests refused because of full queues", ("work",), registry=registry)

    def scrape(self, readings: Readings) -> None:
        """Add figures that are read at scrape time, such as the depth of a queue."""
        self._registry.register(_Scraped(readings))

    def exposition(self) -> bytes:
        """Every series in Prometheus' text format."""
        return generate_latest(self._registry)


def configure_logging(level: str, form: Literal["auto", "json", "console"]) -> None:
    """Send every log line, the web server's included, through structlog to standard error."""
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)]
        if console
        else [_traces(), structlog.processors.JSONRenderer(sort_keys=True)]
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder(allow=())],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
    )  # for the lines of libraries; our own take the short way to the same place
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for chatty in _CHATTY:
        logging.getLogger(chatty).setLevel(max(root.level, logging.WARNING))
    structlog.configure(
        processors=[*shared, *last],
        logger_factory=lambda *_: structlog.WriteLogger(sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=False,
    )


def _traces() -> structlog.typing.Processor:
    """Traces without the values of variables: among those are headers with keys, and images."""
    return structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))
