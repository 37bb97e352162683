"""Connections to MQTT brokers."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any, Self

import aiomqtt

from service.bridge.config import MqttBroker, read_secret


def broker(config: MqttBroker, **options: Any) -> aiomqtt.Client:
    """Return a client of the broker, to be entered with `async with`. `options` are those of `aiomqtt.Client`."""
    return _Client(
        config.host,
        config.port,
        username=config.username,
        password=read_secret(config.password_file),
        identifier=config.client_id,
        tls_context=ssl.create_default_context() if config.tls else None,
        timeout=10,
        **options,
    )


class _Client(aiomqtt.Client):
    """Retrieves the error of a lost connection, because asyncio logs an error that no task retrieves."""

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self._disconnected.add_done_callback(_retrieve)
        return self


def _retrieve(disconnected: asyncio.Future[None]) -> None:
    if not disconnected.cancelled():
        disconnected.exception()
