"""Backbones of the user's: stages found, checkpoints made, adapted and exported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models.backbone_import import import_backbone
from models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from models.errors import CheckpointInvalid, InvalidConfig
from models.images.preprocessing import ImageConfig
from models.inference.embedding import OnnxEmbedder
from models.inference.export import checked_backbone_graph
from models.inference.predict import PredictionRequest
from models.nets import BackboneNet
from models.nets.stages import find_stages
from service.runtime.adapt_queue import JobControl
from service.runtime.loaded_checkpoint import LoadedCheckpoint
from tests.backbones import Convolutional, Transformer, Undecided, factory_of, weights_in

BUILDERS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "convolutional": (Convolutional, 96),
    "transformer": (Transformer, 32),
}


def imported(folder: Path, kind: str) -> Checkpoint:
    build, side = BUILDERS[kind]
    return import_backbone("own", factory_of(build), weights_in(folder, build), ImageConfig(3, side, "torchvision"))


def pictures(label: int, count: int, seed: int) -> list[Tensor]:
    """Stripes across or along, with noise."""
    generator = torch.Generator().manual_seed(2 * seed + label)
    stripes = (torch.arange(64) // 4 % 2 * 160.0 + 40)[None, :, None].expand(3, 64, 64)
    chosen = stripes if label else stripes.transpose(1, 2)
    return [(chosen + 30 * torch.rand(3, 64, 64, generator=generator)).to(torch.uint8) for _ in range(count)]


@pytest.mark.parametrize("kind", BUILDERS)
def test_an_imported_backbone_adapts_with_folds_and_predicts(kind: str, tmp_path: Path) -> None:
    path, checkpoint = tmp_path / "own.safetensors", imported(tmp_path, kind)
    save_checkpoint(checkpoint, path)
    loaded = LoadedCheckpoint(load_checkpoint(path, [checkpoint.net_config.factory]), torch.device("cpu"))
    try:
        labels = [0] * 6 + [1] * 6
        support = loaded.support([*pictures(0, 6, 1), *pictures(1, 6, 1)], labels, 2)
        candidate, _ = loaded.adapt_with_folds(support, torch.arange(12), checkpoint.recipe, 0, JobControl())
        rows = loaded.preprocess([*pictures(0, 5, 9), *pictures(1, 5, 9)])
        weights = loaded.serving_weights(loaded.delta(candidate.adapted))
        (predicted,) = loaded.predictor.predict([PredictionRequest(weights, rows)])
        assert predicted.probabilities.argmax(-1).tolist() == [0] * 5 + [1] * 5
    finally:
        loaded.close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", BUILDERS)
def test_the_graph_of_an_imported_backbone_computes_what_torch_does(kind: str, tmp_path: Path) -> None:
    net = imported(tmp_path, kind).build_net()
    assert isinstance(net, BackboneNet)
    generator = torch.Generator().manual_seed(3)
    embedder = OnnxEmbedder(checked_backbone_graph(net), net)
    for height, width in net.config.image.shapes:
        images = torch.randn(3, 3, height, width, generator=generator)
        assert torch.allclose(embedder.embed(images), net.embed(images), rtol=1e-3, atol=1e-3)


def test_a_backbone_that_cannot_be_exported_is_explained(tmp_path: Path) -> None:
    path = weights_in(tmp_path, Undecided)
    net = import_backbone("own", factory_of(Undecided), path, ImageConfig(3, 32)).build_net()
    assert isinstance(net, BackboneNet)
    with pytest.raises(CheckpointInvalid, match="cannot be exported"):
        checked_backbone_graph(net)


def test_the_last_block_of_each_resolution_is_among_the_stages() -> None:
    stages = find_stages(Convolutional().eval(), torch.zeros(2, 3, 64, 64))
    assert len(stages) == 7
    assert {"layer1.2", "layer2.2", "layer3.2"} <= set(stages)
    assert list(stages) == sorted(stages)


def test_the_blocks_of_a_transformer_are_its_stages() -> None:
    assert find_stages(Transformer().eval(), torch.zeros(2, 3, 32, 32)) == ("blocks.0", "blocks.1", "blocks.2")


def test_a_backbone_that_takes_any_shape_keeps_aspect_ratios_and_another_is_given_squares(tmp_path: Path) -> None:
    assert imported(tmp_path, "convolutional").net_config.image.fit == "area"
    assert imported(tmp_path, "transformer").net_config.image.fit == "stretch"


def plain() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))


def broken() -> nn.Module:
    raise RuntimeError("no such file")


def test_blocks_are_found_outside_of_containers() -> None:
    net = Convolutional()
    for name in ("layer1", "layer2", "layer3"):
        setattr(net, name, getattr(net, name)[0])
    assert find_stages(net.eval(), torch.zeros(2, 3, 64, 64)) == ("layer1", "layer2", "layer3")


def test_layers_in_a_row_are_stages_where_there_are_no_blocks() -> None:
    layers = [nn.Sequential(nn.Conv2d(width, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(True)) for width in (3, 4, 4)]
    assert find_stages(nn.Sequential(*layers).eval(), torch.zeros(2, 3, 32, 32)) == ("0", "1", "2")


@pytest.mark.parametrize(
    ("build", "side", "message"),
    [
        (Transformer, 64, "does not take images of 3 x 64 x 64"),
        (plain, 32, "no stages were found"),
    ],
)
def test_a_backbone_that_cannot_be_imported_is_explained(
    build: Callable[[], nn.Module], side: int, message: str, tmp_path: Path
) -> None:
    factory = f"{build.__module__}:{build.__name__}"
    with pytest.raises(InvalidConfig, match=message):
        import_backbone("own", factory, weights_in(tmp_path, build), ImageConfig(3, side))


def test_a_factory_that_fails_is_explained(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="failed \\(RuntimeError: no such file\\)"):
        import_backbone("own", f"{__name__}:broken", weights_in(tmp_path, Transformer), ImageConfig(3, 32))


def test_weights_of_another_net_are_rejected_with_a_short_list(tmp_path: Path) -> None:
    path = weights_in(tmp_path, Transformer)
    state = load_file(path)
    first, *_ = sorted(state)
    save_file({**{name: state[name] for name in state if name != first}, "extra": torch.zeros(1)}, path)
    with pytest.raises(CheckpointInvalid, match=rf"missing: {first}; unexpected: extra"):
        import_backbone("own", factory_of(Transformer), path, ImageConfig(3, 32))
    with pytest.raises(CheckpointInvalid, match=r"and \d+ more"):
        import_backbone("own", factory_of(Convolutional), path, ImageConfig(3, 32))


def test_weights_that_give_no_finite_features_are_rejected(tmp_path: Path) -> None:
    path = weights_in(tmp_path, Transformer)
    save_file({name: tensor.fill_(float("nan")) for name, tensor in load_file(path).items()}, path)
    with pytest.raises(CheckpointInvalid, match="not finite"):
        import_backbone("own", factory_of(Transformer), path, ImageConfig(3, 32))


def test_a_file_that_is_no_safetensors_file_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(b"\x80\x02pickled")
    with pytest.raises(CheckpointInvalid, match="not a safetensors file"):
        import_backbone("own", factory_of(Transformer), path, ImageConfig(3, 32))


def test_a_checkpoint_that_names_a_factory_is_loaded_only_if_the_factory_is_allowed(tmp_path: Path) -> None:
    path, checkpoint = tmp_path / "own.safetensors", imported(tmp_path, "transformer")
    save_checkpoint(checkpoint, path)
    assert load_checkpoint(path, [checkpoint.net_config.factory]).digest == checkpoint.digest
    for allowed in ([], ["os:abort"]):
        with pytest.raises(CheckpointInvalid, match="is not allowed"):
            load_checkpoint(path, allowed)


def test_a_checkpoint_from_elsewhere_cannot_have_a_function_called(tmp_path: Path) -> None:
    path, checkpoint = tmp_path / "own.safetensors", imported(tmp_path, "transformer")
    hostile = replace(checkpoint.net_config, factory="tests.backbones:no_such_function")
    save_checkpoint(replace(checkpoint, net_config=hostile), path)
    with pytest.raises(CheckpointInvalid, match=r"'tests\.backbones:no_such_function', which is not allowed"):
        load_checkpoint(path)
