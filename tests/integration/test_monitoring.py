"""The alert rules and the dashboard in deploy/: their syntax, their tests, and that every named metric exists."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from service import bootstrap
from service.http.app import create_app
from service.settings import Settings
from tests.in_process import Web, started

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
DASHBOARD = ROOT / "deploy" / "grafana" / "anole.json"
RULES = [rule for group in yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"] for rule in group["rules"]]
PANELS = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
PAGE = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
QUERIES = [
    *(rule["expr"] for rule in RULES),
    *(target["expr"] for panel in PANELS for target in panel["targets"]),
]
NAME = re.compile(r"\banole_[a-z_]+")


@pytest.fixture
def web(isolating: Settings) -> Iterator[Web]:
    services = bootstrap.build(isolating)
    with started(create_app(isolating, lambda _: services), services) as web:
        yield web


@pytest.fixture
def exported(web: Web) -> dict[str, str]:
    """The kinds of the metrics at /metrics, by name."""
    return dict(re.findall(r"^# TYPE (\S+) (\S+)$", web("GET", "/metrics").text, re.MULTILINE))


def test_every_metric_that_is_named_exists(exported: dict[str, str]) -> None:
    histograms = [name for name, kind in exported.items() if kind == "histogram"]
    known = {*exported, *(f"{name}_{part}" for name in histograms for part in ("bucket", "sum", "count"))}
    assert {name for query in QUERIES for name in NAME.findall(query)} - known == set()
    assert set(NAME.findall(PAGE)) - known == set()


def test_every_metric_has_a_sentence_that_explains_it(web: Web) -> None:
    described = re.findall(r"^# HELP (\S+) (.*)$", web("GET", "/metrics").text, re.MULTILINE)
    assert [name for name, text in described if not text.endswith(".")] == []


def test_the_page_lists_every_alert() -> None:
    assert re.findall(r"^\| `(Anole\w+)`", PAGE, re.MULTILINE) == [rule["alert"] for rule in RULES]
    assert all(rule["annotations"].keys() == {"summary", "description"} for rule in RULES)


def test_panels_of_the_dashboard_have_queries_and_do_not_overlap() -> None:
    assert all(panel["targets"] for panel in PANELS)
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in PANELS]
    assert len(places) == len(set(places)) == len({panel["id"] for panel in PANELS}) >= 8


@pytest.mark.parametrize(
    "arguments",
    [("check", "config", "prometheus.yml"), ("test", "rules", "alerts.test.yml")],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_prometheus_accepts_the_configuration_and_alerts_fire_as_their_tests_say(
    arguments: tuple[str, ...],
) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("this machine has no promtool; on Debian: apt-get install prometheus")
    done = subprocess.run(
        [promtool, *arguments], cwd=PROMETHEUS, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
