"""Pictures that come as MQTT messages."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import AsyncIterator
from typing import Final

import aiomqtt

from service.bridge.config import MqttSource
from service.bridge.mqtt import BrokerClient, broker
from service.bridge.sources.base import Source
from service.bridge.verdict import Picture

MAX_LATE: Final = 1000
"""Messages that were delivered while there was no connection, and are acknowledged when they come again."""


class Mqtt(Source):
    """A topic whose messages are encoded images. The broker keeps them while the bridge is away (QoS 1).

    A message is acknowledged when every sink has taken its verdict, or when it was dropped and counted. If the bridge
    is killed before, the broker sends it again. The number of a message and its content make the id of the picture, so
    the verdict then has the same id. A broker sends only so many messages before they are acknowledged (mosquitto: 20);
    the others wait there.

    Args:
        config: broker and topic.
        dry_run: see the messages, but leave them to the bridge itself: with a session that ends with the connection.
    """

    connection_errors = (OSError, aiomqtt.MqttError)

    def __init__(self, config: MqttSource, *, dry_run: bool = False) -> None:
        super().__init__(config.name)
        self._dry_run = dry_run
        self._config = config.model_copy(update={"client_id": f"{config.client_id}-dry-run"}) if dry_run else config
        self._client: BrokerClient | None = None
        self._waiting: dict[str, tuple[BrokerClient, int]] = {}
        self._late: deque[str] = deque(maxlen=MAX_LATE)

    async def pictures(self) -> AsyncIterator[Picture]:
        """Yield the messages."""
        client = broker(self._config, clean_session=self._dry_run)
        if not self._dry_run:
            client.keep_unacknowledged()
        async with client:
            self._client = client
            try:
                await client.subscribe(self._config.topic, qos=1)
                async for message in client.messages:
                    picture = self._picture(client, message)
                    if picture is not None:
                        yield picture
            finally:
                self._client = None

    def delivered(self, picture: Picture) -> None:
        """Acknowledge the message, so that the broker forgets it."""
        if picture.id not in self._waiting:  # QoS 0
            return
        client, message_id = self._waiting.pop(picture.id)
        if client is self._client:
            client.acknowledge(message_id)
        else:
            self._late.append(picture.id)

    def dropped(self, picture: Picture) -> None:
        """Acknowledge the message, because it was counted as dropped."""
        self.delivered(picture)

    def _picture(self, client: BrokerClient, message: aiomqtt.Message) -> Picture | None:
        """Return the picture of a message; None if it has none, or is here already."""
        topic, content = str(message.topic), bytes(message.payload)
        if message.qos == 0 or self._dry_run:
            return Picture(self.name, topic, content) if content else None
        identity = hashlib.sha256(f"{self.name} {message.mid} {topic} ".encode() + content).hexdigest()[:32]
        if not content or identity in self._late:
            if content:
                self._late.remove(identity)
            client.acknowledge(message.mid)
            return None
        is_new = identity not in self._waiting
        self._waiting[identity] = (client, message.mid)
        return Picture(self.name, topic, content, identity) if is_new else None
