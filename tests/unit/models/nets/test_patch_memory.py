"""Comparison of images with stored support images, place by place."""

from __future__ import annotations

import hashlib

import pytest
import torch
from torch import Tensor

from models.adaptation.adapt import adapt_one
from models.adaptation.inner_loop import run_inner_loop
from models.checkpoint import find_checkpoint, load_checkpoint
from models.config import BACKBONE_RECIPE, InnerLoopConfig
from models.errors import InvalidConfig
from models.feature_arrays import PATCH_CHANNELS, compare_patches
from models.inference.predict import (
    FeaturePredictor,
    PredictionRequest,
    fold_calibrated,
    predict_images,
)
from models.nets import BackboneNet, heads
from models.nets.patch_memory import (
    ALIGNED,
    BASIS,
    FEATURES_PER_CLASS,
    MOST_MAPS,
    MOST_WAYS,
    NAMES,
    PATCHES,
    SCALE,
    SHIFT,
    alignment,
    build_memory,
    can_remember,
    compare,
    projection,
)
from models.task import Support
from models.validation.cross_validation import CrossValidator

PLACES = 144
MEMORY = InnerLoopConfig(steps=0, learning_rate=0.01, head="lda", feature_gains="fisher", patch_memory=True)


@pytest.fixture(scope="module")
def net() -> BackboneNet:
    built = load_checkpoint(find_checkpoint("efficientnet-lite0")).build_net()
    assert isinstance(built, BackboneNet)
    return built


def parts(labels: Tensor, seed: int) -> Tensor:
    """Patches of parts under a fixed camera; those of class 1 differ at one place, which is another one each time."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(PATCH_CHANNELS, PLACES, generator=torch.Generator().manual_seed(0))
    shown: Tensor = common + 0.3 * torch.randn(len(labels), PATCH_CHANNELS, PLACES, generator=generator)
    for row, label in enumerate(labels.tolist()):
        if label == 1:
            place = int(torch.randint(PLACES, (1,), generator=generator))
            shown[row, :, place] += 3 * torch.randn(PATCH_CHANNELS, generator=generator)
    return shown.flatten(1)


def scenes(labels: Tensor, seed: int, contrast: float = 1.0) -> Tensor:
    """Patches that show something else in every image; `contrast` is that of class 1 beside class 0."""
    generator = torch.Generator().manual_seed(seed)
    shown = torch.randn(len(labels), PATCH_CHANNELS * PLACES, generator=generator)
    return shown * torch.where(labels[:, None] == 1, contrast, 1.0)


def support_of(
    net: BackboneNet, labels: Tensor, seed: int = 0, telling: float = 0.0, patches: Tensor | None = None
) -> Support:
    """Pooled features, which differ by class if they are `telling`, and patches, those of parts if none are given."""
    pooled = torch.randn(len(labels), net.feature_count, generator=torch.Generator().manual_seed(seed + 1))
    pooled += telling * labels[:, None]
    shown = parts(labels, seed) if patches is None else patches
    return Support(torch.cat([pooled, shown], 1), labels, int(labels.max()) + 1)


def two_classes(per_class: int = 10) -> Tensor:
    return torch.arange(2).repeat_interleave(per_class)


def test_the_projection_never_changes() -> None:
    signs = (projection(112) > 0).numpy().tobytes()
    assert hashlib.sha256(signs).hexdigest()[:12] == "2054c56559a5"


def test_features_tell_parts_with_a_defect_at_an_unseen_place() -> None:
    labels = two_classes()
    memory, _ = build_memory(parts(labels, 1), labels, torch.arange(20), 2)
    good, defective = compare(parts(labels, 2), *(memory[name] for name in NAMES)).view(2, 10, -1)
    largest_distance = 0
    assert good[:, largest_distance].max() < defective[:, largest_distance].min()


def test_changes_that_are_usual_in_the_support_do_not_count() -> None:
    """Such as the play of the parts and the light: here they are far larger than the defects."""
    directions = torch.randn(2, PATCH_CHANNELS * PLACES, generator=torch.Generator().manual_seed(9))

    def moved(seed: int) -> Tensor:
        amounts = 2 * torch.randn(20, 2, generator=torch.Generator().manual_seed(seed + 20))
        return parts(labels, seed) + amounts @ directions

    labels = two_classes()
    memory, _ = build_memory(moved(1), labels, torch.arange(20), 2)
    largest_distance = 0
    good, defective = compare(moved(2), *(memory[name] for name in NAMES)).view(2, 10, -1)
    assert good[:, largest_distance].max() < defective[:, largest_distance].min()
    good, defective = compare(moved(2), *(memory[name] for name in NAMES if name != BASIS)).view(2, 10, -1)
    assert good[:, largest_distance].max() > defective[:, largest_distance].min()


def test_versions_of_earlier_releases_compare_with_the_nearest_stored_image() -> None:
    stored = torch.randn(2, 3, PATCH_CHANNELS, PLACES, generator=torch.Generator().manual_seed(0))
    standard = {SCALE: torch.ones(2 * FEATURES_PER_CLASS), SHIFT: torch.zeros(2 * FEATURES_PER_CLASS)}
    image = stored[0, 1] + 0.01
    image[:, 7:] = stored[0, 2][:, 7:] - 0.01  # every place is near one of the images of class 0
    near, far = compare(image.flatten()[None], stored, standard[SCALE], standard[SHIFT]).view(2, -1)
    assert (near < far - 1).all()
    as_arrays = {PATCHES: stored.numpy(), **{name: tensor.numpy() for name, tensor in standard.items()}}
    in_numpy = torch.from_numpy(compare_patches(as_arrays, image.reshape(1, -1).numpy()))
    torch.testing.assert_close(in_numpy.view(2, -1), torch.stack([near, far]))


def test_alignment_is_the_share_of_variance_that_the_place_explains() -> None:
    common = torch.randn(PATCH_CHANNELS * PLACES, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(20, dtype=torch.int64)
    for share in (0.0, 0.5, 0.9):
        images = share**0.5 * common + (1 - share) ** 0.5 * scenes(labels, 3)
        assert alignment(images) == pytest.approx(share, abs=0.03)
    assert alignment(parts(two_classes(), 1)) > ALIGNED
    assert alignment(common.repeat(2, 1)) == 1


def test_support_images_are_not_compared_with_images_of_the_same_object() -> None:
    labels, groups = two_classes(4), torch.arange(4).repeat_interleave(2)
    once = parts(labels[::2], 3)
    twice = once.repeat_interleave(2, 0)  # two pictures of each object, exactly alike
    _, features = build_memory(twice, labels, groups, 2)
    _, alone = build_memory(once, labels[::2], torch.arange(4), 2)
    torch.testing.assert_close(features[::2], alone, atol=0.01, rtol=0)  # the basis trusts more images a little more


def test_no_bit_of_the_features_depends_on_the_other_images() -> None:
    labels = two_classes()
    memory, _ = build_memory(parts(labels, 1), labels, torch.arange(20), 2)
    weights, images = [memory[name] for name in NAMES], parts(labels, 2)
    together = compare(images, *weights)
    assert all(torch.equal(compare(images[row : row + 1], *weights)[0], together[row]) for row in range(20))


@pytest.mark.parametrize("n_way", [2, 3, MOST_WAYS])
def test_memories_of_any_number_of_classes_have_a_bounded_size(n_way: int) -> None:
    labels = torch.arange(n_way).repeat(30)
    memory, features = build_memory(parts(labels, 0), labels, torch.arange(len(labels)), n_way)
    assert memory[PATCHES].nbytes + memory[BASIS].nbytes <= 2 * MOST_MAPS * PATCH_CHANNELS * PLACES
    assert features.shape == (len(labels), n_way * FEATURES_PER_CLASS)


def test_a_memory_needs_two_objects_of_each_class() -> None:
    labels = two_classes(2)
    assert can_remember(labels, torch.tensor([0, 1, 2, 3]), 2)
    assert not can_remember(labels, torch.tensor([0, 1, 2, 2]), 2)
    assert not can_remember(torch.arange(MOST_WAYS + 1).repeat(2), torch.arange(2 * MOST_WAYS + 2), MOST_WAYS + 1)


def test_a_version_with_a_memory_recognises_defects_that_pooled_features_miss(net: BackboneNet) -> None:
    labels = two_classes()
    accuracies = []
    for recipe in (MEMORY, BACKBONE_RECIPE):
        adapted = adapt_one(net, {}, support_of(net, labels, 1), recipe, seed=0)
        folded, queries = fold_calibrated(adapted.kept(), adapted.statistics), support_of(net, labels, 5)
        predicted = predict_images(net, folded, queries.inputs).probabilities.argmax(-1)
        accuracies.append(float((predicted == labels).float().mean()))
    assert accuracies[0] >= 0.95 > accuracies[1]


def test_a_version_with_a_memory_is_served_as_it_predicts(net: BackboneNet) -> None:
    labels = two_classes()
    adapted = adapt_one(net, {}, support_of(net, labels, 1), MEMORY, seed=0)
    folded, queries = fold_calibrated(adapted.kept(), adapted.statistics, 1.5), support_of(net, labels, 5).inputs
    expected, predictor = predict_images(net, folded, queries), FeaturePredictor()
    request = PredictionRequest(predictor.serving_weights(folded), queries.numpy())
    (got,) = predictor.predict([request])
    assert expected.in_distribution is not None
    assert got.in_distribution is not None
    torch.testing.assert_close(got.probabilities, expected.probabilities, atol=1e-5, rtol=0)
    torch.testing.assert_close(got.in_distribution, expected.in_distribution, atol=1e-5, rtol=0)


def test_the_head_of_a_memory_scores_class_means_at_its_level_from_features_that_are_measured_once(
    net: BackboneNet,
) -> None:
    once, views = support_of(net, two_classes(), 1), 4
    support = Support(once.inputs.repeat(views, 1), once.labels.repeat(views), 2, views=views)
    result = run_inner_loop(net, {}, [support], MEMORY, [0])
    assert result.collected is not None  # otherwise the support is measured again after the steps
    features = result.collected[0].features
    _, compared = build_memory(once.inputs[:, net.feature_count :], once.labels, torch.arange(20), 2)
    assert torch.equal(features[0, :, net.feature_count :], compared.repeat(views, 1))
    means = heads.class_means(features, support.labels[None], 2)
    scores = (result.weights[heads.WEIGHT] * means).sum(-1) + result.weights[heads.BIAS]  # (tasks, ways)
    torch.testing.assert_close(scores.mean(-1), result.weights[heads.LEVEL])


def test_a_version_with_a_memory_takes_no_second_look(net: BackboneNet) -> None:
    """A memory compares places, and these are others in a turned image."""
    once = support_of(net, two_classes(), 1)
    support = Support(once.inputs.repeat(4, 1), once.labels.repeat(4), 2, views=4)
    for recipe, takes_one in ((MEMORY, False), (BACKBONE_RECIPE, True)):
        assert ("head.second_look" in adapt_one(net, {}, support, recipe, seed=0).weights) is takes_one


@pytest.mark.parametrize("n_way", [2, 5, MOST_WAYS])
def test_a_version_with_a_memory_takes_at_most_300_kilobytes(net: BackboneNet, n_way: int) -> None:
    adapted = adapt_one(net, {}, support_of(net, torch.arange(n_way).repeat(10)), MEMORY, seed=0)
    tensors = [*adapted.kept().values(), *adapted.statistics.values()]
    assert sum(tensor.nbytes for tensor in tensors) <= 300_000


def test_a_recipe_with_a_memory_needs_local_features(net: BackboneNet) -> None:
    labels = two_classes()
    pooled = Support(torch.randn(20, net.feature_count, generator=torch.Generator().manual_seed(0)), labels, 2)
    with pytest.raises(InvalidConfig, match="local features"):
        adapt_one(net, {}, pooled, MEMORY, seed=0)
    with pytest.raises(InvalidConfig, match="patch_memory"):
        InnerLoopConfig(steps=1, learning_rate=0.01, head="lda", patch_memory=True)


def chooses_a_memory(net: BackboneNet, support: Support) -> bool:
    candidate = CrossValidator(net, {}).adapt(support, BACKBONE_RECIPE, 0, torch.arange(len(support)))
    return candidate.recipe.patch_memory


def test_images_of_a_fixed_camera_get_a_memory_that_predicts_as_many_samples(net: BackboneNet) -> None:
    assert chooses_a_memory(net, support_of(net, two_classes(), 1, telling=1.0))


def test_images_of_a_fixed_camera_get_no_memory_where_it_predicts_far_fewer_samples(net: BackboneNet) -> None:
    good_parts = parts(torch.zeros(20, dtype=torch.int64), 2)  # so that the classes differ in pooled features alone
    assert not chooses_a_memory(net, support_of(net, two_classes(), 2, telling=0.2, patches=good_parts))


@pytest.mark.parametrize(("telling", "contrast", "chosen"), [(0.0, 1.5, True), (1.0, 1.5, False), (1.0, 1.0, False)])
def test_other_images_get_a_memory_only_if_it_predicts_more_samples(
    net: BackboneNet, telling: float, contrast: float, chosen: bool
) -> None:
    shown = scenes(two_classes(), 1, contrast)
    assert chooses_a_memory(net, support_of(net, two_classes(), 1, telling, shown)) is chosen


def test_images_of_every_shape_have_embeddings_of_the_same_size(net: BackboneNet) -> None:
    for shape in net.config.image.shapes[:2]:
        assert net.embed(torch.zeros(1, 3, *shape)).shape == (1, net.embedding_count)
