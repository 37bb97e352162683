"""The FastAPI application: routes, middleware, and what starts and stops with it."""

from __future__ import annotations

import asyncio
import gc
import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from functools import partial
from importlib import metadata
from types import FrameType
from typing import Any, Final

import structlog
from anyio import to_thread
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.middleware import Middleware

from service import bootstrap, tracing
from service.bootstrap import Services
from service.http import problems
from service.http.dependencies import Context
from service.http.middleware.admission import AdmissionLimit, MemoryBudget
from service.http.middleware.auth import AuthMiddleware
from service.http.middleware.cors import cors
from service.http.middleware.limits import (
    ADAPT_ROUTES,
    CORRECTIONS,
    EXPORTS,
    GRPC_INFER,
    GRPC_SERVICE,
    IMPORTS,
    INFER_ROUTES,
    BodyPace,
    LimitsMiddleware,
    RouteLimits,
)
from service.http.middleware.logging import RequestMiddleware
from service.http.middleware.rates import LocalTable, SharedTable, UsageTable
from service.http.openapi import DESCRIPTION, Application
from service.http.routes import (
    adapt,
    aliases,
    audit,
    clients,
    console,
    corrections,
    docs,
    export,
    health,
    inference_protocol,
    jobs,
    models,
    predict,
    predictions,
    samples,
    session,
    versions,
)
from service.settings import Settings, load_settings, tracing_requested, worker_folder
from service.telemetry import Telemetry, configure_logging, share_metrics
from service.usecases.predict import BATCH_IMAGES, BATCHES, WAITING_IMAGES
from service.workers import WorkerPlace

ROUTERS: Final = tuple(
    resource.router
    for resource in (
        *(predict, predictions, adapt, jobs),
        *(clients, versions, export, samples, corrections, aliases),
        *(models, inference_protocol, session, audit, health, docs, console),
    )
)
_TAGS: Final = [
    *("adapt", "predict", "predictions", "clients", "versions", "samples", "aliases", "models"),
    *("inference protocol", "session"),
    "operations",
]
_FORM: Final = "multipart/form-data"
_BINARY: Final = "application/octet-stream"

MAX_IMAGES: Final = BATCHES * BATCH_IMAGES + WAITING_IMAGES
"""Images of predictions that wait or run at the same time."""

LOGIN_BODY_BYTES: Final = 1024

CORRECTIONS_BODY_BYTES: Final = 1024 * 1024
"""Enough for a new label for every sample of the largest version."""

MEMORY_BODIES: Final = 8
"""Memory for the bodies of requests and what is unpacked from them, as a multiple of the largest body."""

_REFRESH_S: Final = 1.0

Build = Callable[[Settings], Services]


def application() -> FastAPI:
    """Return the application of a worker process, with settings from the environment."""
    threading.Thread(target=_stop_with_supervisor, name="supervisor", daemon=True).start()
    settings, folder = load_settings(), worker_folder()
    configure_logging(settings.log_level, settings.log_format)
    place = None if folder is None else WorkerPlace(folder)
    if place is not None:
        share_metrics(place)
    return create_app(settings, lambda settings: freeze_objects(bootstrap.build(settings, stop_process)), place)


def _stop_with_supervisor() -> None:
    """Stop this worker when its supervisor dies, so that no worker keeps the port of a service that is gone."""
    supervisor = multiprocessing.parent_process()
    if supervisor is not None:
        supervisor.join()
        structlog.get_logger("anole.app").error("the supervisor has died, stopping")
        os.kill(os.getpid(), signal.SIGTERM)


def freeze_objects(services: Services) -> Services:
    """Exclude all current objects from garbage collection, before the process starts to serve.

    Modules and the model are some hundred thousand objects that are never freed. Scanning them would stop every
    request for a tenth of a second or more.
    """
    gc.collect()
    gc.freeze()
    return services


def stop_process(reason: str) -> None:
    """Stop this process, so that its supervisor starts a new one that reads the state of the disk."""
    structlog.get_logger("anole.app").error("the store is no longer durable, stopping", reason=reason)
    os.kill(os.getpid(), signal.SIGTERM)


def create_app(
    settings: Settings, build: Build = bootstrap.build, place: WorkerPlace | None = None, *, predictors: int = 1
) -> FastAPI:
    """Create the application. Nothing is opened before it starts.

    Args:
        settings: all settings.
        build: opens and connects the use cases when the application starts.
        place: of this worker, if there are several; `share_metrics` was called with it.
        predictors: processes that predict for this one at most.
    """
    telemetry = Telemetry(place)
    adapting, predicting, memory = _admission(settings, telemetry, predictors)
    telemetry.add_metrics(
        lambda: {
            "adapt_taken": adapting.requests,
            "predict_taken": predicting.images,
            "request_memory_bytes": memory.used_bytes,
        }
    )
    limits = {
        **dict.fromkeys([*ADAPT_ROUTES, EXPORTS], RouteLimits(admission=adapting)),
        ("POST", "/adapt"): RouteLimits(settings.adapt_body_bytes, (_FORM,), adapting, "ANOLE_ADAPT_BODY_BYTES"),
        ("POST", "/session"): RouteLimits(LOGIN_BODY_BYTES, ("application/json",)),
        CORRECTIONS: RouteLimits(CORRECTIONS_BODY_BYTES, ("application/json",), adapting),
        IMPORTS: RouteLimits(settings.adapt_body_bytes, (_BINARY,), adapting, "ANOLE_ADAPT_BODY_BYTES"),
        ("POST", "/predict"): RouteLimits(
            settings.predict_body_bytes, (_FORM, "image/"), predicting, "ANOLE_PREDICT_BODY_BYTES"
        ),
        **dict.fromkeys(
            [*INFER_ROUTES, GRPC_INFER],
            RouteLimits(settings.predict_body_bytes, admission=predicting, setting="ANOLE_PREDICT_BODY_BYTES"),
        ),
    }
    pace = BodyPace(settings.body_s, settings.body_idle_s, settings.body_bytes_per_s)
    app = Application(
        title="Anole",
        version=metadata.version("anole"),
        description=DESCRIPTION,
        openapi_tags=[{"name": name} for name in _TAGS],
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        lifespan=_lifespan(settings, telemetry, build, place),
        generate_unique_id_function=lambda route: route.name,
        middleware=[  # from the outside to the inside
            Middleware(RequestMiddleware, telemetry=telemetry),
            *cors(settings.cors_origins),
            Middleware(AuthMiddleware, settings=settings, telemetry=telemetry, usage=partial(_usage, place)),
            Middleware(LimitsMiddleware, limits=limits, pace=pace),
        ],
    )
    _include_routes(app, settings)
    app.add_route("/openapi.json", docs.description, include_in_schema=False)
    problems.install(app)
    return app


def _include_routes(app: Application, settings: Settings) -> None:
    app.routers = ROUTERS
    for router in ROUTERS:
        app.include_router(router)
    if settings.grpc_port is not None:
        from service.http.routes import inference_grpc

        app.include_router(inference_grpc.router)


def _admission(
    settings: Settings, telemetry: Telemetry, predictors: int
) -> tuple[AdmissionLimit, AdmissionLimit, MemoryBudget]:
    """Return the limits of adaptations and of predictions, and the memory that both share."""
    memory = MemoryBudget(MEMORY_BODIES * max(settings.adapt_body_bytes, settings.predict_body_bytes))
    adapting = AdmissionLimit("adapt", telemetry, settings.adapt_running + settings.adapt_waiting, memory=memory)
    images = MAX_IMAGES * predictors
    return adapting, AdmissionLimit("predict", telemetry, images, images, memory), memory


def _usage(place: WorkerPlace | None, name: str) -> UsageTable:
    """Return the table of what callers have used, in all workers."""
    return LocalTable() if place is None else SharedTable(place, name)


async def _refresh_for_ever(telemetry: Telemetry) -> None:
    """Show the other workers the metrics of this one."""
    while True:
        await asyncio.sleep(_REFRESH_S)
        await to_thread.run_sync(telemetry.refresh)


def _lifespan(
    settings: Settings, telemetry: Telemetry, build: Build, place: WorkerPlace | None
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        log = structlog.get_logger("anole.app")
        if tracing_requested():
            await to_thread.run_sync(tracing.start)
        services = await to_thread.run_sync(build, settings)
        app.state.context = Context(services, settings, telemetry)
        telemetry.add_metrics(services.metrics)
        telemetry.set_build((each.name, each.digest) for each in services.checkpoints.list())
        refreshing = None if place is None else asyncio.create_task(_refresh_for_ever(telemetry))
        await to_thread.run_sync(services.keys.read)
        log.info("ready", model=",".join(settings.model), data=str(settings.data))
        if services.keys.open:
            log.warning("no API key was ever created: everyone who can connect has access", host=settings.host)
        stopping = _StopTimer(settings.drain_s + settings.stop_s)

        def drain() -> None:
            stopping.start()
            services.readiness.drain()

        try:
            async with _grpc_server(app, settings, stopping) as stop_grpc:
                with _drain_before_stop(drain, settings.drain_s, stop_grpc):
                    yield
        finally:
            await to_thread.run_sync(services.finish, stopping.remaining_s)
            await to_thread.run_sync(services.close)
            await to_thread.run_sync(tracing.stop)
            if refreshing is not None:
                refreshing.cancel()
            if place is not None:
                supervisor = multiprocessing.parent_process()
                place.leave(last_deletes=supervisor is not None and not supervisor.is_alive())
            log.info("stopped")

    return lifespan


@asynccontextmanager
async def _grpc_server(app: FastAPI, settings: Settings, stopping: _StopTimer) -> AsyncIterator[Callable[[], None]]:
    """Serve gRPC inside the block if the settings say so. Yields a function that begins to stop it."""
    if settings.grpc_port is None:
        yield lambda: None
        return
    from service.http.grpc.server import GrpcServer
    from service.http.routes import inference_grpc

    methods = [route.path.rpartition("/")[2] for route in inference_grpc.router.routes if isinstance(route, APIRoute)]
    server = GrpcServer(app, GRPC_SERVICE, methods, settings.predict_body_bytes)
    await server.start(settings.host, settings.grpc_port)
    ending: list[asyncio.Task[None]] = []
    try:
        yield lambda: ending.append(asyncio.create_task(server.stop(stopping.remaining_s)))
    finally:
        await asyncio.gather(server.stop(stopping.remaining_s), *ending)


class _StopTimer:
    """The time that a stopping process has left."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end_s = math.inf

    def start(self) -> None:
        """Start the timer, unless it runs."""
        self._end_s = min(self._end_s, time.monotonic() + self._seconds)

    @property
    def remaining_s(self) -> float:
        """Remaining seconds. Starts the timer if necessary."""
        self.start()
        return max(0.0, self._end_s - time.monotonic())


@contextmanager
def _drain_before_stop(drain: Callable[[], None], drain_s: float, stop_others: Callable[[], None]) -> Iterator[None]:
    """On SIGTERM or SIGHUP, call `drain`; `drain_s` seconds later call `stop_others` and pass the signal to the web
    server.

    A load balancer sees ``/readyz`` fail and sends no more requests before the port closes. SIGHUP, which a closing
    terminal sends, stays ignored for a process that was started by ``nohup``.
    """
    stop = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or not callable(stop):
        yield
        return
    loop = asyncio.get_running_loop()

    def stop_all(number: int, frame: FrameType | None) -> None:
        stop_others()
        stop(number, frame)

    def on_signal(number: int, frame: FrameType | None) -> Any:
        drain()
        loop.call_soon_threadsafe(loop.call_later, drain_s, stop_all, number, frame)

    before: dict[int, Any] = {signal.SIGTERM: stop}
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        before[signal.SIGHUP] = signal.SIG_DFL
    for number in before:
        signal.signal(number, on_signal)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
