"""What a device reports if it is asked to: counts for each release. No image, no score and no address is in it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Final

import httpx
from pydantic import BaseModel, ConfigDict, Field

from models.atomic_files import write_atomically
from service.edge.agent import Agent
from service.edge.errors import EdgeError

_TIMEOUT_S: Final = 10.0

MAX_REPORT_BYTES: Final = 1 << 20
"""A report of more bytes is not read."""

Count = Annotated[int, Field(ge=0, le=2**53)]


class ReleaseCounts(BaseModel):
    """Counts of one release since the agent loaded it.

    Attributes:
        client: name of the client.
        version: number of the version; None if the device runs none of the client's.
        release: SHA-256 (hex) of the release's file; None if the device runs none.
        images: predicted.
        unknown: of them, with the verdict unknown.
        failed: predictions that ended with an internal error.
        seconds: time of all predictions together.
        refused: versions' files that failed on the device, as SHA-256 (hex).
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    client: str = Field(max_length=64)
    version: int | None = Field(ge=1)
    release: str | None = None
    images: Count
    unknown: Count
    failed: Count
    seconds: float = Field(ge=0, allow_inf_nan=False)
    refused: tuple[str, ...] = Field((), max_length=20)


class DeviceReport(BaseModel):
    """The report of one device.

    Attributes:
        device: SHA-256 (hex) of its id, which tells devices apart without naming them.
        channel: that it follows.
        releases: counts of what it runs.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    device: str = Field(pattern="^[0-9a-f]{64}$")
    channel: str = Field(max_length=64)
    releases: tuple[ReleaseCounts, ...]


def report_of(agent: Agent) -> DeviceReport:
    """The agent's counts as they are now."""
    summary, running, refused = agent.summary(), agent.running(), agent.refused()
    return DeviceReport(
        device=hashlib.sha256(agent.device.encode()).hexdigest(),
        channel=agent.channel,
        releases=tuple(
            ReleaseCounts(
                client=client,
                version=loaded.info.version,
                release=running.get(client),
                images=counts.images,
                unknown=counts.unknown,
                failed=counts.failed,
                seconds=round(counts.seconds, 3),
                refused=refused.get(client, ()),
            )
            for client, (loaded, counts) in summary.items()
        )
        + tuple(
            ReleaseCounts(client=client, version=None, images=0, unknown=0, failed=0, seconds=0, refused=digests)
            for client, digests in refused.items()
            if digests and client not in summary
        ),
    )


def send(report: DeviceReport, place: str) -> None:
    """Write a report to a folder, or send it with PUT to a URL, as DEVICE.json. A newer one replaces it.

    Args:
        report: from `report_of`.
        place: path of a folder, or an http or https URL.

    Raises:
        EdgeError: it could not be sent.
    """
    content = report.model_dump_json().encode()
    try:
        if place.startswith(("http://", "https://")):
            url = f"{place.rstrip('/')}/{report.device}.json"
            headers = {"Content-Type": "application/json"}
            httpx.put(url, content=content, headers=headers, timeout=_TIMEOUT_S).raise_for_status()
        else:
            write_atomically(Path(place) / f"{report.device}.json", content, durable=False)
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        raise EdgeError(f"the report could not be sent to {place}: {error}") from error
