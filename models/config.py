"""Recipes: every number that a net, an inner loop or a meta-training is run with. Knows no tensors and no files.

A recipe is frozen and turns into JSON data and back, so that a checkpoint and a version can name exactly what made
them. Source "Reptile" is Nichol, Achiam & Schulman 2018, arXiv:1803.02999; its appendix A lists the published values.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, Literal, Self, get_args

from models.errors import InvalidConfig
from models.images.preprocessing import ImageConfig

LrMultipliers = tuple[tuple[str, float], ...]
"""(pattern, multiplier) pairs over weight names: `fnmatch` patterns, the last match wins; 0 freezes."""

Precision = Literal["float32", "bfloat16", "float16"]


def _require(condition: bool, name: str, value: object, allowed: str) -> None:
    if not condition:
        raise InvalidConfig(f"{name} is {value!r}; allowed: {allowed}")


def _positive_integer(name: str, value: int) -> None:
    _require(value >= 1, name, value, "an integer from 1")


def _checked_rates(rates: Iterable[Iterable[Any]]) -> LrMultipliers:
    """(pattern, multiplier) pairs as tuples, whatever they came as."""
    checked = tuple((str(pattern), float(multiplier)) for pattern, multiplier in rates)
    _require(all(0 <= rate < math.inf for _, rate in checked), "rates", checked, "finite multipliers from 0")
    return checked


class _JsonRecord:
    """A frozen dataclass of JSON values that names what it does not know when it is read back.

    Attributes:
        silent_defaults: fields that are left out of the JSON data at their default. What a record without such a field
            meant before there was the field, it still means: digests and plans made from it stay as they were.
    """

    silent_defaults: ClassVar[frozenset[str]] = frozenset()

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON data (tuples become lists), but for silent fields at their default."""
        data: dict[str, Any] = asdict(self)  # type: ignore[call-overload]
        for field in fields(self):  # type: ignore[arg-type]
            if field.name in self.silent_defaults and data[field.name] == field.default:
                del data[field.name]
        if "rates" in data:
            data["rates"] = [list(rate) for rate in data["rates"]]
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Build from what `to_json` gave.

        Raises:
            InvalidConfig: an unknown field, or a value out of range.
        """
        known = {field.name for field in fields(cls)}  # type: ignore[arg-type]
        unknown = sorted(set(data) - known)
        if unknown:
            raise InvalidConfig(f"{cls.__name__} has no field {', '.join(unknown)}; known: {', '.join(sorted(known))}")
        return cls(**data)


@dataclass(frozen=True)
class NetConfig(_JsonRecord):
    """Which net, for which images.

    Attributes:
        kind: "conv4", the four-block net of Reptile appendix A and Finn et al. 2017; "surface", a five-block net with
            pooled statistics for textures; or "resnet12", the residual net of Lee et al. 2019, arXiv:1904.03758.
        image: what the net sees; the only preprocessing there is.
        width: channels of conv4's blocks (64 in the paper); of the surface net's last block (a multiple of 16); of
            resnet12's first block (64 in the paper; even), the others have 2.5, 5 and 10 times as many.
        pooling: how conv4's blocks halve their maps: "stride", convolutions with stride 2, as published for Omniglot;
            or "max", 2 x 2 max pooling, as published for mini-ImageNet.
    """

    silent_defaults: ClassVar[frozenset[str]] = frozenset({"pooling"})

    kind: Literal["conv4", "surface", "resnet12"]
    image: ImageConfig
    width: int = 64
    pooling: Literal["stride", "max"] = "stride"

    def __post_init__(self) -> None:
        _require(self.kind in ("conv4", "surface", "resnet12"), "kind", self.kind, "conv4, surface, resnet12")
        _positive_integer("width", self.width)
        if self.kind == "resnet12":
            _require(self.width % 2 == 0, "width", self.width, "an even number with the resnet12 net")
        allowed = ("stride", "max") if self.kind == "conv4" else ("stride",)
        _require(self.pooling in allowed, "pooling", self.pooling, f"{', '.join(allowed)} with the {self.kind} net")

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Build from what `to_json` gave; raises InvalidConfig."""
        return super().from_json({**data, "image": ImageConfig(**data["image"])})


@dataclass(frozen=True)
class InnerLoopConfig(_JsonRecord):
    """How one task is learned from its support.

    Attributes:
        steps: inner steps (k in Reptile). 0 leaves the meta-trained weights and, with a prototype head, classifies
            by prototypes alone.
        learning_rate: step size of an inner step, before the multipliers of `rates`.
        batch_size: images an inner step, drawn from the support (Reptile: 10 for Omniglot).
        optimiser: "sgd", or "adam" with beta1 = 0, beta2 = 0.999 as Reptile section 6 uses it.
        carry_moments: keep Adam's second moments from task to task and in the checkpoint, as the published code does.
        replacement: draw batches with replacement; else by shuffled passes over the support.
        head: "prototype", a linear head that starts at the support's class means (any number of classes; the start of
            ProtoMAML, Triantafillou et al. 2020, section 3); or "linear", meta-trained for a fixed number of classes.
        head_scale: sharpness of the prototype head: logits lost per squared distance of the prototypes' own spread.
        rates: multipliers of the learning rate by weight name, the head's included; see `LrMultipliers`.
        clip_norm: the largest allowed global norm of a task's gradient; None does not clip.
        statistics: "frozen", normalise by the support's statistics, kept with the version, so that a prediction
            depends on the image alone; or "batch", by the batch at hand, as the published code does.
        precision: of the inner steps' passes through the net: "float32"; "bfloat16"; or, on CUDA, "float16" with its
            losses scaled (Micikevicius et al. 2018, arXiv:1710.03740). Weights, updates, statistics and the head are
            float32 with each of them.
        recompute: keep only what goes into each block of the net and run the block again in the backward pass (Chen et
            al. 2016, arXiv:1604.06174): less memory, more time, the same weights.
        mirrors: learn from each support image and its three mirror images, for tasks where a class stays the same in a
            mirror, as textures and defects do and characters do not.
    """

    silent_defaults: ClassVar[frozenset[str]] = frozenset({"precision", "recompute", "mirrors"})

    steps: int
    learning_rate: float
    batch_size: int = 10
    optimiser: Literal["sgd", "adam"] = "sgd"
    carry_moments: bool = False
    replacement: bool = False
    head: Literal["prototype", "linear"] = "prototype"
    head_scale: float = 5.0
    rates: LrMultipliers = ()
    clip_norm: float | None = None
    statistics: Literal["frozen", "batch"] = "frozen"
    precision: Precision = "float32"
    recompute: bool = False
    mirrors: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "rates", _checked_rates(self.rates))
        _require(self.steps >= 0, "steps", self.steps, "an integer from 0")
        _require(
            math.isfinite(self.learning_rate) and self.learning_rate >= 0,
            "learning_rate",
            self.learning_rate,
            "a finite number from 0",
        )
        _positive_integer("batch_size", self.batch_size)
        _require(self.optimiser in ("sgd", "adam"), "optimiser", self.optimiser, "sgd, adam")
        _require(self.head in ("prototype", "linear"), "head", self.head, "prototype, linear")
        _require(self.statistics in ("frozen", "batch"), "statistics", self.statistics, "frozen, batch")
        _require(self.head_scale > 0, "head_scale", self.head_scale, "a number above 0")
        _require(self.precision in get_args(Precision), "precision", self.precision, ", ".join(get_args(Precision)))
        _require(isinstance(self.recompute, bool), "recompute", self.recompute, "true or false")
        _require(self.clip_norm is None or self.clip_norm > 0, "clip_norm", self.clip_norm, "None, or above 0")
        _require(
            not self.carry_moments or self.optimiser == "adam", "carry_moments", True, "only with the adam optimiser"
        )

    def adjusted(self, steps: int | None, learning_rate: float | None) -> InnerLoopConfig:
        """The same recipe with other steps or another learning rate; None keeps what there is.

        Raises:
            InvalidConfig: a value out of range.
        """
        return replace(
            self,
            steps=self.steps if steps is None else steps,
            learning_rate=self.learning_rate if learning_rate is None else learning_rate,
        )


@dataclass(frozen=True)
class MetaTrainingConfig(_JsonRecord):
    """How a start is meta-trained over many tasks.

    Attributes:
        meta_steps: number of meta steps (Reptile: 100,000).
        meta_batch: tasks a meta step (Reptile: 5).
        step_size: of the first meta step, epsilon in Reptile (1.0); falls linearly to `final_step_size`.
        final_step_size: step size reached after the last meta step (0).
        n_way: classes a task.
        train_shots: support images a class in a training task (Reptile: 10 for Omniglot), more than at test time.
        anchor_shots: how many of them a prototype head starts from; 0 means all. With few, the inner steps have to
            bring images to prototypes that were made without them, as queries are later.
        within_line: share of training tasks whose classes all come from one product line, for data that has lines.
        seed: of everything random in the training.
        algorithm: "reptile"; or "maml" and its first-order form "fomaml" (Finn et al. 2017, arXiv:1703.03400).
        outer_learning_rate: of MAML's outer Adam, at step size 1 (Finn et al.: 0.001 throughout).
        query_shots: how many of `train_shots` MAML's outer loss asks about, the inner steps see the others; 0 means
            half, rounded down.
        rates: multipliers of each meta step's move by weight name, of Reptile's interpolation and of MAML's outer
            Adam alike; see `LrMultipliers`. The names are the start's: it has a head only where the head is linear.
    """

    silent_defaults: ClassVar[frozenset[str]] = frozenset({"algorithm", "outer_learning_rate", "query_shots", "rates"})

    meta_steps: int
    meta_batch: int = 5
    step_size: float = 1.0
    final_step_size: float = 0.0
    n_way: int = 5
    train_shots: int = 10
    anchor_shots: int = 0
    within_line: float = 0.0
    seed: int = 0
    algorithm: Literal["reptile", "fomaml", "maml"] = "reptile"
    outer_learning_rate: float = 1e-3
    query_shots: int = 0
    rates: LrMultipliers = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "rates", _checked_rates(self.rates))
        for name in ("meta_steps", "meta_batch", "train_shots"):
            _positive_integer(name, getattr(self, name))
        _require(
            0 <= self.anchor_shots <= self.train_shots,
            "anchor_shots",
            self.anchor_shots,
            f"0 to train_shots, {self.train_shots}",
        )
        _require(0 <= self.within_line <= 1, "within_line", self.within_line, "a share from 0 to 1")
        _require(self.n_way >= 2, "n_way", self.n_way, "an integer from 2")
        _require(0 <= self.final_step_size, "final_step_size", self.final_step_size, "a number from 0")
        _require(0 < self.step_size <= 2, "step_size", self.step_size, "above 0, at most 2")
        _require(self.algorithm in ("reptile", "fomaml", "maml"), "algorithm", self.algorithm, "reptile, fomaml, maml")
        _require(self.outer_learning_rate > 0, "outer_learning_rate", self.outer_learning_rate, "a number above 0")
        self._check_queries()

    def _check_queries(self) -> None:
        """With MAML both the inner steps and the queries need images, and the anchors are the inner steps'."""
        if self.algorithm == "reptile":
            _require(self.query_shots == 0, "query_shots", self.query_shots, "0 with reptile, which has no queries")
            return
        _require(self.train_shots >= 2, "train_shots", self.train_shots, f"an integer from 2 with {self.algorithm}")
        queries = self.query_shots or self.train_shots // 2
        most = self.train_shots - max(1, self.anchor_shots)
        _require(0 < queries <= most, "query_shots", queries, f"1 to {most}: the rest of train_shots, less the anchors")

    def step_size_at(self, meta_step: int) -> float:
        """Step size of meta step `meta_step` (from 0): linear from `step_size` towards `final_step_size`."""
        done = meta_step / self.meta_steps
        return self.step_size + (self.final_step_size - self.step_size) * done
