"""The rate and the concurrency of one caller's requests, in one process or in all workers of a service."""

from __future__ import annotations

import fcntl
import hashlib
import math
import mmap
import os
import struct
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Final, Protocol

from service.errors import RateExceeded
from service.http.problems import of_setting
from service.workers import PLACES, WorkerPlace

_BURST_S: Final = 2.0

_MAX_CALLERS: Final = 10_000

_SETS: Final = 1280
_WAYS: Final = 8
_DIGEST_BYTES: Final = 16
_ENTRY: Final = struct.Struct(f"={_DIGEST_BYTES}sdd{PLACES}H")
"""An entry of the shared table: a caller's digest, tokens, their time, and requests in flight in each worker."""


@dataclass(frozen=True, slots=True)
class RateLimit:
    """What one caller may use.

    Attributes:
        in_flight: requests at the same time.
        rate_per_s: requests per second, on average.
        in_flight_setting: environment variable that sets `in_flight`; empty if none does.
        rate_setting: environment variable that sets `rate_per_s`; empty if none does.
        burst_s: a caller that was idle may send the requests of this many seconds at once.
    """

    in_flight: int
    rate_per_s: float = math.inf
    in_flight_setting: str = ""
    rate_setting: str = ""
    burst_s: float = _BURST_S

    @property
    def burst(self) -> float:
        """Requests that an idle caller may send at once."""
        return max(1.0, self.rate_per_s * self.burst_s)


@dataclass(slots=True)
class Usage:
    """Tokens left at `updated_s`, monotonic seconds, and requests in flight."""

    tokens: float
    updated_s: float
    in_flight: int = 0


class UsageTable(Protocol):
    """What callers have used."""

    def changing(self, caller: str, idle: Usage) -> AbstractContextManager[Usage]:
        """Open the usage of a caller for a change; `idle` is that of a caller without an entry."""
        ...


class LocalTable(UsageTable):
    """Usage in this process. Not thread-safe.

    Args:
        max_callers: how many callers are remembered. Callers with requests in flight are never forgotten.
    """

    def __init__(self, max_callers: int = _MAX_CALLERS) -> None:
        self._max_callers = max_callers
        self._callers: OrderedDict[str, Usage] = OrderedDict()

    def __len__(self) -> int:
        return len(self._callers)

    @contextmanager
    def changing(self, caller: str, idle: Usage) -> Iterator[Usage]:
        """See `UsageTable.changing`."""
        usage = self._callers.setdefault(caller, idle)
        self._callers.move_to_end(caller)
        while len(self._callers) > self._max_callers:
            forgotten = next((name for name, other in self._callers.items() if not other.in_flight), caller)
            if forgotten == caller:
                break
            del self._callers[forgotten]
        yield usage


class SharedTable(UsageTable):
    """Usage in all workers of a service, in a file in memory that every worker maps. Not thread-safe.

    The table is a set-associative cache, as in a processor: a digest chooses a set of eight entries, and the one that
    was idle for longest gives way. A lock on the file guards each change, and the system frees it when a worker dies.
    Requests in flight are counted for each worker, so those of a dead worker end when the next one takes its place.

    Args:
        place: of this worker.
        name: of the table.
    """

    def __init__(self, place: WorkerPlace, name: str) -> None:
        self._place = place.number
        self._key = place.folder.name.encode()[-64:]  # random: callers cannot be chosen to share a set
        size = _SETS * _WAYS * _ENTRY.size
        self._file = os.open(place.folder / f"usage-{name}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        weakref.finalize(self, os.close, self._file)
        os.truncate(self._file, size)
        self._map = mmap.mmap(self._file, size)
        with self._locked():
            for offset in range(0, size, _ENTRY.size):
                self._write_in_flight(offset, 0)

    @contextmanager
    def changing(self, caller: str, idle: Usage) -> Iterator[Usage]:
        """See `UsageTable.changing`. The file is locked meanwhile."""
        digest = hashlib.blake2b(caller.encode(), digest_size=_DIGEST_BYTES, key=self._key).digest()
        with self._locked():
            offset = self._entry(digest)
            found, tokens, updated_s, *counts = _ENTRY.unpack_from(self._map, offset)
            others = sum(counts) - counts[self._place]
            usage = Usage(tokens, updated_s, sum(counts)) if found == digest else idle
            if found != digest:
                others = 0
                _ENTRY.pack_into(self._map, offset, digest, idle.tokens, idle.updated_s, *[0] * PLACES)
            try:
                yield usage
            finally:
                struct.pack_into("=dd", self._map, offset + _DIGEST_BYTES, usage.tokens, usage.updated_s)
                self._write_in_flight(offset, max(0, usage.in_flight - others))

    def _entry(self, digest: bytes) -> int:
        """Return the offset of a caller's entry, or of the one that gives way to it."""
        first = int.from_bytes(digest[:4], "little") % _SETS * _WAYS * _ENTRY.size
        offsets = range(first, first + _WAYS * _ENTRY.size, _ENTRY.size)
        for offset in offsets:
            if self._map[offset : offset + _DIGEST_BYTES] == digest:
                return offset
        return min(offsets, key=self._last_use)

    def _last_use(self, offset: int) -> tuple[bool, float]:
        _, _, updated_s, *counts = _ENTRY.unpack_from(self._map, offset)
        return any(counts), updated_s

    def _write_in_flight(self, offset: int, count: int) -> None:
        struct.pack_into("=H", self._map, offset + _ENTRY.size - 2 * (PLACES - self._place), count)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)


class RateLimiter:
    """A token bucket and a concurrency limit per caller.

    Args:
        limit: applies to each caller.
        clock: monotonic seconds, the same in all processes of this machine.
        usage: what callers have used; None keeps it in this process.
    """

    def __init__(
        self, limit: RateLimit, clock: Callable[[], float] = time.monotonic, usage: UsageTable | None = None
    ) -> None:
        self._limit = limit
        self._clock = clock
        self._usage = LocalTable() if usage is None else usage

    @contextmanager
    def request(self, caller: str) -> Iterator[None]:
        """Count a request while the block runs.

        Raises:
            RateExceeded: the caller has too many requests; says when to try again.
        """
        now_s = self._clock()
        idle = Usage(self._limit.burst, now_s)
        with self._usage.changing(caller, idle) as usage:
            self._refill(usage, now_s)
            self._check(usage)
            usage.tokens -= 1
            usage.in_flight += 1
        try:
            yield
        finally:
            with self._usage.changing(caller, idle) as usage:
                usage.in_flight -= 1

    def _refill(self, usage: Usage, now_s: float) -> None:
        if now_s > usage.updated_s:
            added = (now_s - usage.updated_s) * self._limit.rate_per_s
            usage.tokens, usage.updated_s = min(self._limit.burst, usage.tokens + added), now_s

    def _check(self, usage: Usage) -> None:
        if usage.in_flight >= self._limit.in_flight:
            raise RateExceeded(
                f"{usage.in_flight} requests of this caller are running, which is the limit"
                f"{of_setting(self._limit.in_flight_setting)}; wait for their responses, or try again in 1 s",
                retry_after_s=1,
            )
        if usage.tokens < 1:
            wait_s = math.ceil((1 - usage.tokens) / self._limit.rate_per_s)
            raise RateExceeded(
                f"this caller sends more than {self._limit.rate_per_s:g} requests per second, which is the limit"
                f"{of_setting(self._limit.rate_setting)}; try again in {wait_s} s",
                retry_after_s=wait_s,
            )
