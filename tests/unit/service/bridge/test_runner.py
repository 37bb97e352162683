"""The bridge between failing parts: no verdict is lost or doubled without being counted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from service.bridge.delivery import UNEXPECTED_TRIES
from service.bridge.sinks.base import VerdictRejected
from service.bridge.verdict import Picture, Verdict
from service.bridge.waiting import LONGEST_WAIT_S, Backoff, DropOldestQueue
from service.client import InvalidInput, PredictResponse, ServiceProblem, ServiceUnreachable
from service.http.schemas.base import ProblemDetails
from tests.unit.service.bridge.conftest import Recorded, Scripted, always_good, answer, run, running


def problem(status: int) -> ServiceProblem:
    return ServiceProblem(
        ProblemDetails(type="urn:x", title="x", status=status, code="x", detail="it failed", instance="/predict")
    )


class Anole:
    """Raises the errors that a test sets, then answers."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.open = asyncio.Event()
        self.open.set()

    async def __call__(self, _: bytes) -> PredictResponse:
        await self.open.wait()
        if self.errors:
            raise self.errors.pop(0)
        return answer()


def test_every_sink_gets_every_verdict_in_order() -> None:
    async def main() -> None:
        source, one, two = Scripted(), Recorded("one"), Recorded("two")
        source.put("1", "2", "3")
        async with running([source], [(one, 9), (two, 9)]) as bridge:
            assert await one.names(3) == await two.names(3) == ["1", "2", "3"]
        counters = bridge.counters.to_json()
        assert (counters["pictures"], counters["judged"], counters["results"]) == (3, 3, {"pass": 3})
        assert [each["sent"] for each in counters["sinks"].values()] == [3, 3]
        assert source.events.count(("delivered", "1")) == 1

    run(main())


def test_a_verdict_whose_sink_fails_is_sent_again_after_the_next_connection() -> None:
    async def main() -> None:
        source, sink = Scripted(), Recorded()
        sink.errors = [ConnectionError("gone"), ConnectionError("still gone")]
        source.put("1", "2")
        async with running([source], [(sink, 9)]) as bridge:
            assert await sink.names(2) == ["1", "2"]
        counters = bridge.counters.sinks["machine"]
        assert (counters.sent, counters.reconnects, counters.dropped, sink.connections) == (2, 2, 0, 3)
        assert counters.last_error == "still gone"

    run(main())


def test_a_verdict_that_the_sink_rejects_is_counted_and_not_repeated() -> None:
    async def main() -> None:
        source, sink = Scripted(), Recorded()
        sink.errors = [VerdictRejected("404")]
        source.put("1", "2")
        async with running([source], [(sink, 9)]) as bridge:
            assert await sink.names(1) == ["2"]
        assert (bridge.counters.sinks["machine"].sent, bridge.counters.sinks["machine"].dropped) == (1, 1)

    run(main())


def test_an_unexpected_error_of_a_sink_is_repeated_and_stops_no_other_sink(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        source, broken, sink = Scripted(), Recorded("broken"), Recorded()
        broken.errors = [ValueError("a bug"), ZeroDivisionError()]
        source.put("1", "2")
        async with running([source], [(broken, 9), (sink, 9)]) as bridge:
            assert await sink.names(2) == await broken.names(2) == ["1", "2"]
        counters = bridge.counters.sinks["broken"]
        assert (counters.sent, counters.dropped, counters.reconnects) == (2, 0, 2)
        assert counters.last_error == "ZeroDivisionError"

    run(main())
    assert "sink broken: a bug; connecting again" in caplog.text
    assert "Traceback" in caplog.text


def test_a_verdict_that_a_sink_always_fails_with_is_dropped_so_that_the_next_one_comes() -> None:
    async def main() -> None:
        source, sink = Scripted(), Recorded()
        sink.errors = [ValueError("cannot be encoded") for _ in range(UNEXPECTED_TRIES)]
        source.put("1", "2")
        async with running([source], [(sink, 9)]) as bridge:
            assert await sink.names(1) == ["2"]
        assert (bridge.counters.sinks["machine"].sent, bridge.counters.sinks["machine"].dropped) == (1, 1)
        assert {event for event in source.events if event[0] == "delivered"} == {("delivered", "1"), ("delivered", "2")}

    run(main())


def test_a_sink_whose_password_file_is_gone_connects_when_it_is_back(caplog: pytest.LogCaptureFixture) -> None:
    class Locked(Recorded):
        missing = UNEXPECTED_TRIES + 3

        @asynccontextmanager
        async def connected(self) -> AsyncIterator[None]:
            if self.missing:
                self.missing -= 1
                raise InvalidInput("cannot read the secret in /run/mqtt.password")
            yield

    async def main() -> None:
        source, sink = Scripted(), Locked()
        source.put("1")
        async with running([source], [(sink, 9)]):
            assert await sink.names(1) == ["1"]

    run(main())
    assert "sink machine: cannot read the secret in /run/mqtt.password; connecting again" in caplog.text
    assert "Traceback" not in caplog.text


def test_an_unexpected_error_of_a_source_stops_no_other_source() -> None:
    class Broken(Scripted):
        async def pictures(self) -> AsyncIterator[Picture]:
            if not self.events:
                self.events.append(("failed", ""))
                raise ValueError("a bug")
            async for picture in super().pictures():
                yield picture

    async def main() -> None:
        broken, source, sink = Broken("broken"), Scripted(), Recorded()
        source.put("1")
        async with running([broken, source], [(sink, 9)]) as bridge:
            assert await sink.names(1) == ["1"]
            broken.put("2")
            assert await sink.names(1) == ["2"]
        assert bridge.counters.reconnects == {"broken": 1}

    run(main())


def test_a_picture_with_which_the_bridge_fails_never_passes_and_stops_no_other() -> None:
    async def main() -> None:
        source, sink = Scripted(), Recorded()
        seen: list[Verdict] = []
        source.put("1", "2")
        async with running([source], [(sink, 9)], Anole(ValueError("no bytes")), on_verdict=seen.append):
            await sink.names(2)
        assert [each.result for each in seen] == ["unknown", "pass"]
        assert "no bytes" in seen[0].error

    run(main())


def test_verdicts_are_delivered_when_they_cannot_be_printed(caplog: pytest.LogCaptureFixture) -> None:
    def print_to_a_full_disk(_: Verdict) -> None:
        raise OSError(28, "No space left on device")

    async def main() -> None:
        source, sink = Scripted(), Recorded()
        source.put("1", "2")
        async with running([source], [(sink, 9)], on_verdict=print_to_a_full_disk):
            assert await sink.names(2) == ["1", "2"]

    run(main())
    assert "cannot print verdict 2" in caplog.text


def test_pictures_wait_while_anole_is_away_and_the_oldest_are_dropped() -> None:
    async def main() -> None:
        source, sink, anole = Scripted(), Recorded(), Anole()
        anole.open.clear()
        source.put("1", "2", "3", "4", "5")
        async with running([source], [(sink, 9)], anole, queue=2) as bridge:
            while not source.queue.empty():
                await asyncio.sleep(0)
            anole.open.set()
            first = await sink.names(2)
        assert first in (["4", "5"], ["1", "4"])  # the first one may have left the queue already
        assert bridge.counters.dropped == sum(event == "dropped" for event, _ in source.events) > 0
        assert bridge.counters.pictures == 5

    run(main())


def test_a_request_to_anole_that_fails_is_repeated_until_it_succeeds() -> None:
    async def main() -> None:
        source, sink = Scripted(), Recorded()
        source.put("1", "2")
        errors = (ServiceUnreachable("away"), problem(503), problem(409), problem(401))
        async with running([source], [(sink, 9)], Anole(*errors)) as bridge:
            assert await sink.names(2) == ["1", "2"]
        assert (bridge.counters.retries, bridge.counters.judged) == (4, 2)

    run(main())


def test_a_picture_that_anole_rejects_gets_a_verdict_that_says_so() -> None:
    async def main() -> None:
        source, sink = Scripted(), Recorded()
        seen: list[Verdict] = []
        source.put("1", "2")
        async with running([source], [(sink, 9)], Anole(problem(415)), on_verdict=seen.append) as bridge:
            await sink.names(2)
        assert [(each.result, each.label) for each in seen] == [("unknown", ""), ("pass", "good")]
        assert "it failed" in seen[0].error
        assert bridge.counters.rejected == 1

    run(main())


def test_verdicts_wait_while_a_sink_is_away_and_the_oldest_are_dropped_and_counted() -> None:
    async def main() -> None:
        source, stuck, sink = Scripted(), Recorded("stuck"), Recorded()
        away = asyncio.Event()

        async def send(verdict: Verdict) -> None:
            await away.wait()
            stuck.sent.put_nowait(verdict.picture.name)

        stuck.send = send  # type: ignore[method-assign]
        source.put("1", "2", "3", "4", "5")
        async with running([source], [(stuck, 2), (sink, 9)]) as bridge:
            await sink.names(5)
            away.set()
            kept = await stuck.names(5 - bridge.counters.sinks["stuck"].dropped)
            assert kept[-2:] == ["4", "5"]
            while bridge.counters.sinks["stuck"].sent < len(kept):
                await asyncio.sleep(0)
        counters = bridge.counters.sinks["stuck"]
        assert counters.sent + counters.dropped == 5
        assert {name for event, name in source.events if event == "delivered"} == {"1", "2", "3", "4", "5"}

    run(main())


def test_a_sink_without_verdicts_checks_its_connection() -> None:
    async def main() -> None:
        sink, checked = Recorded(), asyncio.Event()

        async def check() -> None:
            if checked.is_set():
                return
            checked.set()
            raise ConnectionError("gone")

        sink.check = check  # type: ignore[method-assign]
        source = Scripted()
        async with running([source], [(sink, 9)], check_every_s=0.01) as bridge:
            await checked.wait()
            source.put("1")
            assert await sink.names(1) == ["1"]
        assert bridge.counters.sinks["machine"].reconnects == 1

    run(main())


def test_a_source_that_fails_is_connected_again() -> None:
    async def main() -> None:
        source, sink = Scripted(), Recorded()
        source.put("1")
        source.queue.put_nowait(ConnectionError("unplugged"))
        source.put("2")
        async with running([source], [(sink, 9)]) as bridge:
            assert await sink.names(2) == ["1", "2"]
        assert bridge.counters.reconnects == {"camera": 1}

    run(main())


def test_without_sinks_nothing_is_delivered() -> None:
    async def main() -> None:
        source = Scripted()
        seen: asyncio.Queue[Verdict] = asyncio.Queue()
        source.put("1")
        async with running([source], [], on_verdict=seen.put_nowait):
            assert (await seen.get()).result == "pass"
        assert source.events == [("judged", "1")]

    run(main())


def test_the_status_file_has_the_counters(tmp_path: Path) -> None:
    async def main() -> None:
        source, sink, path = Scripted(), Recorded(), tmp_path / "status.json"
        async with running([source], [(sink, 9)], always_good, status_file=path):
            while not path.exists():
                await asyncio.sleep(0)
        assert json.loads(path.read_text(encoding="utf-8"))["sinks"]["machine"]["sent"] == 0

    run(main())


def test_waits_grow_with_jitter_up_to_a_limit() -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    async def main() -> None:
        backoff = Backoff(sleep=sleep)
        for _ in range(12):
            await backoff.wait()
        backoff.reset()
        await backoff.wait()

    run(main())
    assert all(0 <= wait <= min(0.5 * 2**number, LONGEST_WAIT_S) for number, wait in enumerate(waits[:-1]))
    assert max(waits) > 0.5 >= waits[-1]


def test_a_full_queue_drops_its_oldest_entry() -> None:
    async def main() -> None:
        dropped: list[int] = []
        queue = DropOldestQueue(2, dropped.append)
        for number in range(4):
            queue.put(number)
        assert (len(queue), dropped, [await queue.get(), await queue.get()]) == (2, [0, 1], [2, 3])

    run(main())


def test_what_is_in_hand_counts_as_waiting() -> None:
    async def main() -> None:
        source, anole = Scripted(), Anole()
        anole.open.clear()
        source.put("1", "2")
        async with running([source], [(Recorded(), 9)], anole) as bridge:
            while bridge.counters.pictures < 2:
                await asyncio.sleep(0)
            assert bridge.counters.to_json()["waiting"] == 2

    run(main())


@pytest.mark.parametrize("name", ["camera", "machine"])
def test_the_summary_has_the_counters(name: str) -> None:
    async def main() -> str:
        source, sink = Scripted(), Recorded(name)
        source.put("1")
        async with running([source], [(sink, 9)]) as bridge:
            await sink.names(1)
        return bridge.counters.summary()

    assert run(main()) == (f"1 pictures, 1 judged, 0 dropped, 0 waiting; {name}: 1 sent, 0 dropped, 0 waiting")
