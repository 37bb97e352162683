"""Verdicts as metrics of Sparkplug B: the bridge is an edge node, and each of its sources a device."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import aiomqtt

from service.bridge.config import MqttSink, SparkplugNode
from service.bridge.mqtt import broker
from service.bridge.sinks.base import Sink
from service.bridge.sparkplug import messages
from service.bridge.verdict import Verdict

LOG: Final = logging.getLogger("anole.bridge")
NAMESPACE: Final = "spBv1.0"


@dataclass(slots=True)
class _Device:
    """A source, with what hosts are to know of it."""

    values: dict[str, messages.Value] = field(default_factory=dict)
    taken_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    counts: Counter[str] = field(default_factory=Counter)
    behind: bool = False
    """Whether hosts got its latest values as historical ones only."""


class Sparkplug(Sink):
    """Publishes each verdict as DDATA of its source, after the births that Sparkplug requires.

    Sparkplug prescribes QoS 0 for births and data, which a broker does not confirm. So each verdict is followed by a
    SUBSCRIBE to the commands of the node once more: a broker handles the packets of a connection in order, and its
    SUBACK shows that it has the verdict. A verdict without it is sent again after the next connection, with one id.

    Args:
        config: broker, group and node.
        node: names of the group and the node.
    """

    connection_errors = (OSError, aiomqtt.MqttError)

    def __init__(self, config: MqttSink, node: SparkplugNode) -> None:
        super().__init__(config.name)
        self._config = config
        self._node = node
        self._devices: dict[str, _Device] = {}
        self._born: set[str] = set()
        self._bd_seqs = itertools.cycle(range(messages.SEQUENCE))
        self._bd_seq = 0
        self._seq = 0
        self._turn = asyncio.Lock()
        self._client: aiomqtt.Client | None = None
        self._commands: asyncio.Task[None] | None = None
        self._connected_s = 0.0

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Be a living node inside the block."""
        self._bd_seq = next(self._bd_seqs)
        will = aiomqtt.Will(self._topic("NDEATH"), messages.node_death(self._bd_seq), qos=1)
        async with broker(self._config, will=will) as client:
            self._client, self._connected_s = client, time.monotonic()
            await self._confirm()
            async with self._turn:
                await self._publish_births()
            self._commands = asyncio.create_task(self._obey(client))
            try:
                yield
            finally:
                self._commands.cancel()
                with contextlib.suppress(asyncio.CancelledError, aiomqtt.MqttError):
                    await self._commands
                with contextlib.suppress(aiomqtt.MqttError):  # the broker sends no will after a proper end
                    await client.publish(self._topic("NDEATH"), messages.node_death(self._bd_seq), qos=1)
                self._client = self._commands = None

    async def check(self) -> None:
        """Raise if the connection is gone. Show hosts the current values that they got as historical ones only."""
        async with self._turn:
            for name, device in self._devices.items():
                if device.behind:
                    await self._publish_device_birth(name, device)
        await self._confirm()

    async def send(self, verdict: Verdict) -> None:
        """Publish a verdict, and wait until the broker has it."""
        source = verdict.picture.source
        device = self._devices.setdefault(source, _Device())
        async with self._turn:
            if source not in self._born:
                await self._publish_device_birth(source, device)
            historical = verdict.picture.received_s < self._connected_s
            values = messages.verdict_values(verdict, device.counts + Counter([verdict.result]))
            data = messages.device_data(self._next_seq(), values, verdict.picture.taken_at, historical=historical)
            await self._publish("DDATA", data, source)
        await self._confirm()
        device.counts[verdict.result] += 1
        device.values, device.taken_at, device.behind = values, verdict.picture.taken_at, historical

    async def _confirm(self) -> None:
        """Wait until the broker has handled what was published before."""
        if self._client is None or (self._commands is not None and self._commands.done()):
            raise aiomqtt.MqttError("not connected")
        subscribing = asyncio.ensure_future(self._client.subscribe(self._topic("NCMD"), qos=1))
        try:
            await asyncio.shield(subscribing)
        except asyncio.CancelledError:  # aiomqtt would log an error about a SUBACK that nothing waits for
            await subscribing
            raise

    async def _obey(self, client: aiomqtt.Client) -> None:
        """Publish the births again when a host asks for them.

        A retained command was not meant for now, and comes again with each SUBSCRIBE, that is, with each verdict.
        """
        async for message in client.messages:
            if message.retain:
                continue
            try:
                wanted = messages.wants_rebirth(message.payload)
            except ValueError as error:
                LOG.warning("sink %s: %s", self.name, error)
                continue
            if wanted:
                async with self._turn:
                    await self._publish_births()

    async def _publish_births(self) -> None:
        self._seq = 0  # of NBIRTH
        self._born.clear()
        await self._publish("NBIRTH", messages.node_birth(self._bd_seq))
        for name, device in self._devices.items():
            await self._publish_device_birth(name, device)

    async def _publish_device_birth(self, name: str, device: _Device) -> None:
        await self._publish("DBIRTH", messages.device_birth(self._next_seq(), device.values, device.taken_at), name)
        self._born.add(name)
        device.behind = False

    def _next_seq(self) -> int:
        self._seq = (self._seq + 1) % messages.SEQUENCE
        return self._seq

    async def _publish(self, kind: str, payload: bytes, device: str = "") -> None:
        if self._client is None:
            raise aiomqtt.MqttError("not connected")
        await self._client.publish(self._topic(kind, device), payload, qos=0)

    def _topic(self, kind: str, device: str = "") -> str:
        parts = (NAMESPACE, self._node.group, kind, self._node.node, device)
        return "/".join(part for part in parts if part)
