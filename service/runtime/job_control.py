"""An adaptation as others see it: how far it is, and a way to end it before its version is recorded.

Whoever adapts says how far it is and asks whether to go on; whoever waits may stop it, from any thread. It knows
neither inner loops nor HTTP.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from service.errors import DeadlinePassed

Stage = Literal["waiting", "decode", "adapt", "examine", "store"]

_RETRY_S: Final = 2


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an adaptation is.

    Attributes:
        stage: what is being done.
        steps_done: inner steps done, those of the folds that examine the version included.
        steps: inner steps that there are to do; 0 until it is known.
        loss: that the version's last inner step began with; None before the first.
    """

    stage: Stage = "waiting"
    steps_done: int = 0
    steps: int = 0
    loss: float | None = None


class JobControl:
    """Belongs to one adaptation from when it is accepted to its end.

    Attributes:
        first: what it came to before its inner steps, if that was asked for and is there.

    Args:
        limit_s: seconds that it may take until its version is recorded.
        waits: whether waiting in line counts; if not, the time runs from when work begins.
        clock: monotonic seconds.
    """

    def __init__(
        self, limit_s: float = math.inf, *, waits: bool = True, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit_s = limit_s
        self._clock = clock
        self._until = clock() + limit_s if waits else None
        self._lock = threading.Lock()
        self._why: Exception | None = None
        self._recording = False
        self._progress = Progress()
        self._told: Callable[[], object] | None = None
        self.first: Any = None

    @property
    def progress(self) -> Progress:
        """How far it is."""
        return self._progress

    @property
    def followed(self) -> bool:
        """Whether anybody is told of its steps."""
        return self._told is not None

    def follow(self, told: Callable[[], object]) -> None:
        """Have `told` called after each change, in whichever thread makes it; it must be quick."""
        self._told = told

    def stop(self, why: Exception) -> bool:
        """End it with `why`, at its next inner step; say whether that was in time: while it records, it is not."""
        with self._lock:
            if self._recording:
                return False
            self._why = self._why or why
            return True

    def check(self) -> None:
        """Return if it is to go on.

        Raises:
            DeadlinePassed: its time is over.
            And whatever it was stopped with.
        """
        with self._lock:
            self._check()

    def begin(self) -> None:
        """Its turn has come. Raises as `check`."""
        if self._until is None:
            self._until = self._clock() + self._limit_s
        self.check()

    def at(self, stage: Stage) -> None:
        """Say what is done from now on. Raises as `check`."""
        self.check()
        self._show(lambda now: replace(now, stage=stage))

    def planned(self, steps: int) -> None:
        """Say how many inner steps there are to do, and that none is done."""
        self._show(lambda now: replace(now, steps=steps, steps_done=0, loss=None))

    def step(self, loss: float | None = None) -> None:
        """Say that an inner step was done; its loss if it was the version's. Raises as `check`."""
        self.check()
        self._show(lambda now: replace(now, steps_done=now.steps_done + 1, loss=now.loss if loss is None else loss))

    def came_to(self, first: object) -> None:
        """Say what it came to before its inner steps."""
        self.first = first
        self._show(lambda now: now)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """For the length of the block it can no longer be stopped. Raises as `check`."""
        with self._lock:
            self._check()
            self._recording = True
        try:
            yield
        finally:
            with self._lock:
                self._recording = False

    def _check(self) -> None:
        if self._why is None and self._until is not None and self._clock() > self._until:
            self._why = DeadlinePassed(
                f"the adaptation was ended after {self._limit_s:g} s, and no version was made; try again in "
                f"{_RETRY_S} s, with fewer steps or samples",
                _RETRY_S,
            )
        if self._why is not None:
            raise self._why

    def _show(self, change: Callable[[Progress], Progress]) -> None:
        with self._lock:
            self._progress = change(self._progress)
        if self._told is not None:
            self._told()
