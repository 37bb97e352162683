"""A whole version as a program of `torch.export`: from an image of any size to what the service predicts for it.

Sizes that depend on the image are integers that only a run determines. There is no condition in the program: an image
that is small enough is "scaled down" by 1, and every image gets a second look, which counts where it is in doubt.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from torch.export import Dim

from models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from models.errors import ExportUnsupported
from models.images.decoding import CANONICAL_MAX_SIDE, CANONICAL_PIXELS, REDUCING_GAP
from models.images.image_config import SHAPE_UNIT, ImageConfig
from models.images.preprocessing import fit_to_size, scale_values
from models.inference.exports.file import OUTPUTS
from models.inference.exports.version import SCORE_DIGITS, ExportedNet, require_images_alone
from models.inference.predict import logits_and_features, predictions_from
from models.nets import BackboneNet, Net, heads
from models.nets.backbone import fold_batch_norms
from models.weights import Weights

_CHECKPOINT, _FOLDED, _PROGRAM = "checkpoint.safetensors", "folded.safetensors", "version.pt2"
_RECIPROCAL_UNIT: Final = 2**24
_LARGEST_SIDE: Final = 30_000
_CHECK_EVERY_S: Final = 0.2
_EXAMPLE: Final = (301, 407)


def export_apart(
    checkpoint: Checkpoint,
    folded: Weights,
    unknown_threshold: float | None,
    *,
    batch: bool = False,
    check: Callable[[], None] = lambda: None,
) -> bytes:
    """Export in a process of its own: while torch traces, it changes how the modules of all threads are called.

    Args:
        checkpoint: that the version was adapted from.
        folded: weights of the version, from `fold_calibrated`.
        unknown_threshold: unknown score above which an image is unknown; None if no image can be.
        batch: the program takes several images of one size.
        check: is called now and then; if it raises an error, the process is killed.

    Returns:
        A .pt2 file without a description.

    Raises:
        ExportUnsupported: the net takes more than images, or torch cannot trace it.
    """
    require_images_alone(checkpoint, folded)
    with tempfile.TemporaryDirectory(prefix="anole-export-") as folder:
        save_checkpoint(checkpoint.on(torch.device("cpu")), Path(folder) / _CHECKPOINT)
        (Path(folder) / _FOLDED).write_bytes(
            save_tensors({name: own.cpu().contiguous() for name, own in folded.items()})
        )
        options = {"factory": checkpoint.net_config.factory, "unknown_threshold": unknown_threshold, "batch": batch}
        command = [sys.executable, "-m", "models.inference.exports.torch_program", folder, json.dumps(options)]
        reason = _run(command, check)
        if reason is not None:
            raise ExportUnsupported(
                f"torch cannot export the model {checkpoint.name!r} ({reason[:200]}); export it in another format"
            )
        return (Path(folder) / _PROGRAM).read_bytes()


def _run(command: Sequence[str], check: Callable[[], None]) -> str | None:
    """Run a command. Return None if it succeeds, and why it fails otherwise. It ends when `check` raises an error."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:  # noqa: S603
        try:
            errors = _errors_of(process, check)
        finally:
            process.kill()  # does nothing if it has ended
    if process.returncode == 0:
        return None
    lines = errors.strip().splitlines()
    return lines[-1] if lines else f"the process ended with {process.returncode}"


def _errors_of(process: subprocess.Popen[str], check: Callable[[], None]) -> str:
    """Wait until a process has ended, and return what it has written as errors."""
    while True:
        try:
            return process.communicate(timeout=_CHECK_EVERY_S)[1]
        except subprocess.TimeoutExpired:
            check()


def export_program(version: ExportedNet, *, batch: bool = False) -> bytes:
    """Return the program of a version as a .pt2 file without a description. See `export_apart`.

    Args:
        version: what to build it from. Its `net_graph` is not used.
        batch: the program takes several images of one size.
    """
    sides = [Dim(name, min=2, max=_LARGEST_SIDE) for name in ("height", "width")]
    sizes = dict(enumerate([Dim("count"), *sides] if batch else sides))
    example = torch.zeros(*([3] if batch else []), *_EXAMPLE, 3, dtype=torch.uint8)
    predictor = _Version(version, batch=batch).eval()
    with torch.no_grad():
        predictor(example)  # makes what is made once, outside of the program
        program = torch.export.export(predictor, (example,), dynamic_shapes=(sizes,))
    content = io.BytesIO()
    torch.export.save(program, content)
    return content.getvalue()


def _export_files(folder: Path, factory: str | None, unknown_threshold: float | None, *, batch: bool) -> None:
    """What the process of `export_apart` does."""
    checkpoint = load_checkpoint(folder / _CHECKPOINT, [factory] if factory else [])
    folded = load_tensors((folder / _FOLDED).read_bytes())
    net = checkpoint.build_net().eval()
    version = ExportedNet(net, checkpoint.net_config.image, None, folded, unknown_threshold)
    (folder / _PROGRAM).write_bytes(export_program(version, batch=batch))


class _Version(nn.Module):
    """Predicts uint8 (height, width, 3), or (count, height, width, 3) with `batch`."""

    def __init__(self, version: ExportedNet, *, batch: bool) -> None:
        super().__init__()
        net = version.net
        self._net: tuple[Net] = (net,)  # its weights are those of `folded`, so it is no part of the program
        self.embedding = net.with_backbone(fold_batch_norms(net.backbone)) if isinstance(net, BackboneNet) else None
        self._names = {name.replace(".", "_"): name for name in version.folded}
        for name, own in self._names.items():
            self.register_buffer(name, version.folded[own].detach().cpu().float())
        self._image, self._threshold, self._batch = version.image, version.unknown_threshold, batch

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        folded = {own: getattr(self, name) for name, own in self._names.items()}
        prepared = _prepare(image if self._batch else image[None], self._image)
        inputs, single = self._embed(prepared), {name: tensor[None] for name, tensor in folded.items()}
        twice = heads.SECOND_LOOK in folded and self.embedding is not None
        turned = self._embed(prepared.flip(2, 3))[None] if twice else None
        scores, features = logits_and_features(self._net[0], single, inputs[None], turned)
        found = predictions_from(folded, inputs, features, scores)
        results = self._results(found.probabilities, found.in_distribution)
        return dict(zip(OUTPUTS, results if self._batch else [each[0] for each in results], strict=True))

    def _embed(self, prepared: Tensor) -> Tensor:
        return prepared if self.embedding is None else self.embedding.embed(prepared)

    def _results(self, probabilities: Tensor, familiarity: Tensor | None) -> list[Tensor]:
        """Scores, label, unknown score and whether the image is known; see `build_graph`."""
        label = (probabilities.double() * SCORE_DIGITS).round().float().argmax(1)
        always = torch.ones_like(label, dtype=torch.bool)
        if familiarity is None:
            return [probabilities, label, torch.full_like(probabilities[:, 0], float("nan")), always]
        score = SCORE_DIGITS - (familiarity.double() * SCORE_DIGITS).round()
        known = always if self._threshold is None else score <= round(self._threshold * SCORE_DIGITS)
        return [probabilities, label, (score / SCORE_DIGITS).float(), known]


def _prepare(images: Tensor, config: ImageConfig) -> Tensor:
    """uint8 (count, height, width, 3) -> float32 (count, channels, height, width) of one of the config's shapes."""
    bounded = _bounded(images.permute(0, 3, 1, 2).float())
    if len(config.shapes) == 1:
        height, width = config.shapes[0]
    else:
        aspects = torch.tensor([wide / high for high, wide in config.shapes], dtype=torch.float64).log()
        aspect = (_number(bounded.shape[3]).double() / _number(bounded.shape[2])).log()
        nearest = (aspects - aspect).abs().argmin()
        units = (
            torch.tensor(config.shapes).index_select(0, nearest[None])[0] // SHAPE_UNIT
        )  # so that torch knows that strides divide the size
        height, width = (SHAPE_UNIT * each for each in _sizes(units, CANONICAL_MAX_SIDE))
    return scale_values(fit_to_size(bounded, (height, width), config), config)


def _bounded(pixels: Tensor) -> Tensor:
    """Scale images (count, 3, height, width) down to the bounds of a canonical image, as Pillow does."""
    size = torch.stack([_number(pixels.shape[2]), _number(pixels.shape[3])])
    area = size.prod()
    pixel_limit = area.clamp(max=CANONICAL_PIXELS)
    sides = (pixel_limit * size // size.flip(0)).double().sqrt().floor().long()
    square = pixel_limit * size // size.flip(0)
    sides = sides - (sides * sides > square).long()
    sides = sides + ((sides + 1) * (sides + 1) <= square).long()
    longest = sides.max().clamp(min=CANONICAL_MAX_SIDE)
    canonical = (sides * CANONICAL_MAX_SIDE // longest).clamp(min=1)
    large = (area > CANONICAL_PIXELS) | (size.max() > CANONICAL_MAX_SIDE)
    target = torch.where(large, canonical, size)
    factors = torch.where(large, (size // (target * REDUCING_GAP)).clamp(min=1), torch.ones_like(size))
    blocks = (size + factors - 1) // factors
    reduced = _reduced(pixels, size, factors, blocks)
    scales = size.double() / target.double() / factors.double()
    down, across = (
        _lanczos_matrix(wanted, each, scale)
        for wanted, each, scale in zip(
            _sizes(target, CANONICAL_PIXELS), (reduced.shape[2], reduced.shape[3]), scales, strict=True
        )
    )
    return _as_bytes(down @ _as_bytes(reduced @ across.T))


def _reduced(pixels: Tensor, size: Tensor, factors: Tensor, blocks: Tensor) -> Tensor:
    """Average blocks of pixels, as `PIL.Image.reduce` does; those at the lower and the right border may be smaller."""
    total, counts = pixels.int(), []
    for axis, count in zip((2, 3), _sizes(blocks, _LARGEST_SIDE), strict=True):
        length, factor = size[axis - 2], factors[axis - 2]
        starts = torch.arange(count) * factor
        ends = torch.minimum(starts + factor, length)
        sums = nn.functional.pad(total.cumsum(axis, dtype=torch.int32), (0, 0, 1, 0) if axis == 2 else (1, 0))
        total = sums.index_select(axis, ends) - sums.index_select(axis, starts)
        counts.append(ends - starts)
    area = counts[0][:, None] * counts[1]
    reciprocal = (_RECIPROCAL_UNIT / area.double()).floor()  # Pillow divides in fixed point
    return ((total + area // 2).double() * reciprocal / _RECIPROCAL_UNIT).floor().float()


def _lanczos_matrix(wanted: int, length: int, scale: Tensor) -> Tensor:
    """Weights of every pixel for every pixel of the result, float32 (wanted, length); for the scale 1, the identity."""
    centres = (torch.arange(wanted, dtype=torch.float64) + 0.5) * scale
    distance = (torch.arange(length, dtype=torch.float64) + 0.5 - centres[:, None]) / scale.clamp(min=1)
    weights = torch.where(distance.abs() < 3, torch.sinc(distance) * torch.sinc(distance / 3), 0.0)
    return (weights / weights.sum(1, keepdim=True)).float()


def _as_bytes(values: Tensor) -> Tensor:
    return values.round().clamp(0, 255)


def _number(value: int) -> Tensor:
    return torch.full((), value, dtype=torch.int64)


def _sizes(values: Tensor, most: int) -> list[int]:
    """Read sizes, which are at least 1, from a tensor."""
    sizes: list[int] = values.tolist()
    for size in sizes:
        torch._check(size >= 1)  # type: ignore[no-untyped-call]  # noqa: SLF001 - documented, in spite of its name
        torch._check(size <= most)  # type: ignore[no-untyped-call]  # noqa: SLF001
    return sizes


if __name__ == "__main__":
    _export_files(Path(sys.argv[1]), **json.loads(sys.argv[2]))
