"""Explanations: the map of an image points at what speaks for the class."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.checkpoint import Checkpoint, load_checkpoint
from models.config import NetConfig
from models.data.synthetic.fixed_camera import MAX_SHIFT, SIDE, VISIBLE, Fixture, PhysicalPart, photographs
from models.errors import ExplanationUnsupported
from models.images.preprocessing import ImageConfig, prepare
from models.inference.embedding import embed_images, embedder_for
from models.inference.explain import LONGEST_SIDE, explainer_for
from models.inference.predict import fold_calibrated, predict_images
from models.nets import build, heads
from models.task import Support
from models.validation.cross_validation import CrossValidator
from tests.backbones import Transformer, factory_of

CPU = torch.device("cpu")


def picture(part: PhysicalPart, generator: np.random.Generator) -> Tensor:
    return torch.from_numpy(photographs(part, generator, 1)[0])


def adapted(checkpoint: Checkpoint, images: list[Tensor], labels: list[int]) -> dict[str, Tensor]:
    """Adapt to the images and return folded weights."""
    net = checkpoint.build_net().eval()
    embedder = embedder_for(checkpoint, net, CPU)
    assert embedder is not None
    support = Support(embed_images(embedder, images, checkpoint.net_config.image), torch.tensor(labels), 2)
    validator = CrossValidator(net, dict(checkpoint.weights))
    result = validator.adapt(support, checkpoint.recipe, 0, torch.arange(len(images))).adapted
    return fold_calibrated(result.kept(), result.statistics)


def cells_of(defective: PhysicalPart, sound: PhysicalPart) -> NDArray[np.bool_]:
    """Return the cells of a map in which the defect can be, wherever the fixture's play has put the part."""
    changed = np.abs(defective.scene - sound.scene).max(axis=2) > VISIBLE
    scale = len(changed) / (SIDE + 2 * MAX_SHIFT)
    rows, columns = (places / scale - MAX_SHIFT for places in np.nonzero(changed))
    cells = np.zeros((LONGEST_SIDE, LONGEST_SIDE), dtype=np.bool_)
    reach = range(-defective.play, defective.play + 1)
    for dy in reach:
        for dx in reach:
            moved = np.stack([rows + dy, columns + dx]) * LONGEST_SIDE / SIDE
            y, x = np.clip(moved, 0, LONGEST_SIDE - 1).astype(int)
            cells[y, x] = True
    return cells


@pytest.mark.parametrize("kind", ["burr", "missing screw"])
def test_the_peak_of_the_map_is_at_a_small_defect(kind: str) -> None:
    """By chance, the peak would be among the cells where the defect can be in one image of ten."""
    checkpoint, generator = load_checkpoint("efficientnet-lite0"), np.random.default_rng(7)
    fixture = Fixture(generator)
    sound = fixture.part(generator)
    parts = [sound] * 10 + [fixture.part(generator, kind) for _ in range(10)]
    folded = adapted(checkpoint, [picture(part, generator) for part in parts], [0] * 10 + [1] * 10)
    explainer = explainer_for(checkpoint.build_net().eval(), CPU)
    hits, chances = [], []
    for _ in range(8):
        part = fixture.part(generator, kind)
        places = explainer.explain(folded, picture(part, generator), 1)
        assert places.shape == (LONGEST_SIDE, LONGEST_SIDE)
        assert (float(places.min()) >= 0, float(places.max())) == (True, 1.0)
        cells = cells_of(part, sound)
        hits.append(bool(cells.flatten()[int(places.argmax())]))
        chances.append(float(cells.mean()))
    assert sum(chances) / len(chances) < 0.1
    assert sum(hits) >= 5


@pytest.mark.parametrize(("height", "width", "grid"), [(60, 120, (12, 24)), (300, 200, (24, 16)), (16, 900, (1, 24))])
def test_the_map_has_the_aspect_ratio_of_the_image(height: int, width: int, grid: tuple[int, int]) -> None:
    checkpoint = load_checkpoint("surfaces")
    net = checkpoint.build_net().eval()
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    support = Support(prepare([image, image.flip(2)], checkpoint.net_config.image), torch.tensor([0, 1]), 2)
    result = CrossValidator(net, dict(checkpoint.weights)).adapt(support, checkpoint.recipe, 0, torch.arange(2)).adapted
    folded = fold_calibrated(result.kept(), result.statistics)
    assert explainer_for(net, CPU).explain(folded, image, 0).shape == grid


def test_a_net_that_adapts_every_weight_is_explained_by_its_last_maps() -> None:
    """The features of this net are its last maps, 2 x 2 places, so the head's weights name a place."""
    config = NetConfig("conv4", ImageConfig(channels=1, side=28, contrast="none"), width=8)
    net = build(config, seed=1)
    weights = net.start()
    generator = torch.Generator().manual_seed(2)
    for place, peak in enumerate([(0, 0), (0, LONGEST_SIDE - 1), (LONGEST_SIDE - 1, 0), (LONGEST_SIDE - 1,) * 2]):
        head = torch.zeros(2, 8, 4)
        head[1, :, place] = 1.0
        tensors = {name: tensor for name, tensor in weights.items() if not name.endswith((".scale", ".shift"))}
        biases = {f"{name}.bias": torch.full((8,), 0.1) for name in net.stage_names}
        folded = {**tensors, **biases, heads.WEIGHT: head.flatten(1), heads.BIAS: torch.zeros(2)}
        image = torch.randint(0, 256, (1, 28, 28), dtype=torch.uint8, generator=generator)
        assert predict_images(net, folded, prepare([image], config.image)).probabilities.argmax() == 1
        places = explainer_for(net, CPU).explain(folded, image, 1)
        assert float(places[peak]) == 1.0
        assert float(explainer_for(net, CPU).explain(folded, image, 0).max()) == 0.0


def test_a_backbone_without_maps_cannot_be_explained() -> None:
    config = NetConfig(
        "backbone", ImageConfig(3, 32, "imagenet"), factory=factory_of(Transformer), stages=("blocks.0", "blocks.2")
    )
    with pytest.raises(ExplanationUnsupported, match="tokens and not maps"):
        explainer_for(build(config, seed=0), CPU)
