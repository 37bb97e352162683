"""`anole serve` before the first request: port, demo, announcement, keys and signals."""

from __future__ import annotations

import gc
import json
import multiprocessing
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, cast

import anyio
import pytest
from uvicorn.supervisors.multiprocess import Process

from service import bootstrap
from service.bootstrap import Services
from service.cli import demo as demonstration
from service.cli import serve
from service.domain.key import Grant
from service.errors import InvalidKey, InvalidSettings
from service.http.app import create_app, freeze_objects
from service.settings import load_settings
from service.store.open_store import StoreLocation, open_keys
from service.usecases.keys import create
from tests.unit.service.fakes import FakeServices


def test_objects_of_the_start_are_excluded_from_garbage_collection() -> None:
    services: Any = FakeServices()
    try:
        assert freeze_objects(services) is services
        assert gc.get_freeze_count() > len(gc.get_objects())
    finally:
        gc.unfreeze()


def test_nagles_algorithm_is_disabled() -> None:
    with serve._listen("127.0.0.1", 0) as listener:
        with socket.create_connection(listener.getsockname()):
            accepted, _ = listener.accept()
        with accepted:
            assert accepted.proto == socket.IPPROTO_TCP  # asyncio checks the protocol before it sets TCP_NODELAY


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host"])
def test_an_unavailable_address_is_reported(host: str) -> None:
    with pytest.raises(InvalidSettings, match=f"cannot listen on {host}:0"):
        serve._listen(host, 0)


def test_the_port_for_grpc_is_held_for_the_workers_of_this_service_alone() -> None:
    with serve._grpc_port_held("127.0.0.1", 0) as port, socket.socket() as worker:
        assert port
        worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        worker.bind(("127.0.0.1", port))
        worker.listen()
        with (
            pytest.raises(InvalidSettings, match="or choose another with --grpc-port"),
            serve._grpc_port_held("127.0.0.1", port),
        ):
            pytest.fail("a second service took the port")


def test_grpc_without_its_packages_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "service.http.grpc.server", raising=False)
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(InvalidSettings, match=r"pip install .* -e '\.\[grpc\]'"), serve._grpc_port_held("127.0.0.1", 0):
        pytest.fail("gRPC started without its packages")


def test_grpc_on_a_cluster_is_rejected() -> None:

    with pytest.raises(InvalidSettings, match="not possible with --engine ray"):
        serve._run_on_cluster(load_settings(engine="ray", grpc_port=0), as_json=False)


def test_an_empty_store_gets_the_demo_client_and_its_image_files(services: FakeServices, tmp_path: Path) -> None:
    demonstration.seed(cast(Services, services), tmp_path)
    (command,) = services.adaptation.commands
    assert (command.client, sorted(set(command.labels))) == ("demo", ["clean", "pit", "scratch", "stain"])
    assert services.clients.get("demo").aliases["live"].version == 1
    assert len(list((tmp_path / "demo" / "support" / "pit").glob("*.png"))) == 10
    example = demonstration.example(tmp_path)
    assert example is not None
    assert example.read_bytes().startswith(b"\x89PNG")


def test_a_store_with_clients_gets_no_demo(services: FakeServices, tmp_path: Path) -> None:
    demonstration.seed(cast(Services, services), tmp_path)
    demonstration.seed(cast(Services, services), tmp_path)
    assert len(services.adaptation.commands) == 1


def test_without_images_there_is_no_example(tmp_path: Path) -> None:
    assert demonstration.example(tmp_path) is None


def test_the_announcement_shows_urls_and_a_first_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = tmp_path / "demo" / "queries" / "scratch" / "scratch-10.png"
    image.parent.mkdir(parents=True)
    image.write_bytes(b"")
    serve._announce(load_settings(data=tmp_path, host="::1"), 8123, open_to_all=True)
    printed = capsys.readouterr().out
    assert "Anole serves on http://[::1]:8123\n" in printed
    assert "http://[::1]:8123/docs" in printed
    assert f"curl -F client=demo -F images=@{image} http://[::1]:8123/predict" in printed


def test_the_announcement_as_json_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    serve._announce(load_settings(data=tmp_path), 8123, open_to_all=False, as_json=True)
    url = "http://127.0.0.1:8123"
    expected = {"url": url, "docs": f"{url}/docs", "store": str(tmp_path), "access": "key"}
    assert json.loads(capsys.readouterr().out) == expected


@pytest.fixture
def server_handler() -> Iterator[list[int]]:
    """Install a handler of SIGTERM in place of the web server's. Return the list of signals that it receives."""
    reached: list[int] = []

    def handler(number: int, frame: FrameType | None) -> None:
        reached.append(number)

    before = signal.signal(signal.SIGTERM, handler)
    yield reached
    signal.signal(signal.SIGTERM, before)


def test_sigterm_makes_the_service_unready_before_it_reaches_the_server(
    services: FakeServices, server_handler: list[int]
) -> None:
    seen: dict[str, Any] = {}

    async def live() -> None:
        app = create_app(load_settings(drain_s=0.05), lambda _: services)
        async with app.router.lifespan_context(app):
            seen["before"] = services.readiness.report().ready
            signal.raise_signal(signal.SIGTERM)
            seen["draining"] = (services.readiness.report().ready, list(server_handler))
            with anyio.fail_after(30):
                while not server_handler:
                    await anyio.sleep(0)

    anyio.run(live)
    assert seen == {"before": True, "draining": (False, [])}
    assert server_handler == [signal.SIGTERM]


def test_workers_create_the_application_from_exported_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    config = serve._config(load_settings(workers=3, stop_s=7), "service.http.app:application")
    assert (config.workers, config.timeout_graceful_shutdown, config.factory) == (3, 7, True)
    assert not config.server_header
    assert config.timeout_worker_healthcheck > 10  # time to start on a busy machine


def test_a_service_on_loopback_without_keys_is_open_and_announces_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = load_settings(data=tmp_path)
    assert serve._open_to_all(settings)
    serve._announce(settings, 8123, open_to_all=True)
    announced = capsys.readouterr().out
    assert "open to everyone on this machine, until you create a key: anole keys create NAME" in announced
    assert f"--data {tmp_path}" in announced


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "example.org"])
def test_a_service_on_a_public_address_does_not_start_without_a_valid_key(tmp_path: Path, host: str) -> None:
    settings = load_settings(data=tmp_path, host=host)
    with pytest.raises(InvalidSettings, match="anole keys create") as rejected:
        serve._open_to_all(settings)
    assert f"reach {host}" in str(rejected.value)
    with open_keys(StoreLocation(tmp_path)) as keys:
        _, record = create(keys, Grant("camera", ("predict",), ("*",)))
        assert not serve._open_to_all(settings)
        keys.revoke(record.prefix)
    with pytest.raises(InvalidSettings):
        serve._open_to_all(settings)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_addresses_and_names_are_recognised(host: str) -> None:
    assert load_settings(host=host).loopback


def test_the_bootstrap_key_is_stored_at_the_first_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = f"anole_ab12cd34_{'f' * 64}"
    monkeypatch.setenv("ANOLE_BOOTSTRAP_KEY", key)
    settings = load_settings(data=tmp_path, host="0.0.0.0")
    assert key not in repr(settings)
    for _ in range(2):
        assert not serve._open_to_all(settings)
    with open_keys(StoreLocation(tmp_path)) as keys:
        (record,) = keys.all()
    assert (record.prefix, record.scopes, record.clients) == ("anole_ab12cd34", ("predict", "adapt", "admin"), ("*",))


def test_a_malformed_bootstrap_key_is_rejected_and_not_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANOLE_BOOTSTRAP_KEY", "hunter2")
    with pytest.raises(InvalidKey) as rejected:
        serve._open_to_all(load_settings(data=tmp_path))
    assert "hunter2" not in str(rejected.value)


def test_the_announcement_shows_where_the_key_goes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = tmp_path / "demo" / "queries" / "scratch" / "scratch-10.png"
    image.parent.mkdir(parents=True)
    image.write_bytes(b"")
    serve._announce(load_settings(data=tmp_path), 8123, open_to_all=False)
    printed = capsys.readouterr().out
    assert "requires a key" in printed
    assert "curl -H 'X-API-Key: KEY' -F client=demo" in printed


def test_restarts_pause_longer_while_workers_keep_dying() -> None:
    now_s = 100.0
    backoff = serve.RestartBackoff(lambda: now_s)
    pauses_s = []
    for _ in range(7):
        began_s = now_s
        while not backoff.is_due():
            now_s += 0.5
        pauses_s.append(now_s - began_s)
        backoff.record_restart()
    assert pauses_s == [0, 1, 2, 4, 8, 16, 30]
    now_s += 150
    assert backoff.is_due()
    backoff.record_restart()
    now_s += 1
    assert backoff.is_due()


@pytest.fixture
def quiet_signals() -> Iterator[None]:
    """Restore the handlers of all signals that a supervisor takes. Under nohup, SIGHUP would be ignored."""
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        if handler is not None and signal.getsignal(number) is not handler:
            signal.signal(number, handler)


def test_a_stopping_supervisor_closes_its_port_so_that_no_connection_waits_in_vain(quiet_signals: None) -> None:
    listener = serve._listen("127.0.0.1", 0)
    address = listener.getsockname()
    supervisor = serve.Supervisor(serve._config(load_settings(workers=2), "service.http.app:application"), [listener])
    supervisor.terminate_all()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=30).close()


def test_a_supervisor_announces_its_address_once_when_all_workers_are_ready(quiet_signals: None) -> None:
    class Worker(Process):
        ready = False

        def is_ready(self, timeout: float = 5) -> bool:
            return self.ready

        def is_alive(self, timeout: float = 5) -> bool:
            return True

    announced: list[bool] = []
    config = serve._config(load_settings(workers=2), "service.http.app:application")
    supervisor = serve.Supervisor(config, [], lambda: announced.append(True))
    first, second = workers = [Worker(config, []), Worker(config, [])]
    supervisor.processes = list(workers)
    for first.ready, second.ready, expected in ((False, False, 0), (True, False, 0), (True, True, 1), (True, True, 1)):
        supervisor.keep_subprocess_alive()
        assert len(announced) == expected


def test_sighup_stops_a_supervisor_unless_it_is_ignored_as_by_nohup(quiet_signals: None) -> None:
    config = serve._config(load_settings(workers=2), "service.http.app:application")
    supervisor = serve.Supervisor(config, [])
    signal.raise_signal(signal.SIGHUP)
    supervisor.handle_signals()
    assert supervisor.should_exit.is_set()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    supervisor = serve.Supervisor(config, [])
    signal.raise_signal(signal.SIGHUP)
    supervisor.handle_signals()
    assert not supervisor.should_exit.is_set()


def test_sighup_drains_the_service_like_sigterm(
    services: FakeServices, server_handler: list[int], quiet_signals: None
) -> None:
    async def live() -> None:
        app = create_app(load_settings(drain_s=0.0), lambda _: services)
        async with app.router.lifespan_context(app):
            signal.raise_signal(signal.SIGHUP)
            assert not services.readiness.report().ready
            with anyio.fail_after(30):
                while not server_handler:
                    await anyio.sleep(0)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL

    anyio.run(live)
    assert server_handler == [signal.SIGHUP]


def test_a_model_for_several_workers_is_checked_in_a_process_that_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "build", lambda *_: pytest.fail("the supervisor loads the model"))
    monkeypatch.setattr(serve, "configure_logging", lambda *_: None)
    settings = load_settings(data=tmp_path, workers=2, port=0, model="missing.safetensors")
    with pytest.raises(InvalidSettings, match=r"missing\.safetensors"):
        serve.run(settings)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(("cores", "workers"), [(1, 1), (2, 1), (3, 1), (4, 2), (8, 4), (64, 4)])
def test_there_is_one_worker_for_every_two_cores_unless_set(
    cores: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "usable_cores", lambda: cores)
    assert serve.worker_count(load_settings(device="cpu")) == workers
    assert serve.worker_count(load_settings(device="cpu", workers=7)) == 7


def test_there_is_one_worker_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "usable_cores", lambda: 64)
    monkeypatch.setattr(serve, "service_device_type", lambda _models, _wanted: "cuda")
    assert serve.worker_count(load_settings()) == 1
