"""Named settings: one name gives the net, the training and the inner loop that the result is used with.

Figures marked "paper" are those of Reptile, arXiv:1803.02999, appendix A. For mini-ImageNet they train alike at one
shot and at five; only the evaluation's inner batch differs (5 and 15).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from models.config import InnerLoopConfig, MetaTrainingConfig, NetConfig
from models.errors import InvalidConfig
from models.images.preprocessing import ImageConfig


@dataclass(frozen=True)
class Preset:
    """Settings that belong together.

    Attributes:
        net_config: which net.
        recipe: of the inner loops in training.
        meta: of the meta loop.
        serve: the inner loop for evaluation and for the service.
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

PRESETS = {
    "paper": Preset(
        net_config=NetConfig("conv4", ImageConfig(channels=1, side=28, contrast="none"), width=64),
        recipe=_PAPER,
        meta=MetaTrainingConfig(meta_steps=100_000, meta_batch=5, n_way=5, train_shots=10),
        serve=InnerLoopConfig(**{**_PAPER.to_json(), "steps": 50, "batch_size": 5}),
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
    "mini-imagenet-paper": _PAPER_MINI_TRAINING,
    "mini-imagenet-paper-1-shot": replace(
        _PAPER_MINI_TRAINING, serve=replace(_PAPER_MINI_TRAINING.serve, batch_size=5)
    ),
    "mini-imagenet": Preset(  # the omniglot preset's rates on the paper's net: not tuned on these images
        net_config=_PAPER_MINI_TRAINING.net_config,
        recipe=InnerLoopConfig(steps=5, learning_rate=0.3, batch_size=20),
        meta=MetaTrainingConfig(meta_steps=20_000, meta_batch=5, n_way=10, train_shots=10, anchor_shots=1),
        serve=InnerLoopConfig(steps=5, learning_rate=0.1, batch_size=25, clip_norm=10.0),
    ),
    "mini-imagenet-resnet12": Preset(  # the "mini-imagenet" preset with a larger net; --recompute saves memory
        net_config=NetConfig("resnet12", ImageConfig(channels=3, side=84, contrast="none"), width=64),
        recipe=InnerLoopConfig(steps=5, learning_rate=0.3, batch_size=20),
        meta=MetaTrainingConfig(meta_steps=20_000, meta_batch=5, n_way=10, train_shots=10, anchor_shots=1),
        serve=InnerLoopConfig(steps=5, learning_rate=0.1, batch_size=25, clip_norm=10.0),
    ),
    "surfaces": Preset(
        net_config=NetConfig("surface", ImageConfig(channels=1, side=64, contrast="regional"), width=128),
        recipe=InnerLoopConfig(steps=5, learning_rate=0.3, batch_size=10),
        meta=MetaTrainingConfig(
            meta_steps=5_000, meta_batch=4, n_way=5, train_shots=10, anchor_shots=1, within_line=0.5
        ),
        serve=InnerLoopConfig(steps=15, learning_rate=1.0, batch_size=25, head_scale=2.0, clip_norm=10.0, mirrors=True),
    ),
}


def preset(name: str) -> Preset:
    """The preset of that name; raises InvalidConfig."""
    if name not in PRESETS:
        raise InvalidConfig(f"no preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]
