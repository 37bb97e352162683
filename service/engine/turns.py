"""How many pieces of one kind of work run at once; the others wait their turn. Who is admitted is decided elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """A bounded number of places at the device.

    Args:
        running: places; a caller beyond them waits until one is free.
    """

    def __init__(self, running: int) -> None:
        self._places = threading.BoundedSemaphore(running)

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Hold a place for the length of the block."""
        with self._places:
            yield
