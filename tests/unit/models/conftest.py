"""Small tasks and nets for the tests of `models`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from models.config import PRESETS, NetConfig
from models.images.preprocessing import ImageConfig
from models.nets import Net, build
from models.task import Support

SPEC = NetConfig("conv4", ImageConfig(channels=1, side=16, contrast="none"), width=8)
SURFACE_SPEC = NetConfig("surface", ImageConfig(channels=1, side=16, contrast="none"), width=16)
RESNET_SPEC = NetConfig("resnet12", ImageConfig(channels=1, side=16, contrast="none"), width=4)

SMALL_PRESETS = ("surfaces", "paper")

MakeSupport = Callable[..., Support]


def random_support(seed: int, n_way: int = 3, n_shot: int = 4) -> Support:
    """Return noisy images whose classes differ in mean brightness."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n_way).repeat_interleave(n_shot)
    noise = torch.rand(n_way * n_shot, 1, 16, 16, generator=generator)
    return Support(noise + 0.3 * labels[:, None, None, None], labels, n_way)


@pytest.fixture
def make_support() -> MakeSupport:
    """Build a random support from a seed."""
    return random_support


@pytest.fixture
def small_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the nets of presets small, and their meta-batches one task, for tests of the command line."""
    for name in SMALL_PRESETS:
        chosen = PRESETS[name]
        net = replace(chosen.net_config, image=replace(chosen.net_config.image, side=16), width=16)
        small = replace(chosen, net_config=net, meta=replace(chosen.meta, meta_batch=1))
        monkeypatch.setitem(PRESETS, name, small)


@pytest.fixture(params=[SPEC, SURFACE_SPEC, RESNET_SPEC], ids=["conv4", "surface", "resnet12"])
def net(request: pytest.FixtureRequest) -> Net:
    """Build a small net of each kind."""
    return build(request.param, seed=3)


@pytest.fixture
def conv4() -> Net:
    """Build a small four-block net."""
    return build(SPEC, seed=3)
