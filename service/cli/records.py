"""Commands that read what a service has recorded: who changed what."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from service.cli import connection
from service.cli.connection import Key, Url
from service.cli.console import NO_VALUE, AsJson, output, plain, print_json, second, table
from service.cli.resources import moment

Since = Annotated[
    str | None,
    typer.Option("--from", metavar="TIME", help="From this moment on, such as 2026-01-31T14:31:00Z; local without Z."),
]
Until = Annotated[str | None, typer.Option("--to", metavar="TIME", help="Before this moment.")]


def audit(
    client: Annotated[str | None, typer.Option(help="Only changes of this client, which may be deleted.")] = None,
    since: Since = None,
    until: Until = None,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """List who changed what, newest first."""
    with connection.connect(url, key) as anole:
        found = anole.audit(client, since=moment(since), until=moment(until))
    if as_json:
        print_json({"entries": [entry.model_dump(mode="json") for entry in found]})
        return
    listed = table("time, UTC", "by", "action", "client", "details", "request")
    for entry in found:
        by = f"{entry.actor.id} ({entry.actor.name})" if entry.actor.name else entry.actor.id
        details = ", ".join(f"{name} {json.dumps(value)}" for name, value in entry.details.items() if value is not None)
        row = (second(entry.at), by, entry.action, entry.client or NO_VALUE, details, entry.request_id or NO_VALUE)
        listed.add_row(*map(plain, row))
    output().print(listed)
