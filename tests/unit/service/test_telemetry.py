"""Logs that cannot be forged, and separate metrics for each service."""

from __future__ import annotations

import json
import logging

import pytest
import structlog

from service.telemetry import Telemetry, configure_logging

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
