"""Connections to MQTT brokers."""

from __future__ import annotations

import ssl
from typing import Any

import aiomqtt

from service.bridge.config import MqttBroker, read_secret


def broker(config: MqttBroker, **options: Any) -> aiomqtt.Client:
    """Return a client of the broker, to be entered with `async with`. `options` are those of `aiomqtt.Client`."""
    return aiomqtt.Client(
        config.host,
        config.port,
        username=config.username,
        password=read_secret(config.password_file),
        identifier=config.client_id,
        tls_context=ssl.create_default_context() if config.tls else None,
        timeout=10,
        **options,
    )
