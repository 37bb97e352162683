"""Logs that cannot be forged, and separate metrics for each service."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import pytest
import structlog
from prometheus_client import values

from service.telemetry import Telemetry, configure_logging, share_metrics
from service.workers import WorkerPlace

pytestmark = pytest.mark.usefixtures("restored_logging")


def test_every_log_line_is_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json")
    structlog.get_logger("test").info("request", path="/a\r\nfake line\x1b[31m")
    logging.getLogger("library").warning("also %s", "json")
    first, second = capsys.readouterr().err.splitlines()
    assert json.loads(first)["path"] == "/a\r\nfake line\x1b[31m"
    assert "\x1b" not in first
    assert (json.loads(second)["event"], json.loads(second)["level"]) == ("also json", "warning")


def test_escape_sequences_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "console")
    structlog.get_logger("test").info("request", path="/a\r\nfake line\x1b[31m")
    output = capsys.readouterr().err
    assert "\x1b" not in output
    assert len(output.splitlines()) == 1


def test_messages_below_the_level_are_not_logged(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("warning", "json")
    structlog.get_logger("test").info("quiet")
    assert capsys.readouterr().err == ""


def test_an_exception_is_logged_with_its_traceback_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json")
    try:
        raise ValueError("broken")
    except ValueError:
        structlog.get_logger("test").exception("request failed")
    (line,) = capsys.readouterr().err.splitlines()
    assert "broken" in json.loads(line)["exception"][0]["exc_value"]


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_traceback_does_not_show_values_of_variables(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json" if form == "json" else "console")

    def failing(headers: list[tuple[bytes, bytes]]) -> None:
        raise ValueError(f"broken by {len(headers)}")

    try:
        failing([(b"x-api-key", b"secret" * 2)])
    except ValueError:
        structlog.get_logger("test").exception("request failed")
    output = capsys.readouterr().err
    assert "broken by 1" in output
    assert "failing" in output
    assert "secretsecret" not in output


def test_two_services_in_one_process_have_separate_metrics() -> None:
    one, other = Telemetry(), Telemetry()
    one.versions.labels("publish").inc()
    assert b'anole_versions_total{gate="publish"} 1.0' in one.exposition()
    assert b"anole_versions_total{" not in other.exposition()


def test_added_metrics_are_read_at_each_scrape() -> None:
    telemetry, depth = Telemetry(), [3.0]
    telemetry.add_metrics(lambda: {"queue": depth[0], "misses_total": 7})
    depth[0] = 5.0
    text = telemetry.exposition().decode()
    assert "anole_queue 5.0" in text
    assert "anole_misses_total 7.0" in text


def samples(telemetry: Telemetry) -> dict[str, float]:
    lines = telemetry.exposition().decode().splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for workers. The metrics of later tests stay in their process."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    monkeypatch.setattr(values, "ValueClass", values.ValueClass)
    return tmp_path


def a_worker(folder: Path, versions: int, waiting: float) -> tuple[WorkerPlace, Telemetry]:
    place = WorkerPlace(folder)
    share_metrics(place)
    telemetry = Telemetry(place)
    telemetry.add_metrics(
        lambda: {"adapt_waiting": waiting, "adapt_ended_total": versions, "drifting_clients": versions}
    )
    telemetry.versions.labels("publish").inc(versions)
    telemetry.adapt_seconds.labels("total").observe(0.2)
    telemetry.refresh()
    return place, telemetry


def test_each_worker_shows_the_metrics_of_all(folder: Path) -> None:
    (_, one), (_, other) = a_worker(folder, 2, 1.0), a_worker(folder, 3, 4.0)
    for found in (samples(one), samples(other)):
        assert found['anole_versions_total{gate="publish"}'] == 5
        assert found['anole_adapt_seconds_bucket{le="0.5",part="total"}'] == 2
        assert (found["anole_adapt_waiting"], found["anole_adapt_ended_total"]) == (5, 5)
        assert found["anole_workers"] == 2
        assert found["anole_drifting_clients"] == 3  # both may count the same clients


def test_a_dead_worker_leaves_its_counters_and_no_gauges(folder: Path) -> None:
    (_, one), (dead, _) = a_worker(folder, 2, 1.0), a_worker(folder, 3, 4.0)
    dead.leave(last_deletes=False)
    found = samples(one)
    assert (found['anole_versions_total{gate="publish"}'], found["anole_adapt_waiting"]) == (5, 1)
    assert found["anole_workers"] == 1


def test_the_worker_that_follows_a_dead_one_goes_on_with_its_counters_in_the_same_files(folder: Path) -> None:
    (_, one), (dead, _) = a_worker(folder, 2, 1.0), a_worker(folder, 3, 4.0)
    files = sorted(folder.iterdir())
    dead.leave(last_deletes=False)
    next_one, _ = a_worker(folder, 10, 0.0)
    assert next_one.number == dead.number
    assert sorted(folder.iterdir()) == files
    found = samples(one)
    assert (found['anole_versions_total{gate="publish"}'], found["anole_adapt_ended_total"]) == (15, 15)
    assert found["anole_adapt_waiting"] == 1


def test_the_process_and_the_build_are_shown() -> None:
    telemetry = Telemetry()
    telemetry.set_build([("tiny", "a" * 64)])
    found = samples(telemetry)
    assert found["process_resident_memory_bytes"] > 1e6
    assert found["process_cpu_seconds_total"] > 0
    assert found["process_open_fds"] >= 3
    (build,) = (name for name in found if name.startswith("anole_build_info"))
    assert 'model="tiny",model_digest="' + "a" * 64 in build
    assert re.search('torch="[0-9.]+', build)


def test_a_counter_of_another_object_never_counts_twice() -> None:
    telemetry = Telemetry()
    telemetry.add_metrics(lambda: {"hits_total": 7})
    assert [samples(telemetry)["anole_hits_total"] for _ in range(2)] == [7, 7]
