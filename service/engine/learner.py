"""A meta-trained start on a device: adapts and examines, says what differs from the start, judges images.

It holds the net and the start's weights and never changes either. It refuses to know clients, versions and files.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from models import weights as algebra
from models.adapt import Adapted, Company, GroupWatch, Loop, adapt_loops, adapt_one
from models.checkpoint import Checkpoint
from models.compact import Compactor, CompactWeights
from models.examine import Candidate, Examination, Examiner, NoExamination
from models.folds import copies
from models.forward import Floats, Forward, ReadyWeights
from models.images import prepare, prepare_together
from models.onnx_graphs import has_graph
from models.predict import ready
from models.predict_onnx import OnnxForward
from models.predict_torch import TorchForward
from models.recipe import InnerLoop
from models.task import Support
from service.engine.bench import Bench, Cores, Gathered, Result
from service.errors import UnknownMetaModel
from service.ticket import Ticket

_STATISTICS = "statistics."
"""Prefix of the frozen statistics' names in a delta; every other name is a weight's."""


class Learner:
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
        self._examiner = Examiner(self._net, self._start)
        self._bench: Bench = Cores(self._run, threads) if device.type == "cpu" else Gathered(self._run)

    def support(self, images: Sequence[Tensor], labels: Sequence[int], n_way: int) -> Support:
        """Prepare canonical images, uint8 (channels, height, width) each, with class indices as a support."""
        prepared = prepare(images, self.checkpoint.net_spec.image)
        return Support(prepared, torch.tensor(labels, dtype=torch.int64), n_way).to(self.device)

    def adapt(self, support: Support, recipe: InnerLoop, seed: int) -> Adapted:
        """Run the inner loop, alone. Raises AdaptationDiverged."""
        return adapt_one(self._net, self._start, support, recipe, seed)

    def adapt_with_folds(
        self, support: Support, images: Sequence[Tensor], recipe: InnerLoop, seed: int, ticket: Ticket
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

    def conclude(self, candidate: Candidate) -> Examination | NoExamination:
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
    def forward(self) -> Forward:
        """What judges the images of many versions together on this device; made when it is first asked for."""
        if self.device.type == "cpu" and has_graph(self._net):
            return OnnxForward(self._net, torch.get_num_threads())
        return TorchForward(self._net, self.device)

    def make_ready(self) -> None:
        """Make now what the first judgement would have to wait for."""
        image = self.checkpoint.net_spec.image
        self.prepared([torch.zeros(image.channels, image.side, image.side, dtype=torch.uint8)])
        self.forward.judge([])

    def prepared(self, images: Sequence[Tensor]) -> Floats:
        """Canonical images as `forward` wants them."""
        return prepare_together(images, self.checkpoint.net_spec.image).numpy()

    def ready(self, delta: Mapping[str, Tensor], temperature: float = 1.0) -> ReadyWeights:
        """What a version keeps, calibrated, as `forward` wants it."""
        return self.forward.ready(self.fold(delta, temperature))

    def packed(self, delta: Mapping[str, Tensor], temperature: float = 1.0) -> CompactWeights:
        """What a version keeps, calibrated, in little memory; not quite the same weights."""
        return self._compactor.compact(self.fold(delta, temperature))

    def unpacked(self, packed: CompactWeights) -> ReadyWeights:
        """Packed weights, as `forward` wants them."""
        return self.forward.ready(self._compactor.expanded(packed))

    def close(self) -> None:
        """Let the threads go."""
        self._bench.close()

    def _run(self, loops: Sequence[Loop], watch: GroupWatch) -> Sequence[Result]:
        return adapt_loops(self._net, self._start, loops, Company(watch=watch))

    def start_digest(self) -> str:
        """Digest of the start's weights as they are on the device now; it never changes."""
        return algebra.digest(self._start)


class Learners:
    """The learner that adapts, and those that only predict for versions of other checkpoints.

    Args:
        current: adapts and predicts.
        others: makers of learners by checkpoint digest, called at most once each, when a version needs one.
    """

    def __init__(self, current: Learner, others: Iterable[tuple[str, Callable[[], Learner]]] = ()) -> None:
        self.current = current
        self._makers = dict(others)
        self._made = {current.digest: current}

    def of(self, digest: str, name: str) -> Learner:
        """The learner whose checkpoint has that digest.

        Raises:
            UnknownMetaModel: this service does not have the checkpoint.
        """
        if digest not in self._made:
            if digest not in self._makers:
                raise UnknownMetaModel(
                    f"the version was adapted from meta-model {name!r} with digest {digest[:12]}…, which this service "
                    "does not have; start it with that checkpoint, or adapt again"
                )
            self._made[digest] = self._makers[digest]()
        return self._made[digest]
