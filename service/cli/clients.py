"""Commands that talk to a running service: adapt, predict, versions, rollback. They need its address and no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer
from rich.table import Table

from service.cli.console import ABSENT, INTERRUPTED, notices, output, percent, plain
from service.cli.job_progress import followed
from service.client.client import Client
from service.client.reports import Report
from service.client.types import Adapted, AdaptOptions, Predicted, VersionInfo
from service.settings import load_settings

_SHOWN_SUSPECTS: Final = 5

Url = Annotated[str | None, typer.Option(help="Address of the service.", show_default="http://127.0.0.1:8000")]
Key = Annotated[str | None, typer.Option(help="Key to present.", show_default="ANOLE_API_KEY")]
ClientName = Annotated[str, typer.Argument(metavar="CLIENT", help="Name of the client.")]


def adapt(
    client: ClientName,
    folder: Annotated[Path, typer.Argument(help="Folder with one sub-folder a class, or a zip of such a folder.")],
    mode: Annotated[str | None, typer.Option(help="extend keeps earlier samples, replace starts afresh.")] = None,
    steps: Annotated[int | None, typer.Option(help="Inner steps.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of the inner steps.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the inner loop's random draws.")] = None,
    publish: Annotated[str | None, typer.Option(help="auto, always or never.")] = None,
    first: Annotated[str | None, typer.Option(help="prototypes: a version without inner steps first.")] = None,
    url: Url = None,
    key: Key = None,
) -> None:
    """Make a new version of CLIENT from labelled images; interrupted, none is made."""
    options = AdaptOptions(mode, steps, learning_rate, seed, publish, first)
    try:
        with _connect(url, key) as anole, followed(client) as told:
            adapted = anole.adapt(client, folder, options, told=told)
    except KeyboardInterrupt as stop:
        unknown = f"the service had not answered yet; see what it made with: anole versions {client}"
        notices().print(plain(f"stopped; {'; '.join(getattr(stop, '__notes__', [unknown]))}"))
        raise typer.Exit(INTERRUPTED) from None
    output().print(_adapted_table(adapted))
    if adapted.published:
        output().print(f"next: anole predict {client} IMAGE")
    else:
        output().print(f"version {adapted.version} is kept but not live")


def predict(
    client: ClientName,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files.")],
    version: Annotated[int | None, typer.Option(help="Judge by this version.")] = None,
    alias: Annotated[str | None, typer.Option(help="Judge by the version this alias points at.")] = None,
    url: Url = None,
    key: Key = None,
) -> None:
    """Judge images by CLIENT's live version."""
    with _connect(url, key) as anole, notices().status(f"judging {len(images)} images …"):
        predicted = anole.predict(client, images, version=version, alias=alias)
    output().print(_predicted_table(predicted))


def versions(client: ClientName, url: Url = None, key: Key = None) -> None:
    """List the versions of CLIENT."""
    with _connect(url, key) as anole:
        listed = anole.versions(client)
    output().print(_versions_table(client, listed))


def rollback(
    client: ClientName,
    alias: Annotated[str, typer.Option(help="Which alias.")] = "live",
    url: Url = None,
    key: Key = None,
) -> None:
    """Go back to the version that was live before; again goes further back."""
    with _connect(url, key) as anole:
        moved = anole.rollback(client, alias)
    output().print(f"{moved.alias} of {client} points at version {moved.version}; it was {moved.previous}")


def _connect(url: str | None, key: str | None) -> Client:
    settings = load_settings(url=url, api_key=key)
    return Client(settings.url, key=None if settings.api_key is None else settings.api_key.get_secret_value())


def _adapted_table(adapted: Adapted) -> Table:
    report = adapted.report
    low_high = "" if report.interval is None else f"  ({percent(report.interval[0])} to {percent(report.interval[1])})"
    seconds = {part: taken for part, taken in report.seconds.items() if part != "total"}
    parts = ", ".join(f"{part} {taken:.2f}" for part, taken in seconds.items())
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in (
        ("client", adapted.client),
        ("version", f"{adapted.version}{', live' if adapted.published else ', not live'}"),
        ("extends", ABSENT if adapted.parent is None else f"version {adapted.parent}"),
        ("classes", ", ".join(adapted.classes)),
        ("own samples", percent(report.support_accuracy)),
        ("estimate", f"{percent(report.estimated_accuracy)}{low_high}"),
        ("suspects", _suspects(report)),
        ("verdict", f"{report.gate.decision}: {'; '.join(report.gate.reasons)}"),
        ("weights", f"{adapted.weights_bytes} bytes, {adapted.weights_digest[:12]}"),
        ("seconds", f"{report.seconds['total']:.2f} ({parts})"),
    ):
        table.add_row(name, plain(value))
    return table


def _suspects(report: Report) -> str:
    """Whose labels look wrong, and what they look like."""
    named = [f"{own.sample} ({own.label}, looks like {own.predicted})" for own in report.suspects or ()]
    more = f" and {len(named) - _SHOWN_SUSPECTS} more" if len(named) > _SHOWN_SUSPECTS else ""
    return ", ".join(named[:_SHOWN_SUSPECTS]) + more or ABSENT


def _predicted_table(predicted: Predicted) -> Table:
    table = Table(title=f"{predicted.client}, version {predicted.version}", title_justify="left")
    for heading in ("image", "label", "confidence", "verdict", "next likely"):
        table.add_column(heading, justify="right" if heading == "confidence" else "left")
    for image in predicted.predictions:
        others = sorted(((p, name) for name, p in image.scores.items() if name != image.label), reverse=True)
        second = f"{others[0][1]} {percent(others[0][0])}" if others else ABSENT
        table.add_row(plain(image.name), plain(image.label), percent(image.confidence), image.verdict, plain(second))
    return table


def _versions_table(client: str, listed: tuple[VersionInfo, ...]) -> Table:
    table = Table(title=f"versions of {client}", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for heading in ("version", "extends", "alias", "classes", "samples", "estimate", "gate", "made, UTC"):
        numbers = heading in {"version", "extends", "classes", "samples", "estimate"}
        table.add_column(heading, no_wrap=True, justify="right" if numbers else "left")
    for version in listed:
        table.add_row(
            str(version.version),
            ABSENT if version.parent is None else str(version.parent),
            ", ".join(version.aliases) or ABSENT,
            str(len(version.classes)),
            str(version.samples),
            percent(version.estimated_accuracy),
            version.gate,
            version.created_at.strftime("%m-%d %H:%M"),
        )
    return table
