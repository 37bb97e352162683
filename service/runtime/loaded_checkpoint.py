"""A meta-trained start on a device: adapts and examines, says what differs from the start, judges images.

It holds the net and the start's weights and never changes either. It refuses to know clients, versions and files.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from models import weights as algebra
from models.adaptation.adapt import Adapted, Company, InnerLoopInput, OnGroupStep, adapt_inputs, adapt_one
from models.checkpoint import Checkpoint
from models.config import InnerLoopConfig
from models.images.preprocessing import prepare, prepare_together
from models.inference.compact import Compactor, CompactWeights
from models.inference.onnx_graphs import has_graph
from models.inference.onnx_predictor import OnnxPredictor
from models.inference.predict import ready
from models.inference.predictor import BatchPredictor, Floats, ServingWeights
from models.inference.torch_predictor import TorchPredictor
from models.task import Support
from models.validation.cross_validation import Candidate, CrossValidation, CrossValidator, NotCrossValidated
from models.validation.folds import copies
from service.errors import UnknownCheckpoint
from service.runtime.inner_loop_executor import BatchedExecutor, InnerLoopExecutor, Result, ThreadedExecutor
from service.runtime.job_control import JobControl

_STATISTICS = "statistics."
"""Prefix of the frozen statistics' names in a delta; every other name is a weight's."""


class LoadedCheckpoint:
    """One checkpoint at work on one device. Safe from several threads.

    Args:
        checkpoint: what it holds.
        device: where it computes.
        threads: inner loops side by side on the CPU, whoever's they are.

    Attributes:
        checkpoint: what it holds.
        digest: the checkpoint's digest.
        device: where it computes.
    """

    def __init__(self, checkpoint: Checkpoint, device: torch.device, threads: int = 1) -> None:
        self.checkpoint = checkpoint
        self.digest = checkpoint.digest
        self.device = device
        self._net = checkpoint.build_net().to(device).eval()
        self._start = {name: tensor.to(device) for name, tensor in checkpoint.weights.items()}
        self._compactor = Compactor(checkpoint.weights)
        self._examiner = CrossValidator(self._net, self._start)
        self._bench: InnerLoopExecutor = (
            ThreadedExecutor(self._run, threads) if device.type == "cpu" else BatchedExecutor(self._run)
        )

    def support(self, images: Sequence[Tensor], labels: Sequence[int], n_way: int) -> Support:
        """Prepare canonical images, uint8 (channels, height, width) each, with class indices as a support."""
        prepared = prepare(images, self.checkpoint.net_config.image)
        return Support(prepared, torch.tensor(labels, dtype=torch.int64), n_way).to(self.device)

    def adapt(self, support: Support, recipe: InnerLoopConfig, seed: int) -> Adapted:
        """Run the inner loop, alone. Raises AdaptationDiverged."""
        return adapt_one(self._net, self._start, support, recipe, seed)

    def adapt_with_folds(
        self, support: Support, images: Sequence[Tensor], recipe: InnerLoopConfig, seed: int, ticket: JobControl
    ) -> tuple[Candidate, int]:
        """Run the inner loop and those of its folds, beside whatever else is adapted now.

        Args:
            support: what to adapt to.
            images: the support's, canonical.
            recipe: of the version.
            seed: of its draws.
            ticket: is told of every step.

        Returns:
            What came of it, and how many other loops went through the net together with the version's.

        Raises:
            AdaptationDiverged, and whatever the ticket is stopped with.
        """
        plan = self._examiner.plan(support, recipe, seed, copies(images, mirrors=recipe.mirrors))
        ran = self._bench.run(plan.loops, ticket)
        return plan.candidate(ran.results), ran.batched_with

    def conclude(self, candidate: Candidate) -> CrossValidation | NotCrossValidated:
        """What the folds find out about the version."""
        return self._examiner.conclude(candidate)

    def delta(self, adapted: Adapted) -> dict[str, Tensor]:
        """What a version has to keep: what differs from the start, the head, class means, the frozen statistics."""
        kept = algebra.changed(self._start, adapted.kept())
        statistics = {_STATISTICS + name: tensor for name, tensor in adapted.statistics.items()}
        return {name: tensor.cpu() for name, tensor in {**kept, **statistics}.items()}

    def fold(self, delta: Mapping[str, Tensor], temperature: float = 1.0) -> dict[str, Tensor]:
        """Join a delta with the start, fold and calibrate it: weights ready to judge with, on the device."""
        on_device = {name: tensor.to(self.device) for name, tensor in delta.items()}
        weights = {name: tensor for name, tensor in on_device.items() if not name.startswith(_STATISTICS)}
        statistics = {
            name.removeprefix(_STATISTICS): tensor for name, tensor in on_device.items() if name.startswith(_STATISTICS)
        }
        return ready({**self._start, **weights}, statistics, temperature)

    @functools.cached_property
    def forward(self) -> BatchPredictor:
        """What judges the images of many versions together on this device; made when it is first asked for."""
        if self.device.type == "cpu" and has_graph(self._net):
            return OnnxPredictor(self._net, torch.get_num_threads())
        return TorchPredictor(self._net, self.device)

    def make_ready(self) -> None:
        """Make now what the first judgement would have to wait for."""
        image = self.checkpoint.net_config.image
        self.prepared([torch.zeros(image.channels, image.side, image.side, dtype=torch.uint8)])
        self.forward.judge([])

    def prepared(self, images: Sequence[Tensor]) -> Floats:
        """Canonical images as `forward` wants them."""
        return prepare_together(images, self.checkpoint.net_config.image).numpy()

    def ready(self, delta: Mapping[str, Tensor], temperature: float = 1.0) -> ServingWeights:
        """What a version keeps, calibrated, as `forward` wants it."""
        return self.forward.ready(self.fold(delta, temperature))

    def packed(self, delta: Mapping[str, Tensor], temperature: float = 1.0) -> CompactWeights:
        """What a version keeps, calibrated, in little memory; not quite the same weights."""
        return self._compactor.compact(self.fold(delta, temperature))

    def unpacked(self, packed: CompactWeights) -> ServingWeights:
        """Packed weights, as `forward` wants them."""
        return self.forward.ready(self._compactor.expanded(packed))

    def close(self) -> None:
        """Let the threads go."""
        self._bench.close()

    def _run(self, loops: Sequence[InnerLoopInput], watch: OnGroupStep) -> Sequence[Result]:
        return adapt_inputs(self._net, self._start, loops, Company(watch=watch))

    def start_digest(self) -> str:
        """Digest of the start's weights as they are on the device now; it never changes."""
        return algebra.digest(self._start)


class LoadedCheckpoints:
    """The learner that adapts, and those that only predict for versions of other checkpoints.

    Args:
        current: adapts and predicts.
        others: makers of learners by checkpoint digest, called at most once each, when a version needs one.
    """

    def __init__(
        self, current: LoadedCheckpoint, others: Iterable[tuple[str, Callable[[], LoadedCheckpoint]]] = ()
    ) -> None:
        self.current = current
        self._makers = dict(others)
        self._made = {current.digest: current}

    def of(self, digest: str, name: str) -> LoadedCheckpoint:
        """The learner whose checkpoint has that digest.

        Raises:
            UnknownCheckpoint: this service does not have the checkpoint.
        """
        if digest not in self._made:
            if digest not in self._makers:
                raise UnknownCheckpoint(
                    f"the version was adapted from meta-model {name!r} with digest {digest[:12]}…, which this service "
                    "does not have; start it with that checkpoint, or adapt again"
                )
            self._made[digest] = self._makers[digest]()
        return self._made[digest]
