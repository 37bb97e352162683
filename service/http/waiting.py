"""Waiting for work that other threads do: as long as somebody wants the answer, and no longer than allowed.

What has not begun is taken back when nobody waits for it any more. What runs cannot be stopped: it runs on and keeps
its place in its room, so that work that hangs is never joined by more of it than the room has places. It knows no
resource. A request that is answered soon is not watched at all, which would cost more than it saves.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, TypeVar

from starlette.requests import ClientDisconnect, Request

from service.errors import DeadlinePassed

T = TypeVar("T")

_SOON_S: Final = 0.05
_RETRY_S: Final = 2


async def answered(request: Request, answer: asyncio.Future[T], limit_s: float, soon_s: float = _SOON_S) -> T:
    """Wait for `answer`; `request`, whose body has been read, is watched once `soon_s` have passed.

    Raises:
        ClientDisconnect: the other side has gone.
        DeadlinePassed: `limit_s` have passed.
        And whatever the work ends with.
    """
    watch = _Watch(request, answer, limit_s)
    look = asyncio.get_running_loop().call_later(soon_s, watch.begin)
    try:
        return await answer
    except asyncio.CancelledError:
        watch.explain()
        raise
    finally:
        look.cancel()
        watch.end()


class _Watch:
    """Cancels an answer that is no longer wanted, and knows why it did."""

    def __init__(self, request: Request, answer: asyncio.Future[Any], limit_s: float) -> None:
        self._request = request
        self._answer = answer
        self._limit_s = limit_s
        self._until = asyncio.get_running_loop().time() + limit_s
        self._watcher: asyncio.Task[None] | None = None
        self._why: Exception | None = None

    def begin(self) -> None:
        self._watcher = asyncio.ensure_future(self._look())

    def end(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()

    def explain(self) -> None:
        """Raise what the answer was cancelled for; return where it was not this that cancelled it."""
        if self._why is not None:
            raise self._why from None

    async def _look(self) -> None:
        try:
            async with asyncio.timeout_at(self._until):
                while (await self._request.receive())["type"] != "http.disconnect":
                    continue
            self._why = ClientDisconnect()
        except TimeoutError:
            self._why = DeadlinePassed(
                f"there was no answer within {self._limit_s:g} s; try again in {_RETRY_S} s, "
                "with fewer or smaller images",
                _RETRY_S,
            )
        self._answer.cancel()
