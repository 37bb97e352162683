"""Commands on the store's folder itself; the service may be running meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.cli.console import notices, output, plain
from service.domain.maintenance import BackupReport, Damage
from service.settings import load_settings

Data = Annotated[Path | None, typer.Option(help="Folder of the store.", show_default="data")]

store = typer.Typer(no_args_is_help=True, help="Look after the store's folder.")


@store.command()
def check(data: Data = None) -> None:
    """Read and verify everything that a version needs; exit code 1 if something is damaged."""
    from service.bootstrap import open_store

    with open_store(load_settings(data=data)) as opened, notices().status("checking …"):
        found = opened.check()
    output().print(f"looked at {found.versions} versions and {found.blobs} blobs")
    for problem in found.catalog_problems:
        output().print(plain(f"catalog: {problem}"))
    _tell(found.damages)
    if not found.whole:
        raise typer.Exit(1)


@store.command()
def collect(data: Data = None) -> None:
    """Let go of versions beyond what their clients keep, and remove what no version needs."""
    from service.bootstrap import open_store

    with open_store(load_settings(data=data)) as opened, notices().status("collecting …"):
        done = opened.collect()
    output().print(
        f"let go of {done.retired} versions; removed {done.removed} blobs ({done.removed_bytes} bytes) and "
        f"{done.leftovers} leftovers; {done.kept} blobs remain"
    )


@store.command("backup")
def back_up(
    path: Annotated[Path, typer.Argument(help="Folder of the backup; one that is there is brought up to now.")],
    data: Data = None,
) -> None:
    """Copy everything, as of one moment, and verify it; the service may go on. Exit code 1 if blobs are damaged."""
    from service.bootstrap import open_store

    with open_store(load_settings(data=data)) as opened, notices().status("backing up …"):
        done = opened.back_up(path)
    output().print(f"backed up {_counted(done)}")
    _tell(done.damages)


@store.command()
def restore(
    path: Annotated[Path, typer.Argument(help="Folder of the backup.", exists=True, file_okay=False)],
    data: Data = None,
) -> None:
    """Fill an empty store with a backup, once every byte of it has been verified."""
    from service.bootstrap import open_store

    with open_store(load_settings(data=data)) as opened, notices().status("restoring …"):
        done = opened.restore(path)
    output().print(f"restored {_counted(done)}")
    _tell(done.damages)


def _counted(done: BackupReport) -> str:
    return f"{done.versions} versions of {done.clients} clients: {done.blobs} blobs, {done.added} of them new"


def _tell(damages: tuple[Damage, ...]) -> None:
    for damage in damages:
        output().print(plain(f"{damage.client} version {damage.version}, {damage.digest}: {damage.problem}"))
    if damages:
        raise typer.Exit(1)
