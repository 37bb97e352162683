"""Sparkplug B with a real broker. The messages are decoded here, by their numbers in the specification."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiomqtt
import pytest

from service.bridge.build import build
from service.bridge.config import MqttSink, SparkplugNode, load_config
from service.bridge.sinks.sparkplug import Sparkplug
from service.bridge.waiting import Backoff
from service.client import AsyncClient, InvalidInput
from tests.mosquitto import MOSQUITTO, Broker
from tests.unit.service.bridge.conftest import Scripted, run, running

pytestmark = pytest.mark.skipif(
    MOSQUITTO is None, reason="SPARKPLUG IS NOT TESTED: there is no mosquitto; on Debian: apt-get install mosquitto"
)

REBIRTH = b"\x12\x18\x0a\x14Node Control/Rebirth\x70\x01"
"""A payload with one metric of that name, whose boolean value is true."""

Decoded = dict[int, list[Any]]


def varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 0x80:
            return value, at


def decode(data: bytes) -> Decoded:
    """Return the values of a message of Protocol Buffers by field number."""
    fields: Decoded = {}
    at = 0
    while at < len(data):
        tag, at = varint(data, at)
        value: Any
        if tag & 7 == 0:
            value, at = varint(data, at)
        elif tag & 7 == 1:
            (value,), at = struct.unpack("<d", data[at : at + 8]), at + 8
        else:
            size, at = varint(data, at)
            value, at = data[at : at + size], at + size
        fields.setdefault(tag >> 3, []).append(value)
    return fields


VALUE_FIELD = {4: 11, 10: 13, 11: 14, 12: 15}
"""Data type -> number of the field with the value: Int64, Double, Boolean, String."""


class Message:
    """A message: kind, device and seq; its metrics by name, with values, and whether all are historical."""

    def __init__(self, topic: str, payload: bytes) -> None:
        self.namespace, self.group, self.kind, self.node, *device = topic.split("/")
        self.device = device[0] if device else ""
        fields = decode(payload)
        self.seq = fields.get(3, [None])[0]
        self.values: dict[str, Any] = {}
        metrics = [decode(each) for each in fields[2]]
        for metric in metrics:
            value = metric.get(VALUE_FIELD[metric[4][0]], [None])[0]
            assert (value is None) == (metric.get(7) == [1]), metric
            self.values[metric[1][0].decode()] = value.decode() if isinstance(value, bytes) else value
        self.historical = all(metric.get(5) == [1] for metric in metrics)


def sink(broker: Broker) -> Sparkplug:
    node = SparkplugNode(group="plant", node="line-4")
    return Sparkplug(MqttSink(type="mqtt", host="127.0.0.1", port=broker.port, sparkplug=node), node)


class Host:
    """A host application that collects messages."""

    def __init__(self, client: aiomqtt.Client) -> None:
        self._client = client

    async def next(self) -> Message:
        message = await anext(self._client.messages)
        assert isinstance(message.payload, bytes)
        return Message(str(message.topic), message.payload)

    async def take(self, count: int) -> list[Message]:
        return [await self.next() for _ in range(count)]

    async def ask_for_births(self, payload: bytes = REBIRTH, *, retain: bool = False) -> None:
        await self._client.publish("spBv1.0/plant/NCMD/line-4", payload, qos=1, retain=retain)


@asynccontextmanager
async def host(broker: Broker) -> AsyncIterator[Host]:
    async with aiomqtt.Client("127.0.0.1", broker.port) as client:
        for kind in ("NBIRTH", "DBIRTH", "DDATA", "NDEATH"):
            await client.subscribe(f"spBv1.0/plant/{kind}/#", qos=1)
        yield Host(client)


def kinds(messages: list[Message]) -> list[str]:
    return [each.kind for each in messages]


def test_births_come_first_then_data_and_at_the_end_the_death_with_the_number_of_the_birth(broker: Broker) -> None:
    async def main() -> None:
        source = Scripted()
        async with host(broker) as scada:
            async with running([source], [(sink(broker), 9)]):
                node = await scada.next()
                source.put("part-1", "part-2")
                device, first, second = await scada.take(3)
            death = await scada.next()
        assert kinds([node, device, first, second, death]) == ["NBIRTH", "DBIRTH", "DDATA", "DDATA", "NDEATH"]
        assert [each.seq for each in (node, device, first, second, death)] == [0, 1, 2, 3, None]
        assert node.values == {"bdSeq": 0, "Node Control/Rebirth": 0}
        assert death.values == {"bdSeq": 0}
        assert (first.namespace, first.group, first.node, first.device) == ("spBv1.0", "plant", "line-4", source.name)
        assert set(device.values.values()) == {None}
        assert device.values.keys() == first.values.keys()
        assert [each.values["Name"] for each in (first, second)] == ["part-1", "part-2"]
        assert [each.values["Number"] for each in (first, second)] == [1, 2]
        result = first.values["Result"]
        assert second.values[f"Count/{result.title()}"] == 2
        assert not first.historical

    run(main())


def test_a_host_can_ask_for_the_births_which_have_the_current_values(broker: Broker) -> None:
    async def main() -> None:
        source = Scripted()
        async with host(broker) as scada, running([source], [(sink(broker), 9)]):
            source.put("part-1")
            await scada.take(3)
            await scada.ask_for_births(b"no payload")  # is ignored
            await scada.ask_for_births()
            node, device = await scada.take(2)
            source.put("part-2")
            data = await scada.next()
        assert kinds([node, device, data]) == ["NBIRTH", "DBIRTH", "DDATA"]
        assert [each.seq for each in (node, device, data)] == [0, 1, 2]
        assert (node.values["bdSeq"], device.values["Name"]) == (0, "part-1")

    run(main())


def test_a_retained_command_does_not_bring_births_with_every_verdict(broker: Broker) -> None:
    async def main() -> None:
        source = Scripted()
        async with host(broker) as scada:
            await scada.ask_for_births(retain=True)
            async with running([source], [(sink(broker), 9)]):
                source.put("part-1", "part-2", "part-3")
                messages = await scada.take(5)
        assert kinds(messages) == ["NBIRTH", "DBIRTH", "DDATA", "DDATA", "DDATA"]

    run(main())


def test_verdicts_of_an_outage_come_as_historical_ones_and_then_the_current_values(broker: Broker) -> None:
    async def main() -> None:
        source, subscribed = Scripted(), asyncio.Event()

        async def until_subscribed(_: float) -> None:
            await subscribed.wait()

        options: dict[str, Any] = {"check_every_s": 0.2, "backoff": lambda: Backoff(sleep=until_subscribed)}
        async with running([source], [(sink(broker), 9)], **options) as bridge:
            counters = bridge.counters.sinks["mqtt"]
            source.put("part-1")
            while not counters.sent:
                await asyncio.sleep(0)
            broker.kill()
            while not counters.reconnects:
                await asyncio.sleep(0)
            source.put("part-2", "part-3")
            while bridge.counters.judged < 3:
                await asyncio.sleep(0)
            messages = await after_restart(broker, subscribed)
        *_, second, third, current = messages
        assert [each.values["Name"] for each in (second, third, current)] == ["part-2", "part-3", "part-3"]
        assert [each.historical for each in (second, third, current)] == [True, True, False]
        assert current.kind == "DBIRTH"
        assert [each.seq for each in messages] == list(range(len(messages)))
        assert messages[0].values["bdSeq"] > 0
        assert (counters.sent, counters.dropped) == (3, 0)

    run(main())


async def after_restart(broker: Broker, subscribed: asyncio.Event) -> list[Message]:
    """Start the broker, and return the messages of the first session, until the current values are shown."""
    messages: list[Message] = []
    await asyncio.to_thread(broker.start)
    async with host(broker) as scada:
        subscribed.set()
        while not messages or messages[-1].kind != "DBIRTH" or messages[-1].values["Name"] != "part-3":
            messages.append(await scada.next())
    return messages


def test_the_broker_reports_the_death_of_a_bridge_that_was_cut_off(broker: Broker) -> None:
    async def main() -> None:
        async with host(broker) as scada:
            dying = sink(broker)
            connection = dying.connected()
            await connection.__aenter__()
            assert (await scada.next()).kind == "NBIRTH"
            assert dying._client is not None
            socket: Any = dying._client._client.socket()
            socket.shutdown(2)
            death = await scada.next()
            assert (death.kind, death.values) == ("NDEATH", {"bdSeq": 0})
            with pytest.raises(aiomqtt.MqttError):
                await until_lost(dying)
            await connection.__aexit__(None, None, None)

    run(main())


async def until_lost(sink: Sparkplug) -> None:
    while True:
        await sink.check()


def test_the_table_of_the_configuration_makes_the_sink(tmp_path: Path) -> None:
    text = (
        '[anole]\nclient = "line"\n\n[rules]\npass = ["fine"]\n\n[[source]]\ntype = "http"\n\n'
        '[[sink]]\ntype = "mqtt"\nhost = "127.0.0.1"\nsparkplug = { group = "plant", node = "line-4" }\n'
    )
    path = tmp_path / "bridge.toml"
    path.write_text(text, encoding="utf-8")

    async def main() -> None:
        async with AsyncClient("http://127.0.0.1:1") as anole:
            build(load_config(path), anole, lambda _: None)

    run(main())
    path.write_text(f'{text}topic = "verdicts"\n', encoding="utf-8")
    with pytest.raises(InvalidInput, match="topic and status_topic are not possible with sparkplug"):
        load_config(path)
