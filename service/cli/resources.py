"""Commands that read and change what a running service keeps: clients, aliases, settings, jobs and models."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel, ValidationError

from service.cli import connection
from service.cli.connection import ClientName, Key, Url
from service.cli.console import (
    FAILED,
    NO_VALUE,
    AsJson,
    facts,
    job_progress,
    minute,
    output,
    percent,
    plain,
    print_json,
    table,
)
from service.cli.files import save
from service.client import Alias, ClientInfo, ClientSettings, InvalidInput, Job, VersionDiff


def clients(
    client: Annotated[str | None, typer.Argument(metavar="CLIENT", help="Show only this client.")] = None,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """List the clients, or show one."""
    with connection.connect(url, key) as anole:
        found = anole.clients() if client is None else [anole.client(client)]
    if as_json:
        shown = [each.model_dump(mode="json") for each in found]
        print_json({"clients": shown} if client is None else shown[0])
        return
    listed = table("client", "versions", "live", "aliases", "created, UTC", numbers=("versions", "live"))
    for each in found:
        listed.add_row(*map(plain, _client_row(each)))
    output().print(listed)


def _client_row(info: ClientInfo) -> Iterable[str]:
    aliases = ", ".join(f"{alias.alias} {alias.version}" for alias in info.aliases)
    live = NO_VALUE if info.live is None else str(info.live)
    return info.client, str(info.versions), live, aliases or NO_VALUE, minute(info.created_at)


def history(
    client: ClientName,
    at: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Only up to this moment, such as 2026-01-31T14:31:00Z; local without Z."),
    ] = None,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """List the moves of CLIENT's aliases, and say which version was live."""
    with connection.connect(url, key) as anole:
        found = anole.history(client, moment(at))
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    _print_moves(found.moves)
    when = "" if found.at is None else f" at {found.at.isoformat()}"
    output().print(plain(f"live{when}: {NO_VALUE if found.live is None else f'version {found.live}'}"))


def alias(
    client: ClientName,
    alias: Annotated[str, typer.Argument(metavar="ALIAS", help="Name of the alias.")] = "live",
    version: Annotated[int | None, typer.Option("--set", help="Point the alias at this version.")] = None,
    etag: Annotated[str | None, typer.Option(help="Move it only if its ETag is still this one.")] = None,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Show which version an alias of CLIENT points at, or move it with --set."""
    with connection.connect(url, key) as anole:
        found = anole.alias(client, alias) if version is None else anole.move_alias(client, alias, version, etag=etag)
    print_json(found.model_dump(mode="json")) if as_json else _print_moves([found])


def diff(
    client: ClientName,
    before: Annotated[int, typer.Argument(metavar="BEFORE", help="Number of a version.")],
    after: Annotated[int, typer.Argument(metavar="AFTER", help="Number of another version.")],
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Compare two versions of CLIENT: classes, estimates, and samples that are judged differently."""
    with connection.connect(url, key) as anole:
        found = anole.diff(client, before, after)
    print_json(found.model_dump(mode="json")) if as_json else _print_diff(found)


def _print_diff(found: VersionDiff) -> None:
    rows = [
        ("estimate", f"{percent(found.estimate_before)}, then {percent(found.estimate_after)}"),
        ("classes added", ", ".join(found.added) or NO_VALUE),
        ("classes removed", ", ".join(found.removed) or NO_VALUE),
        ("samples", f"{found.samples_kept} kept, {found.samples_added} added, {found.samples_removed} removed"),
    ]
    output().print(plain(f"{found.client}, version {found.before} and version {found.after}"))
    output().print(facts(rows))
    if found.changed:
        changed = table("sample", "label", "predicted", "label, then", "predicted, then")
        for each in found.changed:
            judged = [NO_VALUE if side is None else side.label for side in (each.before, each.after)]
            changed.add_row(*map(plain, (each.name, each.label_before, judged[0], each.label_after, judged[1])))
        output().print(changed)


def settings(
    client: ClientName,
    changes: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME=VALUE]...",
            help="Settings to change, such as floor=0.8 or keep_last=null. docs/versions.md describes each.",
        ),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Reset the other settings to their defaults.")] = False,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Show the settings of CLIENT, or change them. Those of the adaptation apply to the next versions."""
    given = dict(_setting(change) for change in changes or ())
    with connection.connect(url, key) as anole:
        if replace:
            found = anole.set_settings(client, _settings(given))
        else:
            found = anole.change_settings(client, given) if given else anole.settings(client)
    values = found.model_dump(mode="json")
    print_json(values) if as_json else output().print(facts((name, json.dumps(values[name])) for name in values))


def _setting(change: str) -> tuple[str, Any]:
    name, separator, value = change.partition("=")
    if not separator:
        raise typer.BadParameter(f"{change!r} is not NAME=VALUE, such as floor=0.8")
    try:
        return name, json.loads(value)
    except ValueError:  # a name, which needs no quotation marks
        return name, value


def _settings(given: dict[str, Any]) -> ClientSettings:
    try:
        return ClientSettings(**given)
    except ValidationError as error:
        problems = "; ".join(f"{each['loc'][0]} is {each['input']!r}: {each['msg']}" for each in error.errors())
        raise InvalidInput(f"these settings cannot be sent: {problems}") from error


def delete(
    client: ClientName,
    version: Annotated[int | None, typer.Option(help="Delete only this version.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Delete CLIENT with everything that is stored for it, or one of its versions. This cannot be undone."""
    what = f"client {client}, all its versions and samples" if version is None else f"version {version} of {client}"
    if not yes:
        if not sys.stdin.isatty():
            raise typer.BadParameter(f"to delete {what} without a terminal to ask, give --yes")
        typer.confirm(f"Delete {what}?", abort=True)
    with connection.connect(url, key) as anole:
        anole.delete(client, version)
    if as_json:
        print_json({"client": client, "version": version, "deleted": True})
    else:
        output().print(plain(f"deleted {what}"))


def weights(
    client: ClientName,
    version: Annotated[int, typer.Argument(metavar="VERSION", help="Number of the version.")],
    out: Annotated[Path | None, typer.Option(help="File to write.", show_default="CLIENT-VERSION.safetensors")] = None,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Download the weights of a version of CLIENT as a safetensors file."""
    path = out or Path(f"{client}-{version}.safetensors")
    with connection.connect(url, key) as anole:
        content = anole.weights(client, version)
    save(path, content)
    if as_json:
        print_json({"client": client, "version": version, "path": str(path), "bytes": len(content)})
    else:
        output().print(plain(f"{path}: {len(content)} bytes"))


def job(
    number: Annotated[str, typer.Argument(metavar="JOB", help="Number of the job.")],
    follow: Annotated[bool, typer.Option("--follow", help="Wait until the job is over.")] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="Cancel the job.")] = False,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Show an adaptation in the background. A job that failed is exit code 1."""
    with connection.connect(url, key) as anole:
        found = anole.cancel_job(number) if cancel else anole.job(number)
        if follow:
            with job_progress(found.client) as on_progress:
                for found in anole.follow_job(number):
                    on_progress(found)
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        output().print(facts(_job_facts(found)))
    if found.state == "failed":
        raise typer.Exit(FAILED)


def _job_facts(found: Job) -> Iterable[tuple[str, str]]:
    yield "job", found.job
    yield "client", found.client
    yield "state", found.state if found.state != "running" else f"running: {found.stage}"
    yield "steps", f"{found.steps.done} of {found.steps.of or NO_VALUE}"
    if found.result is not None:
        yield "version", f"{found.result.version}{', live' if found.result.published else ', not live'}"
    if found.problem is not None:
        yield "problem", f"{found.problem.code}: {found.problem.detail}"


def models(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Show only this model, with its card.")] = None,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """List the models that clients are adapted from, or show one. The first is the default."""
    with connection.connect(url, key) as anole:
        found: list[Any] = anole.models() if name is None else [anole.model(name)]
    shown = [each.model_dump(mode="json") for each in found]
    if as_json:
        print_json({"models": shown} if name is None else shown[0])
    elif name is not None:
        output().print(facts((field, str(value)) for field, value in shown[0].items()))
    else:
        listed = table("model", "net", "image", "takes", "digest")
        for each in shown:
            side = f"{each['image'].get('side', NO_VALUE)} px, {each['image'].get('channels', NO_VALUE)} channels"
            takes = "image" if each["takes"] == "none" else f"image, {each['takes']}"
            cells = (each["name"], str(each["net"].get("kind", NO_VALUE)), side, takes, each["digest"][:12])
            listed.add_row(*map(plain, cells))
        output().print(listed)


def status(
    metrics: Annotated[bool, typer.Option("--metrics", help="Print the metrics in the format of Prometheus.")] = False,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Show whether the service is ready, its limits and what the key may do. If it is not ready: exit code 1."""
    with connection.connect(url, key) as anole:
        if metrics:
            text = anole.metrics()
            print_json({"metrics": text}) if as_json else typer.echo(text, nl=False)
            return
        parts: dict[str, BaseModel] = {
            "service": anole.service(),
            "liveness": anole.liveness(),
            "readiness": anole.readiness(),
            "session": anole.session(),
        }
    shown = {name: part.model_dump(mode="json") for name, part in parts.items()}
    if as_json:
        print_json(shown)
    else:
        service, readiness, session = shown["service"], shown["readiness"], shown["session"]
        rows = [("release", service["version"]), ("access", service["access"]), ("status", readiness["status"])]
        rows += [("key", session["name"] or NO_VALUE), ("scopes", ", ".join(session["scopes"]) or NO_VALUE)]
        rows += [(name, str(value)) for name, value in {**readiness["checks"], **(service["limits"] or {})}.items()]
        output().print(facts(rows))
    if shown["readiness"]["status"] != "ready":
        raise typer.Exit(FAILED)


def _print_moves(moves: Iterable[Alias]) -> None:
    headings = ("alias", "version", "before", "moved, UTC", "by", "reason", "etag")
    listed = table(*headings, numbers=("version", "before"))
    for move in moves:
        previous = NO_VALUE if move.previous is None else str(move.previous)
        by = NO_VALUE if move.by is None else move.by.name or move.by.id
        row = (move.alias, str(move.version), previous, minute(move.moved_at), by, move.reason, move.etag)
        listed.add_row(*map(plain, row))
    output().print(listed)


def moment(text: str | None) -> datetime | None:
    """Return the moment that an option names, in UTC; local time without an offset."""
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text).astimezone(UTC)  # without an offset: of this machine
    except (ValueError, OverflowError) as error:
        raise typer.BadParameter(f"{text!r} is not a time in ISO 8601, such as 2026-01-31T14:31:00Z") from error
