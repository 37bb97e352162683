"""Commands that use a running service: adapt, predict, versions, rollback and upgrade."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.table import Table

from service.cli import connection, console
from service.cli.connection import ClientName, Key, Url
from service.cli.console import (
    FAILED,
    HELD,
    NO_VALUE,
    AsJson,
    facts,
    job_progress,
    minute,
    notices,
    output,
    percent,
    plain,
    print_json,
)
from service.cli.entry_point import INTERRUPTED
from service.cli.files import make_folder
from service.cli.heat_maps import write_heat_maps
from service.cli.installation import require_full_installation
from service.client import (
    AdaptOptions,
    AdaptResponse,
    Client,
    Image,
    LabelledFile,
    PredictResponse,
    Samples,
    ServiceProblem,
    SkippedFile,
    UpgradeResponse,
    VersionDetails,
    VersionInfo,
    read_class_folders,
    with_parts,
)
from service.client.jobs import OnProgress
from service.client.tables import images_with_rows, read_table, samples_with_rows
from service.http.schemas.reports import Report

ImageTable = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.csv",
        help="What comes with the images, for models that take more than images: the column 'file', a file name or its "
        "path, and either 'text' or one column for each number. Every line needs an image; an image needs no line.",
    ),
]

_SHOWN_SUSPECTS: Final = 5
_UNKNOWN: Final = "unknown score"
_UNCERTAINTY: Final = "uncertainty"
_CURRENT: Final = "nothing_to_upgrade"
"""The problem of an upgrade whose version was adapted from the client's model already."""


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
    new: Annotated[bool, typer.Option("--new", help="Fail if CLIENT exists already.")] = False,
    parts: Annotated[
        str | None,
        typer.Option(
            metavar="PATTERN",
            help="Regular expression whose group finds the physical part in a file name: '(.+)_' for 0417_2.png. "
            "Use it if parts are photographed more than once. Needs a folder.",
        ),
    ] = None,
    table: ImageTable = None,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Create a new version of CLIENT from labelled images.

    A folder with more images than one request may have is sent in several requests. Each makes a version that extends
    the one before, and only the last may go live.

    Interrupt the command to cancel the adaptation. It then creates no version.
    """
    options = AdaptOptions(mode, steps, learning_rate, seed, publish, first, new_client=new)
    samples, skipped = _samples(folder, parts, table)
    adapted = adapt_with_progress(
        client, url, key, lambda anole, on_progress: anole.adapt(client, samples, options, on_progress=on_progress)
    )
    print_adapted(adapted, skipped, as_json=as_json)
    exit_if_held(publish, adapted)


def adapt_with_progress(
    client: str, url: str | None, key: str | None, call: Callable[[Client, OnProgress], AdaptResponse]
) -> AdaptResponse:
    """Adapt and show progress. An interrupt from the keyboard cancels the adaptation and ends the command.

    Args:
        client: name of the client.
        url: see `connect`.
        key: see `connect`.
        call: adapts, with the function that shows the progress.
    """
    try:
        with connection.connect(url, key) as anole, job_progress(client) as on_progress:
            return call(anole, on_progress)
    except KeyboardInterrupt as interrupt:
        unknown = f"the service has not answered; to see whether it created a version: anole versions {client}"
        notices().print(plain(f"interrupted: {'; '.join(getattr(interrupt, '__notes__', [unknown]))}"))
        raise typer.Exit(INTERRUPTED) from None


def predict(
    client: ClientName,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files.")],
    version: Annotated[int | None, typer.Option(help="Use this version instead of the live one.")] = None,
    alias: Annotated[str | None, typer.Option(help="Use the version that this alias points at.")] = None,
    table: ImageTable = None,
    explain: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Write each picture with a map of what spoke for its class to FOLDER, as NAME-explained.png.",
        ),
    ] = None,
    part: Annotated[str | None, typer.Option(help="Part that the images show, for the prediction log.")] = None,
    station: Annotated[str | None, typer.Option(help="Where they were taken, for the prediction log.")] = None,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Classify images with CLIENT's live version.

    More images than one request may have are sent in several requests.
    """
    if explain is not None:
        require_full_installation("--explain")
        make_folder(explain)
    given = list(map(Image, images)) if table is None else images_with_rows(images, read_table(table))
    given = given if part is None else [replace(image, part=part) for image in given]
    with connection.connect(url, key) as anole, notices().status(f"predicting {len(images)} images …"):
        predicted = anole.predict(
            client, given, version=version, alias=alias, explain=explain is not None, station=station
        )
    written = [] if explain is None else write_heat_maps(explain, images, predicted)
    if as_json:
        maps = {} if explain is None else {"heat_maps": [str(path) for path in written]}
        print_json({**predicted.model_dump(mode="json"), **maps})
        return
    output().print(plain(f"{predicted.client}, version {predicted.version}"))
    output().print(_predicted_table(predicted))
    for line in _legend(predicted):
        output().print(line)
    if explain is not None:
        output().print(plain(f"{len(written)} heat maps in {explain}"))


def versions(
    client: ClientName,
    version: Annotated[
        int | None, typer.Argument(metavar="VERSION", help="Show only this version, with its report.")
    ] = None,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """List the versions of CLIENT, or show one."""
    with connection.connect(url, key) as anole:
        if version is not None:
            _print_version(anole.version(client, version), as_json=as_json)
            return
        listed = anole.versions(client)
    if as_json:
        print_json({"client": client, "versions": [version.model_dump(mode="json") for version in listed]})
    else:
        output().print(plain(f"versions of {client}"))
        output().print(_versions_table(listed))


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
    with connection.connect(url, key) as anole:
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

    A client whose version was adapted from that model already, with its present setting `uncertainty`, stays as it is.
    With --all, a client that cannot be upgraded does not stop the others, but the exit code is 1.
    """
    if (client is None) != every:
        raise typer.BadParameter("give the name of a client, or --all")
    results: list[tuple[str, UpgradeResponse | ServiceProblem]] = []
    with connection.connect(url, key) as anole:
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
            output().print(plain(f"{name}: {_upgrade_text(result)}"))
    if any(isinstance(result, ServiceProblem) and result.code != _CURRENT for _, result in results):
        raise typer.Exit(FAILED)
    exit_if_held(publish, *(result for _, result in results if isinstance(result, UpgradeResponse)))


def _samples(folder: Path, parts: str | None, table: Path | None) -> tuple[Samples, tuple[SkippedFile, ...]]:
    """Return what to send, and what was left out of a folder; the service reads a zip itself."""
    if folder.is_file() and parts is None and table is None:
        return folder, ()
    found = read_class_folders(folder)
    print_skipped(found.skipped)
    samples: Sequence[LabelledFile] = found.samples
    samples = samples if parts is None else with_parts(samples, parts)
    return samples if table is None else samples_with_rows(samples, read_table(table)), found.skipped


def print_skipped(skipped: Sequence[SkippedFile]) -> None:
    """Print on standard error which files are not sent."""
    for each in skipped:
        notices().print(plain(f"skipped {each.path}: {each.reason}"))


def print_adapted(adapted: AdaptResponse, skipped: Sequence[SkippedFile] | None = None, *, as_json: bool) -> None:
    """Print a new version and its report, and as JSON what was skipped."""
    if as_json:
        left_out = {} if skipped is None else {"skipped": [asdict(each) for each in skipped]}
        print_json({**adapted.model_dump(mode="json"), **left_out})
        return
    output().print(_adapted_table(adapted))
    if adapted.published:
        output().print(f"next: anole predict {adapted.client} IMAGE")
    else:
        output().print(f"version {adapted.version} is stored but not live")


def exit_if_held(publish: str | None, *made: AdaptResponse) -> None:
    """Exit with a code of its own if the gate kept a version from going live. `publish=never` asked for that."""
    held = [each for each in made if each.report.gate.decision == "hold" and not each.published]
    if held and publish != "never":
        raise typer.Exit(HELD)


def _report_facts(version: AdaptResponse | VersionInfo, report: Report) -> list[tuple[str, str]]:
    """Return what is known about a version, for a table."""
    interval = "" if report.interval is None else f"  ({_interval(report.interval)})"
    parts = ", ".join(f"{part} {taken:.2f}" for part, taken in report.seconds if part != "total")
    return [
        ("extends", NO_VALUE if version.parent is None else f"version {version.parent}"),
        ("classes", ", ".join(version.classes)),
        ("own samples", percent(report.support_accuracy)),
        ("estimate", f"{percent(report.estimated_accuracy)}{interval}"),
        ("suspects", _suspects(report)),
        ("gate", f"{report.gate.decision}: {'; '.join(report.gate.reasons)}"),
        ("weights", f"{version.weights.bytes} bytes, {version.weights.digest[:12]}"),
        ("seconds", f"{report.seconds.total:.2f} ({parts})"),
    ]


def _adapted_table(adapted: AdaptResponse) -> Table:
    live = "live" if adapted.published else "not live"
    rows = [("client", adapted.client), ("version", f"{adapted.version}, {live}")]
    return facts(rows + _report_facts(adapted, adapted.report))


def _upgrade_text(result: UpgradeResponse | ServiceProblem) -> str:
    if isinstance(result, UpgradeResponse):
        return "; ".join(result.report.gate.reasons)
    return f"up to date: {result.detail.partition(';')[0]}" if result.code == _CURRENT else str(result)


def _upgrade_json(name: str, result: UpgradeResponse | ServiceProblem) -> dict[str, Any]:
    if isinstance(result, ServiceProblem):
        return {"client": name, "upgrade": None, "problem": {"code": result.code, "detail": result.detail}}
    return {"client": name, "upgrade": result.model_dump(mode="json"), "problem": None}


def _upgrades_table(results: Sequence[tuple[str, UpgradeResponse | ServiceProblem]]) -> Table:
    """Two rows for each client that was upgraded: the version before, and the new one."""
    headings = ("client", "version", "model", "estimate", "95 % interval", "gate")
    table = console.table(*headings, numbers=("version", "estimate"))
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
    headings = ["image", "label", "confidence", "verdict", _UNKNOWN, "next likely"]
    with_modalities = any(image.modalities for image in predicted.predictions)
    with_uncertainty = any(image.uncertainty for image in predicted.predictions)
    headings += ["from"] * with_modalities + [_UNCERTAINTY] * with_uncertainty
    table = console.table(*headings, numbers=("confidence", _UNKNOWN))
    for image in predicted.predictions:
        others = sorted(((p, name) for name, p in image.scores.items() if name != image.label), reverse=True)
        second = f"{others[0][1]} {percent(others[0][0])}" if others else NO_VALUE
        score = NO_VALUE if image.unknown_score is None else f"{image.unknown_score:.3f}"
        cells = [image.name, image.label, percent(image.confidence), image.verdict, score, second]
        if with_modalities:
            cells.append(", ".join(image.modalities or ()) or NO_VALUE)
        if with_uncertainty:
            parts = image.uncertainty
            cells.append(NO_VALUE if parts is None else f"{parts.total:.3f}, of which model {parts.model:.3f}")
        table.add_row(*map(plain, cells))
    return table


def _legend(predicted: PredictResponse) -> list[str]:
    """Return what the columns of the scores mean, one line each."""
    images = predicted.predictions
    thresholds = [image.unknown_threshold for image in images if image.unknown_threshold is not None]
    if thresholds:
        scoreless = "; images without a score are known" if len(thresholds) < len(images) else ""
        lines = [f"{_UNKNOWN}: above {thresholds[0]:.3f}, the verdict is unknown{scoreless}"]
    elif any(image.modalities for image in images):  # the version may have one for images with a note
        lines = [f"{_UNKNOWN}: these images have none, so every verdict is known"]
    else:
        lines = [f"{_UNKNOWN}: this version has no threshold, so every verdict is known"]
    if any(image.uncertainty for image in images):
        lines.append(f"{_UNCERTAINTY}: in nats; more samples would reduce the part of the model")
    return lines


def _print_version(version: VersionDetails, *, as_json: bool) -> None:
    if as_json:
        print_json(version.model_dump(mode="json"))
        return
    rows = [("client", version.client), ("version", str(version.version))]
    rows += _report_facts(version, version.report)
    rows += [("aliases", ", ".join(version.aliases) or NO_VALUE), ("model", version.model)]
    rows += [("samples", str(version.samples)), ("created, UTC", minute(version.created_at))]
    output().print(facts(rows))


def _versions_table(listed: Sequence[VersionInfo]) -> Table:
    headings = ("version", "extends", "alias", "classes", "samples", "estimate", "gate", "created, UTC")
    table = console.table(*headings, numbers=("version", "extends", "classes", "samples", "estimate"))
    for version in listed:
        table.add_row(
            str(version.version),
            NO_VALUE if version.parent is None else str(version.parent),
            ", ".join(version.aliases) or NO_VALUE,
            str(len(version.classes)),
            str(version.samples),
            percent(version.estimated_accuracy),
            version.gate,
            minute(version.created_at),
        )
    return table
