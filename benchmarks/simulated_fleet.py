"""An event simulation of many devices that poll a repository behind a content delivery network."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

METADATA_FILES: Final = 3
"""Timestamp, snapshot and targets: what a node fetches for a release, beside the release itself."""


@dataclass(frozen=True, slots=True)
class DeviceCost:
    """The measured cost of a device.

    Attributes:
        update_requests: of a poll with a release.
        update_bytes: received by it.
        idle_bytes: received by a poll without news.
        processor_s: of a poll with a release, on the machine of the measurement.
    """

    update_requests: int
    update_bytes: float
    idle_bytes: float
    processor_s: float


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What the simulation takes for granted.

    Attributes:
        devices: that follow the channel; all are in the ring that the release goes to at time 0.
        poll_s: average interval of polls; each varies by 50 %.
        nodes: of the network; 0: devices ask the origin.
        node_gbit_s: what a node can send.
        node_requests_s: requests that a node can answer.
        origin_gbit_s: what the origin can send.
        origin_requests_s: requests that the origin can answer.
        timestamp_s: how long a node keeps the timestamp.
        link_mbit_s: of a device.
        round_trip_s: between a device and its node, for each request.
        slower: how many times slower than the machine of the measurement a device is.
        failed_share: of the polls that fail; the agent then waits a tenth to three tenths of the interval.
        off_share: of the devices that are off at time 0.
        off_s: how long they stay off on average, exponentially distributed.
    """

    devices: int = 200_000
    poll_s: float = 60.0
    nodes: int = 20
    node_gbit_s: float = 1.0
    node_requests_s: float = 5000.0
    origin_gbit_s: float = 1.0
    origin_requests_s: float = 5000.0
    timestamp_s: float = 5.0
    link_mbit_s: float = 2.0
    round_trip_s: float = 0.1
    slower: float = 10.0
    failed_share: float = 0.01
    off_share: float = 0.0
    off_s: float = 300.0


@dataclass(frozen=True, slots=True)
class Simulated:
    """Seconds until shares of the devices run the release, and the load at the busiest second.

    Attributes:
        half_s: until 50 % run it.
        most_s: until 99 % do.
        all_s: until all do.
        origin_requests_s: at the origin.
        origin_mbit_s: from the origin.
        node_requests_s: at the busiest node; 0 without nodes.
        node_mbit_s: from the busiest node.
    """

    HEADINGS: ClassVar = (
        "50 %", "99 %", "100 %", "origin requests/s", "origin Mbit/s", "busiest node requests/s", "Mbit/s",
    )  # fmt: skip

    half_s: float
    most_s: float
    all_s: float
    origin_requests_s: float
    origin_mbit_s: float
    node_requests_s: float
    node_mbit_s: float

    def cells(self) -> tuple[str, ...]:
        """The cells of a row of the table."""
        seconds = (f"{each:.0f} s" for each in (self.half_s, self.most_s, self.all_s))
        loads = (self.origin_requests_s, self.origin_mbit_s, self.node_requests_s, self.node_mbit_s)
        return (*seconds, *(f"{each:,.0f}" for each in loads))


class _Server:
    """Answers in order, limited by bandwidth and requests; counts the load of each second."""

    def __init__(self, gbit_s: float, requests_s: float) -> None:
        self._bytes_s, self._requests_s = gbit_s * 1e9 / 8, requests_s
        self._free_s = 0.0
        self.requests: dict[int, float] = {}
        self.sent_bytes: dict[int, float] = {}

    def answer(self, now_s: float, requests: float, sent_bytes: float) -> float:
        """Return when the answer has left."""
        began = max(now_s, self._free_s)
        self._free_s = began + max(sent_bytes / self._bytes_s, requests / self._requests_s)
        second = int(self._free_s)
        self.requests[second] = self.requests.get(second, 0.0) + requests
        self.sent_bytes[second] = self.sent_bytes.get(second, 0.0) + sent_bytes
        return self._free_s

    @property
    def busiest(self) -> tuple[float, float]:
        """Requests and megabits of the busiest seconds."""
        return max(self.requests.values(), default=0.0), max(self.sent_bytes.values(), default=0.0) * 8 / 1e6


class _Node(_Server):
    """A node with a cache: each file comes from the origin once, and the timestamp again after some seconds."""

    def __init__(self, origin: _Server, cost: DeviceCost, assumptions: Assumptions) -> None:
        super().__init__(assumptions.node_gbit_s, assumptions.node_requests_s)
        self._origin, self._cost, self._keep_s = origin, cost, assumptions.timestamp_s
        self._fetched_s = float("-inf")
        self._filled_s: float | None = None

    def news(self, now_s: float) -> bool:
        """Whether the node's timestamp is that of the release, which was published at time 0."""
        if now_s - self._fetched_s > self._keep_s:
            self._origin.answer(max(now_s, 0.0), 1, self._cost.idle_bytes)
            self._fetched_s = now_s
        return self._fetched_s >= 0

    def filled(self, now_s: float) -> float:
        """When the node has the files of the release."""
        if self._filled_s is None:
            size = self._cost.update_bytes
            self._filled_s = self._origin.answer(now_s, METADATA_FILES + 1, size)
        return max(now_s, self._filled_s)


def simulate(cost: DeviceCost, assumptions: Assumptions, seed: int = 0) -> Simulated:
    """Publish a release at time 0 and follow the devices until all run it."""
    generator = np.random.default_rng(seed)
    origin = _Server(assumptions.origin_gbit_s, assumptions.origin_requests_s)
    nodes = [_Node(origin, cost, assumptions) for _ in range(assumptions.nodes)]
    first_s = _next_polls(assumptions, generator)
    off = generator.random(assumptions.devices) < assumptions.off_share
    first_s[off] += generator.exponential(assumptions.off_s, int(off.sum()))
    events = [(float(at_s), device) for device, at_s in enumerate(first_s)]
    heapq.heapify(events)
    done_s = np.zeros(assumptions.devices)
    while events:
        now_s, device = heapq.heappop(events)
        node = nodes[device % len(nodes)] if nodes else None
        if generator.random() < assumptions.failed_share:
            heapq.heappush(events, (now_s + assumptions.poll_s * generator.uniform(0.1, 0.3), device))
        elif node is not None and not node.news(now_s):
            node.answer(now_s, 1, cost.idle_bytes)
            heapq.heappush(events, (now_s + assumptions.poll_s * generator.uniform(0.5, 1.5), device))
        else:
            server: _Server = origin if node is None else node
            ready_s = now_s if node is None else node.filled(now_s)
            sent_s = server.answer(ready_s, cost.update_requests, cost.update_bytes)
            link_s = cost.update_bytes * 8 / (assumptions.link_mbit_s * 1e6)
            waits_s = cost.update_requests * assumptions.round_trip_s + assumptions.slower * cost.processor_s
            done_s[device] = max(sent_s, now_s + link_s) + waits_s
    busiest = max((node.busiest for node in nodes), default=(0.0, 0.0))
    half, most = np.quantile(done_s, [0.5, 0.99])
    return Simulated(float(half), float(most), float(done_s.max()), *origin.busiest, *busiest)


def _next_polls(assumptions: Assumptions, generator: np.random.Generator) -> NDArray[np.float64]:
    """When each device polls next, if it has polled for long: the rest of an interval, most often of a long one."""
    shortest, longest = 0.5 * assumptions.poll_s, 1.5 * assumptions.poll_s
    squares = generator.uniform(shortest**2, longest**2, assumptions.devices)
    return np.sqrt(squares) * generator.random(assumptions.devices)
