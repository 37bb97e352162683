"""Drives a service with wrk, which uses little of the machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from models.errors import AnoleError

_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}
_SCRIPT = """local requests = {{}}
init = function()
  for line in io.lines("{list}") do
    local file = io.open(line, "rb")
    local headers = {{["Content-Type"] = "{content_type}"}}
    table.insert(requests, wrk.format("POST", "{path}", headers, file:read("*a")))
    file:close()
  end
end
local turn = 0
request = function()
  turn = turn % #requests + 1
  return requests[turn]
end
"""


class NoDriver(AnoleError):
    """wrk is not installed, or its output cannot be parsed."""


@dataclass(frozen=True, slots=True)
class Form:
    """A request body and its media type."""

    content_type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Driven:
    """Results of one run of wrk.

    Attributes:
        requests_a_second: answered, whatever the answer.
        p50_s, p99_s: of an answer.
        refused: answers other than 2xx and 3xx, and broken connections.
        cpu_s: processor time of the service's processes for one request.
        driver_share: of one core, taken by wrk.
    """

    requests_a_second: float
    p50_s: float
    p99_s: float
    refused: int
    cpu_s: float
    driver_share: float


def script(forms: Sequence[Form], path: str, folder: Path) -> Path:
    """A script for wrk that sends the forms in turn; all need the same media type.

    Raises:
        NoDriver: wrk is not installed.
    """
    if shutil.which("wrk") is None:
        raise NoDriver("wrk is not installed; on Debian and Ubuntu: apt-get install wrk")
    names = []
    for number, form in enumerate(forms):
        (folder / f"body-{number}").write_bytes(form.body)
        names.append(str(folder / f"body-{number}"))
    (folder / "bodies").write_text("\n".join(names) + "\n")
    written = folder / "forms.lua"
    written.write_text(
        _SCRIPT.format(list=folder / "bodies", content_type=forms[0].content_type.replace('"', '\\"'), path=path)
    )
    return written


def drive(url: str, requests: Path, connections: int, seconds: int, pid: int) -> Driven:
    """Send what `requests` says for some seconds, one request in flight a connection; `pid` is the service's.

    Raises:
        NoDriver: its output cannot be parsed.
    """
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "--timeout", "30s", "-s", str(requests)]
    processes = family(pid)
    before, own = sum(map(cpu_seconds, processes)), os.times()
    said = subprocess.run([*command, url], capture_output=True, text=True, check=False).stdout
    after, own_after = sum(map(cpu_seconds, processes)), os.times()
    driver_s = own_after.children_user + own_after.children_system - own.children_user - own.children_system
    count = re.search(r"(\d+) requests in ([\d.]+)(us|ms|s|m)", said)
    times = dict(re.findall(r"^\s+(50|99)%\s+([\d.]+(?:us|ms|s|m))$", said, re.MULTILINE))
    if count is None or set(times) != {"50", "99"} or count[1] == "0":
        raise NoDriver(f"wrk said nothing that can be read:\n{said}")
    answered, passed_s = int(count[1]), float(count[2]) * _UNITS[count[3]]
    refused = sum(int(number) for number in re.findall(r"Non-2xx or 3xx responses: (\d+)", said))
    broken = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", said)
    return Driven(
        requests_a_second=answered / passed_s,
        p50_s=_seconds(times["50"]),
        p99_s=_seconds(times["99"]),
        refused=refused + (sum(map(int, broken.groups())) if broken else 0),
        cpu_s=(after - before) / answered,
        driver_share=driver_s / passed_s,
    )


def family(pid: int) -> list[int]:
    """A process and its descendants."""
    tasks = Path(f"/proc/{pid}/task")
    children = [int(child) for task in tasks.glob("*/children") for child in task.read_text().split()]
    return [pid, *(member for child in children for member in family(child))]


def cpu_seconds(pid: int) -> float:
    """Processor time of a process and its finished children; 0 if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0.0
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def _seconds(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text).groups()  # type: ignore[union-attr]
    return float(number) * _UNITS[unit]
