"""A deadline for work that cannot be stopped: the request gets its answer, the work keeps its place until it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, TypeVar, cast

from anyio import CancelScope

from service.errors import DeadlinePassed

T = TypeVar("T")

_RETRY_S: Final = 2
_LEFT_BEHIND: Final[set[asyncio.Task[Any]]] = set()
"""Work whose request was answered already; the event loop itself would not keep it."""


async def within(limit_s: float, work: Coroutine[Any, Any, T]) -> T:
    """Await `work`, for `limit_s` seconds at most.

    What still waits in line then leaves it. What runs in a thread runs on and holds its place in its room, so that
    work that hangs is never joined by more of it than the room has places; what comes of it is dropped.

    Raises:
        DeadlinePassed: the time was over; and whatever `work` raises.
    """
    scope = CancelScope()

    async def bounded() -> T | None:
        with scope:
            return await work
        return None

    task = asyncio.ensure_future(bounded())
    try:
        done, _ = await asyncio.wait({task}, timeout=limit_s)
    except BaseException:
        _leave(task, scope)
        raise
    if done:
        return cast(T, task.result())
    _leave(task, scope)
    raise DeadlinePassed(
        f"there was no answer within {limit_s:g} s; try again in {_RETRY_S} s, with fewer or smaller images", _RETRY_S
    )


def _leave(task: asyncio.Task[Any], scope: CancelScope) -> None:
    scope.cancel()
    _LEFT_BEHIND.add(task)
    task.add_done_callback(_forget)


def _forget(task: asyncio.Task[Any]) -> None:
    _LEFT_BEHIND.discard(task)
    if not task.cancelled():
        task.exception()  # looked at, so that the event loop does not complain that nobody did
