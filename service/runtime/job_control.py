"""Progress of one adaptation, and a way to stop it before its version is stored."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

from service.errors import RETRY_BUSY_S, DeadlinePassed

Stage = Literal["waiting", "decode", "adapt", "examine", "store"]


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of an adaptation.

    Attributes:
        stage: the current stage.
        steps_done: inner steps done, including those of the cross-validation folds.
        steps: inner steps in total; 0 until known.
        loss: the version's loss at its last inner step; None before the first.
    """

    stage: Stage = "waiting"
    steps_done: int = 0
    steps: int = 0
    loss: float | None = None


class JobControl:
    """Reports the progress of one adaptation and stops it on request or at its deadline. Thread-safe.

    Attributes:
        first: the preliminary result before the inner steps, if the request asked for one.

    Args:
        limit_s: time limit in seconds, until the version is stored.
        include_waiting: whether the time in the queue counts; if not, the limit applies from `start`.
        clock: monotonic seconds.
    """

    def __init__(
        self, limit_s: float = math.inf, *, include_waiting: bool = True, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit_s = limit_s
        self._clock = clock
        self._deadline = clock() + limit_s if include_waiting else None
        self._lock = threading.Lock()
        self._error: Exception | None = None
        self._committing = False
        self._progress = Progress()
        self._on_change: Callable[[], object] | None = None
        self.first: Any = None

    @property
    def progress(self) -> Progress:
        """The current progress."""
        return self._progress

    @property
    def observed(self) -> bool:
        """Whether a callback is registered."""
        return self._on_change is not None

    def on_change(self, callback: Callable[[], object]) -> None:
        """Call `callback` after each change, in the thread that makes the change. It must return quickly."""
        self._on_change = callback

    def stop(self, error: Exception) -> bool:
        """Make the adaptation end with `error` at its next inner step.

        Returns:
            False if it is too late, because the version is being stored.
        """
        with self._lock:
            if self._committing:
                return False
            self._error = self._error or error
            return True

    def check(self) -> None:
        """Return if the adaptation may go on.

        Raises:
            DeadlinePassed: the time limit has passed.
            The error that `stop` was called with.
        """
        with self._lock:
            self._check()

    def start(self) -> None:
        """Start the clock if the time in the queue does not count. Raises as `check` does."""
        if self._deadline is None:
            self._deadline = self._clock() + self._limit_s
        self.check()

    def enter(self, stage: Stage) -> None:
        """Report the next stage. Raises as `check` does."""
        self.check()
        self._update(lambda progress: replace(progress, stage=stage))

    def plan(self, steps: int) -> None:
        """Report the total number of inner steps, and that none is done."""
        self._update(lambda progress: replace(progress, steps=steps, steps_done=0, loss=None))

    def step(self, loss: float | None = None) -> None:
        """Report an inner step, with its loss if it is the version's own. Raises as `check` does."""
        self.check()
        self._update(
            lambda progress: replace(
                progress, steps_done=progress.steps_done + 1, loss=progress.loss if loss is None else loss
            )
        )

    def publish_first(self, first: object) -> None:
        """Report the preliminary result."""
        self.first = first
        self._update(lambda progress: progress)

    @contextmanager
    def committing(self) -> Iterator[None]:
        """Within the block the adaptation can no longer be stopped. Raises as `check` does."""
        with self._lock:
            self._check()
            self._committing = True
        try:
            yield
        finally:
            with self._lock:
                self._committing = False

    def _check(self) -> None:
        if self._error is None and self._deadline is not None and self._clock() > self._deadline:
            self._error = DeadlinePassed(
                f"the adaptation was stopped after {self._limit_s:g} s, and no version was made; try again in "
                f"{RETRY_BUSY_S} s, with fewer steps or samples",
                RETRY_BUSY_S,
            )
        if self._error is not None:
            raise self._error

    def _update(self, change: Callable[[Progress], Progress]) -> None:
        with self._lock:
            self._progress = change(self._progress)
        if self._on_change is not None:
            self._on_change()
