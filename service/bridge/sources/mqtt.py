"""Pictures that come as MQTT messages."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiomqtt

from service.bridge.config import MqttSource
from service.bridge.mqtt import broker
from service.bridge.sources.base import Source
from service.bridge.verdict import Picture


class Mqtt(Source):
    """A topic whose messages are encoded images. The broker keeps them while the bridge is away (QoS 1).

    Args:
        config: broker and topic.
    """

    connection_errors = (OSError, aiomqtt.MqttError)

    def __init__(self, config: MqttSource) -> None:
        super().__init__(config.name)
        self._config = config

    async def pictures(self) -> AsyncIterator[Picture]:
        """Yield the messages."""
        async with broker(self._config, clean_session=False) as client:
            await client.subscribe(self._config.topic, qos=1)
            async for message in client.messages:
                if message.payload:
                    yield Picture(self.name, str(message.topic), message.payload)
