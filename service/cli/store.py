"""Commands that maintain the store's folder. The service may run at the same time."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.console import EXIT_CODES, FAILED, AsJson, notices, output, plain, print_json
from service.cli.installation import ServerCommand
from service.cli.keys import Data
from service.errors import InvalidRequest
from service.settings import load_settings

if TYPE_CHECKING:
    from service.store.backup import BackupReport
    from service.store.maintenance import Damage
    from service.store.version_store import VersionStore


def _backup_folder(text: str) -> Path:
    """Parse a path. An empty one is rejected: `Path("")` is the current folder, and a variable may be unset."""
    if not text.strip():
        raise typer.BadParameter("the path is empty; name the folder of the backup")
    return Path(text)


store = typer.Typer(no_args_is_help=True, help="Check, clean up, back up and restore the store.")


@store.command(cls=ServerCommand, epilog=EXIT_CODES)
def check(data: Data = None, as_json: AsJson = False) -> None:
    """Read and verify everything that the versions need. Damage is a failure."""
    with _existing(data) as opened, notices().status("checking …"):
        found = opened.check()
    if as_json:
        print_json(asdict(found))
    else:
        output().print(f"checked {found.versions} versions and {found.blobs} blobs")
        for problem in found.catalog_problems:
            output().print(plain(f"catalog: {problem}"))
        _print_damages(found.damages)
    if not found.whole:
        raise typer.Exit(FAILED)


@store.command(cls=ServerCommand, epilog=EXIT_CODES)
def collect(data: Data = None, as_json: AsJson = False) -> None:
    """Remove versions beyond the number that their clients keep, and files that no version needs."""
    with _existing(data) as opened, notices().status("collecting …"):
        done = opened.collect()
    if as_json:
        print_json(asdict(done))
        return
    output().print(
        f"removed {done.retired} versions with the blobs that only they needed, {done.removed} other blobs "
        f"({done.removed_bytes} bytes) and {done.leftovers} unfinished files; {done.kept} blobs remain"
    )


@store.command("backup", cls=ServerCommand, epilog=EXIT_CODES)
def back_up(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH", help="Folder of the backup. An existing backup is updated.", parser=_backup_folder
        ),
    ],
    data: Data = None,
    keep: Annotated[int, typer.Option(min=1, help="Number of backups that the folder keeps.")] = 1,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace the backup even if it is damaged, or of other clients.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Copy and verify the whole store as of one moment. Damaged blobs are a failure.

    Data that was deleted from the store stays in earlier backups, until they are no longer kept.
    """
    _reject_overlap(path, data)
    with _existing(data) as opened, notices().status("backing up …"):
        done = opened.back_up(path, keep=keep, replace=replace)
    _print_backup("backed up", done, as_json=as_json)


@store.command(cls=ServerCommand, epilog=EXIT_CODES)
def restore(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Folder of the backup.", exists=True, file_okay=False)],
    data: Data = None,
    generation: Annotated[
        int, typer.Option(min=0, help="Which backup in the folder: 0 is the newest, 1 the one before.")
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Verify a backup completely, then restore it into an empty store."""
    from service.store.backup import require_backup
    from service.store.open_store import StoreLocation, open_store

    require_backup(path, generation)  # before a store is created
    settings = load_settings(data=data)
    if settings.data.resolve().is_relative_to(path.resolve()):
        raise InvalidRequest(f"{settings.data} is in the folder of the backup; restore into another folder with --data")
    location = StoreLocation.of(settings)
    with open_store(location, missing="restore") as opened, notices().status("restoring …"):
        done = opened.restore(path, generation=generation)
    _print_backup("restored", done, as_json=as_json)


def _reject_overlap(path: Path, data: Path | None) -> None:
    """Raises InvalidRequest if the folder of a backup is among the blobs of the store, or contains them."""
    from service.store.open_store import StoreLocation

    blobs = StoreLocation.of(load_settings(data=data)).local_blobs
    if blobs is None:
        return
    if path.resolve().is_relative_to(blobs.resolve()):
        raise InvalidRequest(
            f"{path} is in the folder of the store's blobs, {blobs}, and would be taken for some of them; name another "
            "folder for the backup, best on another disk"
        )
    if blobs.resolve().is_relative_to(path.resolve()):
        raise InvalidRequest(
            f"{path} contains the blobs of the store, {blobs}; name a folder of its own for the backup, best on "
            "another disk"
        )


def _existing(data: Path | None) -> VersionStore:
    """Open the store; one that does not exist is not created."""
    from service.store.open_store import StoreLocation, open_store

    return open_store(StoreLocation.of(load_settings(data=data)), missing="reject")


def _print_backup(what: str, done: BackupReport, *, as_json: bool) -> None:
    if as_json:
        print_json(asdict(done))
    else:
        clients = f"{done.versions} versions of {done.clients} clients"
        output().print(f"{what} {clients}: {done.blobs} blobs, {done.added} of them new")
        _print_damages(done.damages)
    if done.damages:
        raise typer.Exit(FAILED)


def _print_damages(damages: tuple[Damage, ...]) -> None:
    for damage in damages:
        output().print(plain(f"{damage.client} version {damage.version}, {damage.digest}: {damage.problem}"))
