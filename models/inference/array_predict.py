"""Prediction in numpy: what follows the net, and what follows a frozen backbone. This module does not import torch.

On arrays this small, the overhead of a torch call exceeds the arithmetic, and devices have no torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.errors import CheckpointInvalid
from models.feature_arrays import SHORTEST, Floats, compare_patches
from models.weight_names import (
    HEAD_BIAS,
    HEAD_GAIN,
    HEAD_LENGTH,
    HEAD_LEVEL,
    HEAD_MEANS,
    HEAD_WEIGHT,
    NOTES_CENTRE,
    NOTES_SPAN,
    PATCHES,
    POOLED_LIMIT,
    POOLED_SCALE,
    POOLED_SHIFT,
)

IMAGES, LOGITS, FEATURES = "images", "logits", "features"
"""Names of the ONNX graph's input and outputs; its other inputs are the folded weights."""

NET_CONFIG = "net_config"
"""Key of the net's config in the metadata of the ONNX graph."""

_ONNX_IMAGES_PER_RUN = 8
"""More in one run are no faster, and their maps no longer fit into the processor's cache."""


@dataclass(frozen=True, slots=True)
class ClassMeans:
    """The classes' mean features: ``head.means`` (n_way, features) and ``head.gain``."""

    means: Floats
    gain: float


@dataclass(frozen=True, slots=True)
class Discriminants:
    """``head.level`` and ``head.length``, or None for versions without."""

    level: float
    length: float | None


@dataclass(frozen=True, slots=True)
class NetOutput:
    """The net's output for one request.

    Attributes:
        logits: (images, n_way).
        features: (images, feature_count).
        lengths: (images,), see `models.nets.backbone.standardised_length`; None for nets without a frozen backbone.
    """

    logits: Floats
    features: Floats
    lengths: Floats | None = None


class OnnxNet:
    """A net in onnxruntime on the CPU, whose weights are inputs of the graph. Thread-safe.

    Args:
        graph: from `models.inference.export.export_onnx`.
        net_config: of the net that the weights belong to, as JSON data.
        threads: of one run.

    Raises:
        CheckpointInvalid: the graph was exported from another net.
    """

    def __init__(self, graph: bytes, net_config: Mapping[str, Any], threads: int = 1) -> None:
        # Imported here, so that a service can switch off onnxruntime's telemetry before the import.
        import onnxruntime  # type: ignore[import-untyped]

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        exported_config = self._session.get_modelmeta().custom_metadata_map.get(NET_CONFIG)
        if exported_config != json.dumps(net_config, sort_keys=True):
            raise CheckpointInvalid(
                f"the ONNX graph beside the checkpoint was exported from the net {exported_config}, but the checkpoint "
                f"has the net {net_config}; export it again or remove it"
            )

    def run(self, weights: Mapping[str, Any], images: Floats) -> NetOutput:
        """Run the net: float32 (images, channels, height, width)."""
        chunks = [images[start : start + _ONNX_IMAGES_PER_RUN] for start in range(0, len(images), _ONNX_IMAGES_PER_RUN)]
        return concatenate(
            [NetOutput(*self._session.run([LOGITS, FEATURES], {IMAGES: chunk, **weights})) for chunk in chunks]
        )


def run_head(weights: Mapping[str, Any], embedded: Floats, notes: Floats | None = None) -> NetOutput:
    """Compute what follows a frozen backbone: `BackboneNet.forward` and the head.

    Row by row, so that no bit depends on the other images.

    Args:
        weights: folded weights of the version, by name.
        embedded: from the backbone, (images, embedding_count).
        notes: (images, TEXT_SIZE + FLAGS), rows of the notes, or (images, 0); None where no image has a note.
    """
    pooled, patches = np.split(embedded, [len(weights[POOLED_SCALE])], axis=-1)
    standardised = pooled * weights[POOLED_SCALE] + weights[POOLED_SHIFT]  # (images, features)
    length = _length(standardised)
    limit = weights.get(POOLED_LIMIT)
    limited = standardised if limit is None else np.clip(standardised, -limit, limit)
    features = limited / np.maximum(_length(limited), SHORTEST)
    if PATCHES in weights:
        features = np.concatenate([features, compare_patches(weights, patches)], axis=-1)
    if NOTES_CENTRE in weights:
        features = np.concatenate([features, _note_features(weights, len(embedded), notes)], axis=-1)
    logits = np.vecdot(features[:, None], weights[HEAD_WEIGHT]) + weights[HEAD_BIAS]  # (images, n_way)
    return NetOutput(logits, features, length[:, 0])


def _note_features(weights: Mapping[str, Any], images: int, notes: Floats | None) -> Floats:
    """What `models.nets.note_head.NoteFeatures` computes: (images, TEXT_SIZE + 1)."""
    centre = weights[NOTES_CENTRE]
    if notes is None or not notes.shape[-1]:
        return np.zeros((images, len(centre) + 1), np.float32)
    present = notes[:, -1:]
    apart = notes[:, : len(centre)] - centre
    along = np.vecdot(apart[:, None], weights[NOTES_SPAN])  # (images, n_way)
    within = 1 / np.maximum(np.linalg.norm(along, axis=-1, keepdims=True), 1)
    return np.concatenate([apart * within * present, present], axis=-1)


def novelty_of(weights: Mapping[str, Any]) -> ClassMeans | Discriminants | None:
    """What the in-distribution score needs of folded weights as arrays; None for weights without."""
    if HEAD_LEVEL in weights:
        return Discriminants(
            float(weights[HEAD_LEVEL]), float(weights[HEAD_LENGTH]) if HEAD_LENGTH in weights else None
        )
    if HEAD_MEANS in weights:
        return ClassMeans(weights[HEAD_MEANS], float(weights[HEAD_GAIN]))
    return None


def softmax(logits: Floats) -> Floats:
    """(images, n_way) -> probabilities of the same shape, each row sums to 1."""
    raised = np.exp(logits - logits.max(-1, keepdims=True))
    probabilities: Floats = raised / raised.sum(-1, keepdims=True)
    return probabilities


def familiarity(novelty: ClassMeans | Discriminants, output: NetOutput, probabilities: Floats) -> Floats:
    """The in-distribution score of each image, see `models.validation.novelty.in_distribution_score`: (images,)."""
    if isinstance(novelty, Discriminants):
        distance = np.exp(-output.logits.max(-1) / novelty.level)  # as `novelty_distance`
        if novelty.length is not None and output.lengths is not None:
            distance *= np.square(np.maximum(output.lengths / np.float32(novelty.length), np.float32(1)))
    else:
        nearest = novelty.means[output.logits.argmax(-1)]  # (images, features)
        distance = np.square(output.features - nearest).sum(-1) * novelty.gain**2  # (images,)
    confidence = probabilities.max(-1)
    scores: Floats = confidence / (confidence + distance)
    return scores


def lead(logits: Floats) -> Floats:
    """By how much the best class scores above the second: (images, n_way) -> (images,)."""
    best = np.partition(logits, -2, axis=-1)[:, -2:]
    difference: Floats = best[:, 1] - best[:, 0]
    return difference


def second_look(logits: Floats, turned: Floats, margin: float) -> Floats:
    """See `models.nets.heads.second_look`: two (images, n_way) -> (images, n_way)."""
    share = np.clip(2 - 2 * lead(logits) / np.float32(margin), 0, 1)[:, None]
    averaged: Floats = logits + share * ((logits + turned) / 2 - logits)
    return averaged


def concatenate(chunks: Sequence[NetOutput]) -> NetOutput:
    """Join the outputs for consecutive images of one request."""
    if len(chunks) == 1:
        return chunks[0]
    lengths = [chunk.lengths for chunk in chunks if chunk.lengths is not None]
    return NetOutput(
        np.concatenate([chunk.logits for chunk in chunks]),
        np.concatenate([chunk.features for chunk in chunks]),
        np.concatenate(lengths) if lengths else None,
    )


def _length(standardised: Floats) -> Floats:
    """Root mean square of each row: (images, features) -> (images, 1)."""
    length: Floats = np.sqrt(np.square(standardised).sum(-1, keepdims=True))
    length /= np.float32(standardised.shape[-1] ** 0.5)
    return length
