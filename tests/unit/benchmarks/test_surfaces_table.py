"""The table of methods on surfaces: equal episodes for all methods, and local binary patterns."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import surfaces_table
from benchmarks.fixtures import untrained
from benchmarks.surfaces_table import LBP_IMAGES, PATTERNS, Histograms, Patterns, lbp_accuracies
from models.adaptation.optimisers import Moments
from models.checkpoint import Checkpoint, load_checkpoint
from models.config import InnerLoopConfig, NetConfig
from models.data.class_dataset import ArrayDataset
from models.data.episodes import EpisodeSampler, EpisodeShape
from models.data.folders import open_folder
from models.images.preprocessing import ImageConfig, normalise
from models.meta.evaluation import EvaluationConfig
from models.nets import build, heads
from tests.generated import striped, tiny_checkpoint_in


@pytest.fixture
def stripes(tmp_path: Path) -> Path:
    folder = tmp_path / "stripes"
    for period in (3, 5, 9):
        (folder / f"period-{period}").mkdir(parents=True)
        for number, content in enumerate(striped(6, period)):
            (folder / f"period-{period}" / f"{number}.png").write_bytes(content)
    return folder


def both_orientations() -> torch.Tensor:
    """Vertical and horizontal stripes: (2, 1, 64, 64)."""
    stripes = (torch.arange(64) // 4 % 2).float().expand(64, 64)
    return torch.stack([stripes, stripes.T])[:, None]


@pytest.mark.parametrize("patterns", PATTERNS, ids=lambda patterns: patterns.method)
def test_histograms_sum_to_one_and_do_not_depend_on_brightness(patterns: Patterns) -> None:
    pytest.importorskip("skimage")
    dim = torch.randint(128, (2, 1, 32, 32), generator=torch.Generator().manual_seed(0)) / 255
    counted = Histograms(patterns).of(torch.cat([dim, 2 * dim]))
    assert counted.shape == (4, sum(patterns.bins(points) for points, _ in patterns.rings))
    assert counted.sum(1) == pytest.approx(3.0)
    assert counted[:2] == pytest.approx(counted[2:])
    assert counted[0] != pytest.approx(counted[1])


def test_only_patterns_with_orientation_distinguish_vertical_from_horizontal_stripes() -> None:
    pytest.importorskip("skimage")
    without, oriented = (Histograms(patterns).of(both_orientations()) for patterns in PATTERNS)
    assert without[0] == pytest.approx(without[1])
    assert abs(oriented[0] - oriented[1]).sum() > 1


def test_patterns_use_the_same_images_as_a_net_with_another_input(stripes: Path) -> None:
    def drawn(spec: ImageConfig) -> list[tuple[str, int]]:
        """Class and index of each query of an episode, found by its pixels."""
        classes = open_folder(stripes, spec)
        task = EpisodeSampler(classes, EpisodeShape(n_way=2, n_shot=2, n_query=2), spec).task(4)
        places = []
        for image, label in zip(task.query_inputs, task.query_labels.tolist(), strict=True):
            name = task.class_names[label]
            of_class = normalise(classes.images(classes.class_names.index(name)), spec)
            places.append((name, int((of_class == image).all((1, 2, 3)).nonzero())))
        return places

    assert len(set(drawn(LBP_IMAGES))) == 4
    assert drawn(ImageConfig(channels=1, side=32)) == drawn(LBP_IMAGES)


def test_the_classifier_learns_from_the_support() -> None:
    pytest.importorskip("sklearn")
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(60, (2, 6, 1, 128, 128), generator=generator)
    upright = (torch.arange(128) // 4 % 2 * 100).expand(128, 128)
    arrays = [(noise[0] + upright).to(torch.uint8), (noise[1] + upright.T).to(torch.uint8)]
    classes, shape = ArrayDataset("stripes", ("upright", "lying"), arrays), EpisodeShape(n_way=2, n_shot=3, n_query=3)
    assert list(lbp_accuracies(classes, shape, EvaluationConfig(3), Histograms(PATTERNS[1]))) == [1.0, 1.0, 1.0]


def test_an_untrained_checkpoint_differs_only_in_its_weights() -> None:
    spec = NetConfig("conv4", ImageConfig(channels=1, side=16), width=8)
    recipe = InnerLoopConfig(steps=1, learning_rate=0.1, optimiser="adam", carry_moments=True, head="linear")
    net = build(spec, seed=1)
    weights = {**net.start(), **heads.linear_head(net.feature_count, 4, torch.Generator().manual_seed(1))}
    moments = Moments({name: tensor.square() for name, tensor in weights.items()}, 9)
    random = untrained(Checkpoint("own", spec, recipe, weights, moments), seed=2)
    assert random.settings() == {**Checkpoint("own", spec, recipe, weights, moments).settings(), "moment_steps": 0}
    assert random.weights[heads.WEIGHT].shape == weights[heads.WEIGHT].shape
    assert not torch.equal(random.weights["block1.weight"], weights["block1.weight"])
    assert random.moments is not None
    assert not any(tensor.any() for tensor in random.moments.second.values())


@pytest.mark.parametrize("features", [True, False])
def test_every_method_is_scored_on_the_same_episodes_and_compared_with_the_first(
    features: bool, stripes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(surfaces_table, "lbp_available", lambda: features)
    if features:
        pytest.importorskip("sklearn")
    checkpoint = tiny_checkpoint_in(tmp_path)
    line = f"--checkpoint {checkpoint} --dataset folder:{stripes} --ways 3 --shots 1 2 --queries 2 --episodes 3"
    monkeypatch.setattr(sys, "argv", ["surfaces_table.py", *line.split(), "--rounds", "0", "--json"])
    surfaces_table.main()
    printed = capsys.readouterr()
    record = json.loads(printed.out)
    assert len(record["rows"]) == (6 if features else 4)
    assert ("pip install 'anole[benchmarks]'" in printed.err) == (not features)
    assert record["checkpoint_bytes"] == checkpoint.stat().st_size
    assert record["digest"] == load_checkpoint(checkpoint).digest
    first, second = (row["cells"][1] for row in record["rows"][:2])
    assert (first["shots"], first["difference_to_first"]) == (2, None)
    differences = [own - other for own, other in zip(second["accuracies"], first["accuracies"], strict=True)]
    assert second["difference_to_first"] == pytest.approx(sum(differences) / 3)
    assert f"{100 * second['difference_to_first']:+.1f}" in surfaces_table.table(record)
