"""Small tasks and nets for the tests of `models`."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from models.config import NetConfig
from models.images.preprocessing import ImageConfig
from models.nets import Net, build
from models.task import Support

SPEC = NetConfig("conv4", ImageConfig(channels=1, side=16, contrast="none"), width=8)
SURFACE_SPEC = NetConfig("surface", ImageConfig(channels=1, side=16, contrast="none"), width=16)
RESNET_SPEC = NetConfig("resnet12", ImageConfig(channels=1, side=16, contrast="none"), width=4)

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


@pytest.fixture(params=[SPEC, SURFACE_SPEC, RESNET_SPEC], ids=["conv4", "surface", "resnet12"])
def net(request: pytest.FixtureRequest) -> Net:
    """Build a small net of each kind."""
    return build(request.param, seed=3)


@pytest.fixture
def conv4() -> Net:
    """Build a small four-block net."""
    return build(SPEC, seed=3)
