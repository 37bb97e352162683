"""Sends requests to a service: prepared requests over plain connections, or forms by wrk."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx

from benchmarks.measuring import cpu_seconds, process_tree
from models.errors import AnoleError
from service.client import AdaptOptions, Client, LabelledFile
from service.client import requests as client_requests
from service.client.files import list_images

PATIENCE_S: Final = 600.0
"""How long the first adaptation may take: other work may keep the cores busy."""

CLIENT: Final = "bench"

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]

_UNITS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}
_SCRIPT: Final = """local requests = {{}}
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


class WrkFailed(AnoleError):
    """wrk is not installed, or its output could not be read."""


@dataclass(frozen=True, slots=True)
class Form:
    """The body of a request and its media type."""

    content_type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class WrkResult:
    """Results of one run of wrk.

    Attributes:
        requests_per_s: responses per second, whatever their status.
        p50_s, p99_s: response times.
        refused: responses other than 2xx and 3xx, and broken connections.
        cpu_s: processor time of all processes of the service per request.
        driver_share: share of one core that wrk used.
    """

    requests_per_s: float
    p50_s: float
    p99_s: float
    refused: int
    cpu_s: float
    driver_share: float


def publish_version(url: str, support: Sequence[LabelledFile]) -> None:
    """Adapt the client `CLIENT` to the support and publish the version."""
    with Client(url, timeout=httpx.Timeout(PATIENCE_S)) as anole:
        anole.adapt(CLIENT, support, AdaptOptions(mode="replace", publish="always"))


def predict_request(url: str, images: Sequence[bytes]) -> httpx.Request:
    """POST /predict with a form, as the Python client sends it."""
    with httpx.Client(base_url=url) as http:
        request = client_requests.predict(CLIENT, list_images(images))
        return http.build_request(request.method, request.path, **request.content)


def as_form(url: str, images: Sequence[bytes]) -> bytes:
    """The bytes of `predict_request`."""
    return wire_bytes(predict_request(url, images))


def as_body(url: str, image: bytes) -> bytes:
    """The bytes of POST /predict with one image as the body."""
    headers = {"Content-Type": "image/png"}
    return wire_bytes(httpx.Request("POST", f"{url}/predict?client={CLIENT}", headers=headers, content=image))


def wire_bytes(request: httpx.Request) -> bytes:
    """The bytes of a request in HTTP/1.1."""
    body = request.read()
    lines = [f"{request.method} {request.url.raw_path.decode()} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in request.headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def connect(url: str, source: str | None = None) -> Connection:
    """Open a connection to the service, from the address `source` of this machine if it is given."""
    address = urlsplit(url)
    local = None if source is None else (source, 0)
    return await asyncio.open_connection(address.hostname, address.port, local_addr=local)


async def exchange(connection: Connection, request: bytes) -> tuple[int, bytes]:
    """Send a request; return status and body of the response."""
    reader, writer = connection
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    body = await reader.readexactly(int(head.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]))
    return int(head[9:12]), body


def wrk_script(forms: Sequence[Form], path: str, folder: Path) -> Path:
    """Write a wrk script that sends the forms in turn; all must have the same media type.

    Raises:
        WrkFailed: wrk is not installed.
    """
    if shutil.which("wrk") is None:
        raise WrkFailed("wrk is not installed; on Debian and Ubuntu: apt-get install wrk")
    for number, form in enumerate(forms):
        (folder / f"body-{number}").write_bytes(form.body)
    names = "".join(f"{folder / f'body-{number}'}\n" for number in range(len(forms)))
    (folder / "bodies").write_text(names)
    written = folder / "forms.lua"
    content_type = forms[0].content_type.replace('"', '\\"')
    written.write_text(_SCRIPT.format(list=folder / "bodies", content_type=content_type, path=path))
    return written


def run_wrk(url: str, script: Path, connections: int, seconds: int, pid: int) -> WrkResult:
    """Send the requests of a script for some seconds, with one request in flight per connection.

    Args:
        url: of the service.
        script: from `wrk_script`.
        connections: number of connections.
        seconds: duration.
        pid: process of the service.

    Raises:
        WrkFailed: the output could not be read.
    """
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "--timeout", "30s", "-s", str(script)]
    processes = process_tree(pid)
    service_before, before = _cpu_seconds(processes), os.times()
    output = subprocess.run([*command, url], capture_output=True, text=True, check=False).stdout
    service_after, after = _cpu_seconds(processes), os.times()
    driver_s = after.children_user + after.children_system - before.children_user - before.children_system
    count = re.search(r"(\d+) requests in ([\d.]+)(us|ms|s|m)", output)
    times = re.findall(r"^\s+(50|99)%\s+([\d.]+)(us|ms|s|m) *$", output, re.MULTILINE)
    seconds_by_share = {share: float(number) * _UNITS[unit] for share, number, unit in times}
    if count is None or set(seconds_by_share) != {"50", "99"} or count[1] == "0":
        raise WrkFailed(f"the output of wrk has no requests or latencies:\n{output}")
    answered, passed_s = int(count[1]), float(count[2]) * _UNITS[count[3]]
    refused = sum(int(number) for number in re.findall(r"Non-2xx or 3xx responses: (\d+)", output))
    broken = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", output)
    return WrkResult(
        requests_per_s=answered / passed_s,
        p50_s=seconds_by_share["50"],
        p99_s=seconds_by_share["99"],
        refused=refused + (sum(map(int, broken.groups())) if broken else 0),
        cpu_s=(service_after - service_before) / answered,
        driver_share=driver_s / passed_s,
    )


def _cpu_seconds(pids: Sequence[int]) -> float:
    return sum(cpu_seconds(pid, ended_children=True) for pid in pids)
