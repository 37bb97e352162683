"""Commands for versions as files: `export` downloads one, `verify` checks it, and `import` makes a version of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli import connection
from service.cli.clients import exit_if_held, print_adapted
from service.cli.connection import ClientName, Key, Url
from service.cli.console import NO_VALUE, AsJson, facts, notices, output, percent, plain, print_json, table
from service.cli.files import save
from service.cli.installation import require_full_installation
from service.client import ExportOptions, InvalidInput
from service.http.schemas.exports import ENDINGS
from service.settings import disable_onnxruntime_telemetry

if TYPE_CHECKING:
    from models.inference.exports.certificate import Agreement
    from models.inference.exports.file import Pixels, Prediction
    from models.inference.exports.formats import OpenedExport


def export(
    client: ClientName,
    version: Annotated[
        int | None, typer.Option(metavar="VERSION", help="Number of the version.", show_default="the live version")
    ] = None,
    file_format: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="onnx, openvino (a zip) or torch (a .pt2 file).",
        ),
    ] = "onnx",
    precision: Annotated[
        str, typer.Option(metavar="PRECISION", help="float32, or int8: faster on processors and less accurate.")
    ] = "float32",
    batch: Annotated[bool, typer.Option("--batch", help="Take several images of one size at once.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="File to write.",
            show_default="CLIENT-VERSION.onnx, .zip or .pt2",
        ),
    ] = None,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Download a version of CLIENT as one file that predicts as the service does, anywhere."""
    if out is not None:
        _check_name(out, file_format)
    with connection.connect(url, key) as anole:
        number = anole.alias(client).version if version is None else version
        with notices().status(f"exporting version {number} and comparing it with the service …"):
            content = anole.export(client, number, ExportOptions(file_format, precision, batch))
    path = out or Path(f"{client}-{number}{ENDINGS.get(file_format, '')}")
    save(path, content)
    if as_json:
        print_json({"client": client, "version": number, "path": str(path), "bytes": len(content)})
    else:
        output().print(plain(f"{path}: version {number}, {len(content)} bytes; to check it: anole verify {path}"))


def import_version(
    client: ClientName,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File from `anole export`.")],
    publish: Annotated[str, typer.Option(help="never, always or auto.")] = "never",
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Create a new version of CLIENT from an exported FILE.

    CLIENT must use the model that the version was adapted from. The version is not live unless --publish says so.
    """
    content = _read(file)
    with connection.connect(url, key) as anole:
        imported = anole.import_version(client, content, publish=publish)
    print_adapted(imported, (), as_json=as_json)
    exit_if_held(publish, imported)


def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File from `anole export`.")],
    images: Annotated[list[Path] | None, typer.Argument(metavar="[IMAGE]...", help="Images to predict.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare FILE with what the service predicted when it was exported. Needs no service.

    The comparison uses generated images, and those of the IMAGEs that were samples of the version. All IMAGEs are
    predicted.
    """
    require_full_installation("anole verify")
    disable_onnxruntime_telemetry()
    from models.inference.exports import formats
    from models.inference.exports.certificate import LIMITS
    from models.inference.exports.certificate import verify as repeat

    exported = formats.open_file(_read(file))
    pixels = {str(path): _pixels(_read(path)) for path in images or ()}
    certificate = exported.description.certificate
    agreement = repeat(exported, certificate, pixels.values())
    predictions = {name: exported.predict(image) for name, image in pixels.items()}
    if as_json:
        print_json(_verified_json(exported, agreement, predictions))
    else:
        _print_verified(exported, agreement, predictions)
    agreement.require(LIMITS[certificate["precision"]])


def _check_name(path: Path, file_format: str) -> None:
    """Raises InvalidInput, before the service works for a minute, if the name of the file cannot be used."""
    ending = ENDINGS.get(file_format)
    if ending is not None and path.suffix.lower() != ending:
        raise InvalidInput(f"the file {path} has the format {file_format}; give a name that ends with {ending}")
    if not path.parent.is_dir():
        raise InvalidInput(f"there is no folder {path.parent}; create it first")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror or error}") from error


def _pixels(content: bytes) -> Pixels:
    """Decode an image file as the service does: uint8 (height, width, 3)."""
    import numpy as np

    from models.images.decoding import decode_pixels

    channels = decode_pixels(content).pixels  # (1 or 3, height, width)
    return np.ascontiguousarray(np.broadcast_to(channels, (3, *channels.shape[1:])).transpose(1, 2, 0))


def _verified_json(
    exported: OpenedExport, agreement: Agreement, predictions: Mapping[str, Prediction]
) -> dict[str, Any]:
    described = exported.description
    return {
        "version": described.version,
        "certificate": described.certificate,
        "verified": {**asdict(agreement), "runtime": exported.runtime},
        "predictions": [
            {
                "name": name,
                "label": described.classes[found.label],
                "scores": dict(zip(described.classes, found.scores.tolist(), strict=True)),
                "unknown_score": None if math.isnan(found.unknown_score) else found.unknown_score,
                "verdict": "known" if found.known else "unknown",
            }
            for name, found in predictions.items()
        ],
    }


def _print_verified(exported: OpenedExport, agreement: Agreement, predictions: Mapping[str, Prediction]) -> None:
    version, certificate = exported.description.version, exported.description.certificate
    rows = [
        ("client", str(version["client"])),
        ("version", f"{version['version']}, model {version['model']}, {version['precision']}"),
        ("classes", ", ".join(exported.description.classes)),
        ("exported", f"{certificate['date']}, {_agreement(certificate)}, {certificate['runtime']}"),
        ("here", f"{_agreement(vars(agreement))}, {exported.runtime}"),
    ]
    output().print(facts(rows))
    if predictions:
        shown = table(
            "image", "label", "confidence", "verdict", "unknown score", numbers=("confidence", "unknown score")
        )
        for name, found in predictions.items():
            score = NO_VALUE if math.isnan(found.unknown_score) else f"{found.unknown_score:.3f}"
            label = plain(exported.description.classes[found.label])
            verdict = "known" if found.known else "unknown"
            shown.add_row(plain(name), label, percent(float(found.scores[found.label])), verdict, score)
        output().print(shown)


def _agreement(found: Mapping[str, Any]) -> str:
    return (
        f"{found['images']} images, largest difference {found['largest_difference']:.6f}, equal labels "
        f"{percent(found['equal_labels'])}, equal verdicts {percent(found['equal_verdicts'])}"
    )
