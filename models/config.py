"""Settings of nets, inner loops and meta-training, and presets of settings that belong together.

Settings are frozen and convert to JSON data and back, so that checkpoints and versions record exactly what made them.
"Reptile" is Nichol, Achiam & Schulman 2018, arXiv:1803.02999; its appendix A lists the published values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from typing import Any, ClassVar, Literal, Self, get_args

from models.errors import InvalidConfig
from models.images.preprocessing import ImageConfig
from models.modalities.rows import Present
from models.modalities.strokes import STROKES_SIZE
from models.modalities.text import TEXT_SIZE

LrMultipliers = tuple[tuple[str, float], ...]
"""(pattern, multiplier) pairs: an `fnmatch` pattern over weight names; the last match wins, and 0 freezes."""

Precision = Literal["float32", "bfloat16", "float16"]

Second = Literal["none", "text", "strokes", "vector"]
"""A modality beside the image; see `NetConfig`."""

SECOND_SIZES: Mapping[str, int] = {"none": 0, "text": TEXT_SIZE, "strokes": STROKES_SIZE}


def _require(condition: bool, name: str, value: object, allowed: str) -> None:
    if not condition:
        raise InvalidConfig(f"{name} is {value!r}; allowed: {allowed}")


def _positive_integer(name: str, value: int) -> None:
    _require(value >= 1, name, value, "an integer from 1")


def _float32(name: str, value: float, *, above_0: bool = False) -> None:
    """Torch refuses larger numbers in the middle of a step."""
    in_range = 0 <= value <= 3.4e38 and not (above_0 and value == 0)
    _require(in_range, name, value, f"a number {'above' if above_0 else 'from'} 0, at most 3.4e38")


def _checked_multipliers(multipliers: Iterable[Iterable[Any]]) -> LrMultipliers:
    """(pattern, multiplier) pairs as tuples, from any iterables, such as JSON lists."""
    checked = tuple((str(pattern), float(multiplier)) for pattern, multiplier in multipliers)
    for pattern, multiplier in checked:
        _float32(f"lr_multipliers of {pattern!r}", multiplier)
    return checked


class _JsonRecord:
    """Base of frozen dataclasses of JSON values.

    Attributes:
        silent_defaults: fields that are left out of the JSON data at their default. They were added later; records
            without them keep their meaning, and digests of the JSON data do not change.
        json_names: names in the JSON data, for fields that have another name there.
    """

    silent_defaults: ClassVar[frozenset[str]] = frozenset()
    json_names: ClassVar[Mapping[str, str]] = {"lr_multipliers": "rates", "flip_augment": "mirrors"}

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON data (tuples become lists), without silent fields at their default."""
        data: dict[str, Any] = {}
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if field.name not in self.silent_defaults or value != field.default:
                data[self.json_names.get(field.name, field.name)] = _json_value(value)
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Build from the result of `to_json`.

        Raises:
            InvalidConfig: an unknown field, or a value out of range.
        """
        names = {cls.json_names.get(field.name, field.name): field.name for field in fields(cls)}  # type: ignore[arg-type]
        unknown = sorted(set(data) - set(names))
        if unknown:
            raise InvalidConfig(f"{cls.__name__} has no field {', '.join(unknown)}; known: {', '.join(sorted(names))}")
        return cls(**{names[name]: value for name, value in data.items()})


def _json_value(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return value.to_json() if hasattr(value, "to_json") else asdict(value)
    return [_json_value(item) for item in value] if isinstance(value, tuple) else value


@dataclass(frozen=True)
class NetConfig(_JsonRecord):
    """A net and its images.

    Attributes:
        kind: "conv4", the four-block net of Reptile appendix A and Finn et al. 2017; "surface", a five-block net with
            pooled statistics for textures; "resnet12", the residual net of Lee et al. 2019, arXiv:1904.03758; or
            "backbone", a frozen pretrained module with pooled stages (`models.nets.backbone`).
        image: preprocessing of the images.
        width: channels of conv4's blocks (64 in the paper); of the surface net's last block (a multiple of 16); of
            resnet12's first block (64 in the paper; even), the others have 2.5, 5 and 10 times as many.
        pooling: how conv4's blocks halve their maps: "stride", convolutions with stride 2, as published for Omniglot;
            or "max", 2 x 2 max pooling, as published for mini-ImageNet.
        depth: number of conv4's blocks. This field and the following six are for variants of conv4, which
            `models.meta.search` chooses from.
        growth: channels of each block as a multiple of those of the block before, rounded down.
        kernel: side of the kernels in pixels, odd.
        stem: side in pixels of the patches that the first block cuts the image into, as a convolution with this kernel
            and stride; 0 makes it a block like the others.
        halvings: how many blocks halve their maps, the first ones; a stem counts as one of them.
        global_pool: average each channel of the last map; otherwise all its pixels are features.
        normalisation: "batch", by the statistics of a batch or of the support; or "image", each image by its own mean
            and variance over all channels and pixels (group normalisation with one group, Wu & He 2018,
            arXiv:1803.08494).
        factory: of the backbone, ``module:callable``; it is called without arguments and returns the module.
        stages: names of the backbone's submodules whose maps are pooled, in order.
        second: what the net takes beside images (`models.nets.multimodal`): "none"; "text", notes or codes; "strokes",
            what `models.modalities.strokes` describes; or "vector", numbers of any unit. Not with the backbone net,
            whose head takes notes without it (`models.nets.note_head`).
        second_size: numbers of the second modality; 0 is that of its description, which "vector" does not have.
    """

    silent_defaults: ClassVar[frozenset[str]] = frozenset(
        {"pooling", "factory", "stages", "second", "second_size"}
        | {"depth", "growth", "kernel", "stem", "halvings", "global_pool", "normalisation"}
    )

    kind: Literal["conv4", "surface", "resnet12", "backbone"]
    image: ImageConfig
    width: int = 64
    pooling: Literal["stride", "max"] = "stride"
    factory: str = ""
    stages: tuple[str, ...] = ()
    depth: int = 4
    growth: float = 1.0
    kernel: int = 3
    stem: int = 0
    halvings: int = 4
    global_pool: bool = False
    normalisation: Literal["batch", "image"] = "batch"
    second: Second = "none"
    second_size: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "stages", tuple(self.stages))
        self._check_second()
        kinds = ("conv4", "surface", "resnet12", "backbone")
        _require(self.kind in kinds, "kind", self.kind, ", ".join(kinds))
        _require(bool(self.factory) == (self.kind == "backbone"), "factory", self.factory, "with the backbone net only")
        _positive_integer("width", self.width)
        if self.kind == "resnet12":
            _require(self.width % 2 == 0, "width", self.width, "an even number with the resnet12 net")
        allowed = ("stride", "max") if self.kind == "conv4" else ("stride",)
        _require(self.pooling in allowed, "pooling", self.pooling, f"{', '.join(allowed)} with the {self.kind} net")
        self._check_variant()

    def _check_variant(self) -> None:
        """Check the fields of conv4's variants, which other nets leave at their defaults."""
        if self.kind != "conv4":
            for field in fields(self):
                if field.name in ("depth", "growth", "kernel", "stem", "halvings", "global_pool", "normalisation"):
                    value = getattr(self, field.name)
                    _require(value == field.default, field.name, value, f"{field.default!r} with the {self.kind} net")
            return
        _require(1 <= self.depth <= 16, "depth", self.depth, "an integer from 1 to 16")
        _require(1 <= self.growth <= 4, "growth", self.growth, "a number from 1 to 4")
        _require(self.kernel in (1, 3, 5, 7), "kernel", self.kernel, "1, 3, 5, 7")
        _require(self.stem in (0, 2, 4, 8), "stem", self.stem, "0, 2, 4, 8")
        _require(0 <= self.halvings <= 16, "halvings", self.halvings, "an integer from 0 to 16")
        _require(isinstance(self.global_pool, bool), "global_pool", self.global_pool, "true or false")
        _require(self.normalisation in ("batch", "image"), "normalisation", self.normalisation, "batch, image")

    def _check_second(self) -> None:
        _require(self.second in get_args(Second), "second", self.second, ", ".join(get_args(Second)))
        if self.second != "none":
            _require(self.kind != "backbone", "second", self.second, "none with the backbone net")
            _require(self.image.fit == "stretch", "second", self.second, "none with the fit area")
        size = SECOND_SIZES.get(self.second, self.second_size) or 0
        object.__setattr__(self, "second_size", self.second_size or size)
        allowed = f"{size} with second {self.second}" if self.second != "vector" else "an integer from 1 with vectors"
        _require(
            self.second_size == size and (size > 0) == (self.second != "none"), "second_size", self.second_size, allowed
        )

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Build from the result of `to_json`; raises InvalidConfig."""
        return super().from_json({**data, "image": ImageConfig(**data["image"])})


@dataclass(frozen=True)
class InnerLoopConfig(_JsonRecord):
    """How a task is learned from its support.

    Attributes:
        steps: inner steps (k in Reptile). 0 keeps the meta-trained weights; with a prototype head, classification is
            then by prototypes alone.
        learning_rate: step size of an inner step, before `lr_multipliers`.
        batch_size: images per inner step, drawn from the support (Reptile: 10 for Omniglot).
        optimiser: "sgd", or "adam" with beta1 = 0, beta2 = 0.999 as Reptile section 6 uses it.
        carry_moments: carry Adam's second moments from task to task and into the checkpoint, as in the published code.
        replacement: draw batches with replacement; otherwise in shuffled passes over the support.
        head: "prototype", a linear head that starts at the support's class means (any number of classes; the start of
            ProtoMAML, Triantafillou et al. 2020, section 3); "lda", one that starts at linear discriminant analysis of
            the support (any number of classes; as FiT, Shysheya et al. 2023, arXiv:2206.08671); or "linear",
            meta-trained for a fixed number of classes.
        head_scale: sharpness of the prototype head, in logits per squared distance; distances are in units of the
            prototypes' spread.
        shrinkage: of the "lda" head's covariance towards a multiple of the identity, above 0 to 1.
        feature_gains: of the "lda" head. "none"; "fisher", each feature is multiplied by the ratio of its variance
            between the classes to that within them, so that a few telling features are not drowned by thousands; or
            "auto", cross-validation chooses between the two and `patch_memory`, which it prefers for images of a fixed
            camera; without folds, it is "none".
        patch_memory: of the "lda" head of a frozen backbone, without steps. It also compares images with the support
            place by place (`models.nets.patch_memory`), for parts under a fixed camera.
        lr_multipliers: multipliers of the learning rate by weight name, including the head's; see `LrMultipliers`.
        clip_norm: largest global norm of a task's gradient; None does not clip.
        statistics: "frozen", normalise by the support's statistics, which the version stores, so that a prediction
            depends on the image alone; or "batch", by the batch at hand, as in the published code.
        precision: of the inner steps' passes through the net: "float32"; "bfloat16"; or, on CUDA, "float16" with its
            losses scaled (Micikevicius et al. 2018, arXiv:1710.03740). Weights, updates, statistics and the head are
            float32 with each of them.
        recompute: keep only the input of each stage of the net and run the stage again in the backward pass (Chen et
            al. 2016, arXiv:1604.06174): less memory, more time, the same weights.
        flip_augment: learn from each support image and its three flips, for classes that are the same when flipped, as
            textures and defects are and characters are not.
        uncertainty: "point"; or "bayes", the class means that the head stands for are known to within their sampling
            error, and probabilities are averaged over it (`models.nets.head_posterior`). Not with the "linear" head,
            which stands for no means.
    """

    silent_defaults: ClassVar[frozenset[str]] = frozenset(
        {"precision", "recompute", "flip_augment", "shrinkage", "feature_gains", "patch_memory", "uncertainty"}
    )

    steps: int
    learning_rate: float
    batch_size: int = 10
    optimiser: Literal["sgd", "adam"] = "sgd"
    carry_moments: bool = False
    replacement: bool = False
    head: Literal["prototype", "lda", "linear"] = "prototype"
    head_scale: float = 5.0
    shrinkage: float = 0.5
    feature_gains: Literal["none", "fisher", "auto"] = "none"
    patch_memory: bool = False
    lr_multipliers: LrMultipliers = ()
    clip_norm: float | None = None
    statistics: Literal["frozen", "batch"] = "frozen"
    precision: Precision = "float32"
    recompute: bool = False
    flip_augment: bool = False
    uncertainty: Literal["point", "bayes"] = "point"

    def __post_init__(self) -> None:
        object.__setattr__(self, "lr_multipliers", _checked_multipliers(self.lr_multipliers))
        _require(self.steps >= 0, "steps", self.steps, "an integer from 0")
        _float32("learning_rate", self.learning_rate)
        for pattern, multiplier in self.lr_multipliers:
            _float32(f"learning_rate times lr_multipliers of {pattern!r}", self.learning_rate * multiplier)
        _positive_integer("batch_size", self.batch_size)
        _require(self.optimiser in ("sgd", "adam"), "optimiser", self.optimiser, "sgd, adam")
        _require(self.head in ("prototype", "lda", "linear"), "head", self.head, "prototype, lda, linear")
        _require(0 < self.shrinkage <= 1, "shrinkage", self.shrinkage, "a number above 0, at most 1")
        gains = ("none", "fisher", "auto")
        _require(self.feature_gains in gains, "feature_gains", self.feature_gains, ", ".join(gains))
        _require(
            not self.patch_memory or (self.head == "lda" and self.steps == 0),
            "patch_memory",
            self.patch_memory,
            "only with the lda head, without steps",
        )
        allowed = ("point",) if self.head == "linear" else ("point", "bayes")
        _require(self.uncertainty in allowed, "uncertainty", self.uncertainty, " or ".join(allowed))
        _require(self.statistics in ("frozen", "batch"), "statistics", self.statistics, "frozen, batch")
        _float32("head_scale", self.head_scale, above_0=True)
        _require(self.precision in get_args(Precision), "precision", self.precision, ", ".join(get_args(Precision)))
        _require(isinstance(self.recompute, bool), "recompute", self.recompute, "true or false")
        _require(self.clip_norm is None or self.clip_norm > 0, "clip_norm", self.clip_norm, "None, or above 0")
        _require(
            not self.carry_moments or self.optimiser == "adam", "carry_moments", True, "only with the adam optimiser"
        )

    def adjusted(self, steps: int | None, learning_rate: float | None) -> InnerLoopConfig:
        """Copy with another number of steps or another learning rate; None keeps the current value.

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
        meta_batch: tasks per meta step (Reptile: 5).
        step_size: step size of the first meta step, epsilon in Reptile (1.0); falls linearly to `final_step_size`.
        final_step_size: step size after the last meta step (0).
        n_way: classes per task.
        train_shots: support images per class of a training task (Reptile: 10 for Omniglot), more than at test time.
        anchor_shots: how many of them a prototype head starts from; 0 means all. With few, the inner steps learn to
            bring images to prototypes that were made without them, as with queries later.
        within_line: share of training tasks whose classes all come from one product line, for data that has lines.
        seed: of all random draws.
        algorithm: "reptile"; "bayesian-reptile", which also learns how far weights may vary
            (`models.meta.bayesian_reptile`); or "maml" and its first-order form "fomaml" (Finn et al. 2017,
            arXiv:1703.03400).
        outer_learning_rate: of MAML's outer Adam, at step size 1 (Finn et al.: 0.001 throughout).
        query_shots: how many of `train_shots` MAML uses as queries of the outer loss; the inner steps use the others.
            0 means half, rounded down.
        lr_multipliers: multipliers of the change that a meta step makes, by weight name, with any algorithm; see
            `LrMultipliers`. The names are the start's, which has a head only if the head is linear.
        modalities: which modalities the training tasks have, of a net for two: "both", "image" or "second".
        modality_dropout: share of the training tasks that lack one modality, either throughout or in the images that
            are no anchors, so that a client may lack it later, when it is taught or when it predicts.
    """

    silent_defaults: ClassVar[frozenset[str]] = frozenset(
        {"algorithm", "outer_learning_rate", "query_shots", "lr_multipliers", "modalities", "modality_dropout"}
    )

    meta_steps: int
    meta_batch: int = 5
    step_size: float = 1.0
    final_step_size: float = 0.0
    n_way: int = 5
    train_shots: int = 10
    anchor_shots: int = 0
    within_line: float = 0.0
    seed: int = 0
    algorithm: Literal["reptile", "bayesian-reptile", "fomaml", "maml"] = "reptile"
    outer_learning_rate: float = 1e-3
    query_shots: int = 0
    lr_multipliers: LrMultipliers = ()
    modalities: Present = "both"
    modality_dropout: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "lr_multipliers", _checked_multipliers(self.lr_multipliers))
        _require(self.modalities in get_args(Present), "modalities", self.modalities, ", ".join(get_args(Present)))
        _require(0 <= self.modality_dropout <= 1, "modality_dropout", self.modality_dropout, "a share from 0 to 1")
        for name in ("meta_steps", "meta_batch", "train_shots"):
            _positive_integer(name, getattr(self, name))
        allowed = f"0 to train_shots, {self.train_shots}"
        _require(0 <= self.anchor_shots <= self.train_shots, "anchor_shots", self.anchor_shots, allowed)
        _require(0 <= self.within_line <= 1, "within_line", self.within_line, "a share from 0 to 1")
        _require(self.n_way >= 2, "n_way", self.n_way, "an integer from 2")
        _float32("final_step_size", self.final_step_size)
        _require(0 < self.step_size <= 2, "step_size", self.step_size, "above 0, at most 2")
        algorithms = ("reptile", "bayesian-reptile", "fomaml", "maml")
        _require(self.algorithm in algorithms, "algorithm", self.algorithm, ", ".join(algorithms))
        _float32("outer_learning_rate", self.outer_learning_rate, above_0=True)
        self._check_queries()

    def _check_queries(self) -> None:
        """Check that MAML has images for both the inner steps and the queries; anchors belong to the inner steps."""
        if self.algorithm in ("reptile", "bayesian-reptile"):
            _require(self.query_shots == 0, "query_shots", self.query_shots, f"0: {self.algorithm} has no queries")
            return
        _require(self.train_shots >= 2, "train_shots", self.train_shots, f"an integer from 2 with {self.algorithm}")
        queries = self.query_shots or self.train_shots // 2
        most = self.train_shots - max(1, self.anchor_shots)
        _require(0 < queries <= most, "query_shots", queries, f"1 to {most}: the rest of train_shots, less the anchors")

    def step_size_at(self, meta_step: int) -> float:
        """Step size of meta step `meta_step`, counted from 0; linear from `step_size` to `final_step_size`."""
        done = meta_step / self.meta_steps
        return self.step_size + (self.final_step_size - self.step_size) * done


@dataclass(frozen=True)
class Preset:
    """Settings of a net, its training, and the inner loop that the result is used with.

    Settings marked "paper" are those of Reptile, appendix A. For mini-ImageNet the paper trains in the same way for one
    shot and for five; only the evaluation's inner batch differs (5 and 15).

    Attributes:
        net_config: the net.
        recipe: inner loops of the training.
        meta: the meta-training.
        serve: inner loop for evaluation and for the service.
    """

    net_config: NetConfig
    recipe: InnerLoopConfig
    meta: MetaTrainingConfig
    serve: InnerLoopConfig


_PAPER = InnerLoopConfig(
    steps=5, learning_rate=1e-3, batch_size=10, optimiser="adam", carry_moments=True, head="linear", statistics="batch"
)

_PAPER_20 = replace(_PAPER, steps=10, learning_rate=5e-4, batch_size=20)

_PAPER_MINI = replace(_PAPER, steps=8)
_PAPER_MINI_TRAINING = Preset(
    net_config=NetConfig("conv4", ImageConfig(channels=3, side=84, contrast="none"), width=32, pooling="max"),
    recipe=_PAPER_MINI,
    meta=MetaTrainingConfig(meta_steps=100_000, meta_batch=5, n_way=5, train_shots=15),
    serve=replace(_PAPER_MINI, steps=50, batch_size=15),
)

EFFICIENTNET_LITE0 = NetConfig(
    "backbone",
    ImageConfig(channels=3, side=192, contrast="imagenet", fit="area"),
    factory="models.nets.efficientnet_lite:efficientnet_lite0",
    stages=tuple(f"blocks.{block}" for block in (1, 2, 4, 7, 10, 14, 15)),
)
"""The net of the shipped checkpoint "efficientnet-lite0"."""

BACKBONE_RECIPE = InnerLoopConfig(
    steps=0, learning_rate=0.01, batch_size=25, head="lda", flip_augment=True, feature_gains="auto"
)
"""The inner loop that checkpoints of a frozen backbone are used with."""

PRESETS = {
    "paper": Preset(
        net_config=NetConfig("conv4", ImageConfig(channels=1, side=28, contrast="none"), width=64),
        recipe=_PAPER,
        meta=MetaTrainingConfig(meta_steps=100_000, meta_batch=5, n_way=5, train_shots=10),
        serve=replace(_PAPER, steps=50, batch_size=5),
    ),
    "paper-20-way": Preset(
        net_config=NetConfig("conv4", ImageConfig(channels=1, side=28, contrast="none"), width=64),
        recipe=_PAPER_20,
        meta=MetaTrainingConfig(meta_steps=200_000, meta_batch=5, n_way=20, train_shots=10),
        serve=replace(_PAPER_20, steps=50, batch_size=10),
    ),
    "omniglot": Preset(
        net_config=NetConfig("conv4", ImageConfig(channels=1, side=28, contrast="none"), width=64),
        recipe=InnerLoopConfig(steps=5, learning_rate=0.3, batch_size=20),
        meta=MetaTrainingConfig(meta_steps=8_000, meta_batch=5, n_way=20, train_shots=5, anchor_shots=1),
        serve=InnerLoopConfig(steps=5, learning_rate=0.1, batch_size=25, clip_norm=10.0),
    ),
    "omniglot-strokes": Preset(  # images and pen strokes; learning rates of "omniglot"
        net_config=NetConfig("conv4", ImageConfig(channels=1, side=28, contrast="none"), width=32, second="strokes"),
        recipe=InnerLoopConfig(steps=5, learning_rate=0.3, batch_size=20),
        meta=MetaTrainingConfig(
            meta_steps=1_000, meta_batch=3, n_way=20, train_shots=5, anchor_shots=1, modality_dropout=0.5
        ),
        serve=InnerLoopConfig(steps=5, learning_rate=0.1, batch_size=25, clip_norm=10.0),
    ),
    "mini-imagenet-paper": _PAPER_MINI_TRAINING,
    "mini-imagenet-paper-1-shot": replace(
        _PAPER_MINI_TRAINING, serve=replace(_PAPER_MINI_TRAINING.serve, batch_size=5)
    ),
    "mini-imagenet": Preset(  # at 0.3, the rate of "omniglot", training diverges; at 0.1 the maps die
        net_config=_PAPER_MINI_TRAINING.net_config,
        recipe=InnerLoopConfig(steps=5, learning_rate=0.03, batch_size=20, head_scale=2.0, clip_norm=10.0),
        meta=MetaTrainingConfig(meta_steps=20_000, meta_batch=5, n_way=10, train_shots=10, anchor_shots=1),
        serve=InnerLoopConfig(steps=5, learning_rate=0.03, batch_size=25, head_scale=2.0, clip_norm=10.0),
    ),
    "mini-imagenet-resnet12": Preset(  # the "mini-imagenet" preset with a larger net; --recompute saves memory
        net_config=NetConfig("resnet12", ImageConfig(channels=3, side=84, contrast="none"), width=64),
        recipe=InnerLoopConfig(steps=5, learning_rate=0.03, batch_size=20, head_scale=2.0, clip_norm=10.0),
        meta=MetaTrainingConfig(meta_steps=20_000, meta_batch=5, n_way=10, train_shots=10, anchor_shots=1),
        serve=InnerLoopConfig(steps=5, learning_rate=0.03, batch_size=25, head_scale=2.0, clip_norm=10.0),
    ),
    "surfaces": Preset(
        net_config=NetConfig("surface", ImageConfig(channels=1, side=64, contrast="regional"), width=128),
        recipe=InnerLoopConfig(steps=5, learning_rate=0.3, batch_size=10),
        meta=MetaTrainingConfig(
            meta_steps=5_000, meta_batch=4, n_way=5, train_shots=10, anchor_shots=1, within_line=0.5
        ),
        serve=InnerLoopConfig(
            steps=15, learning_rate=1.0, batch_size=25, head_scale=2.0, clip_norm=10.0, flip_augment=True
        ),
    ),
    "surface-notes": Preset(  # the net of "surfaces", whose weights it may start from, and notes
        net_config=NetConfig(
            "surface", ImageConfig(channels=1, side=64, contrast="regional"), width=128, second="text"
        ),
        recipe=InnerLoopConfig(steps=5, learning_rate=0.3, batch_size=10),
        meta=MetaTrainingConfig(
            meta_steps=80, meta_batch=4, n_way=6, train_shots=5, anchor_shots=1, within_line=1.0, modality_dropout=0.5
        ),
        serve=InnerLoopConfig(steps=5, learning_rate=0.3, batch_size=25, head_scale=2.0, clip_norm=10.0),
    ),
}


def preset(name: str) -> Preset:
    """Return the preset with that name; raises InvalidConfig."""
    if name not in PRESETS:
        raise InvalidConfig(f"no preset {name!r}; allowed: {', '.join(PRESETS)}")
    return PRESETS[name]
