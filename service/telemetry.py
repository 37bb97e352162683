"""Logging and Prometheus metrics.

Metric labels are route templates, statuses and stages, so their number is bounded; client names are never labels.
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
_WARNINGS_ONLY: Final = ("alembic", "uvicorn", "python_multipart")
"""Libraries whose messages are logged from level warning on."""

_REQUEST_SECONDS: Final = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)

Metrics = Callable[[], Mapping[str, float]]
"""Returns values by name. Names that end in ``_total`` are counters, all others are gauges."""


class _Collector(Collector):
    """Collects metrics that other objects keep, at the time of a scrape."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        """Yield one series for each value."""
        for name, value in self._metrics().items():
            text = name.replace("_", " ")
            if name.endswith("_total"):
                yield CounterMetricFamily(f"anole_{name.removesuffix('_total')}", text, value=value)
            else:
                yield GaugeMetricFamily(f"anole_{name}", text, value=value)

    def describe(self) -> Iterable[Metric]:
        """Return no names, so that registering does not read the values."""
        return ()


class Telemetry:
    """The metrics of one service, in its own registry: two services in one process do not mix."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        self.requests = Counter(
            "anole_requests", "Requests that have ended", ("method", "route", "status"), registry=registry
        )
        self.request_seconds = Histogram(
            "anole_request_seconds", "Seconds a request took", ("route",), registry=registry, buckets=_REQUEST_SECONDS
        )
        self.in_flight = Gauge("anole_requests_in_flight", "Requests in progress", registry=registry)
        self.adapt_seconds = Histogram(
            "anole_adapt_seconds", "Seconds of an adaptation, by stage", ("part",), registry=registry,
            buckets=_REQUEST_SECONDS,
        )  # fmt: skip
        self.predict_seconds = Histogram(
            "anole_predict_seconds", "Seconds of a prediction", registry=registry, buckets=_REQUEST_SECONDS
        )
        self.images = Counter("anole_images", "Predicted images, by verdict", ("verdict",), registry=registry)
        self.versions = Counter("anole_versions", "Versions, by decision of the gate", ("gate",), registry=registry)
        self.refused = Counter("anole_refused", "Requests rejected by full queues", ("work",), registry=registry)

    def add_metrics(self, metrics: Metrics) -> None:
        """Add metrics that are read at the time of a scrape, such as the length of a queue."""
        self._registry.register(_Collector(metrics))

    def exposition(self) -> bytes:
        """Return all metrics in the text format of Prometheus."""
        return generate_latest(self._registry)


def configure_logging(level: str, form: Literal["auto", "json", "console"]) -> None:
    """Write all log lines, including those of the web server, to standard error through structlog.

    Args:
        level: lowest level that is logged.
        form: "console" is text for people, "auto" is that on a terminal and JSON elsewhere.
    """
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
    )  # for the lines of libraries; our own lines skip it
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for library in _WARNINGS_ONLY:
        logging.getLogger(library).setLevel(max(root.level, logging.WARNING))
    structlog.configure(
        processors=[*shared, *last],
        logger_factory=lambda *_: structlog.WriteLogger(sys.stderr),  # the standard error of the moment
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=False,
    )


def _traces() -> structlog.typing.Processor:
    """Format tracebacks without the values of variables, which include keys and images."""
    return structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))
