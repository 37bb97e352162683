"""`anole samples`: list or download the images that a client keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.cli import connection
from service.cli.connection import ClientName, Key, Url
from service.cli.console import NO_VALUE, AsJson, output, percent, plain, print_json, table
from service.cli.resources import save
from service.client import StoredSample

_SHORT = 12
"""Characters of a digest in tables."""


def samples(
    client: ClientName,
    label: Annotated[str | None, typer.Option(help="Only samples with this label.")] = None,
    version: Annotated[
        int | None, typer.Option(help="The version that judges the samples.", show_default="the live one")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Download the images, into one sub-folder per class.")
    ] = None,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """List the samples that CLIENT keeps, and what they look like to a version that did not learn from them."""
    with connection.connect(url, key) as anole:
        found = anole.samples(client, label=label, version=version)
        paths: list[Path] = []
        for sample in found if out is not None else ():
            path = _path_of(Path() if out is None else out, sample)
            save(path, anole.sample_png(client, sample.digest))
            paths.append(path)
    if as_json:
        files = [{"path": str(path)} for path in paths] or [{} for _ in found]
        rows = [{**sample.model_dump(mode="json"), **file} for sample, file in zip(found, files, strict=True)]
        print_json({"client": client, "samples": rows})
        return
    listed = table("digest", "label", "name", "part", "since", "predicted", "suspect", numbers=("since",))
    for sample in found:
        listed.add_row(*map(plain, _row(sample)))
    output().print(listed)
    output().print(f"{len(found)} samples" if out is None else plain(f"{len(paths)} images in {out}"))


def _row(sample: StoredSample) -> tuple[str, ...]:
    judged = sample.held_out
    predicted = NO_VALUE if judged is None else f"{judged.predicted} {percent(judged.confidence)}"
    suspect = "yes" if sample.suspect else NO_VALUE
    digest, part = sample.digest[:_SHORT], sample.part or NO_VALUE
    return digest, sample.label, sample.name, part, str(sample.first_version), predicted, suspect


def _path_of(folder: Path, sample: StoredSample) -> Path:
    """Return where to write a sample: always inside the folder, whatever its label and name are."""
    return folder / _file_name(sample.label) / f"{_file_name(Path(sample.name).stem)}-{sample.digest[:_SHORT]}.png"


def _file_name(text: str) -> str:
    name = "".join("_" if letter in '/\\:*?"<>|' or not letter.isprintable() else letter for letter in text)
    return f"_{name}" if name.startswith(".") or not name else name
