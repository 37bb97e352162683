"""Commands on the store's folder itself; the service may be running meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.commands.console import notices, output, plain
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
    for damage in found.damages:
        output().print(plain(f"{damage.client} version {damage.version}, {damage.digest}: {damage.problem}"))
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
