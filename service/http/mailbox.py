"""Answers from other threads into the event loop: however many come in a row, the loop is woken once.

Waking it is a system call, and between two of them the threads would pass Python's lock back and forth.
"""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class Mailbox:
    """Belongs to the event loop that it is made in."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._letters: deque[tuple[asyncio.Future[Any], Future[Any]]] = deque()
        self._woken = False

    def expect(self, work: Future[T]) -> asyncio.Future[T]:
        """What `work` ends with, to be awaited; to cancel it is to cancel the work, if that has not begun."""
        answer: asyncio.Future[T] = self._loop.create_future()
        answer.add_done_callback(lambda answer: work.cancel() if answer.cancelled() else None)
        work.add_done_callback(lambda work: self._post(answer, work))
        return answer

    def _post(self, answer: asyncio.Future[Any], work: Future[Any]) -> None:
        """In whichever thread; the letter lies there before the flag is read, so that none is left lying."""
        self._letters.append((answer, work))
        if not self._woken and not self._loop.is_closed():
            self._woken = True
            self._loop.call_soon_threadsafe(self._hand_out)

    def _hand_out(self) -> None:
        self._woken = False
        while self._letters:
            answer, work = self._letters.popleft()
            if answer.done():
                continue
            if work.cancelled():
                answer.cancel()
            elif (error := work.exception()) is not None:
                answer.set_exception(error)
            else:
                answer.set_result(work.result())
