"""`anole bridge`: pictures from cameras and folders to Anole, and verdicts to machines."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.connection import Key, Url
from service.cli.console import AsJson, notices, output, percent, plain
from service.cli.installation import require_full_installation
from service.client import AsyncClient
from service.settings import load_settings

if TYPE_CHECKING:
    from service.bridge.config import BridgeConfig
    from service.bridge.verdict import Verdict


def bridge(
    config: Annotated[
        Path,
        typer.Option("--config", metavar="FILE", help="Configuration in TOML; see docs/bridge.md.", dir_okay=False),
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Judge and print, but send nothing to sinks and mark no picture as done.")
    ] = False,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Take pictures from cameras and folders, have Anole judge them, and pass the verdicts to machines.

    Each verdict is printed; with --json, as a line of JSON. The bridge connects again to whatever is away. End it with
    Ctrl-C, which prints what was sent and dropped.
    """
    require_full_installation("anole bridge")
    from service.bridge.config import load_config, read_secret

    loaded = load_config(config)
    settings = load_settings(url=url or loaded.anole.url, api_key=key or read_secret(loaded.anole.key_file))
    secret = settings.api_key.get_secret_value() if settings.api_key is not None else None
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    anole = AsyncClient(settings.service_url, key=secret)
    asyncio.run(_run(loaded, anole, dry_run=dry_run, as_json=as_json))


async def _run(config: BridgeConfig, anole: AsyncClient, *, dry_run: bool, as_json: bool) -> None:
    """Run until a signal comes. Raises InvalidInput."""
    from service.bridge.build import build

    async with anole:
        bridge = build(config, anole, lambda verdict: _print(verdict, as_json=as_json), dry_run=dry_run)
        running = asyncio.create_task(bridge.run())
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, running.cancel)
        mode = " (dry run: nothing is sent)" if dry_run else ""
        notices().print(plain(f"the bridge runs{mode}: {len(config.source)} sources, {len(config.sink)} sinks"))
        try:
            await running
        except asyncio.CancelledError:
            notices().print(plain(f"stopped; {bridge.counters.summary()}"))


def _print(verdict: Verdict, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(verdict.fields()))
        return
    picture = verdict.picture
    seen = f"{verdict.label} {percent(verdict.confidence)}" if verdict.judgement else verdict.error
    cells = (picture.taken_at.astimezone().strftime("%H:%M:%S"), picture.source, picture.name, verdict.result, seen)
    output().print(plain("  ".join(filter(None, cells))))
