"""The deployments of Ray Serve, and `anole serve --engine ray`. Needs the extra `ray`."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import ray
import structlog
from fastapi import FastAPI
from ray import serve
from ray.exceptions import ObjectLostError, RayActorError, TaskCancelledError
from ray.serve.exceptions import RayServeException

from models.errors import AnoleError
from service import bootstrap
from service.cluster.placement import replica_settings, require_usable_store
from service.cluster.remote import (
    AdaptRequest,
    PredictAnswer,
    PredictRequest,
    ProcessLost,
    RemoteAdaptation,
    RemotePrediction,
)
from service.cluster.replicas import Adapter, Predictor
from service.errors import InvalidSettings
from service.http.app import create_app, freeze_objects, stop_process
from service.runtime.device import service_device_type
from service.settings import Settings, disable_ray_usage_reports, load_settings, replica_range
from service.store.open_store import StoreLocation
from service.store.version_store import VersionStore
from service.telemetry import configure_logging
from service.usecases.adapt_command import AdaptOutcome
from service.usecases.jobs import Jobs

APPLICATION: Final = "anole"
VERSIONS_HELD: Final = 1000
"""Versions that the router remembers of each predictor. `ANOLE_CACHE_BYTES` limits what stays in memory."""

PREDICTIONS: Final = 8
"""Requests that a predictor gets at the same time. Others wait, or go to another predictor."""

OBJECT_STORE_BYTES: Final = 1 << 30
"""Shared memory of a cluster that is started here, for request bodies between processes."""

_GPU_SHARE: Final = 0.5
"""A predictor and an adapter fit on one GPU."""

_NO_ACCESS_LOG: Final = {"enable_access_log": False}
"""The application logs requests itself."""

_LOST: Final = (RayActorError, ObjectLostError, TaskCancelledError, RayServeException)


class PredictorReplica(Predictor):
    """A replica that predicts. The router prefers one that has predicted with the version before."""

    def __init__(self, settings: Settings) -> None:
        self._services_here = _services(settings)
        super().__init__(self._services_here)

    @serve.multiplexed(max_num_models_per_replica=VERSIONS_HELD)  # type: ignore[untyped-decorator]
    async def hold(self, identity: str) -> str:
        """Tell the router that this replica has a version. Its weights are in the cache of `Prediction`."""
        return identity

    async def predict(self, request: PredictRequest) -> PredictAnswer | AnoleError:
        """See `Predictor.predict`."""
        await self.hold(serve.get_multiplexed_model_id())
        return await super().predict(request)

    def __del__(self) -> None:
        self._services_here.close()


class AdapterReplica(Adapter):
    """A replica that adapts."""

    def __init__(self, settings: Settings) -> None:
        self._services_here, self._stop_s = _services(settings), settings.stop_s
        super().__init__(self._services_here)

    def __del__(self) -> None:
        self._services_here.finish(self._stop_s)
        self._services_here.close()


def _services(settings: Settings) -> bootstrap.Services:
    configure_logging(settings.log_level, settings.log_format)
    return freeze_objects(bootstrap.build(settings, stop_process))


@dataclass(frozen=True, slots=True)
class _Handles:
    """Sends requests to the deployments, from a replica of the ingress."""

    predictors: Any
    adapters: Any

    async def predict(self, request: PredictRequest, identity: str) -> PredictAnswer | AnoleError:
        try:
            answer: PredictAnswer | AnoleError
            answer = await self.predictors.options(multiplexed_model_id=identity).predict.remote(request)
        except _LOST as error:
            raise ProcessLost(type(error).__name__) from error
        return answer

    async def adapt(self, request: AdaptRequest) -> AsyncIterator[AdaptOutcome | AnoleError | None]:
        try:
            async for event in self.adapters.options(stream=True).adapt.remote(request):
                yield event
        except _LOST as error:
            raise ProcessLost(type(error).__name__) from error

    def use_cases(self, loop: asyncio.AbstractEventLoop, store: VersionStore, jobs: Jobs) -> bootstrap.ModelUseCases:
        return bootstrap.ModelUseCases(
            RemotePrediction(store, self.predict, loop),
            RemotePrediction(store, self.predict, loop, explain=True),
            RemoteAdaptation(jobs, self.adapt, loop),
        )


def application(settings: Settings, node_id: str) -> serve.Application:
    """Return the application for `serve.run`: an ingress with HTTP, predictors and adapters.

    Args:
        settings: of all replicas.
        node_id: the node of an embedded store; all replicas run there.
    """
    settings = replica_settings(settings)
    place = {} if StoreLocation.of(settings).shared else {"label_selector": {"ray.io/node-id": node_id}}
    on_gpu = service_device_type(settings.model, settings.device) == "cuda"
    share = {"num_gpus": _GPU_SHARE} if on_gpu else {}
    running = settings.adapt_running
    predictors = serve.deployment(
        PredictorReplica,
        name="predictor",
        logging_config=_NO_ACCESS_LOG,
        ray_actor_options={"num_cpus": 1, **share, **place},
        max_ongoing_requests=PREDICTIONS,
        autoscaling_config=_scaling(settings.ray_predictors, PREDICTIONS / 2),
        graceful_shutdown_timeout_s=settings.stop_s,
    ).bind(settings)
    adapters = serve.deployment(
        AdapterReplica,
        name="adapter",
        logging_config=_NO_ACCESS_LOG,
        ray_actor_options={"num_cpus": 1, **share, **place},
        max_ongoing_requests=running + settings.adapt_waiting,
        autoscaling_config=_scaling(settings.ray_adapters, running),
        graceful_shutdown_timeout_s=2 * settings.stop_s,
    ).bind(settings)
    ingress = serve.deployment(
        serve.ingress(_ingress(settings))(),
        name="ingress",
        logging_config=_NO_ACCESS_LOG,
        num_replicas=settings.ray_ingresses,
        max_replicas_per_node=1,
        max_ongoing_requests=10_000,  # the application limits them itself
        ray_actor_options={"num_cpus": 0, **place},
        graceful_shutdown_timeout_s=settings.stop_s,
    )
    bound: serve.Application = ingress.bind(predictors, adapters)
    return bound


def from_serve_config(arguments: dict[str, Any]) -> serve.Application:
    """Return the application for Ray's own tools: `serve deploy`, and RayService on Kubernetes.

    Args:
        arguments: settings by name, from the `args` of a Serve config; others come from the environment. Ray opens the
            ports, to other machines too. So the host is that of all addresses, and no request passes without a key.

    Raises:
        InvalidSettings: a setting is wrong, or the store is in a folder, and Ray may use any node.
    """
    settings = load_settings(**{**arguments, "host": "0.0.0.0"})  # noqa: S104
    require_usable_store(settings, nodes=2)
    return application(settings, node_id="")


def _ingress(settings: Settings) -> Callable[[], FastAPI]:
    def build() -> FastAPI:
        """Return the application of a replica, in the event loop of which this is called."""
        configure_logging(settings.log_level, settings.log_format)
        handles = _Handles(serve.get_deployment_handle("predictor"), serve.get_deployment_handle("adapter"))
        use_cases = partial(handles.use_cases, asyncio.get_running_loop())
        own = settings.model_copy(update={"device": "cpu", "decoder_processes": 0})  # others use the model and decode
        predictors, adapters = replica_range(settings.ray_predictors)[1], replica_range(settings.ray_adapters)[1]
        limits = {"adapt_running": settings.adapt_running, "adapt_waiting": settings.adapt_waiting}
        admitted = settings.model_copy(update={name: adapters * count for name, count in limits.items()})
        return create_app(
            admitted,
            lambda _: freeze_objects(bootstrap.build(own, stop_process, use_cases)),
            predictors=predictors,
        )

    return build


def _scaling(replicas: str, ongoing: float) -> dict[str, Any]:
    """Return how a deployment grows and shrinks with the requests that wait or run."""
    least, most = replica_range(replicas)
    return {"min_replicas": least, "initial_replicas": least, "max_replicas": most, "target_ongoing_requests": ongoing}


def run(settings: Settings, announce: Callable[[], None]) -> None:
    """Serve on a cluster of Ray until a signal arrives, then stop the application.

    Args:
        settings: all of them.
        announce: called when the service accepts requests.

    Raises:
        InvalidSettings: there is no cluster at the address, none starts here, or it cannot use the store.
    """
    _connect(settings)
    try:
        require_usable_store(settings, sum(node["Alive"] for node in ray.nodes()))
        bound = application(settings, ray.get_runtime_context().get_node_id())
        http = {"host": settings.host, "port": settings.port}
        serve.start(proxy_location="EveryNode", http_options=http)
        stopping = threading.Event()
        serve.run(bound, name=APPLICATION, route_prefix="/")
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopping.set())
        announce()
        stopping.wait()
        structlog.get_logger("anole.serve").info("stopping")
        serve.delete(APPLICATION)
        serve.shutdown()
    finally:
        ray.shutdown()


def _connect(settings: Settings) -> None:
    """Connect to the cluster, or start one on this machine.

    Raises:
        InvalidSettings: there is no cluster at the address, or none starts here.
    """
    disable_ray_usage_reports()
    if settings.ray_address is None:
        try:
            ray.init(include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES)
        except Exception as error:  # Ray raises this class itself, for a node that takes more than 30 s
            ray.shutdown()
            raise InvalidSettings(
                f"Ray did not start on this machine: {error} Look at its logs in /tmp/ray/session_latest/logs, and at "
                "the load and the memory of this machine; or start a cluster with `ray start --head` and use --address"
            ) from error
        return
    try:
        ray.init(settings.ray_address)
    except (ConnectionError, ValueError) as error:
        raise InvalidSettings(
            f"cannot connect to a cluster of Ray at {settings.ray_address!r}: {error}; start one with "
            "`ray start --head`, set RAY_AUTH_MODE=token if the cluster asks for a token, or leave out --address"
        ) from error
