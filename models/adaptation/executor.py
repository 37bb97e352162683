"""Runs groups of independent calls on a fixed number of threads, sharing the threads fairly between groups."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

Result = TypeVar("Result")


class CallGroup(Generic[Result]):
    """Calls that belong together, for example the inner loops of one adaptation."""

    def __init__(self, calls: Sequence[Callable[[], Result]]) -> None:
        self._count = len(calls)
        self._results: dict[int, Result] = {}
        self._error: BaseException | None = None
        self._done = threading.Event()
        self.waiting = deque(enumerate(calls))
        self.running = 0

    @property
    def started(self) -> int:
        """Calls that have started."""
        return self._count - len(self.waiting)

    def results(self) -> list[Result]:
        """Block until every call has ended, and return the results in the order of the calls.

        Raises:
            The first error that a call raised. Calls that had not started by then are dropped.
        """
        if self._count:
            self._done.wait()
        if self._error is not None:
            raise self._error
        return [self._results[index] for index in range(self._count)]

    def run(self, index: int, call: Callable[[], Result]) -> None:
        """Run one call and keep its result or its error."""
        try:
            self._results[index] = call()
        except BaseException as error:  # noqa: BLE001 - `results` raises it in the thread that waits
            self._error = self._error or error

    def finish_call(self) -> None:
        """Count a call as ended; the executor's lock is held."""
        self.running -= 1
        if self._error is not None:
            self.waiting.clear()
        if not self.waiting and not self.running:
            self._done.set()


class FairExecutor:
    """A thread pool in which a free thread takes its next call from the group with the fewest running calls.

    A group that is alone gets every thread. A large or slow group does not keep the others from their share.

    Args:
        threads: calls that run at the same time. Threads start when they are first needed.
        initializer: called once in each thread.

    Attributes:
        threads: number of threads.
    """

    def __init__(self, threads: int, initializer: Callable[[], object] | None = None) -> None:
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads, "inner-loops", initializer)
        self._groups: list[CallGroup[object]] = []
        self._lock = threading.Lock()

    def submit(self, calls: Sequence[Callable[[], Result]]) -> CallGroup[Result]:
        """Queue a group of calls."""
        group = CallGroup(calls)
        with self._lock:
            self._groups.append(group)  # type: ignore[arg-type] # results pass through unread
        for _ in calls:
            self._pool.submit(self._run_next)
        return group

    def run(self, calls: Sequence[Callable[[], Result]]) -> list[Result]:
        """Run a group of calls and return their results in order; see `CallGroup.results`."""
        return self.submit(calls).results()

    def close(self) -> None:
        """Wait for the running calls and stop the threads."""
        self._pool.shutdown()

    def _run_next(self) -> None:
        with self._lock:
            self._groups = [group for group in self._groups if group.waiting]
            if not self._groups:  # the call was dropped after an error in its group
                return
            group = min(self._groups, key=lambda group: (group.running, group.started))
            group.running += 1
            index, call = group.waiting.popleft()
        group.run(index, call)
        with self._lock:
            group.finish_call()
