"""MQTT with a real broker, which is killed and started again."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
from collections.abc import AsyncIterator
from typing import Any

import aiomqtt
import pytest

from service.bridge.config import MqttSink, MqttSource
from service.bridge.sinks.mqtt import Mqtt
from service.bridge.sources.mqtt import Mqtt as MqttPictures
from service.bridge.verdict import Picture
from tests.mosquitto import MOSQUITTO, Broker
from tests.unit.service.bridge.conftest import PNG, Recorded, Scripted, run, running

pytestmark = pytest.mark.skipif(
    MOSQUITTO is None, reason="MQTT IS NOT TESTED: there is no mosquitto; on Debian: apt-get install mosquitto"
)


def subscriber(broker: Broker) -> aiomqtt.Client:
    """Return a client whose messages the broker keeps while it is away."""
    return aiomqtt.Client("127.0.0.1", broker.port, identifier="mes", clean_session=False)


async def receive(broker: Broker, messages: dict[str, Any], count: int) -> None:
    """Receive messages until there are so many ids. After a kill the broker sends again what it sent before."""
    async with subscriber(broker) as client:
        while len(messages) < count:
            message = json.loads(str((await anext(client.messages)).payload, "utf-8"))
            messages[message["id"]] = message


def test_verdicts_of_an_outage_arrive_once_the_broker_is_back(broker: Broker) -> None:
    async def main() -> None:
        async with subscriber(broker) as client:
            await client.subscribe("anole/line/+/verdict", qos=1)
        source = Scripted()
        sink = Mqtt(MqttSink(type="mqtt", host="127.0.0.1", port=broker.port))
        async with running([source], [(sink, 99)]) as bridge:
            counters = bridge.counters.sinks["mqtt"]

            async def sent(count: int) -> None:
                while counters.sent < count:
                    await asyncio.sleep(0)

            source.put("1", "2")
            await sent(2)
            messages: dict[str, Any] = {}
            await receive(broker, messages, 2)
            broker.kill()
            source.put("3", "4", "5")
            while not counters.reconnects:
                await asyncio.sleep(0)
            broker.start()
            await sent(5)
        await receive(broker, messages, 5)
        assert [each["name"] for each in messages.values()] == ["1", "2", "3", "4", "5"]
        assert counters.dropped == 0

    run(main())


def test_the_status_says_whether_the_bridge_is_there(broker: Broker) -> None:
    async def main() -> None:
        async with aiomqtt.Client("127.0.0.1", broker.port) as client:
            sink = Mqtt(MqttSink(type="mqtt", host="127.0.0.1", port=broker.port))
            async with sink.connected():
                await client.subscribe("anole/bridge/status")
                assert (await anext(client.messages)).payload == b"online"
            assert (await anext(client.messages)).payload == b"offline"

    run(main())


def test_the_status_is_published_again_after_the_broker_was_away_without_a_verdict(broker: Broker) -> None:
    async def main() -> None:
        sink = Mqtt(MqttSink(type="mqtt", host="127.0.0.1", port=broker.port))
        async with running([], [(sink, 9)], check_every_s=0.05) as bridge:
            broker.kill()
            while not bridge.counters.sinks["mqtt"].reconnects:
                await asyncio.sleep(0)
            broker.start()
            async with aiomqtt.Client("127.0.0.1", broker.port) as client:
                await client.subscribe("anole/bridge/status")
                while (await anext(client.messages)).payload != b"online":
                    pass

    run(main())


async def until_lost(sink: Mqtt) -> None:
    with contextlib.suppress(aiomqtt.MqttError):
        while True:
            await sink.check()


def test_an_outage_before_the_end_leaves_no_error_that_asyncio_logs(broker: Broker) -> None:
    logged: list[str] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: logged.append(context["message"]))
        sink = Mqtt(MqttSink(type="mqtt", host="127.0.0.1", port=broker.port))
        async with sink.connected():
            broker.kill()
            await until_lost(sink)
        gc.collect()

    run(main())
    assert not logged


def pictures_source(broker: Broker, **options: bool) -> MqttPictures:
    return MqttPictures(MqttSource(type="mqtt", host="127.0.0.1", port=broker.port, topic="cameras/#"), **options)


async def publish(broker: Broker, *contents: bytes) -> None:
    async with aiomqtt.Client("127.0.0.1", broker.port) as camera:
        for content in contents:
            await camera.publish("cameras/left", content, qos=1)


async def begin_session(broker: Broker) -> None:
    """Make the session of the source, so that the broker keeps messages for it."""
    async with aiomqtt.Client(
        "127.0.0.1", broker.port, identifier="anole-bridge-pictures", clean_session=False
    ) as session:
        await session.subscribe("cameras/#", qos=1)


def test_the_broker_keeps_pictures_until_their_verdicts_are_delivered(broker: Broker) -> None:
    async def main() -> None:
        await begin_session(broker)
        await publish(broker, b"1", b"2", b"3")
        first = [each async for each in taken(pictures_source(broker), 3, delivered=1)]
        again = [each async for each in taken(pictures_source(broker), 2, delivered=2)]  # as after a kill
        assert [each.content for each in again] == [b"2", b"3"]
        assert [each.id for each in again] == [each.id for each in first[1:]]
        await publish(broker, b"4")
        assert [each.content async for each in taken(pictures_source(broker), 1, delivered=1)] == [b"4"]

    run(main())


async def taken(source: MqttPictures, count: int, delivered: int) -> AsyncIterator[Picture]:
    """Take so many pictures from a source, deliver so many of them, and disconnect."""
    pictures = source.pictures()
    found = [await anext(pictures) for _ in range(count)]
    for picture in found[:delivered]:
        source.delivered(picture)
    await pictures.aclose()  # type: ignore[attr-defined]  # it is a generator
    for picture in found:
        yield picture


def test_a_picture_in_hand_does_not_come_twice_when_the_connection_was_lost(broker: Broker) -> None:
    async def main() -> None:
        await begin_session(broker)
        source = pictures_source(broker)
        await publish(broker, b"1", b"2", b"3")
        before = source.pictures()
        one, two, _ = [await anext(before) for _ in range(3)]
        source.delivered(one)
        await before.aclose()  # type: ignore[attr-defined]  # it is a generator
        source.delivered(two)  # while there is no connection
        await publish(broker, b"4")
        after = source.pictures()
        four = await anext(after)  # 2 is acknowledged now, 3 is in hand
        assert four.content == b"4"
        await after.aclose()  # type: ignore[attr-defined]  # it is a generator
        assert [each.content async for each in taken(pictures_source(broker), 2, delivered=0)] == [b"3", b"4"]

    run(main())


def test_a_dry_run_takes_no_pictures_away(broker: Broker) -> None:
    async def main() -> None:
        await begin_session(broker)
        dry = pictures_source(broker, dry_run=True)
        pictures = dry.pictures()
        first = asyncio.ensure_future(anext(pictures))
        while not first.done():
            await publish(broker, b"1")
        assert first.result().content == b"1"
        await pictures.aclose()  # type: ignore[attr-defined]  # it is a generator
        assert [each.content async for each in taken(pictures_source(broker), 1, delivered=1)] == [b"1"]

    run(main())


def test_messages_with_pictures_are_judged(broker: Broker) -> None:
    async def main() -> None:
        source = MqttPictures(MqttSource(type="mqtt", host="127.0.0.1", port=broker.port, topic="cameras/#"))
        sink = Recorded()
        async with aiomqtt.Client("127.0.0.1", broker.port, identifier=source.name) as camera:
            # the session of the source exists before the bridge runs, so that the broker keeps the messages
            async with aiomqtt.Client(
                "127.0.0.1", broker.port, identifier="anole-bridge-pictures", clean_session=False
            ) as session:
                await session.subscribe("cameras/#", qos=1)
            for name in ("left", "right"):
                await camera.publish(f"cameras/{name}", PNG, qos=1)
            await camera.publish("cameras/empty", b"", qos=1)
            async with running([source], [(sink, 9)]) as bridge:
                assert await sink.names(2) == ["cameras/left", "cameras/right"]
            assert bridge.counters.pictures == 2

    run(main())
