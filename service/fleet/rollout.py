"""Releases go to a channel in rings: 1, 10 and 100 per cent of its devices. Reports can halt a ring.

What a channel offers is in the custom fields of its target, so it is signed with the targets.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
from pydantic import ValidationError
from tuf.api.metadata import TargetFile

from service.edge.bundle import Release, Start
from service.edge.reports import MAX_REPORT_BYTES, DeviceReport, ReleaseCounts
from service.edge.rings import CUSTOM, ChannelState, Rollout, channel_path
from service.errors import InvalidRequest
from service.fleet.repository import SignedRepository

RINGS: Final = (1, 10, 100)
"""Per cent of a channel's devices."""

_CHANNELS: Final = "channels/"
_TIMEOUT_S: Final = 20.0

_CHUNK_BYTES: Final = 1 << 16

MAX_REPORTS: Final = 1_000_000
MAX_LISTING_BYTES: Final = 256 << 20


@dataclass(frozen=True, slots=True)
class HaltRule:
    """When the reports of a ring stop its rollout.

    Attributes:
        least_images: images of the new version before shares count.
        max_unknown: largest share of images with the verdict unknown.
        more_unknown: by how much that share may exceed the share on devices with other versions.
        max_failed: largest share of predictions that failed.
        max_refused: largest share of devices that refused the release.
    """

    least_images: int = 100
    max_unknown: float = 0.5
    more_unknown: float = 0.15
    max_failed: float = 0.02
    max_refused: float = 0.05


@dataclass(frozen=True, slots=True)
class RingCounts:
    """Sums over the reports of devices.

    Attributes:
        devices: with the new version.
        refused: devices that refused it.
        images: predicted with the new version, and
        unknown: of them, with the verdict unknown.
        failed: predictions that failed.
        other_images: predicted with other versions, and
        other_unknown: of them, with the verdict unknown.
    """

    devices: int = 0
    refused: int = 0
    images: int = 0
    unknown: int = 0
    failed: int = 0
    other_images: int = 0
    other_unknown: int = 0


@dataclass(frozen=True, slots=True)
class RolloutStatus:
    """The rollout of a client on a channel, the sums of its reports, and what in them breaches the rule."""

    channel: str
    client: str
    rollout: Rollout
    counts: RingCounts
    breach: str | None


class Fleet:
    """Publishes releases to the channels of a repository, and changes their rollouts."""

    def __init__(self, repository: SignedRepository) -> None:
        self._repository = repository

    def publish(self, channel: str, release: Release, start: Start, percent: int = RINGS[0]) -> Rollout:
        """Publish a release to the first ring of a channel. The release there becomes the previous one.

        Args:
            channel: name of the channel.
            release: from `service.fleet.release`.
            start: that it belongs to.
            percent: of the devices.

        Raises:
            InvalidRequest: the channel has this release already, or one that is not at 100 per cent or halted.
        """
        info = release.info
        content, start_content = release.to_bytes(), start.to_bytes()
        path = f"releases/{info.client}/{info.version}-{_short_digest(content)}.safetensors"
        start_path = f"starts/{start.info.name}-{_short_digest(start_content)}.safetensors"

        def change(state: ChannelState) -> Rollout:
            before = state.clients.get(info.client)
            if before is not None and before.target == path:
                raise InvalidRequest(
                    f"version {info.version} of {info.client!r} is released on {channel!r} already; see `anole rollout "
                    "status`"
                )
            kept = before if before is None or not before.halted else _earlier(before)
            if before is not None and not before.halted and before.percent < RINGS[-1]:
                raise InvalidRequest(
                    f"version {before.version} of {info.client!r} is at {before.percent} % of {channel!r}; advance "
                    "it to 100 %, or halt it, before the next release"
                )
            return Rollout(
                target=path,
                version=info.version,
                start=start_path,
                percent=percent,
                previous=None if kept is None else kept.target,
                previous_start=None if kept is None else kept.start,
            )

        return self._change(channel, info.client, change, {path: content, start_path: start_content})

    def advance(self, channel: str, client: str, percent: int | None = None) -> Rollout:
        """Go to the next ring, or to a percentage.

        Raises:
            InvalidRequest: the rollout is halted or complete, or the percentage is not larger.
        """

        def change(state: ChannelState) -> Rollout:
            now = _rollout(state, channel, client)
            if now.halted:
                raise InvalidRequest(f"the rollout of {client!r} on {channel!r} is halted; resume it first")
            larger = percent if percent is not None else next((ring for ring in RINGS if ring > now.percent), None)
            if larger is None or not now.percent < larger <= RINGS[-1]:
                raise InvalidRequest(
                    f"the rollout of {client!r} on {channel!r} is at {now.percent} %; it can only advance to "
                    "more, up to 100 %"
                )
            return now.model_copy(update={"percent": larger})

        return self._change(channel, client, change)

    def halt(self, channel: str, client: str, *, halted: bool = True) -> Rollout:
        """Halt a rollout, so that devices go back to the release before, or resume it at the same percentage."""

        def change(state: ChannelState) -> Rollout:
            return _rollout(state, channel, client).model_copy(update={"halted": halted})

        return self._change(channel, client, change)

    def status(self, reports: Iterable[DeviceReport] = (), rule: HaltRule | None = None) -> list[RolloutStatus]:
        """The rollouts of all channels, with the sums of the reports."""
        known, chosen = list(reports), rule or HaltRule()
        targets = self._repository.targets()
        found = []
        for path in sorted(targets):
            if not path.startswith(_CHANNELS):
                continue
            channel = path.removeprefix(_CHANNELS).removesuffix(".json")
            for client, rollout in sorted(_state(targets, channel).clients.items()):
                release = targets[rollout.target].hashes["sha256"]
                counts = _sum((report for report in known if report.channel == channel), client, rollout, release)
                found.append(RolloutStatus(channel, client, rollout, counts, breach(counts, chosen)))
        return found

    def _change(
        self,
        channel: str,
        client: str,
        change: Callable[[ChannelState], Rollout],
        files: Mapping[str, bytes] | None = None,
    ) -> Rollout:
        """Change the rollout of a client and sign. Targets that no rollout names are no longer listed."""
        changed: list[Rollout] = []

        def customs(targets: Mapping[str, TargetFile]) -> dict[str, dict[str, Any]]:
            states = {
                path: _state(targets, path.removeprefix(_CHANNELS).removesuffix(".json"))
                for path in targets
                if path.startswith(_CHANNELS)
            }
            state = states.get(channel_path(channel), ChannelState(serial=0))
            changed.append(change(state))
            clients = {**state.clients, client: changed[-1]}
            states[channel_path(channel)] = ChannelState(serial=state.serial + 1, clients=clients)
            named = {path: {CUSTOM: state.model_dump()} for path, state in states.items()}
            rollouts = [rollout for state in states.values() for rollout in state.clients.values()]
            paths = [(each.target, each.start, each.previous, each.previous_start) for each in rollouts]
            return {**named, **{path: {} for group in paths for path in group if path is not None}}

        new_channel = {channel_path(channel): json.dumps({"channel": channel}).encode()}
        self._repository.publish({**new_channel, **(files or {})}, customs)
        return changed[-1]


def breach(counts: RingCounts, rule: HaltRule) -> str | None:
    """Say which part of a rule the reports breach, or None."""
    tried = counts.devices + counts.refused
    if counts.refused and counts.refused / tried > rule.max_refused:
        return f"{counts.refused} of {tried} devices refused the release; at most {rule.max_refused:.1%} may"
    predictions = counts.images + counts.failed
    if predictions < rule.least_images:
        return None
    if counts.failed / predictions > rule.max_failed:
        return f"{counts.failed / predictions:.1%} of the predictions failed; at most {rule.max_failed:.1%} may"
    unknown = counts.unknown / max(counts.images, 1)
    if unknown > rule.max_unknown:
        return f"{unknown:.1%} of the images are unknown; at most {rule.max_unknown:.1%} may be"
    before = counts.other_unknown / counts.other_images if counts.other_images >= rule.least_images else None
    if before is not None and unknown > before + rule.more_unknown:
        return f"{unknown:.1%} of the images are unknown, and {before:.1%} on devices with other versions"
    return None


def read_reports(place: str, http: httpx.Client | None = None) -> list[DeviceReport]:
    """Read the reports of devices.

    Args:
        place: path of a folder, or the URL of one that lists its files as a JSON array of objects with a ``name``.
        http: for a URL; None makes a client.

    Raises:
        InvalidRequest: there is no such place, a file in it is not a report, or there is more than devices report.
    """
    if place.startswith(("http://", "https://")):
        files = _delivered_files(place.rstrip("/"), http or httpx.Client(timeout=_TIMEOUT_S))
    elif Path(place).is_dir():
        files = _local_files(Path(place))
    else:
        raise InvalidRequest(f"there is no folder {place!r}; name the folder or the URL of the devices' reports")
    reports: list[DeviceReport] = []
    for name, content in files:
        if len(reports) == MAX_REPORTS:
            raise InvalidRequest(f"there are more than {MAX_REPORTS} reports in {place}; remove those of other devices")
        try:
            reports.append(DeviceReport.model_validate_json(content))
        except ValidationError as error:
            raise InvalidRequest(
                f"{name} is not a device's report; remove the file, or name another place: {error}"
            ) from error
    return reports


def _local_files(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.glob("*.json")):
        try:
            with path.open("rb") as file:
                yield str(path), _bounded(str(path), iter(lambda: file.read(_CHUNK_BYTES), b""), MAX_REPORT_BYTES)
        except OSError as error:
            raise InvalidRequest(f"the report {path} cannot be read: {error}; remove it, or permit reading") from error


def _delivered_files(url: str, http: httpx.Client) -> Iterator[tuple[str, bytes]]:
    """Yield URL and content of each JSON file that a folder lists, as nginx does with ``autoindex_format json``."""
    try:
        listed = json.loads(_download(http, f"{url}/", MAX_LISTING_BYTES))
        if not isinstance(listed, list):
            raise TypeError(f"a JSON {type(listed).__name__}")
        names = [str(entry["name"]) for entry in listed]
        for name in sorted(name for name in names if name.endswith(".json")):
            yield f"{url}/{name}", _download(http, f"{url}/{name}", MAX_REPORT_BYTES)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, TypeError, KeyError) as error:
        raise InvalidRequest(
            f"the reports at {url}/ cannot be read: {error!r}; it must list its files as a JSON array of objects "
            "with a name, such as nginx with autoindex_format json"
        ) from error


def _download(http: httpx.Client, url: str, limit: int) -> bytes:
    with http.stream("GET", url) as response:
        return _bounded(url, response.raise_for_status().iter_bytes(_CHUNK_BYTES), limit)


def _bounded(name: str, chunks: Iterable[bytes], limit: int) -> bytes:
    """Join chunks. Raises InvalidRequest if they have more bytes; they may come from a stranger."""
    content = bytearray()
    for chunk in chunks:
        content += chunk
        if len(content) > limit:
            raise InvalidRequest(f"{name} has more than {limit} bytes, so it is not from a device; remove it")
    return bytes(content)


def _short_digest(content: bytes) -> str:
    """Part of a path, so that the same path never gets other content, whatever other channels publish."""
    return hashlib.sha256(content).hexdigest()[:12]


def _earlier(before: Rollout) -> Rollout | None:
    """The release before a halted one."""
    if before.previous is None or before.previous_start is None:
        return None
    return before.model_copy(update={"target": before.previous, "start": before.previous_start})


def _rollout(state: ChannelState, channel: str, client: str) -> Rollout:
    found = state.clients.get(client)
    if found is None:
        raise InvalidRequest(
            f"channel {channel!r} has no release of {client!r}; it has {', '.join(sorted(state.clients)) or 'none'}"
        )
    return found


def _state(targets: Mapping[str, TargetFile], channel: str) -> ChannelState:
    target = targets.get(channel_path(channel))
    custom = None if target is None else (target.custom or {}).get(CUSTOM)
    return ChannelState(serial=0) if custom is None else ChannelState.model_validate(custom)


def _sum(reports: Iterable[DeviceReport], client: str, rollout: Rollout, release: str) -> RingCounts:
    def is_new(each: ReleaseCounts) -> bool:
        """By the file where the report names it: a client that was deleted and created again has a version 1 twice."""
        return each.version == rollout.version if each.release is None else each.release == release

    of_client = [each for report in reports for each in report.releases if each.client == client]
    new = [each for each in of_client if is_new(each)]
    other = [each for each in of_client if not is_new(each)]
    return RingCounts(
        devices=len(new),
        refused=sum(release in each.refused for each in other),
        images=sum(each.images for each in new),
        unknown=sum(each.unknown for each in new),
        failed=sum(each.failed for each in new),
        other_images=sum(each.images for each in other),
        other_unknown=sum(each.unknown for each in other),
    )
