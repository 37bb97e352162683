"""A meta-trained checkpoint on a device: adapts, cross-validates and predicts."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from itertools import accumulate

import torch
from torch import Tensor

from models import weights as weight_ops
from models.adaptation.adapt import Adapted, BatchingOptions, InnerLoopInput, OnGroupStep, adapt_inputs, adapt_one
from models.adaptation.executor import FairExecutor
from models.checkpoint import Checkpoint
from models.config import InnerLoopConfig
from models.errors import InvalidTask
from models.feature_arrays import Floats
from models.images.preprocessing import prepare, prepare_batch
from models.inference.embedding import embed_images, embedder_for
from models.inference.explain import Explainer, explainer_for
from models.inference.exports.torch_program import export_apart
from models.inference.exports.version import ExportedNet, exported_net
from models.inference.predict import (
    BatchPredictor,
    FeaturePredictor,
    OnnxPredictor,
    PredictionRequest,
    Predictions,
    ServingWeights,
    TorchPredictor,
    fold_calibrated,
)
from models.modalities.given import Given, given_vectors, size_taken, takes
from models.modalities.rows import pack_rows
from models.nets import BackboneNet
from models.task import FLIPS, Support
from models.validation.cross_validation import Candidate, CrossValidationResult, CrossValidationSkipped, CrossValidator
from models.validation.novelty import UNKNOWN_SHARE
from service.runtime.adapt_queue import JobControl
from service.runtime.feature_cache import FeatureCache
from service.runtime.inner_loop_executor import BatchedExecutor, InnerLoopExecutor, Result, ThreadedExecutor

_MOST_FLIPPED = 500
"""Of larger supports, a frozen backbone sees no flips: they would take four times as long and add little."""

FEATURE_CACHE_BYTES = 64 * 2**20
"""Of features kept between adaptations: 540 samples of the default start with their flips."""

_STATISTICS = "statistics."
"""Prefix of the frozen statistics' names in a delta; every other name is a weight's."""


class LoadedCheckpoint:
    """One checkpoint on one device. Thread-safe; the checkpoint's weights never change.

    Args:
        checkpoint: the meta-trained start.
        device: where it computes.
        threads: inner loops that run at the same time on the CPU, over all adaptations.

    Attributes:
        checkpoint: the meta-trained start.
        digest: the checkpoint's digest.
        device: where it computes.
    """

    def __init__(self, checkpoint: Checkpoint, device: torch.device, threads: int = 1) -> None:
        self.checkpoint = checkpoint
        self.digest = checkpoint.digest
        self.device = device
        self._net = checkpoint.build_net().to(device).eval()
        self._embedding = FairExecutor(threads)
        self._features = FeatureCache(FEATURE_CACHE_BYTES)
        self._start = {name: tensor.to(device) for name, tensor in checkpoint.weights.items()}
        self._embedder = embedder_for(checkpoint, self._net, device)
        self._cross_validator = CrossValidator(self._net, self._start)
        self._executor: InnerLoopExecutor = (
            ThreadedExecutor(self._run, threads) if device.type == "cpu" else BatchedExecutor(self._run)
        )

    def support(
        self,
        images: Sequence[Tensor],
        labels: Sequence[int],
        n_way: int,
        control: JobControl | None = None,
        keys: Sequence[Hashable] | None = None,
        given: Sequence[Given | None] = (),
    ) -> Support:
        """Preprocess canonical images into a support set on the device.

        A frozen backbone runs here, once for every image and view.

        Args:
            images: uint8 (channels, height, width) each.
            labels: index of each image's class.
            n_way: number of classes.
            control: may stop a backbone between batches.
            keys: determine the images; a backbone then does not run again for images that it saw recently.
            given: the text or the numbers that came with each image, or None; empty if none came.
        """
        config, label_rows = self.checkpoint.net_config.image, torch.tensor(labels, dtype=torch.int64)
        if self._embedder is None:
            return Support(self._rows(prepare(images, config), given), label_rows, n_way).to(self.device)
        flips = self.checkpoint.recipe.flip_augment and len(images) <= _MOST_FLIPPED
        embed = partial(
            embed_images,
            self._embedder,
            config=config,
            views=FLIPS if flips else FLIPS[:1],
            executor=self._embedding,
            on_batch=None if control is None else control.check,
        )

        def compute(missing: Sequence[int]) -> Tensor:
            rows = embed([images[index] for index in missing])
            return rows.view(-1, len(missing), rows.shape[-1])

        features = (
            compute(range(len(images))) if keys is None else self._features.get([(key, flips) for key in keys], compute)
        )  # (views, images, features)
        views = len(features)
        inputs = self._rows(features.flatten(0, 1), [*given] * views)
        return Support(inputs, label_rows.repeat(views), n_way, views=views).to(self.device)

    def adapt(self, support: Support, recipe: InnerLoopConfig, seed: int) -> Adapted:
        """Run one inner loop on the calling thread. Raises AdaptationDiverged."""
        return adapt_one(self._net, self._start, support, recipe, seed)

    def adapt_with_folds(
        self, support: Support, groups: Tensor, recipe: InnerLoopConfig, seed: int, control: JobControl
    ) -> tuple[Candidate, int]:
        """Run the inner loop and those of its cross-validation folds.

        Args:
            support: the support set.
            groups: int64 (samples,), see `models.validation.folds.group_samples`.
            recipe: of the inner loop.
            seed: of its random draws.
            control: receives the progress, and stops the loops.

        Returns:
            The candidate version, and how many other loops shared its batch.

        Raises:
            AdaptationDiverged: the loss or the weights stopped being finite.
            Any error that `control` was stopped with.
        """
        plan = self._cross_validator.plan(support, recipe, seed, groups)
        executed = self._executor.run(plan.inputs, control)
        return self._cross_validator.choose(plan.candidates(executed.results)), executed.batched_with

    def cross_validate(
        self, candidate: Candidate, unknown_rate: float | None = None
    ) -> CrossValidationResult | CrossValidationSkipped:
        """Estimate accuracy, temperature and unknown threshold from the candidate's folds.

        Args:
            candidate: from `adapt_with_folds`.
            unknown_rate: share of images of known classes that may be called unknown; None is `UNKNOWN_SHARE`.
        """
        return self._cross_validator.score(candidate, UNKNOWN_SHARE if unknown_rate is None else unknown_rate)

    def delta(self, adapted: Adapted) -> dict[str, Tensor]:
        """Return what a version stores: weights that differ from the start, head, class means, frozen statistics."""
        kept = weight_ops.changed(self._start, adapted.kept())
        statistics = {_STATISTICS + name: tensor for name, tensor in adapted.statistics.items()}
        return {name: tensor.cpu() for name, tensor in {**kept, **statistics}.items()}

    def fold(self, delta: Mapping[str, Tensor], temperature: float = 1.0) -> dict[str, Tensor]:
        """Merge a delta into the start, then fold statistics and temperature into the weights; on the device."""
        on_device = {name: tensor.to(self.device) for name, tensor in delta.items()}
        weights = {name: tensor for name, tensor in on_device.items() if not name.startswith(_STATISTICS)}
        statistics = {
            name.removeprefix(_STATISTICS): tensor for name, tensor in on_device.items() if name.startswith(_STATISTICS)
        }
        return fold_calibrated({**self._start, **weights}, statistics, temperature)

    @functools.cached_property
    def predictor(self) -> BatchPredictor:
        """The predictor for this device, built on first use."""
        if isinstance(self._net, BackboneNet):
            return FeaturePredictor(self._net.embedding_count)
        graph = self.checkpoint.onnx_graph
        if self.device.type == "cpu" and graph is not None:
            return OnnxPredictor(graph, self.checkpoint.net_config, torch.get_num_threads())
        return TorchPredictor(self._net, self.device)

    def warm_up(self) -> None:
        """Build what the first prediction would otherwise wait for."""
        image = self.checkpoint.net_config.image
        if self._embedder is not None:
            self._embedder.warm_up(image.shapes[:1], image.channels)
        self.preprocess([torch.zeros(image.channels, image.side, image.side, dtype=torch.uint8)])
        self.predictor.predict([])

    def predict(
        self, requests: Sequence[tuple[ServingWeights, Sequence[Tensor]]], given: Sequence[Given | None] = ()
    ) -> list[Predictions]:
        """Predict canonical images of many versions. A frozen backbone runs once for all of them.

        `given` is the text or the numbers that came with each image of all requests, or None; empty if none came.

        It runs again for the images whose class is in doubt, see `heads.second_look`.
        """
        inputs = self.preprocess([image for _, images in requests for image in images], given)
        ends = accumulate(len(images) for _, images in requests)
        return self.predictor.predict(
            [
                PredictionRequest(
                    weights, inputs[end - len(images) : end], self._turned(images, given[end - len(images) : end])
                )
                for (weights, images), end in zip(requests, ends, strict=True)
            ]
        )

    def preprocess(self, images: Sequence[Tensor], given: Sequence[Given | None] = ()) -> Floats:
        """Turn canonical images into `predictor` input: float32 (images, ...). A frozen backbone runs here."""
        config = self.checkpoint.net_config.image
        if self._embedder is None:
            return self._rows(prepare_batch(images, config), given).numpy()
        return self._rows(embed_images(self._embedder, images, config), given).numpy()

    def _rows(self, prepared: Tensor, given: Sequence[Given | None]) -> Tensor:
        """Join prepared or embedded images with what came with them, for a net that takes a second modality.

        Embedded images without a note stay as they are.
        """
        config = self.checkpoint.net_config
        taken = any(one is not None and takes(config, one) for one in given)
        if config.second == "none" and not taken:
            return prepared
        if isinstance(self._net, BackboneNet) and prepared.shape[-1] != self._net.embedding_count:
            raise InvalidTask(
                f"the ONNX graph beside the model {self.checkpoint.name!r} is of an earlier release and gives no local "
                "features, without which it takes no notes; export it again with "
                f"`python -m models.inference.export {self.checkpoint.name}`"
            )
        return pack_rows(prepared, given_vectors(config, given) if given else None, size_taken(config))

    def _turned(
        self, images: Sequence[Tensor], given: Sequence[Given | None]
    ) -> Callable[[Sequence[int]], Floats] | None:
        """See `PredictionRequest.turned`; None for nets without a frozen backbone."""
        embedder, config = self._embedder, self.checkpoint.net_config.image
        if embedder is None:
            return None

        def compute(indices: Sequence[int]) -> Floats:
            turned = embed_images(embedder, [images[index] for index in indices], config, views=FLIPS[-1:])
            return self._rows(turned, [given[index] for index in indices] if given else ()).numpy()

        return compute

    def serving_weights(self, delta: Mapping[str, Tensor], temperature: float = 1.0) -> ServingWeights:
        """Turn a stored delta into `predictor` weights."""
        return self.predictor.serving_weights(self.fold(delta, temperature))

    def exported_net(
        self,
        delta: Mapping[str, Tensor],
        temperature: float,
        unknown_threshold: float | None,
        calibration: Sequence[Tensor] | None = None,
    ) -> ExportedNet:
        """Return what an exported file of a version is built from; see `models.inference.exports.version`."""
        return exported_net(self.checkpoint, self.fold(delta, temperature), unknown_threshold, calibration)

    def exported_program(
        self,
        delta: Mapping[str, Tensor],
        temperature: float,
        unknown_threshold: float | None,
        *,
        batch: bool,
        check: Callable[[], None] = lambda: None,
    ) -> bytes:
        """Return a version as a program of torch; see `models.inference.exports.torch_program.export_apart`."""
        folded = self.fold(delta, temperature)
        return export_apart(self.checkpoint, folded, unknown_threshold, batch=batch, check=check)

    def explain(self, folded: Mapping[str, Tensor], image: Tensor, label: int) -> Tensor:
        """Show where a canonical image has what speaks for a class; see `Explainer.explain`.

        Raises:
            ExplanationUnsupported: the net cannot be explained.
        """
        return self._explainer.explain(folded, image, label)

    @functools.cached_property
    def _explainer(self) -> Explainer:
        return explainer_for(self._net, self.device)

    def close(self) -> None:
        """Stop the executors' threads."""
        self._executor.close()
        self._embedding.close()
        if self._embedder is not None:
            self._embedder.close()

    def start_digest(self) -> str:
        """Digest the weights as they are in memory now. It must never change."""
        return weight_ops.digest(self._start)

    def _run(self, loops: Sequence[InnerLoopInput], on_step: OnGroupStep) -> Sequence[Result]:
        return adapt_inputs(self._net, self._start, loops, BatchingOptions(on_step=on_step))
