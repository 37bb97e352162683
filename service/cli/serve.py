"""`anole serve`: opens the port, prepares the store, and runs the web server in one or more processes.

The supervisor of several workers does without torch, which takes hundreds of megabytes. So what needs it is imported in
the functions that run in a process with the model.
"""

from __future__ import annotations

import contextlib
import functools
import json
import multiprocessing
import resource
import shlex
import signal
import socket
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, Final

import structlog
import typer
import uvicorn
from uvicorn.supervisors import Multiprocess

from models.errors import AnoleError
from service import tracing
from service.cli import demo as demonstration
from service.cli.console import notices, output
from service.domain.key import EVERY_CLIENT, SCOPES, Grant
from service.errors import InvalidSettings
from service.http.connections import DeadlinedConfig, Deadlines
from service.runtime.device import service_device_type, usable_cores
from service.settings import Settings, export_to_workers, tracing_requested
from service.store.open_store import StoreLocation, open_keys
from service.telemetry import configure_logging
from service.usecases.keys import admit_first
from service.workers import worker_folder

if TYPE_CHECKING:
    from fastapi import FastAPI

    from service.bootstrap import Services

_BACKLOG: Final = 1024
FILES_WANTED: Final = Deadlines().connections + 512
"""Open files of a worker: its connections and others."""

_MOST_WORKERS: Final = 4
_KEEP_ALIVE_S: Final = 5
_WORKER_ANSWERS_S: Final = 15
"""A worker that does not answer its supervisor for so long is replaced. One that starts on a busy machine needs it."""
_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 30.0
_CALM_S: Final = 120.0
_EVERYTHING: Final = Grant("bootstrap", SCOPES, (EVERY_CLIENT,))


class _Server(uvicorn.Server):
    """A web server that announces its address once it accepts requests."""

    def __init__(self, config: uvicorn.Config, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and announce the address."""
        await super().startup(sockets)
        if self.started:
            self._announce()


class RestartBackoff:
    """Decides when the next dead worker is replaced.

    The first one is replaced at once. Each further replacement doubles the pause before the next, from 1 s to 30 s,
    until two minutes pass without a death.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pause_s = 0.0
        self._restarted_at_s = -float("inf")

    def is_due(self) -> bool:
        """Return whether the pause after the last replacement is over."""
        return self._clock() >= self._restarted_at_s + self._pause_s

    def record_restart(self) -> None:
        """Record that workers have just been replaced."""
        now_s = self._clock()
        calm = now_s - self._restarted_at_s >= _CALM_S
        self._pause_s = _FIRST_PAUSE_S if calm else min(2 * self._pause_s, _LONGEST_PAUSE_S)
        self._restarted_at_s = now_s


class Supervisor(Multiprocess):
    """Uvicorn's supervisor, which replaces dead and hung workers; here with pauses that grow while they keep dying.

    Args:
        config: settings of the workers.
        sockets: where they accept connections.
        announce: called once, when all workers accept requests.
    """

    def __init__(
        self, config: uvicorn.Config, sockets: list[socket.socket], announce: Callable[[], None] = lambda: None
    ) -> None:
        survives_terminal = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # as `nohup` starts it
        super().__init__(config, sockets)
        if survives_terminal:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self._backoff = RestartBackoff()
        self._announce, self._announced = announce, False

    def handle_hup(self) -> None:
        """Stop, because the workers get the signal of a closing terminal too. Uvicorn would restart them."""
        self.should_exit.set()

    def terminate_all(self) -> None:
        """Stop the workers, and close the port here: else the system accepts connections that no worker serves."""
        super().terminate_all()
        for listener in self.sockets:
            listener.close()

    def keep_subprocess_alive(self) -> None:
        """Replace dead workers, unless the pause after the last replacement is not over."""
        if not self._announced and all(process.is_ready() for process in self.processes):
            self._announced = True
            self._announce()
        if not self._backoff.is_due():
            return
        before = list(self.processes)
        super().keep_subprocess_alive()
        if self.processes != before:
            self._backoff.record_restart()


def run(settings: Settings, *, as_json: bool = False) -> None:
    """Serve until a signal stops the process.

    Raises:
        InvalidSettings: the port is not available, or other machines can reach it and there is no key.
        CheckpointInvalid, StoreUnavailable: the checkpoint or the store cannot be opened.
    """
    configure_logging(settings.log_level, settings.log_format)
    settings = settings.model_copy(update={"workers": worker_count(settings)})
    if tracing_requested():
        tracing.start()  # here, so that a missing package is reported in one line; workers start their own
    _raise_file_limit(FILES_WANTED)
    if settings.engine == "ray":
        _run_on_cluster(settings, as_json=as_json)
        return
    with (
        contextlib.closing(_listen(settings.host, settings.port)) as listener,
        _grpc_port_held(settings.host, settings.grpc_port) as grpc_port,
    ):
        settings = settings.model_copy(update={"grpc_port": grpc_port})
        open_to_all = _open_to_all(settings)
        port = listener.getsockname()[1]
        announce = functools.partial(_announce, settings, port, open_to_all=open_to_all, as_json=as_json)
        models = ", ".join(settings.model)
        url = _url(settings.host, port)
        structlog.get_logger("anole.serve").info("starting", model=models, data=str(settings.data), url=url)
        loading = notices().status(f"loading {models}; {url} will respond when it is ready …")
        if settings.workers == 1:
            with loading:
                app = _application(settings)
            with contextlib.suppress(KeyboardInterrupt):
                _Server(_config(settings, app), announce).run(sockets=[listener])
        else:
            with loading:
                _prepare_in_process(settings)
            with contextlib.suppress(KeyboardInterrupt), worker_folder() as folder:
                export_to_workers(settings, folder)
                config = _config(settings, "service.http.app:application")
                Supervisor(config, [listener], announce).run()


def _run_on_cluster(settings: Settings, *, as_json: bool) -> None:
    """Serve on a cluster of Ray. Raises as `run`, and InvalidSettings if Ray is not installed or gRPC is wanted."""
    if settings.grpc_port is not None:
        raise InvalidSettings("--grpc-port is not possible with --engine ray; leave out one of them")
    try:
        from service.cluster import application
    except ImportError as error:
        raise InvalidSettings(
            f"--engine ray needs Ray Serve ({error}): pip install -c constraints.txt -e '.[ray]' in a checkout of Anole"
        ) from error
    with contextlib.closing(_listen(settings.host, settings.port)) as listener:
        settings = settings.model_copy(update={"port": listener.getsockname()[1]})  # Ray opens it again
        open_to_all = _open_to_all(settings)
        with notices().status(f"loading {', '.join(settings.model)} …"):
            _prepared(settings).close()
    announce = functools.partial(_announce, settings, settings.port, open_to_all=open_to_all, as_json=as_json)
    application.run(settings, announce)


def worker_count(settings: Settings) -> int:
    """Return the number of workers: as set, else one for every two cores, because one predicts two batches at a time.

    On a GPU it is one, because each worker would load the model there and make batches of its own.

    Raises:
        InvalidSettings: there is no such device.
    """
    if settings.workers is not None:
        return settings.workers
    if service_device_type(settings.model, settings.device) != "cpu":
        return 1
    return max(1, min(_MOST_WORKERS, usable_cores() // 2))


def _raise_file_limit(count: int) -> None:
    """Raise the limit of open files of this process and its workers to `count`, as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    if wanted < count:
        structlog.get_logger("anole.serve").warning("open files are limited", files_allowed=wanted)


def _listen(host: str, port: int, option: str = "--port") -> socket.socket:
    """Open the port before anything slow happens.

    The protocol is given as TCP, because asyncio disables Nagle's algorithm only for such sockets. With it, every
    response on a kept connection would wait 40 ms for an acknowledgement.

    Raises:
        InvalidSettings: the port is in use, or the address does not belong to this machine.
    """
    listener = socket.socket(_family(host), socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise InvalidSettings(
            f"cannot listen on {host}:{port}: {error.strerror or error}; "
            f"stop the program that uses the port, or choose another with {option}"
        ) from error
    return listener


@contextlib.contextmanager
def _grpc_port_held(host: str, port: int | None) -> Iterator[int | None]:
    """Hold the port for gRPC inside the block, so that each worker can listen on it, and other programs cannot.

    The workers share the port (SO_REUSEPORT), which would let the next service of the same user share it too. So the
    port must be free at first. The socket that holds it does not listen, and gets no connections.

    Raises:
        InvalidSettings: the packages for gRPC are missing, or the port is not available.
    """
    if port is None:
        yield None
        return
    try:
        import_module("service.http.grpc.server")
    except ImportError as error:
        raise InvalidSettings(
            f"--grpc-port needs the extra grpc ({error}): pip install -c constraints.txt -e '.[grpc]' in a checkout of "
            "Anole"
        ) from error
    _listen(host, port, "--grpc-port").close()
    with socket.socket(_family(host), socket.SOCK_STREAM) as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind((host, port))
        yield holder.getsockname()[1]


def _open_to_all(settings: Settings) -> bool:
    """Store the bootstrap key, if there is one, and return whether the service needs no key.

    Raises:
        InvalidSettings: other machines can reach the address, and there is no key.
    """
    with open_keys(StoreLocation.of(settings)) as keys:
        if settings.bootstrap_key is not None:
            admit_first(keys, settings.bootstrap_key.get_secret_value(), _EVERYTHING)
        records = keys.all()
    if not settings.loopback and all(record.revoked_at is not None for record in records):
        raise InvalidSettings(
            f"other machines can reach {settings.host}, and there is no API key; create one with "
            f"`anole keys create NAME --client '*' --scope predict --scope adapt --data {settings.data}`, "
            "or listen on 127.0.0.1"
        )
    return not records


def _application(settings: Settings) -> Callable[[], FastAPI]:
    """Prepare the store in this process and return the application for it."""
    from service.http.app import create_app, freeze_objects

    services = _prepared(settings)
    return functools.partial(create_app, settings, lambda _: freeze_objects(services))


def _prepared(settings: Settings) -> Services:
    """Build the use cases in this process, so that errors are reported in one line and the demo is added once."""
    from service import bootstrap
    from service.http.app import stop_process

    services = bootstrap.build(settings, stop_process)
    try:
        if settings.demo:
            demonstration.seed(services, settings.data)
    except BaseException:
        services.close()
        raise
    return services


def _prepare_in_process(settings: Settings) -> None:
    """Do the same in a process that ends, so that the supervisor of the workers does not keep a model in memory.

    Raises:
        InvalidSettings: the model or the store cannot be used, or the process ended before it knew.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_report_preparation, args=(settings, theirs), daemon=True)
    on_interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process inherits it; Ctrl-C must reach us alone
    process.start()
    signal.signal(signal.SIGINT, on_interrupt)
    theirs.close()
    with ours:
        try:
            problem: str | None = ours.recv()
        except EOFError:
            process.join()
            problem = (
                f"the process that checks the models and the store ended with status {process.exitcode}; look at its "
                "messages above, and at the memory of this machine"
            )
    process.join()
    if problem is not None:
        raise InvalidSettings(problem)


def _report_preparation(settings: Settings, channel: Connection) -> None:
    """Prepare the store in a process of its own, and send None, or what is wrong."""
    configure_logging(settings.log_level, settings.log_format)
    try:
        _prepared(settings).close()
    except AnoleError as error:
        channel.send("; ".join([str(error), *getattr(error, "__notes__", ())]))
    else:
        channel.send(None)


def _config(settings: Settings, app: Any) -> uvicorn.Config:
    deadlines = Deadlines(head_s=min(Deadlines().head_s, settings.body_s))
    return DeadlinedConfig(
        app,
        deadlines,
        factory=True,
        workers=settings.workers or 1,
        interface="asgi3",
        lifespan="on",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=settings.stop_s,
        timeout_worker_healthcheck=_WORKER_ANSWERS_S,
    )


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _announce(settings: Settings, port: int, *, open_to_all: bool, as_json: bool = False) -> None:
    url = _url(settings.host, port)
    grpc_address = "" if settings.grpc_port is None else _url(settings.host, settings.grpc_port).removeprefix("http://")
    if as_json:
        access = "open" if open_to_all else "key"
        announced = {"url": url, "docs": f"{url}/docs", "store": str(settings.data.absolute()), "access": access}
        typer.echo(json.dumps(announced | ({"grpc": grpc_address} if grpc_address else {})))
        return
    lines = [f"Anole serves on {url}", f"  page         {url}/", f"  routes       {url}/docs"]
    if grpc_address:
        lines.append(f"  grpc         {grpc_address}")
    lines.append(f"  store        {settings.data.absolute()}")
    folder = shlex.quote(str(settings.data.absolute()))
    first_key = f"anole keys create NAME --client '*' --scope predict --scope adapt --scope admin --data {folder}"
    open_until = f"open to everyone on this machine, until you create a key: {first_key}"
    lines.append(f"  access       {open_until if open_to_all else f'requires a key: anole keys list --data {folder}'}")
    example = demonstration.example(settings.data)
    if example is not None:
        key = "" if open_to_all else "-H 'X-API-Key: KEY' "
        lines.append(f"  try          curl {key}-F client=demo -F images=@{example} {url}/predict")
    output().print("\n".join(lines))
