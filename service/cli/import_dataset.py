"""`anole import-dataset`: adapt a client from a dataset of another product."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from service.cli.clients import adapt_with_progress, exit_if_held, print_adapted, print_skipped
from service.cli.connection import Key, Url
from service.cli.console import AsJson, output, plain, print_json, table
from service.client import AdaptOptions, DatasetKind, SampleSet, read_dataset, with_parts


def import_dataset(
    kind: Annotated[DatasetKind, typer.Argument(metavar="KIND", help="Which product wrote the dataset; see below.")],
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Its file, or its folder.")],
    client: Annotated[str, typer.Option(metavar="CLIENT", help="Name of the client. A new client is created.")],
    root: Annotated[
        Path | None, typer.Option(help="Folder with the images.", show_default="the folder of PATH")
    ] = None,
    mode: Annotated[str | None, typer.Option(help="extend: keep earlier samples. replace: start without them.")] = None,
    publish: Annotated[str | None, typer.Option(help="auto, always or never.")] = None,
    parts: Annotated[
        str | None,
        typer.Option(metavar="PATTERN", help="Regular expression whose group finds the part in a file name."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print how many images each class has, and send none.")
    ] = False,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Create a version of CLIENT from a dataset of another product.

    Images are not downloaded: the paths and addresses in the dataset are looked up in the folder of --root. What cannot
    be used is printed with the reason.

    Kinds: azure-custom-vision (responses of GetImages and GetTags as JSON), lookout-for-vision (a manifest),
    label-studio (choices of the JSON export), coco (categories of the annotations), yolo (a folder with train, val and
    test) and csv (columns file, label and, if it is known, part).
    """
    if kind == "yolo" and root is not None:
        raise typer.BadParameter("the kind yolo takes no --root: its images are in the folder PATH itself")
    found = read_dataset(kind, path, root)
    print_skipped(found.skipped)
    samples = found.samples if parts is None else with_parts(found.samples, parts)
    if dry_run:
        _print_counts(found, as_json=as_json)
        return
    options = AdaptOptions(mode, publish=publish)
    adapted = adapt_with_progress(
        client, url, key, lambda anole, on_progress: anole.adapt(client, samples, options, on_progress=on_progress)
    )
    print_adapted(adapted, found.skipped, as_json=as_json)
    exit_if_held(publish, adapted)


def _print_counts(found: SampleSet, *, as_json: bool) -> None:
    counts = Counter(sample.label for sample in found.samples)
    if as_json:
        print_json({"classes": dict(sorted(counts.items())), "skipped": [asdict(each) for each in found.skipped]})
        return
    listed = table("class", "images", numbers=("images",))
    for label, count in sorted(counts.items()):
        listed.add_row(plain(label), str(count))
    output().print(listed)
    output().print(f"{counts.total()} images, {len(found.skipped)} skipped; nothing was sent")
