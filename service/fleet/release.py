"""Makes the files of a release from a version in the store: the start, which releases share, and the adapted part."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from models import weights as weight_ops
from models.checkpoint import Checkpoint
from models.errors import AnoleError
from models.images.decoding import decode_pixels
from models.images.preprocessing import PREPROCESSING_VERSION
from models.inference.embedding import graph_weights, pooling_of
from models.nets import BackboneNet
from models.nets.head_posterior import GRAM
from models.weight_names import NOTES_CENTRE
from service.domain.version import SCORE_DIGITS, ServedVersion, Version
from service.edge.bundle import HealthRule, PoolingRule, Release, ReleaseInfo, SmokeAnswer, Start, StartInfo
from service.errors import InvalidRequest
from service.runtime.loaded_checkpoint import LoadedCheckpoint
from service.store.version_store import VersionStore

SMOKE_IMAGES: Final = 4
SMOKE_SIDE: Final = 32
"""Pixels of generated images, which every start's preprocessing enlarges."""


@dataclass(frozen=True, slots=True)
class ReleaseRules:
    """What a publisher may choose for a release.

    Attributes:
        tolerance: largest difference of scores in the smoke set.
        health: when a device goes back.
    """

    tolerance: float = 0.02
    health: HealthRule = field(default_factory=HealthRule)


def build_start(checkpoint: Checkpoint) -> Start:
    """Make the start of a checkpoint.

    Raises:
        InvalidRequest: the checkpoint has no ONNX graph, or takes more than images.
    """
    config = checkpoint.net_config
    if checkpoint.onnx_graph is None:
        raise InvalidRequest(
            f"the checkpoint {checkpoint.name!r} has no ONNX graph beside it, and devices have no torch; write one "
            f"with `python -m models.inference.export {checkpoint.name}`"
        )
    if config.second != "none":
        raise InvalidRequest(
            f"the checkpoint {checkpoint.name!r} takes a second modality ({config.second}); devices predict from "
            "images alone"
        )
    net = checkpoint.build_net().eval()
    pooling = None
    weights = dict(checkpoint.weights)
    if isinstance(net, BackboneNet):
        rule = pooling_of(net)
        pooling = PoolingRule(extremes=rule.extremes, patch_stage=rule.patch_stage, places=rule.places)
        weights = dict(graph_weights(net))
    info = StartInfo(
        name=checkpoint.name,
        digest=checkpoint.digest,
        net=config.to_json(),
        image=config.image.to_json(),
        preprocessing=PREPROCESSING_VERSION,
        pooling=pooling,
        card=_card(checkpoint),
    )
    return Start(info, checkpoint.onnx_graph, _arrays(weights))


def build_release(
    store: VersionStore, version: Version, checkpoint: LoadedCheckpoint, rules: ReleaseRules | None = None
) -> Release:
    """Make the release of a version. Its smoke set has generated images; none of the client's are in it.

    Args:
        store: has the version's weights.
        version: what to release.
        checkpoint: that the version was adapted from.
        rules: of the release.

    Raises:
        InvalidRequest: the version needs what devices cannot do.
        VersionCorrupt: its weights are missing or damaged.
    """
    chosen, draft = rules or ReleaseRules(), version.draft
    found = served(store, draft.client, version.number)
    folded = checkpoint.fold(store.served_weights(found), 1.0 if found.temperature is None else found.temperature)
    if GRAM in folded:
        raise InvalidRequest(
            f"version {version.number} of {draft.client!r} was made with uncertainty=bayes, which devices cannot "
            "predict with; set uncertainty to none and adapt again"
        )
    if NOTES_CENTRE in folded:
        raise InvalidRequest(
            f"version {version.number} of {draft.client!r} was taught with texts, and devices predict from images "
            "alone; teach the images without texts in a client of their own"
        )
    smoke = tuple(smoke_images())
    adapted = weight_ops.changed(checkpoint.checkpoint.weights, {name: own.cpu() for name, own in folded.items()})
    info = ReleaseInfo(
        client=draft.client,
        version=version.number,
        weights_digest=draft.weights_digest,
        start=draft.meta_model_digest,
        start_name=draft.meta_model,
        from_start=tuple(sorted(folded.keys() - adapted.keys())),
        classes=draft.classes,
        unknown_threshold=found.unknown_threshold,
        bit_depth=found.bit_depth,
        card=_release_card(version),
        smoke=_answers(checkpoint, folded, smoke),
        tolerance=chosen.tolerance,
        health=chosen.health,
    )
    return Release(info, _arrays(adapted), smoke)


def smoke_images() -> list[bytes]:
    """Generate the images of a smoke set as PNG files: smooth random patterns, the same every time."""
    generator = np.random.default_rng(15)
    files = []
    for _ in range(SMOKE_IMAGES):
        coarse = generator.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((SMOKE_SIDE, SMOKE_SIDE), Image.Resampling.BICUBIC)
        encoded = io.BytesIO()
        image.save(encoded, format="PNG", optimize=True)
        files.append(encoded.getvalue())
    return files


def _answers(
    checkpoint: LoadedCheckpoint, folded: dict[str, Tensor], smoke: tuple[bytes, ...]
) -> tuple[SmokeAnswer, ...]:
    """Predict the smoke set as the service predicts."""
    images = [torch.from_numpy(decode_pixels(content).pixels) for content in smoke]
    (predictions,) = checkpoint.predict([(checkpoint.predictor.serving_weights(folded), images)])
    familiarity = predictions.in_distribution
    found = [None] * len(smoke) if familiarity is None else familiarity.tolist()
    return tuple(
        SmokeAnswer(
            scores=tuple(round(score, SCORE_DIGITS) for score in row),
            familiarity=None if one is None else round(one, SCORE_DIGITS),
        )
        for row, one in zip(predictions.probabilities.tolist(), found, strict=True)
    )


def served(store: VersionStore, client: str, reference: str | int) -> ServedVersion:
    """What predictions need of a version. Raises UnknownClient, UnknownVersion, UnknownAlias."""
    (found,) = store.served([(client, reference)])
    if isinstance(found, AnoleError):
        raise found
    return found


def _card(checkpoint: Checkpoint) -> dict[str, Any]:
    """What the checkpoint says about itself, without the progress of its training."""
    return {name: value for name, value in checkpoint.training.items() if name in ("source", "licence", "license")}


def _release_card(version: Version) -> dict[str, Any]:
    report = version.draft.report
    return {
        "created_at": version.created_at.isoformat(),
        "samples": len(version.draft.samples),
        "estimated_accuracy": report.get("estimated_accuracy"),
        "interval": report.get("interval"),
        "gate": (report.get("gate") or {}).get("decision"),
    }


def _arrays(weights: weight_ops.Weights) -> dict[str, Any]:
    return {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in weights.items()}
