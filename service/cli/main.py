"""The entry point of `anole`: assembles the commands and prints errors as one line."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated, Final

import typer

from models.errors import AnoleError
from service.cli.bridge import bridge
from service.cli.clients import adapt, predict, rollback, upgrade, versions
from service.cli.console import EXIT_CODES, FAILED, AsJson, notices, plain
from service.cli.doctor import doctor
from service.cli.edge import edge
from service.cli.export import export, import_version, verify
from service.cli.import_dataset import import_dataset
from service.cli.installation import require_full_installation
from service.cli.keys import keys
from service.cli.records import audit, drift, predictions, promote, shadow
from service.cli.release import release
from service.cli.resources import alias, clients, delete, diff, history, job, models, settings, status, weights
from service.cli.rollout import rollout
from service.cli.samples import correct, samples
from service.cli.store import store
from service.cli.torch_commands import AnoleGroup
from service.cli.watch import watch
from service.settings import load_settings

_COMMANDS: Final = (
    adapt,
    import_dataset,
    predict,
    watch,
    bridge,
    clients,
    versions,
    diff,
    samples,
    correct,
    rollback,
    alias,
    history,
    audit,
    predictions,
    shadow,
    promote,
    drift,
    settings,
    upgrade,
    weights,
    export,
    verify,
    delete,
    job,
    models,
    status,
)
"""The commands that send requests to a service, in the order of the help."""

GrpcPort = Annotated[
    int | None,
    typer.Option(
        help="TCP port of the Open Inference Protocol over gRPC. 0: any free port.",
        show_default="ANOLE_GRPC_PORT, or no gRPC",
    ),
]

cli = typer.Typer(
    cls=AnoleGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog=EXIT_CODES,
)


def main() -> None:
    """Run the command line. An `AnoleError` is printed as one line, with exit code 1."""
    try:
        cli()
    except AnoleError as error:
        text = "; ".join([str(error), *getattr(error, "__notes__", ())])
        notices().print("error: ", plain(text), sep="", style="red")
        sys.exit(FAILED)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"anole {_release()}")
        raise typer.Exit


def _release() -> str:
    """Return the release of the installed distribution: the whole one, or the client's."""
    try:
        return metadata.version("anole")
    except metadata.PackageNotFoundError:
        return metadata.version("anole-client")


@cli.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Anole learns a recognition task from a few labelled images and serves it within seconds."""


@cli.command(epilog=EXIT_CODES)
def serve(
    host: Annotated[
        str | None, typer.Option(help="Address to listen on.", show_default="ANOLE_HOST, or 127.0.0.1")
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="TCP port. 0: any free port.", show_default="ANOLE_PORT, or 8000")
    ] = None,
    grpc_port: GrpcPort = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the store.", show_default="ANOLE_DATA, or data")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.", show_default="ANOLE_DEVICE, or auto")] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Number of worker processes.", show_default="ANOLE_WORKERS, or one for every two cores, at most 4"
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Name of a shipped checkpoint, or a path. Repeat it to offer several; the first is the default.",
            show_default="ANOLE_MODEL, or efficientnet-lite0",
        ),
    ] = None,
    allow_factory: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODULE:CALLABLE",
            help="Backbone factory that a checkpoint may import and call. Repeat it to allow several.",
            show_default="ANOLE_ALLOW_FACTORY, or only Anole's own",
        ),
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="uvicorn, or ray for Ray Serve.", show_default="ANOLE_ENGINE, or uvicorn")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Cluster of Ray.", show_default="ANOLE_RAY_ADDRESS, or a new one"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Serve adaptation and prediction over HTTP."""
    require_full_installation("anole serve")
    from service.cli.serve import run

    chosen = load_settings(
        host=host,
        port=port,
        grpc_port=grpc_port,
        data=data,
        device=device,
        workers=workers,
        model=model or None,
        allow_factory=allow_factory or None,
        engine=engine,
        ray_address=address,
    )
    run(chosen, as_json=as_json)


for command in (*_COMMANDS, doctor):
    cli.command(epilog=EXIT_CODES)(command)
cli.command("import", epilog=EXIT_CODES)(import_version)
cli.add_typer(store, name="store")
cli.add_typer(keys, name="keys")
cli.add_typer(release, name="release")
cli.add_typer(rollout, name="rollout")
cli.command(epilog=EXIT_CODES)(edge)
