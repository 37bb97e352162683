"""Splits what a caller sends into requests that the service accepts."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence

from service.client.errors import InvalidInput
from service.client.files import ImageFile, LabelledFile
from service.http.schemas.resources import RequestLimits

DEFAULT_LIMITS = RequestLimits(files=64, adapt_body_bytes=32 * 1024 * 1024, predict_body_bytes=12 * 1024 * 1024)
"""The limits of a service with default settings."""

_MAX_EXPLAINED = 8
"""The images that a service explains in one request."""

_FORM_BYTES = 16 * 1024
_PART_BYTES = 2 * 1024
"""Bytes of a form around its files, and around each file: fields, names and boundaries."""


def split(sizes_bytes: Sequence[int], max_files: int, max_bytes: int) -> list[slice]:
    """Split files into consecutive groups that fit into one request each. A file that is too large is a group alone.

    Args:
        sizes_bytes: size of each file.
        max_files: files in one request.
        max_bytes: body of one request.
    """
    groups: list[slice] = []
    start, used = 0, _FORM_BYTES
    for index, size in enumerate(sizes_bytes):
        size += _PART_BYTES
        if index > start and (index - start == max_files or used + size > max_bytes):
            groups.append(slice(start, index))
            start, used = index, _FORM_BYTES
        used += size
    return [*groups, slice(start, len(sizes_bytes))]


def split_images(
    images: Sequence[ImageFile], limits: RequestLimits, *, explain: bool = False
) -> list[Sequence[ImageFile]]:
    """Split images into groups that fit into one request each, which may have fewer images if it explains them."""
    sizes = [image.size_bytes for image in images]
    most = min(limits.files, _MAX_EXPLAINED) if explain else limits.files
    return [images[group] for group in split(sizes, most, limits.predict_body_bytes)]


def split_samples(samples: Sequence[LabelledFile], limits: RequestLimits) -> list[list[LabelledFile]]:
    """Split samples into groups that fit into one request each, with all classes in the first group if possible.

    Raises:
        InvalidInput: the same picture has two labels. The service finds that only within one request.
    """
    sizes = [len(sample.content) for sample in samples]
    if len(split(sizes, limits.files, limits.adapt_body_bytes)) == 1:
        return [list(samples)]
    _reject_conflicting_labels(samples)
    mixed = list(_one_of_each_class_in_turn(samples))
    sizes = [len(sample.content) for sample in mixed]
    return [mixed[group] for group in split(sizes, limits.files, limits.adapt_body_bytes)]


def _one_of_each_class_in_turn(samples: Sequence[LabelledFile]) -> Iterator[LabelledFile]:
    classes: dict[str, list[LabelledFile]] = {}
    for sample in samples:
        classes.setdefault(sample.label, []).append(sample)
    for turn in itertools.zip_longest(*classes.values()):
        yield from (sample for sample in turn if sample is not None)


def _reject_conflicting_labels(samples: Sequence[LabelledFile]) -> None:
    seen: dict[bytes, LabelledFile] = {}
    for sample in samples:
        first = seen.setdefault(hashlib.sha256(sample.content).digest(), sample)
        if first.label != sample.label:
            raise InvalidInput(
                f"{first.name!r} with the label {first.label!r} and {sample.name!r} with the label {sample.label!r} "
                "are the same picture; remove one of them"
            )
