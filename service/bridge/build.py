"""Makes the sources, the sinks and the bridge that a configuration describes."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, Final

from service.bridge.config import BridgeConfig, SinkConfig
from service.bridge.counters import Counters
from service.bridge.options import BridgeOptions
from service.bridge.rules import Rules
from service.bridge.runner import Bridge
from service.bridge.sinks.base import Sink
from service.bridge.sources.base import Source
from service.bridge.verdict import Verdict
from service.client import AsyncClient, InvalidInput, PredictResponse

LIVE: Final = "live"

_CLASSES: Final = {
    "sources": {"folder": "Folder", "http": "Http", "camera": "Camera", "genicam": "Genicam", "mqtt": "Mqtt"},
    "sinks": {
        "csv": "Csv",
        "sqlite": "Sqlite",
        "mqtt": "Mqtt",
        "sparkplug": "Sparkplug",
        "modbus": "Modbus",
        "opcua": "OpcUa",
        "webhook": "Webhook",
        "failures": "Failures",
    },
}
"""Kind -> type -> class in the module of that name, which is imported only if it is used."""


def build(
    config: BridgeConfig,
    anole: AsyncClient,
    on_verdict: Callable[[Verdict], object],
    *,
    dry_run: bool = False,
) -> Bridge:
    """Return the bridge.

    Args:
        config: the configuration.
        anole: client of the service.
        on_verdict: called with every verdict.
        dry_run: leave out all sinks, so that nothing is sent and no picture is marked as done.

    Raises:
        InvalidInput: a package or a file of a source or sink is missing.
    """

    async def predict(content: bytes) -> PredictResponse:
        return await anole.predict(config.anole.client, content, alias=config.anole.alias)

    counters = Counters()
    options = BridgeOptions(config.bridge.queue, on_verdict, config.bridge.status_file)
    sources: list[Source] = []
    for source in config.source:
        made = _class("sources", source.type)
        if source.type == "http":
            sources.append(made(source, counters.to_json))
        elif source.type == "mqtt":
            sources.append(made(source, dry_run=dry_run))
        else:
            sources.append(made(source))
    sinks = [(_sink(sink, config, anole), sink.queue) for sink in ([] if dry_run else config.sink)]
    return Bridge(sources, sinks, predict, Rules(config.rules, config.anole.client), counters, options)


def _sink(sink: SinkConfig, config: BridgeConfig, anole: AsyncClient) -> Sink:
    made: Sink
    if sink.type == "opcua":
        made = _class("sinks", sink.type)(sink, _recipes(config, anole))
    elif sink.type == "mqtt" and sink.sparkplug is not None:
        made = _class("sinks", "sparkplug")(sink, sink.sparkplug)
    else:
        made = _class("sinks", sink.type)(sink)
    return made


def _recipes(config: BridgeConfig, anole: AsyncClient) -> Any:
    """Return what an OPC UA server needs to know of Anole."""
    from service.bridge.sinks.opcua import Recipes

    client, alias = config.anole.client, config.anole.alias or LIVE

    async def versions() -> list[int]:
        return [each.version for each in await anole.versions(client)]

    return Recipes(versions, lambda version: anole.move_alias(client, alias, version))


def _class(kind: str, type_name: str) -> Any:
    try:
        module = import_module(f"service.bridge.{kind}.{type_name}")
    except ModuleNotFoundError as error:
        raise InvalidInput(
            f"a [[{kind[:-1]}]] of the type {type_name} needs the package {error.name}: "
            "pip install '.[bridge]' in a checkout of Anole"
        ) from error
    return getattr(module, _CLASSES[kind][type_name])
