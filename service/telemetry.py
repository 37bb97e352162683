"""Logging and Prometheus metrics.

Metric labels are route templates, statuses and stages, so their number is bounded; client names are never labels.
"""

from __future__ import annotations

import logging
import platform
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from typing import Final, Literal

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest, values
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from service.workers import WorkerPlace

METRICS_MEDIA_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_WARNINGS_ONLY: Final = ("alembic", "uvicorn", "python_multipart")
"""Libraries whose messages are logged from level warning on."""

_REQUEST_SECONDS: Final = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)

_PROCESS: Final = ProcessCollector(registry=None)

Metrics = Callable[[], Mapping[str, float]]
"""Returns values by name, without "anole_" unless they are of the process.

Names that end in ``_total`` are counters, all others are gauges.
"""


_HELP: Final[Mapping[str, str]] = {
    "anole_adapt_ended_total": "Adaptations that have ended, in whichever way.",
    "anole_adapt_in_work": "Adaptations that run now.",
    "anole_adapt_jobs": "Background jobs that wait or run now.",
    "anole_adapt_taken": "Requests to adapt that are read, wait or run now.",
    "anole_adapt_waiting": "Adaptations that wait for their images or their turn now.",
    "anole_candidate_dropped_total": "Images that the candidate left out, because the service was busy or it failed.",
    "anole_candidate_judged_total": "Images that the candidate judged in the background.",
    "anole_decoder_images_quarantined": "Images that crashed a decoder process and are not decoded again.",
    "anole_decoder_processes_lost_total": "Decoder processes that crashed or were ended for exceeding a limit.",
    "anole_drifting_clients": "Clients whose images drifted when they were last checked, by the worker with most.",
    "anole_predict_batched_requests_total": "Requests that were predicted, alone or with others in a batch.",
    "anole_predict_batches_total": "Batches that were predicted.",
    "anole_predict_taken": "Images of predictions that are read, wait or run now.",
    "anole_predict_waiting": "Requests that wait for a batch now.",
    "anole_predictions_dropped_total": "Images that are not in the prediction log, because it could not keep up.",
    "anole_predictions_logged_total": "Images that were written to the prediction log.",
    "anole_request_memory_bytes": "Bytes of memory that the bodies of requests take now.",
    "anole_weight_cache_bytes": "Bytes of version weights in memory.",
    "anole_weight_cache_entries": "Versions whose weights are in memory.",
    "anole_weight_cache_evictions_total": "Versions whose weights gave way to others in memory.",
    "anole_weight_cache_hits_total": "Predictions that found the weights of their version in memory.",
    "anole_weight_cache_loads_total": "Predictions that read the weights of their version from the store.",
    "anole_workers": "Worker processes that serve requests.",
    "process_cpu_seconds_total": "Seconds of processor time, user and system, of all workers.",
    "process_max_fds": "Files that one worker may have open.",
    "process_open_fds": "Files that all workers have open.",
    "process_resident_memory_bytes": "Bytes of resident memory of all workers; shared pages count for each of them.",
    "process_start_time_seconds": "Start of the oldest worker, in seconds since 1970.",
    "process_virtual_memory_bytes": "Bytes of virtual memory of all workers.",
}
"""What each metric is that other objects keep. None counts decoder processes or the supervisor."""

_NOT_SUMS: Final[Mapping[str, Literal["livemin", "livemax"]]] = {
    "anole_drifting_clients": "livemax",  # each worker checks the clients that it serves, and many serve the same
    "process_max_fds": "livemin",
    "process_start_time_seconds": "livemin",
}
"""Gauges of which the lowest or the highest of all workers is shown; all others are sums."""


def share_metrics(place: WorkerPlace) -> None:
    """Keep the metrics that are made from now on in files, which all workers of the service read.

    A worker goes on with the counters of the one that had its place before.
    """
    mark_process_dead(place.number, str(place.folder))
    values.ValueClass = values.MultiProcessValue(lambda: place.number)


class Telemetry:
    """The metrics of one service, in its own registry: two services in one process do not mix.

    Args:
        place: of this worker, if there are several; `share_metrics` was called with it. The exposition is then that of
            all workers.
    """

    def __init__(self, place: WorkerPlace | None = None) -> None:
        registry = self._registry = CollectorRegistry()
        self._place = place
        self._sources: list[Metrics] = [lambda: {"workers": 1}, _process_metrics]
        self._mirrored: dict[str, Counter | Gauge] = {}
        self._seen: dict[str, float] = {}
        self._lock = threading.Lock()
        self.requests = Counter(
            "anole_requests", "Requests that have ended, by route and status.", ("method", "route", "status"),
            registry=registry,
        )  # fmt: skip
        self.request_seconds = Histogram(
            "anole_request_seconds", "Seconds from the head of a request to the end of its response.", ("route",),
            registry=registry, buckets=_REQUEST_SECONDS,
        )  # fmt: skip
        self.in_flight = Gauge(
            "anole_requests_in_flight", "Requests in progress now.", registry=registry, multiprocess_mode="livesum"
        )
        self.adapt_seconds = Histogram(
            "anole_adapt_seconds", "Seconds of an adaptation that made a version, by stage.", ("part",),
            registry=registry, buckets=_REQUEST_SECONDS,
        )  # fmt: skip
        self.predict_seconds = Histogram(
            "anole_predict_seconds", "Seconds of a prediction, with its time in the queue.", registry=registry,
            buckets=_REQUEST_SECONDS,
        )  # fmt: skip
        self.images = Counter("anole_images", "Predicted images, by verdict.", ("verdict",), registry=registry)
        self.versions = Counter(
            "anole_versions", "Versions that were made, by decision of the gate.", ("gate",), registry=registry
        )
        self.refused = Counter(
            "anole_refused", "Requests rejected by full queues and by limits, by kind of work.", ("work",),
            registry=registry,
        )  # fmt: skip
        self._build = Gauge(
            "anole_build_info", "1 for each model that is served, with the versions that serve it.",
            ("version", "python", "torch", "model", "model_digest"), registry=registry, multiprocess_mode="livemax",
        )  # fmt: skip

    def set_build(self, models: Iterable[tuple[str, str]]) -> None:
        """Show the versions of this release, Python and torch, with the name and digest of each model."""
        anole, torch = metadata.version("anole"), metadata.version("torch")
        for name, digest in models:
            self._build.labels(anole, platform.python_version(), torch, name, digest).set(1)

    def add_metrics(self, metrics: Metrics) -> None:
        """Add metrics that other objects keep, such as the length of a queue. They are read by `refresh`."""
        self._sources.append(metrics)

    def refresh(self) -> None:
        """Read the metrics that other objects keep. With several workers, each calls it once a second. Thread-safe."""
        with self._lock:
            for source in self._sources:
                for name, value in source().items():
                    self._mirror(name if name.startswith("process_") else f"anole_{name}", value)

    def exposition(self) -> bytes:
        """Return the metrics of all workers in the text format of Prometheus; those of others are a second old."""
        self.refresh()
        if self._place is None:
            return generate_latest(self._registry)
        for number in self._place.free():
            mark_process_dead(number, str(self._place.folder))
        registry = CollectorRegistry()
        MultiProcessCollector(registry, str(self._place.folder))
        return generate_latest(registry)

    def _mirror(self, name: str, value: float) -> None:
        """Show a value. A counter is shown as the sum of its increases, so that it never falls with a worker."""
        metric = self._mirrored.get(name)
        if metric is None:
            text = _HELP.get(name, name.replace("_", " "))
            metric = self._mirrored[name] = (
                Counter(name, text, registry=self._registry)
                if name.endswith("_total")
                else Gauge(name, text, registry=self._registry, multiprocess_mode=_NOT_SUMS.get(name, "livesum"))
            )
        if isinstance(metric, Counter):
            metric.inc(value - self._seen.get(name, 0.0))
            self._seen[name] = value
        else:
            metric.set(value)


def _process_metrics() -> dict[str, float]:
    """Processor time, memory and open files of this process, as Prometheus names them."""
    return {sample.name: sample.value for metric in _PROCESS.collect() for sample in metric.samples}


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
