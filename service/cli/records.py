"""Commands that read what a service has recorded: who changed what, and what versions said about images."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated

import typer

from service.cli import connection
from service.cli.connection import ClientName, Key, Url
from service.cli.console import NO_VALUE, AsJson, facts, minute, output, percent, plain, print_json, second, table
from service.cli.resources import moment
from service.client import InvalidInput
from service.client.files import read_file
from service.client.records import Wanted
from service.http.schemas.predictions import Judgement
from service.http.schemas.resources import Alias

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


def predictions(
    client: ClientName,
    part: Annotated[str | None, typer.Option(help="Only images of this part.")] = None,
    image: Annotated[Path | None, typer.Option(metavar="FILE", help="Only this image file.")] = None,
    station: Annotated[str | None, typer.Option(help="Only images that were taken here.")] = None,
    label: Annotated[str | None, typer.Option(help="Only images with this predicted class.")] = None,
    verdict: Annotated[str | None, typer.Option(help="known or unknown.")] = None,
    version: Annotated[int | None, typer.Option(help="Only answers of this version.")] = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option(min=1, help="Number of entries at most.")] = 100,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """List what versions of CLIENT said about images, newest first, if its setting log_predictions is true."""
    digest = None if image is None else hashlib.sha256(read_file(image)).hexdigest()
    wanted = Wanted(
        part=part,
        image=digest,
        station=station,
        label=label,
        verdict=verdict,
        version=version,
        since=moment(since),
        until=moment(until),
    )
    with connection.connect(url, key) as anole:
        found = anole.predictions(client, limit=limit, **wanted)
    if as_json:
        print_json({"client": client, "predictions": [entry.model_dump(mode="json") for entry in found]})
        return
    listed = table(
        *("time, UTC", "part", "station", "version", "label", "confidence", "verdict", "image"),
        numbers=("version", "confidence"),
    )
    for entry in found:
        listed.add_row(
            second(entry.at),
            plain(entry.part or NO_VALUE),
            plain(entry.station or NO_VALUE),
            str(entry.version),
            plain(entry.label),
            percent(entry.confidence),
            entry.verdict,
            entry.image[:12],
        )
    output().print(listed)


def shadow(
    client: ClientName,
    version: Annotated[
        int | None,
        typer.Argument(
            metavar="[VERSION]", help="The version that answered.", show_default="live, or the one before it"
        ),
    ] = None,
    candidate: Annotated[
        int | None, typer.Argument(metavar="[CANDIDATE]", help="The version that judged too.", show_default="candidate")
    ] = None,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Show what would change if the candidate of CLIENT were live, or what its promotion changed."""
    with connection.connect(url, key) as anole:
        judged = anole.alias(client, "candidate").version if candidate is None else candidate
        answered = _compared_with(judged, anole.alias(client, "live")) if version is None else version
        found = anole.shadow(client, answered, judged)
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    low, high = found.interval or (None, None)
    rows = [
        ("images", str(found.images)),
        ("same answer", f"{percent(found.agreement)}  ({percent(low)} to {percent(high)})"),
        ("unknown", f"{percent(found.unknown)}, then {percent(found.candidate_unknown)}"),
    ]
    output().print(plain(f"{client}, version {answered}, and version {judged} as the candidate"))
    output().print(facts(rows))
    if found.changed:
        listed = table("time, UTC", "part", "answer", "candidate", "image")
        for entry in found.changed:
            then = entry.candidate or entry
            cells = (second(entry.at), entry.part or NO_VALUE, _said(entry), _said(then), entry.image[:12])
            listed.add_row(*map(plain, cells))
        output().print(listed)


def _compared_with(candidate: int, live: Alias) -> int:
    """Return the live version; if the candidate was promoted, the one that it replaced.

    Raises:
        InvalidInput: the candidate is live, and no version was before.
    """
    if live.version != candidate:
        return live.version
    if live.previous is None or live.previous == candidate:
        raise InvalidInput(
            f"version {candidate} of {live.client} is live and the candidate, so there is nothing to compare; name two "
            "versions"
        )
    return live.previous


def _said(judgement: Judgement) -> str:
    return judgement.label if judgement.verdict == "known" else f"unknown ({judgement.label})"


def promote(client: ClientName, url: Url = None, key: Key = None, as_json: AsJson = False) -> None:
    """Make the candidate of CLIENT live."""
    with connection.connect(url, key) as anole:
        moved = anole.promote(client)
    if as_json:
        print_json(moved.model_dump(mode="json"))
    else:
        output().print(f"{moved.alias} of {client} points at version {moved.version}; before: {moved.previous}")


def drift(
    client: ClientName,
    hours: Annotated[int, typer.Option(min=1, help="Hours to look back.")] = 24,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Show whether CLIENT's images are unlike those that its live version was validated on."""
    with connection.connect(url, key) as anole:
        found = anole.drift(client, hours)
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    state = "drifting" if found.drifting else "no drift"
    output().print(plain(f"{client}, version {found.version}: {state}"))
    listed = table(*("since, UTC", "images", "unknown", "errors", "above"), numbers=("images", "unknown", "errors"))
    listed.add_row("at most", "", percent(found.expected.unknown), percent(found.expected.errors), "")
    for each in (found.total, *found.hours):
        above = ", ".join(each.above) or NO_VALUE
        listed.add_row(minute(each.since), str(each.images), percent(each.unknown), percent(each.errors), above)
    output().print(listed)
