"""Keeps a request of which a process died from ending one process after another. Knows digests of requests, no more.

What was in work when a process died is suspected: it is worked on again, one suspect at a time, so that the innocent
among them are cleared by the answer that they get. A suspect that a process dies of is refused for a while. However
often processes are killed from outside, what they happened to work on is therefore no more than suspected.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from service.errors import RequestQuarantined
from service.runtime.in_work import DIGEST_BYTES, InWork, Left, left_behind

Job = TypeVar("Job")
Answer = TypeVar("Answer")
Work = Callable[[Sequence[Job]], Iterable[tuple[int, Answer | BaseException]]]

_LEDGER: Final = "deaths"
_LOOK_S: Final = 1.0


_NOTHING: Final = Left((), suspected=False)


@dataclass(frozen=True, slots=True)
class _Death:
    """A process that died while it worked on something.

    Attributes:
        digest: of what it worked on.
        at: seconds since the epoch.
        suspected: whether it worked on this because it was suspected, with no other suspect beside it.
    """

    digest: bytes
    at: float
    suspected: bool


class Quarantine:
    """Counts the deaths of processes by what they had in work, together with the other processes at the same folder.

    Args:
        folder: of the notes and the count; made if it is not there. None: nothing is noted, nobody is suspected.
        kept_s: how long a death is held against a request, in seconds.
        clock: seconds since the epoch; deaths are counted across restarts.

    Raises:
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path | None, kept_s: float, clock: Callable[[], float] = time.time) -> None:
        self._in_work = None if folder is None else InWork(folder)
        self._ledger = Path(os.devnull) if folder is None else folder / _LEDGER
        self._kept_s = kept_s
        self._clock = clock
        self._guard = threading.Lock()
        self._deaths: dict[bytes, list[_Death]] = {}
        self._seen: tuple[int, int] | None = None
        self._looked_at = -_LOOK_S
        for left in () if folder is None else left_behind(folder):
            self._rewrite(added=left)

    def guarding(
        self, work: Work[Job, Answer], digest: Callable[[Job], bytes]
    ) -> Callable[[Sequence[Job]], Iterator[tuple[int, Answer | BaseException]]]:
        """`work`, with its jobs noted while they are in work; suspects come after the others, one at a time.

        Args:
            work: answers jobs, each by its place.
            digest: names a job; two jobs that are the same work have the same digest of `DIGEST_BYTES`.
        """
        one_suspect = threading.Lock()

        def guarded(jobs: Sequence[Job]) -> Iterator[tuple[int, Answer | BaseException]]:
            digests = [digest(job) for job in jobs]
            deaths = self._deaths_of(digests)
            clear = [place for place, died in enumerate(deaths) if not died]
            if clear:
                with self._noted([digests[place] for place in clear]):
                    for place, answer in work([jobs[place] for place in clear]):
                        yield clear[place], answer
            for place, died in enumerate(deaths):
                if _guilty(died):
                    yield place, self._refusal(died)
                elif died:
                    with one_suspect, self._cleared_if_it_survives(digests[place]):
                        for _, answer in work([jobs[place]]):
                            yield place, answer

        return guarded

    def readings(self) -> dict[str, float]:
        """How many requests are refused now."""
        with self._guard:
            return {"requests_quarantined": sum(map(_guilty, self._deaths.values()))}

    def close(self) -> None:
        """Leave no note behind; nothing may be in work any more."""
        if self._in_work is not None:
            self._in_work.close()

    def _noted(self, digests: Sequence[bytes], *, suspected: bool = False) -> AbstractContextManager[None]:
        return nullcontext() if self._in_work is None else self._in_work.noted(digests, suspected=suspected)

    @contextmanager
    def _cleared_if_it_survives(self, digest: bytes) -> Iterator[None]:
        try:
            with self._noted([digest], suspected=True):
                yield
        finally:
            with suppress(OSError):  # on a full disk it stays suspected, and its answer is not lost for that
                self._rewrite(without=digest)

    def _refusal(self, died: Sequence[_Death]) -> RequestQuarantined:
        left_min = max(1, round((max(death.at for death in died) + self._kept_s - self._clock()) / 60))
        return RequestQuarantined(
            f"a process of the service died {len(died)} times while it worked on exactly this request, which is not "
            f"tried again for {left_min} min; send other images, and tell whoever runs the service"
        )

    def _deaths_of(self, digests: Sequence[bytes]) -> list[list[_Death]]:
        """The deaths of processes that worked on each; other processes' deaths are seen within a second."""
        with self._guard:
            if time.monotonic() - self._looked_at >= _LOOK_S:
                self._look()
            if not self._deaths:
                return [[] for _ in digests]
            after = self._clock() - self._kept_s
            return [[death for death in self._deaths.get(digest, ()) if death.at >= after] for digest in digests]

    def _look(self) -> None:
        self._looked_at = time.monotonic()
        try:
            status = self._ledger.stat()
        except FileNotFoundError:
            self._deaths = {}
            return
        if self._seen != (status.st_mtime_ns, status.st_size):
            self._take(self._ledger.read_bytes())
            self._seen = status.st_mtime_ns, status.st_size

    def _take(self, ledger: bytes) -> None:
        self._deaths = {}
        for death in _entries(ledger):
            self._deaths.setdefault(death.digest, []).append(death)

    def _rewrite(self, *, added: Left = _NOTHING, without: bytes | None = None) -> None:
        """Change the count while no other process does; deaths of long ago are left out."""
        with self._guard, os.fdopen(os.open(self._ledger, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            now = self._clock()
            deaths = [*_entries(file.read()), *(_Death(digest, now, added.suspected) for digest in added.digests)]
            kept = [death for death in deaths if death.digest != without and death.at >= now - self._kept_s]
            ledger = b"".join(map(_line, kept))
            file.seek(0)
            file.write(ledger)
            file.truncate()
            self._take(ledger)
            self._seen = None


def digest_of(*parts: bytes | str) -> bytes:
    """Names work by all that it is made from; where one part ends and the next begins counts too."""
    digest = hashlib.sha256()
    for part in parts:
        content = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        digest.update(len(content).to_bytes(8, "big"))
        digest.update(content)
    return digest.digest()


def _guilty(died: Sequence[_Death]) -> bool:
    """Whether a process died of it a second time, when it alone was suspected."""
    return any(death.suspected for death in died)


def _line(death: _Death) -> bytes:
    return b"%s %.3f %d\n" % (death.digest.hex().encode(), death.at, death.suspected)


def _entries(ledger: bytes) -> list[_Death]:
    """What the lines say; a line that a death cut short says nothing."""
    entries = []
    for line in ledger.splitlines():
        digest, at, suspected, *_ = [*line.split(b" "), b"", b"", b""]
        try:
            entry = _Death(bytes.fromhex(digest.decode("ascii")), float(at), bool(int(suspected)))
        except ValueError:
            continue
        if len(entry.digest) == DIGEST_BYTES:
            entries.append(entry)
    return entries
