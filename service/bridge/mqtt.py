"""Connections to MQTT brokers."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any, Self

import aiomqtt

from service.bridge.config import MqttBroker, read_secret


def broker(config: MqttBroker, **options: Any) -> BrokerClient:
    """Return a client of the broker, to be entered with `async with`. `options` are those of `aiomqtt.Client`."""
    return BrokerClient(
        config.host,
        config.port,
        username=config.username,
        password=read_secret(config.password_file),
        identifier=config.client_id,
        tls_context=ssl.create_default_context() if config.tls else None,
        timeout=10,
        **options,
    )


class BrokerClient(aiomqtt.Client):
    """A client that acknowledges received messages when it is asked to, if `keep_unacknowledged` was called.

    It also retrieves the error of a lost connection, because asyncio logs an error that no task retrieves.
    """

    def keep_unacknowledged(self) -> None:
        """Leave messages unacknowledged, so that the broker keeps them. Call this before the client is entered."""
        self._client.manual_ack_set(True)

    def acknowledge(self, message_id: int) -> None:
        """Acknowledge a message of QoS 1, so that the broker forgets it."""
        self._client.ack(message_id, 1)

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self._disconnected.add_done_callback(_retrieve)
        return self


def _retrieve(disconnected: asyncio.Future[None]) -> None:
    if not disconnected.cancelled():
        disconnected.exception()
