"""Verdicts as MQTT messages in JSON."""

from __future__ import annotations

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
        status = self._config.status_topic
        will = aiomqtt.Will(status, "offline", qos=1, retain=True)
        async with broker(self._config, will=will) as self._client:
            await self._client.publish(status, "online", qos=1, retain=True)
            try:
                yield
            finally:
                self._client = None

    async def send(self, verdict: Verdict) -> None:
        """Publish a message, and wait until the broker has it."""
        if self._client is None:
            raise aiomqtt.MqttError("not connected")
        topic = self._config.topic.replace("{client}", verdict.client).replace("{source}", verdict.picture.source)
        await self._client.publish(topic, json.dumps(verdict.fields()), qos=1)
