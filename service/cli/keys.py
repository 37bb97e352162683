"""Commands on keys. They work on the store's folder itself, so that the first key needs no key; no service need run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from service.cli.console import notices, output, plain
from service.domain.key import SCOPES, Grant, KeyRecord, as_scopes
from service.settings import load_settings

Data = Annotated[Path | None, typer.Option(help="Folder of the store.", show_default="data")]

keys = typer.Typer(no_args_is_help=True, help="Make, list and revoke the keys that callers present.")


@keys.command()
def create(
    name: Annotated[str, typer.Argument(help="What the key is for, such as `camera 7`.")],
    client: Annotated[list[str], typer.Option(help="A client it can_access; again for more; '*' for all.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(help=f"What it may do: {', '.join(SCOPES)}; again for more.", show_default="predict"),
    ] = None,
    data: Data = None,
) -> None:
    """Make a key and print it, this once."""
    from service.bootstrap import open_keys
    from service.usecases.keys import create as create_key

    grant = Grant(name, as_scopes(scope or ["predict"]), tuple(client))
    with open_keys(load_settings(data=data)) as opened:
        key, record = create_key(opened, grant)
    notices().print(plain(f"{_told(record)}; it is kept nowhere and shown only here:"))
    output().print(key)


@keys.command("list")
def list_keys(data: Data = None) -> None:
    """List the keys, revoked ones too; of each only the part that names it."""
    from service.bootstrap import open_keys

    with open_keys(load_settings(data=data)) as opened:
        records = opened.all()
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("key", "for", "scopes", "clients", "made, UTC", "state"):
        table.add_column(heading, no_wrap=heading != "clients")
    for record in records:
        made = record.created_at.strftime("%Y-%m-%d %H:%M")
        state = "good" if record.revoked_at is None else f"revoked {record.revoked_at:%Y-%m-%d %H:%M}"
        table.add_row(
            record.prefix, plain(record.name), ", ".join(record.scopes), ", ".join(record.clients), made, state
        )
    output().print(table)


@keys.command()
def revoke(key: Annotated[str, typer.Argument(help="The part of the key that names it.")], data: Data = None) -> None:
    """Revoke a key; every worker of a running service refuses it within 5 seconds."""
    from service.bootstrap import open_keys

    with open_keys(load_settings(data=data)) as opened:
        record = opened.revoke(key)
    output().print(plain(f"{record.prefix} ({record.name}) is revoked"))


def _told(record: KeyRecord) -> str:
    clients = "every client" if record.clients == ("*",) else ", ".join(record.clients)
    return f"key {record.prefix} ({record.name}) may {', '.join(record.scopes)} for {clients}"
