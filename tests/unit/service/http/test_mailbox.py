"""Answers out of other threads: each arrives, and the loop is woken once for many."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from service.http.mailbox import Mailbox


def test_answers_errors_and_cancellations_arrive() -> None:
    async def live() -> None:
        mailbox, works = Mailbox(), [Future[int]() for _ in range(4)]
        answers = [mailbox.expect(work) for work in works]

        def post() -> None:
            works[0].set_result(7)
            works[1].set_exception(KeyError("x"))
            works[2].cancel()
            works[2].set_running_or_notify_cancel()

        thread = threading.Thread(target=post)
        thread.start()
        assert await answers[0] == 7
        with pytest.raises(KeyError):
            await answers[1]
        with pytest.raises(asyncio.CancelledError):
            await answers[2]
        answers[3].cancel()
        await asyncio.sleep(0)
        assert works[3].cancelled()
        thread.join()

    asyncio.run(live())


def test_the_loop_is_woken_once_for_answers_that_come_in_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    async def live() -> int:
        loop, woken = asyncio.get_running_loop(), 0
        wake = loop.call_soon_threadsafe

        def counted(callback: Callable[..., Any], *given: Any, **named: Any) -> Any:
            nonlocal woken
            woken += 1
            return wake(callback, *given, **named)

        monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
        mailbox, works = Mailbox(), [Future[int]() for _ in range(50)]
        answers = [mailbox.expect(work) for work in works]
        for number, work in enumerate(works):  # in this thread: the loop has no chance to hand out in between
            work.set_result(number)
        assert await asyncio.gather(*answers) == list(range(50))
        return woken

    assert asyncio.run(live()) == 1


def test_no_answer_is_left_lying_however_threads_and_loop_interleave() -> None:
    async def live() -> None:
        mailbox = Mailbox()
        for _ in range(200):
            works = [Future[int]() for _ in range(8)]
            answers = [mailbox.expect(work) for work in works]
            threads = [threading.Thread(target=work.set_result, args=(1,)) for work in works]
            for thread in threads:
                thread.start()
            async with asyncio.timeout(30):
                assert await asyncio.gather(*answers) == [1] * 8

    asyncio.run(live())


def test_an_answer_after_its_request_was_given_up_is_dropped() -> None:
    async def live() -> None:
        mailbox, work = Mailbox(), Future[int]()
        answer = mailbox.expect(work)
        work.set_running_or_notify_cancel()
        answer.cancel()
        await asyncio.sleep(0)
        work.set_result(1)
        await asyncio.sleep(0)
        assert answer.cancelled()

    asyncio.run(live())
