"""`anole samples` and `anole correct`: list, download and correct the images that a client keeps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final

import typer

from service.cli import connection
from service.cli.clients import adapt_with_progress, exit_if_held, print_adapted
from service.cli.connection import ClientName, Key, Url
from service.cli.console import NO_VALUE, AsJson, notices, output, percent, plain, print_json, table
from service.cli.files import different_names, file_name, save
from service.client import AdaptResponse, Client, InvalidInput, StoredSample
from service.client.jobs import OnProgress

_SHORT: Final = 12
_WHOLE: Final = 64
"""Characters of a digest in tables, and of a whole one."""


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
        if out is not None:
            # the folders of a client's labels are the same with and without --label
            kept = found if label is None else [*found, *anole.samples(client)]
            folders = different_names(sample.label for sample in kept)
            for sample in found:
                path = out / folders[sample.label] / _name_of(sample)
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


def correct(
    client: ClientName,
    relabel: Annotated[
        list[str] | None,
        typer.Option(metavar="DIGEST=LABEL", help="A sample and its right label; repeat for more."),
    ] = None,
    remove: Annotated[
        list[str] | None, typer.Option(metavar="DIGEST", help="A sample to leave out; repeat for more.")
    ] = None,
    publish: Annotated[str | None, typer.Option(help="auto, always or never.")] = None,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Create a new version of CLIENT from its samples with other labels, or without some of them.

    A digest may be cut to the beginning that `anole samples` shows.
    """
    pairs = [_correction(each) for each in relabel or ()]

    def call(anole: Client, on_progress: OnProgress) -> AdaptResponse:
        whole = _whole_digests(anole, client, [*(digest for digest, _ in pairs), *(remove or ())])
        labels: dict[str, str] = {}
        for digest, label in pairs:
            first = labels.setdefault(whole[digest], label)
            if first != label:
                raise InvalidInput(
                    f"the same sample has two labels: {first!r} and {label!r} for {whole[digest][:_SHORT]}; give one"
                )
        left_out = [whole[digest] for digest in remove or ()]
        _tell_new_classes(anole, client, labels.values())
        return anole.correct(client, relabel=labels, remove=left_out, publish=publish, on_progress=on_progress)

    corrected = adapt_with_progress(client, url, key, call)
    print_adapted(corrected, as_json=as_json)
    exit_if_held(publish, corrected)


def _tell_new_classes(anole: Client, client: str, labels: Iterable[str]) -> None:
    """Say which labels no sample has yet: a mistyped label makes a class of its own."""
    wanted = sorted(set(labels))
    classes = {sample.label for sample in anole.samples(client)} if wanted else set()
    new = [label for label in wanted if label not in classes]
    if new:
        names = ", ".join(repr(label) for label in new)
        notices().print(plain(f"new for {client}: {names}; its classes so far are {', '.join(sorted(classes))}"))


def _correction(text: str) -> tuple[str, str]:
    digest, separator, label = text.partition("=")
    if not separator:
        raise typer.BadParameter(f"{text!r} is not DIGEST=LABEL")
    return digest, label


def _whole_digests(anole: Client, client: str, given: Sequence[str]) -> Mapping[str, str]:
    """Return the whole digest for each given one.

    Raises:
        InvalidInput: several samples have the same beginning.
    """
    if all(len(digest) == _WHOLE for digest in given):
        return {digest: digest for digest in given}
    kept = [sample.digest for sample in anole.samples(client)]
    found = {digest: [each for each in kept if digest and each.startswith(digest)] for digest in given}
    for digest, digests in found.items():
        if len(digests) > 1:
            raise InvalidInput(f"{len(digests)} samples of {client} begin with {digest!r}; give more of the digest")
    return {digest: digests[0] if digests else digest for digest, digests in found.items()}


def _row(sample: StoredSample) -> tuple[str, ...]:
    judged = sample.held_out
    predicted = NO_VALUE if judged is None else f"{judged.predicted} {percent(judged.confidence)}"
    suspect = "yes" if sample.suspect else NO_VALUE
    digest, part = sample.digest[:_SHORT], sample.part or NO_VALUE
    return digest, sample.label, sample.name, part, str(sample.first_version), predicted, suspect


def _name_of(sample: StoredSample) -> str:
    return file_name(Path(sample.name).stem, f"-{sample.digest[:_SHORT]}.png")
