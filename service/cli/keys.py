"""Commands for API keys. They open the store's folder directly, so that the first key needs no key and no service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli.console import EXIT_CODES, AsJson, minute, notices, output, plain, print_json, table
from service.cli.installation import ServerCommand
from service.domain.key import SCOPES, Grant, KeyRecord, as_scopes
from service.errors import StoreUnavailable
from service.settings import load_settings

Data = Annotated[Path | None, typer.Option(help="Folder of the store.", show_default="ANOLE_DATA, or data")]

keys = typer.Typer(no_args_is_help=True, help="Create, list and revoke API keys.")


@keys.command(cls=ServerCommand, epilog=EXIT_CODES)
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the key is for, such as `camera 7`.")],
    client: Annotated[
        list[str], typer.Option(help="Client that the key can access; repeat for more; '*' for all clients.")
    ],
    scope: Annotated[
        list[str] | None,
        typer.Option(help=f"What the key allows: {', '.join(SCOPES)}; repeat for more.", show_default="predict"),
    ] = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Create a key and print it. It cannot be shown again.

    The key is for services on the same store. Without a store, one is created.
    """
    from service.store.open_store import StoreLocation, open_keys
    from service.usecases.keys import create as create_key

    grant = Grant(name, as_scopes(scope or ["predict"]), tuple(client))
    settings = load_settings(data=data)
    try:
        opened = open_keys(StoreLocation.of(settings), missing="reject")
    except StoreUnavailable:  # there is none yet; if it cannot be reached, creating it fails too
        opened = open_keys(StoreLocation.of(settings))
        text = f"there was no store in {settings.data.absolute()}, so a new one is there now; "
        notices().print(plain(f"{text}if your service uses another folder, create the key there with --data"))
    with opened:
        key, record = create_key(opened, grant)
    if as_json:
        print_json({"key": key, **_shown(record)})
        return
    clients = "every client" if record.clients == ("*",) else ", ".join(record.clients)
    text = f"key {record.prefix} ({record.name}) allows {', '.join(record.scopes)} for {clients}"
    notices().print(plain(f"{text}; it is not stored, so copy it now:"))
    output().print(key)


@keys.command("list", cls=ServerCommand, epilog=EXIT_CODES)
def list_keys(data: Data = None, as_json: AsJson = False) -> None:
    """List all keys by their prefix, including revoked ones."""
    from service.store.open_store import StoreLocation, open_keys

    with open_keys(StoreLocation.of(load_settings(data=data)), missing="reject") as opened:
        records = opened.all()
    if as_json:
        print_json({"keys": [_shown(record) for record in records]})
        return
    listed = table("key", "for", "scopes", "clients", "created, UTC", "state")
    for record in records:
        listed.add_row(
            record.prefix,
            plain(record.name),
            ", ".join(record.scopes),
            ", ".join(record.clients),
            minute(record.created_at),
            "valid" if record.revoked_at is None else f"revoked {minute(record.revoked_at)}",
        )
    output().print(listed)


@keys.command(cls=ServerCommand, epilog=EXIT_CODES)
def revoke(
    key: Annotated[str, typer.Argument(metavar="KEY", help="Prefix of the key, as `anole keys list` shows it.")],
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Revoke a key. A running service rejects it within 5 seconds."""
    from service.store.open_store import StoreLocation, open_keys

    with open_keys(StoreLocation.of(load_settings(data=data)), missing="reject") as opened:
        record = opened.revoke(key)
    print_json(_shown(record)) if as_json else output().print(plain(f"{record.prefix} ({record.name}) is revoked"))


def _shown(record: KeyRecord) -> dict[str, Any]:
    """A key as JSON, without its digest."""
    names = ("prefix", "name", "scopes", "clients", "created_at", "revoked_at")
    return {name: getattr(record, name) for name in names}
