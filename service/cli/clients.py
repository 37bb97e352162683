"""Commands that use a running service: adapt, predict, versions, rollback and upgrade."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.table import Table

from service.cli.console import (
    FAILED,
    INTERRUPTED,
    NO_VALUE,
    AsJson,
    job_progress,
    notices,
    output,
    percent,
    plain,
    print_json,
)
from service.client import (
    AdaptOptions,
    AdaptResponse,
    Client,
    PredictResponse,
    ServiceProblem,
    UpgradeResponse,
    VersionInfo,
    read_samples,
    with_parts,
)
from service.http.schemas.reports import Report
from service.settings import load_settings

_SHOWN_SUSPECTS: Final = 5
_UNKNOWN: Final = "unknown score"
_CURRENT: Final = "nothing_to_upgrade"
"""The problem of an upgrade whose version was adapted from the client's model already."""

Url = Annotated[
    str | None, typer.Option(help="Address of the service.", show_default="ANOLE_URL, or http://127.0.0.1:8000")
]
Key = Annotated[str | None, typer.Option(help="API key.", show_default="ANOLE_API_KEY")]
ClientName = Annotated[str, typer.Argument(metavar="CLIENT", help="Name of the client.")]


def adapt(
    client: ClientName,
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder with one sub-folder per class, or a zip of such a folder.")
    ],
    mode: Annotated[str | None, typer.Option(help="extend: keep earlier samples. replace: start without them.")] = None,
    steps: Annotated[int | None, typer.Option(help="Number of inner steps.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Learning rate of the inner steps.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the inner loop.")] = None,
    publish: Annotated[str | None, typer.Option(help="auto, always or never.")] = None,
    first: Annotated[str | None, typer.Option(help="prototypes: create a version without inner steps first.")] = None,
    parts: Annotated[
        str | None,
        typer.Option(
            metavar="PATTERN",
            help="Regular expression whose group finds the physical part in a file name: '(.+)_' for 0417_2.png. "
            "Use it if parts are photographed more than once. Needs a folder.",
        ),
    ] = None,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Create a new version of CLIENT from labelled images.

    A folder with more images than one request may have is sent in several requests. Each makes a version that extends
    the one before, and only the last may go live.

    Interrupt the command to cancel the adaptation. It then creates no version.
    """
    options = AdaptOptions(mode, steps, learning_rate, seed, publish, first)
    try:
        with _connect(url, key) as anole, job_progress(client) as on_progress:
            samples = folder if parts is None else with_parts(read_samples(folder), parts)
            adapted = anole.adapt(client, samples, options, on_progress=on_progress)
    except KeyboardInterrupt as interrupt:
        unknown = f"the service has not answered; to see whether it created a version: anole versions {client}"
        notices().print(plain(f"interrupted: {'; '.join(getattr(interrupt, '__notes__', [unknown]))}"))
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        print_json(adapted.model_dump(mode="json"))
        return
    output().print(_adapted_table(adapted))
    if adapted.published:
        output().print(f"next: anole predict {client} IMAGE")
    else:
        output().print(f"version {adapted.version} is stored but not live")


def predict(
    client: ClientName,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files.")],
    version: Annotated[int | None, typer.Option(help="Use this version instead of the live one.")] = None,
    alias: Annotated[str | None, typer.Option(help="Use the version that this alias points at.")] = None,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Classify images with CLIENT's live version.

    More images than one request may have are sent in several requests.
    """
    with _connect(url, key) as anole, notices().status(f"predicting {len(images)} images …"):
        predicted = anole.predict(client, images, version=version, alias=alias)
    print_json(predicted.model_dump(mode="json")) if as_json else output().print(_predicted_table(predicted))


def versions(client: ClientName, url: Url = None, key: Key = None, as_json: AsJson = False) -> None:
    """List the versions of CLIENT."""
    with _connect(url, key) as anole:
        listed = anole.versions(client)
    if as_json:
        print_json({"client": client, "versions": [version.model_dump(mode="json") for version in listed]})
    else:
        output().print(_versions_table(client, listed))


def rollback(
    client: ClientName,
    alias: Annotated[str, typer.Option(help="Alias to move.")] = "live",
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Go back to the version that was live before.

    Repeat the command to go back further.
    """
    with _connect(url, key) as anole:
        moved = anole.rollback(client, alias)
    if as_json:
        print_json(moved.model_dump(mode="json"))
    else:
        output().print(f"{moved.alias} of {client} points at version {moved.version}; before: {moved.previous}")


def upgrade(
    client: Annotated[str | None, typer.Argument(metavar="CLIENT", help="Name of the client.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Upgrade all clients.")] = False,
    publish: Annotated[str | None, typer.Option(help="auto, always or never.")] = None,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Adapt CLIENT's stored samples anew from its current model, and compare the new version with the one before.

    A client whose version was adapted from that model already stays as it is. With --all, a client that cannot be
    upgraded does not stop the others, but the exit code is 1.
    """
    if (client is None) != every:
        raise typer.BadParameter("give the name of a client, or --all")
    results: list[tuple[str, UpgradeResponse | ServiceProblem]] = []
    with _connect(url, key) as anole:
        names = [each.client for each in anole.clients()] if client is None else [client]
        for index, name in enumerate(names, 1):
            with notices().status(f"upgrading {name} ({index} of {len(names)}) …"):
                try:
                    results.append((name, anole.upgrade(name, publish)))
                except ServiceProblem as problem:
                    if not every and problem.code != _CURRENT:
                        raise
                    results.append((name, problem))
    if as_json:
        print_json({"upgrades": [_upgrade_json(name, result) for name, result in results]})
    else:
        if any(isinstance(result, UpgradeResponse) for _, result in results):
            output().print(_upgrades_table(results))
        for name, result in results:
            found = result if isinstance(result, ServiceProblem) else "; ".join(result.report.gate.reasons)
            output().print(plain(f"{name}: {found}"))
    if any(isinstance(result, ServiceProblem) and result.code != _CURRENT for _, result in results):
        raise typer.Exit(FAILED)


def _connect(url: str | None, key: str | None) -> Client:
    settings = load_settings(url=url, api_key=key)
    return Client(settings.url, key=None if settings.api_key is None else settings.api_key.get_secret_value())


def _adapted_table(adapted: AdaptResponse) -> Table:
    report = adapted.report
    interval = "" if report.interval is None else f"  ({_interval(report.interval)})"
    parts = ", ".join(f"{part} {taken:.2f}" for part, taken in report.seconds if part != "total")
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in (
        ("client", adapted.client),
        ("version", f"{adapted.version}{', live' if adapted.published else ', not live'}"),
        ("extends", NO_VALUE if adapted.parent is None else f"version {adapted.parent}"),
        ("classes", ", ".join(adapted.classes)),
        ("own samples", percent(report.support_accuracy)),
        ("estimate", f"{percent(report.estimated_accuracy)}{interval}"),
        ("suspects", _suspects(report)),
        ("gate", f"{report.gate.decision}: {'; '.join(report.gate.reasons)}"),
        ("weights", f"{adapted.weights.bytes} bytes, {adapted.weights.digest[:12]}"),
        ("seconds", f"{report.seconds.total:.2f} ({parts})"),
    ):
        table.add_row(name, plain(value))
    return table


def _upgrade_json(name: str, result: UpgradeResponse | ServiceProblem) -> dict[str, Any]:
    if isinstance(result, ServiceProblem):
        return {"client": name, "upgrade": None, "problem": {"code": result.code, "detail": result.detail}}
    return {"client": name, "upgrade": result.model_dump(mode="json"), "problem": None}


def _upgrades_table(results: Sequence[tuple[str, UpgradeResponse | ServiceProblem]]) -> Table:
    """Two rows for each client that was upgraded: the version before, and the new one."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("client", "version", "model", "estimate", "95 % interval", "gate"):
        table.add_column(heading, no_wrap=True, justify="right" if heading in {"version", "estimate"} else "left")
    for name, result in results:
        if isinstance(result, UpgradeResponse):
            before, report = result.before, result.report
            table.add_row(
                plain(name),
                str(before.version),
                plain(before.model),
                percent(before.estimated_accuracy),
                _interval(before.interval),
                "",
            )
            table.add_row(
                "",
                str(result.version),
                plain(result.model),
                percent(report.estimated_accuracy),
                _interval(report.interval),
                report.gate.decision,
            )
    return table


def _interval(interval: tuple[float, float] | None) -> str:
    return NO_VALUE if interval is None else f"{percent(interval[0])} to {percent(interval[1])}"


def _suspects(report: Report) -> str:
    """List the samples whose labels look wrong, with the classes that they look like."""
    suspects = [f"{issue.sample} ({issue.label}, looks like {issue.predicted})" for issue in report.suspects or ()]
    more = f" and {len(suspects) - _SHOWN_SUSPECTS} more" if len(suspects) > _SHOWN_SUSPECTS else ""
    return ", ".join(suspects[:_SHOWN_SUSPECTS]) + more or NO_VALUE


def _predicted_table(predicted: PredictResponse) -> Table:
    table = Table(
        title=f"{predicted.client}, version {predicted.version}", title_justify="left", caption_justify="left"
    )
    for heading in ("image", "label", "confidence", "verdict", _UNKNOWN, "next likely"):
        table.add_column(heading, justify="right" if heading in {"confidence", _UNKNOWN} else "left")
    for image in predicted.predictions:
        others = sorted(((p, name) for name, p in image.scores.items() if name != image.label), reverse=True)
        second = f"{others[0][1]} {percent(others[0][0])}" if others else NO_VALUE
        score = NO_VALUE if image.unknown_score is None else f"{image.unknown_score:.3f}"
        confidence = percent(image.confidence)
        table.add_row(plain(image.name), plain(image.label), confidence, image.verdict, score, plain(second))
        if image.unknown_threshold is not None:
            table.caption = f"{_UNKNOWN}: above {image.unknown_threshold:.3f}, the verdict is unknown"
        else:
            table.caption = f"{_UNKNOWN}: this version has no threshold, so every verdict is known"
    return table


def _versions_table(client: str, listed: Sequence[VersionInfo]) -> Table:
    table = Table(title=f"versions of {client}", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for heading in ("version", "extends", "alias", "classes", "samples", "estimate", "gate", "created, UTC"):
        numbers = heading in {"version", "extends", "classes", "samples", "estimate"}
        table.add_column(heading, no_wrap=True, justify="right" if numbers else "left")
    for version in listed:
        table.add_row(
            str(version.version),
            NO_VALUE if version.parent is None else str(version.parent),
            ", ".join(version.aliases) or NO_VALUE,
            str(len(version.classes)),
            str(version.samples),
            percent(version.estimated_accuracy),
            version.gate,
            version.created_at.strftime("%m-%d %H:%M"),
        )
    return table
