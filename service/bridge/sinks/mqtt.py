"""Verdicts as MQTT messages in JSON."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiomqtt

from service.bridge.config import MqttSink
from service.bridge.mqtt import broker
from service.bridge.sinks.base import Sink
from service.bridge.verdict import Verdict


class Mqtt(Sink):
    """Publishes with QoS 1, and waits for the broker to confirm. A verdict may come twice, with the same id.

    The status topic has `online`, or `offline` when the bridge is gone; both are retained.

    Args:
        config: broker and topics.
    """

    connection_errors = (OSError, aiomqtt.MqttError)

    def __init__(self, config: MqttSink) -> None:
        super().__init__(config.name)
        self._config = config
        self._client: aiomqtt.Client | None = None

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Be connected to the broker inside the block."""
        will = aiomqtt.Will(self._config.status_topic, "offline", qos=1, retain=True)
        async with broker(self._config, will=will) as self._client:
            await self.check()
            try:
                yield
            finally:
                with contextlib.suppress(aiomqtt.MqttError):  # the broker sends no will after a proper end
                    await self._publish(self._config.status_topic, "offline", retain=True)
                self._client = None

    async def check(self) -> None:
        """Publish the status again."""
        await self._publish(self._config.status_topic, "online", retain=True)

    async def send(self, verdict: Verdict) -> None:
        """Publish a message, and wait until the broker has it."""
        topic = self._config.topic.replace("{client}", verdict.client).replace("{source}", verdict.picture.source)
        await self._publish(topic, json.dumps(verdict.fields()))

    async def _publish(self, topic: str, payload: str, *, retain: bool = False) -> None:
        if self._client is None:
            raise aiomqtt.MqttError("not connected")
        await self._client.publish(topic, payload, qos=1, retain=retain)
