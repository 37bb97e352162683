"""The application: resources, middleware and problems put together, and the services' life around it.

It knows no learning and no store; `bootstrap.build` wires those, when the application starts and not before.
"""

from __future__ import annotations

import asyncio
import gc
import math
import os
import re
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from importlib import metadata
from types import FrameType
from typing import Any, Final, Protocol

import structlog
from anyio import to_thread
from fastapi import FastAPI
from starlette.types import ASGIApp

from service import bootstrap
from service.http import problems
from service.http.dependencies import AdmissionLimit, Context
from service.http.direct import Direct
from service.http.mailbox import Mailbox
from service.http.middleware.auth import AuthMiddleware
from service.http.middleware.logging import BodyLimitMiddleware, BodyRule, RequestMiddleware
from service.http.middleware.shedding import Shedding
from service.http.openapi import Application
from service.http.ports import Services
from service.http.routes import adapt, aliases, clients, docs, health, jobs, predict, versions
from service.http.routes import models as meta_models
from service.http.routes import settings as choices
from service.settings import Settings, load_settings
from service.telemetry import Telemetry, configure_logging
from service.usecases.jobs import Jobs
from service.usecases.predict import BATCH_IMAGES, BATCHES, WAITING_IMAGES

_DESCRIPTION: Final = """Send a few labelled images to `/adapt`, get a version; send images to `/predict`, get verdicts.
Errors are RFC 9457 problems with a stable `code`."""
_TAGS: Final = ["adapt", "predict", "clients", "versions", "aliases", "models", "operations"]
_FORM: Final = "multipart/form-data"
OTHER_BODY_BYTES: Final = 64 * 1024
"""Body of a request to any route but /adapt and /predict."""

_PREDICT: Final = ("POST", "/predict")


class OpenServices(Services, Protocol):
    """Use cases that hold something open."""

    @property
    def readings(self) -> Callable[[], Mapping[str, float]]:
        """Figures of the moment, by name."""
        ...

    @property
    def finish(self) -> Callable[[float], None]:
        """Ends the adaptations that were accepted, within so many seconds, and takes no more."""
        ...

    @property
    def close(self) -> Callable[[], None]:
        """Lets go of what they hold."""
        ...


Build = Callable[[Settings], OpenServices]


def application() -> FastAPI:
    """What a worker process serves: settings from the environment, logs set up."""
    settings = load_settings()
    configure_logging(settings.log_level, settings.log_format)
    return create_app(settings, lambda settings: set_aside(bootstrap.build(settings, end_process)))


def set_aside(services: OpenServices) -> OpenServices:
    """Keep all that this process has made so far out of its garbage collections, now that it is about to serve.

    The modules and the net are some hundred thousand objects that stay for good. A collection that looks through them
    stops every request for a tenth of a second and more.
    """
    gc.collect()
    gc.freeze()
    return services


def end_process(said: str) -> None:
    """Ask this process to drain and end, so that its supervisor starts one that knows what is on the disk."""
    structlog.get_logger("anole.app").error("the store is not durable any more, ending", reason=said)
    os.kill(os.getpid(), signal.SIGTERM)


def create_app(settings: Settings, build: Build = bootstrap.build) -> FastAPI:
    """Put the application together. Nothing is opened before it starts.

    Args:
        settings: all of them.
        build: what opens and wires the use cases at start.
    """
    telemetry = Telemetry()
    app = Application(
        title="Anole",
        version=metadata.version("anole"),
        description=_DESCRIPTION,
        openapi_tags=[{"name": name} for name in _TAGS],
        docs_url=None,
        redoc_url=None,
        lifespan=_lifespan(settings, telemetry, build),
    )
    for resource in (adapt, jobs, predict, clients, choices, versions, aliases, meta_models, health, docs):
        app.include_router(resource.router)
    problems.install(app)

    def surrounded(inside: ASGIApp) -> ASGIApp:
        """What a request passes, from the outside to the inside: read it from the last line to the first."""
        direct = Direct(inside, {_PREDICT: predict.judge})
        bounded = BodyLimitMiddleware(direct, _body_rules(settings))
        behind_the_door = AuthMiddleware(bounded, settings, telemetry)
        enveloped = RequestMiddleware(behind_the_door, telemetry)
        return Shedding(enveloped, {_PREDICT: lambda: _room_of(app)}, telemetry)

    app.surround(surrounded)
    return app


def _room_of(app: FastAPI) -> AdmissionLimit | None:
    context: Context | None = getattr(app.state, "context", None)
    return None if context is None else context.predict_limit


def _body_rules(settings: Settings) -> tuple[BodyRule, ...]:
    anything = re.compile(".*", re.DOTALL)
    json_paths = re.compile("/clients/.*/(aliases/.*|settings)", re.DOTALL)
    return (
        BodyRule(re.compile("/adapt"), settings.adapt_body_bytes, "POST", (_FORM,)),
        BodyRule(re.compile("/predict"), settings.predict_body_bytes, "POST", (_FORM, "image/")),
        BodyRule(json_paths, OTHER_BODY_BYTES, "PUT", ("application/json",)),
        BodyRule(anything, OTHER_BODY_BYTES),
    )


def _lifespan(
    settings: Settings, telemetry: Telemetry, build: Build
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        log = structlog.get_logger("anole.app")
        services = await to_thread.run_sync(build, settings)
        context = Context(
            services=services,
            settings=settings,
            telemetry=telemetry,
            adapt_limit=AdmissionLimit("adapt", settings.adapt_running, settings.adapt_waiting, telemetry),
            predict_limit=AdmissionLimit("predict", BATCHES * BATCH_IMAGES, WAITING_IMAGES, telemetry),
            mailbox=Mailbox(),
            jobs=Jobs(),
        )
        app.state.context = context
        telemetry.scrape(lambda: {**services.readings(), **_rooms(context)})
        await to_thread.run_sync(services.keys.read)
        log.info("ready", model=settings.model, data=str(settings.data))
        if services.keys.open:
            log.warning("open to whoever can_access it: no key was ever made", host=settings.host)
        last = _Last(settings.drain_s + settings.stop_s)

        def drain() -> None:
            last.begin()
            services.readiness.drain()

        try:
            with _draining_first(drain, settings.drain_s):
                yield
        finally:
            await to_thread.run_sync(services.finish, last.left_s)
            await to_thread.run_sync(services.close)
            log.info("stopped")

    return lifespan


def _rooms(context: Context) -> dict[str, float]:
    rooms = {"adapt_taken": context.adapt_limit.taken, "predict_taken": context.predict_limit.taken}
    return {**rooms, **context.jobs.readings()}


class _Last:
    """How much is left of the time that a stopping process has."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until = math.inf

    def begin(self) -> None:
        """It stops from now on."""
        self._until = min(self._until, time.monotonic() + self._seconds)

    @property
    def left_s(self) -> float:
        """Seconds; it begins now if it has not begun."""
        self.begin()
        return max(0.0, self._until - time.monotonic())


@contextmanager
def _draining_first(drain: Callable[[], None], drain_s: float) -> Iterator[None]:
    """Let SIGTERM make ``/readyz`` answer 503 first, and reach the web server's own handler `drain_s` later.

    A load balancer then sends nothing new before the port closes. Without a server's handler nothing is changed.
    """
    serve_no_more = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or not callable(serve_no_more):
        yield
        return
    loop = asyncio.get_running_loop()

    def on_sigterm(number: int, frame: FrameType | None) -> Any:
        drain()
        loop.call_soon_threadsafe(loop.call_later, drain_s, serve_no_more, number, frame)

    signal.signal(signal.SIGTERM, on_sigterm)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, serve_no_more)
