"""The program `anole bridge` between a folder, a running service and a PLC."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import json
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import aiomqtt
import httpx
import pytest

from tests.e2e.conftest import ANOLE, COARSE, FINE, STOP_LIMIT_S, clean_environment
from tests.free_port import free_port
from tests.mosquitto import MOSQUITTO, Broker

CONFIG = """[anole]
client = "line"

[rules]
pass = ["fine"]

[[source]]
type = "folder"
path = "in"
state = "done.txt"
every_s = 0.05

[[source]]
type = "http"
port = {port}

[[sink]]
type = "csv"
path = "verdicts.csv"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    port = free_port()
    (tmp_path / "in").mkdir()
    (tmp_path / "bridge.toml").write_text(CONFIG.format(port=port), encoding="utf-8")
    (tmp_path / "port").write_text(str(port), encoding="utf-8")
    return tmp_path


@contextlib.contextmanager
def bridge(folder: Path, url: str, *options: str) -> Iterator[subprocess.Popen[str]]:
    command = [str(ANOLE), "bridge", "--config", "bridge.toml", "--url", url, "--json", *options]
    with subprocess.Popen(
        command, cwd=folder, env=clean_environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        killer = threading.Timer(STOP_LIMIT_S, process.kill)
        killer.start()
        try:
            yield process
        finally:
            killer.cancel()
            process.kill()


def stopped(process: subprocess.Popen[str]) -> tuple[int, str]:
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=STOP_LIMIT_S)
    return process.returncode, errors


def results(process: subprocess.Popen[str], count: int) -> dict[str, str]:
    assert process.stdout is not None
    verdicts = [json.loads(process.stdout.readline()) for _ in range(count)]
    return {each["name"]: each["result"] for each in verdicts}


def test_pictures_are_judged_once_across_restarts_and_a_dry_run_marks_none(url: str, line: str, folder: Path) -> None:
    (folder / "in" / "1.png").write_bytes(FINE[0])
    (folder / "in" / "2.png").write_bytes(COARSE[0])
    with bridge(folder, url, "--dry-run") as process:
        assert results(process, 2) == {"1.png": "pass", "2.png": "fail"}
        code, errors = stopped(process)
        assert (code, "dry run" in errors) == (0, True)
    assert not (folder / "verdicts.csv").exists()
    with bridge(folder, url) as process:
        assert results(process, 2) == {"1.png": "pass", "2.png": "fail"}
        port = (folder / "port").read_text(encoding="utf-8")
        posted = httpx.post(f"http://127.0.0.1:{port}/pictures", content=FINE[1], params={"name": "posted"})
        assert posted.json()["result"] == "pass"
        assert results(process, 1) == {"posted": "pass"}
        while httpx.get(f"http://127.0.0.1:{port}/status").json()["sinks"]["csv"]["sent"] < 3:
            pass
        code, errors = stopped(process)
        assert code == 0
        assert "3 pictures, 3 judged, 0 dropped, 0 waiting; csv: 3 sent" in errors
    (folder / "in" / "3.png").write_bytes(COARSE[1])
    with bridge(folder, url) as process:
        assert results(process, 1) == {"3.png": "fail"}
    with (folder / "verdicts.csv").open(newline="", encoding="utf-8") as table:
        names = [row["name"] for row in csv.DictReader(table)]
    assert names[:3] == ["1.png", "2.png", "posted"]


@pytest.mark.skipif(MOSQUITTO is None, reason="MQTT IS NOT TESTED: there is no mosquitto")
def test_a_killed_bridge_loses_no_picture_of_mqtt(url: str, line: str, folder: Path) -> None:
    broker = Broker(folder)
    source = f'type = "mqtt"\nhost = "127.0.0.1"\nport = {broker.port}\ntopic = "cameras/#"\n\n[[sink]]'
    before, _, after = CONFIG.partition('type = "folder"')
    (folder / "bridge.toml").write_text(f"{before}{source}{after.partition('[[sink]]')[2]}", encoding="utf-8")
    wanted = {f"cameras/{number}" for number in range(30)}

    async def publish() -> None:
        identifier = "anole-bridge-pictures"  # the bridge's own, so that the broker keeps the messages for it
        async with aiomqtt.Client("127.0.0.1", broker.port, identifier=identifier, clean_session=False) as session:
            await session.subscribe("cameras/#", qos=1)
        async with aiomqtt.Client("127.0.0.1", broker.port) as camera:
            for name in sorted(wanted):
                await camera.publish(name, FINE[0], qos=1)

    def rows() -> dict[str, set[str]]:
        if not (folder / "verdicts.csv").exists():
            return {}
        with (folder / "verdicts.csv").open(newline="", encoding="utf-8") as table:
            entries = list(csv.DictReader(table))
        return {
            name: {row["id"] for row in entries if row["name"] == name} for name in {row["name"] for row in entries}
        }

    broker.start()
    try:
        asyncio.run(publish())
        with bridge(folder, url) as process:
            results(process, 3)
        assert len(rows()) < 30
        with bridge(folder, url) as process:
            while rows().keys() != wanted:
                assert process.poll() is None
    finally:
        broker.kill()
    assert all(len(ids) == 1 for ids in rows().values())  # also of those that were judged twice


def test_a_mistake_in_the_configuration_is_one_line_with_its_place(url: str, folder: Path) -> None:
    (folder / "bridge.toml").write_text(CONFIG.replace('"csv"', '"cvs"').format(port=0), encoding="utf-8")
    with bridge(folder, url) as process:
        _, errors = process.communicate(timeout=STOP_LIMIT_S)
    assert process.returncode == 1
    assert errors.startswith("error: bridge.toml, line 17: sink[1]: ")
