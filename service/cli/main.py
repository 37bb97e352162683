"""The command line, ``anole``: puts the commands together and turns errors into one line. What they do is elsewhere."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from models.errors import AnoleError
from service.cli.clients import adapt, predict, rollback, versions
from service.cli.console import notices, plain
from service.cli.keys import keys
from service.cli.store import store
from service.settings import load_settings

FAILED: Final = 1
_WITHOUT_LEARNING: Final = frozenset({"serve", "adapt", "predict", "versions", "rollback", "store", "keys"})

cli = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Anole learns a recognition task from a few labelled images and serves it at once.",
)


def main() -> None:
    """Run a command; what it raises on purpose becomes one line and exit code 1."""
    try:
        if not _WITHOUT_LEARNING.intersection(sys.argv[1:2]):
            _add_learning()
        cli()
    except AnoleError as error:
        notices().print("error: ", plain(str(error)), sep="", style="red")
        sys.exit(FAILED)


@cli.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="TCP port; 0 takes a free one.", show_default="8000")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the store.", show_default="data")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.", show_default="auto")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes.", show_default="1")] = None,
    model: Annotated[
        str | None, typer.Option(help="Shipped checkpoint or a path to one.", show_default="surfaces")
    ] = None,
) -> None:
    """Serve adaptation and prediction over HTTP."""
    from service.cli.serve import run

    run(load_settings(host=host, port=port, data=data, device=device, workers=workers, model=model))


@functools.cache
def _add_learning() -> None:
    """Add the commands that learn; they load torch, which the commands that talk to a service need not wait for."""
    from service.cli.train import evaluate, train

    for command in (train, evaluate):
        cli.command()(command)


for command in (adapt, predict, versions, rollback):
    cli.command()(command)
cli.add_typer(store, name="store")
cli.add_typer(keys, name="keys")
