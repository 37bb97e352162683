"""Prediction: folding, and independence of the other images in the batch."""

from __future__ import annotations

import torch

from models.adaptation.adapt import adapt_one
from models.config import InnerLoopConfig
from models.inference.predict import class_probabilities, fold_calibrated, predict_images
from models.nets import Net, call_net, heads
from models.nets.normalisation import fold
from tests.unit.models.conftest import MakeSupport

RECIPE = InnerLoopConfig(steps=3, learning_rate=0.05, batch_size=6)


def test_folded_weights_give_the_same_predictions_as_frozen_statistics(net: Net, make_support: MakeSupport) -> None:
    adapted = adapt_one(net, net.start(), make_support(1), RECIPE, seed=0)
    images = make_support(2).inputs
    stacked = {name: tensor[None] for name, tensor in adapted.weights.items()}
    statistics = {name: tensor[None] for name, tensor in adapted.statistics.items()}
    with torch.no_grad():
        expected = heads.logits(stacked, call_net(net, stacked, images[None], statistics))[0].softmax(-1)
    got = class_probabilities(net, fold(adapted.weights, adapted.statistics), images)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_a_prediction_does_not_depend_on_the_other_images_in_the_batch(net: Net, make_support: MakeSupport) -> None:
    adapted = adapt_one(net, net.start(), make_support(1), RECIPE, seed=0)
    folded = fold(adapted.weights, adapted.statistics)
    images = make_support(2, n_way=4, n_shot=5).inputs
    together = class_probabilities(net, folded, images)
    alone = torch.cat([class_probabilities(net, folded, image[None]) for image in images])
    extreme = torch.cat([images[:1], 1000 * images[1:]])
    assert float((together - alone).abs().max()) <= 1e-5
    assert float((class_probabilities(net, folded, extreme)[0] - alone[0]).abs().max()) <= 1e-5


def test_probabilities_sum_to_one_over_the_classes(net: Net, make_support: MakeSupport) -> None:
    adapted = adapt_one(net, net.start(), make_support(1, n_way=7), RECIPE, seed=0)
    rows = class_probabilities(net, fold(adapted.weights, adapted.statistics), make_support(2).inputs)
    assert rows.shape == (12, 7)
    torch.testing.assert_close(rows.sum(1), torch.ones(12))


def test_sixty_four_classes_get_a_head_of_sixty_four_rows(net: Net, make_support: MakeSupport) -> None:
    adapted = adapt_one(net, net.start(), make_support(1, n_way=64, n_shot=1), RECIPE, seed=0)
    assert adapted.weights[heads.WEIGHT].shape == (64, net.feature_count)


def test_the_in_distribution_score_does_not_depend_on_the_batch(net: Net, make_support: MakeSupport) -> None:
    adapted = adapt_one(net, net.start(), make_support(1), RECIPE, seed=0)
    weights = fold_calibrated(adapted.kept(), adapted.statistics)
    images = make_support(2).inputs
    together = predict_images(net, weights, torch.cat([images[:1], 1000 * images[1:]])).in_distribution
    alone = predict_images(net, weights, images[:1]).in_distribution
    assert together is not None
    assert alone is not None
    assert abs(float(together[0] - alone[0])) <= 1e-5


def test_an_image_unlike_the_support_scores_lower_than_the_support(net: Net, make_support: MakeSupport) -> None:
    support = make_support(1)
    adapted = adapt_one(net, net.start(), support, RECIPE, seed=0)
    weights = fold_calibrated(adapted.kept(), adapted.statistics)
    support_scores = predict_images(net, weights, support.inputs).in_distribution
    other_scores = predict_images(net, weights, 1 - 2 * make_support(9).inputs.square()).in_distribution
    assert support_scores is not None
    assert other_scores is not None
    assert float(support_scores.median()) > float(other_scores.median())


def test_a_temperature_changes_confidences_and_no_label(net: Net, make_support: MakeSupport) -> None:
    adapted = adapt_one(net, net.start(), make_support(1), RECIPE, seed=0)
    images = make_support(2).inputs
    plain = predict_images(net, fold_calibrated(adapted.kept(), adapted.statistics), images).probabilities
    hot = predict_images(
        net, fold_calibrated(adapted.kept(), adapted.statistics, temperature=3.0), images
    ).probabilities
    assert torch.equal(plain.argmax(-1), hot.argmax(-1))
    torch.testing.assert_close(hot, (plain.log() / 3).softmax(-1), rtol=1e-4, atol=1e-5)


def test_a_temperature_changes_nothing_about_a_second_look(net: Net, make_support: MakeSupport) -> None:
    adapted = adapt_one(net, net.start(), make_support(1), RECIPE, seed=0)
    images, turned = make_support(2).inputs, make_support(3).inputs
    weights = {**adapted.kept(), heads.SECOND_LOOK: torch.tensor(20.0)}
    plain, hot = (
        predict_images(net, fold_calibrated(weights, adapted.statistics, each), images, turned).probabilities
        for each in (1.0, 3.0)
    )
    torch.testing.assert_close(hot, (plain.log() / 3).softmax(-1), rtol=1e-4, atol=1e-5)
    alone = predict_images(net, fold_calibrated(weights, adapted.statistics), images).probabilities
    assert not torch.allclose(plain.log(), alone.log(), atol=0.1)


def test_weights_without_class_means_give_no_in_distribution_score(net: Net, make_support: MakeSupport) -> None:
    adapted = adapt_one(net, net.start(), make_support(1), RECIPE, seed=0)
    folded = fold_calibrated(adapted.weights, adapted.statistics)
    assert predict_images(net, folded, make_support(2).inputs).in_distribution is None
