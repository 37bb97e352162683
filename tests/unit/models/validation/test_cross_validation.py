"""Cross-validation: folds adapted with the version, and the results from held-out samples."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import pytest
import torch

from models import weights as weight_ops
from models.adaptation.adapt import BatchingOptions, adapt_one
from models.adaptation.executor import FairExecutor
from models.config import InnerLoopConfig
from models.errors import AdaptationDiverged, InvalidConfig
from models.nets import Net
from models.nets.head_posterior import COUNTS
from models.task import Support
from models.validation.calibration import HeldOutLabels, estimate_accuracy
from models.validation.cross_validation import CrossValidationResult, CrossValidationSkipped, CrossValidator
from tests.unit.models.conftest import MakeSupport, random_support

RECIPE = InnerLoopConfig(steps=3, learning_rate=0.01, batch_size=6)


def clear_support(n_way: int = 3, n_shot: int = 6) -> Support:
    """Return classes that every net can separate: noisy stripes of different widths."""
    generator = torch.Generator().manual_seed(5)
    labels = torch.arange(n_way).repeat_interleave(n_shot)
    stripes = torch.sin(torch.arange(16) * 2 * torch.pi / (2.5 + 3 * labels[:, None]))[:, None, None, :]
    noise = 0.1 * torch.rand(len(labels), 1, 16, 16, generator=generator)
    return Support(stripes + noise, labels, n_way)


def ungrouped(support: Support) -> torch.Tensor:
    """Return groups of one sample each."""
    return torch.arange(len(support))


def cross_validate(net: Net, support: Support, groups: torch.Tensor | None = None) -> CrossValidationResult:
    validated = CrossValidator(net, net.start()).adapt_and_score(
        support, RECIPE, 0, ungrouped(support) if groups is None else groups
    )
    assert isinstance(validated.validation, CrossValidationResult)
    return validated.validation


@pytest.mark.parametrize("threads", [1, 3])
def test_the_version_equals_one_adapted_without_folds_bit_for_bit(
    net: Net, make_support: MakeSupport, threads: int
) -> None:
    support = make_support(1)
    with closing(FairExecutor(threads)) as executor:
        validator = CrossValidator(net, net.start(), BatchingOptions(executor=executor))
        validated = validator.adapt_and_score(support, RECIPE, 7, ungrouped(support))
    expected = adapt_one(net, net.start(), support, RECIPE, 7)
    assert weight_ops.digest(validated.adapted.weights) == weight_ops.digest(expected.weights)
    assert weight_ops.digest(validated.adapted.statistics) == weight_ops.digest(expected.statistics)


def test_the_result_depends_on_the_seed_and_not_on_the_threads(net: Net) -> None:
    support = clear_support()
    with closing(FairExecutor(2)) as executor:
        first, again = (
            CrossValidator(net, net.start(), batching)
            .adapt_and_score(support, RECIPE, 3, ungrouped(support))
            .validation
            for batching in (BatchingOptions(), BatchingOptions(executor=executor))
        )
    assert isinstance(first, CrossValidationResult)
    assert isinstance(again, CrossValidationResult)
    assert (first.estimate, first.temperature, first.held_out) == (again.estimate, again.temperature, again.held_out)


def test_easy_classes_get_a_high_estimate(net: Net) -> None:
    result = cross_validate(net, clear_support())
    assert result.estimate.accuracy > 0.9
    assert result.estimate.low < result.estimate.accuracy <= result.estimate.high
    assert result.confusion.sum() == 18
    assert int(result.confusion.diagonal().sum()) >= 16
    assert result.label_issues == ()


def test_random_labels_get_an_estimate_at_chance(net: Net) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(60, 1, 16, 16, generator=generator)
    support = Support(noise, torch.arange(60) % 3, 3)
    estimate = cross_validate(net, support).estimate
    assert estimate.accuracy < 0.6
    assert estimate.low <= 1 / 3 <= estimate.high


def test_every_sample_has_a_held_out_prediction(net: Net) -> None:
    held_out = cross_validate(net, clear_support()).held_out
    assert len(held_out) == 18
    assert all(prediction is not None and 0 < prediction.confidence <= 1 for prediction in held_out)


def test_grouping_duplicates_removes_their_bias(net: Net, make_support: MakeSupport) -> None:
    generator = torch.Generator().manual_seed(1)
    noise = torch.rand(8, 1, 16, 16, generator=generator)  # only duplicates can be predicted correctly
    images, labels = noise.repeat(3, 1, 1, 1), (torch.arange(8) % 2).repeat(3)
    support = Support(images, labels, 2)
    recipe = replace(RECIPE, steps=0)
    ungrouped_result = (
        CrossValidator(net, net.start()).adapt_and_score(support, recipe, 0, ungrouped(support)).validation
    )
    grouped_result = (
        CrossValidator(net, net.start()).adapt_and_score(support, recipe, 0, torch.arange(8).repeat(3)).validation
    )
    assert isinstance(ungrouped_result, CrossValidationResult)
    assert isinstance(grouped_result, CrossValidationResult)
    assert grouped_result.estimate.accuracy < ungrouped_result.estimate.accuracy
    assert (
        grouped_result.estimate.high - grouped_result.estimate.low
        > ungrouped_result.estimate.high - ungrouped_result.estimate.low
    )


def test_wrong_labels_are_found_with_the_class_they_look_like(net: Net) -> None:
    support = clear_support()
    labels = support.labels.clone()
    labels[2], labels[15] = 1, 0
    result = cross_validate(net, replace(support, labels=labels))
    predicted = {issue.sample: issue.predicted for issue in result.label_issues}
    assert predicted == {2: 0, 15: 2}
    assert all(issue.confidence > 0.4 for issue in result.label_issues)


def test_flip_augmentation_adds_no_held_out_predictions(net: Net) -> None:
    support = clear_support()
    labels = support.labels.clone()
    labels[5] = 1
    candidate = replace(support, labels=labels)
    validated = CrossValidator(net, net.start()).adapt_and_score(
        candidate, replace(RECIPE, flip_augment=True), 0, ungrouped(support)
    )
    assert isinstance(validated.validation, CrossValidationResult)
    assert int(validated.validation.confusion.sum()) == 18
    assert [issue.sample for issue in validated.validation.label_issues] == [5]


@pytest.mark.parametrize(("steps", "of_folds"), [(9, 6), (10, 7)])
def test_folds_have_seeds_of_their_own_and_fewer_steps_in_proportion(net: Net, steps: int, of_folds: int) -> None:
    support, recipe = clear_support(), replace(RECIPE, steps=steps)
    plan = CrossValidator(net, net.start()).plan(support, recipe, 40, ungrouped(support))
    version, *folds = plan.inputs
    assert (version.seed, version.recipe.steps, len(version.support)) == (40, steps, 18)
    assert [fold.seed for fold in folds] == [41, 42, 43]
    assert [(fold.recipe.steps, len(fold.support)) for fold in folds] == [(of_folds, 12)] * 3


def test_the_folds_of_a_version_with_one_step_take_one_step_too(conv4: Net) -> None:
    support = clear_support(n_way=2, n_shot=2)
    plan = CrossValidator(conv4, conv4.start()).plan(support, replace(RECIPE, steps=1), 0, ungrouped(support))
    assert min(len(fold.support) for fold in plan.inputs) == 2  # half of the samples
    assert [fold.recipe.steps for fold in plan.inputs] == [1] * len(plan.inputs)


def test_the_folds_of_the_largest_seed_have_seeds_that_are_allowed(conv4: Net) -> None:
    support = clear_support()
    plan = CrossValidator(conv4, conv4.start()).plan(support, RECIPE, 2**63 - 1, ungrouped(support))
    assert len({fold.seed for fold in plan.inputs}) == 4
    assert all(0 <= fold.seed < 2**63 for fold in plan.inputs)


def test_the_seed_of_the_version_decides_what_the_folds_hold_out(conv4: Net) -> None:
    support, validator = clear_support(), CrossValidator(conv4, conv4.start())
    first, again, other = (
        validator.plan(support, RECIPE, seed, ungrouped(support)).folds.test_fold.tolist() for seed in (1, 1, 2)
    )
    assert first == again != other


def test_the_estimate_counts_each_part_once(net: Net) -> None:
    support = clear_support()
    groups = torch.arange(18) // 2
    result = cross_validate(net, support, groups)
    predicted = torch.tensor([prediction.predicted for prediction in result.held_out if prediction is not None])
    judged = HeldOutLabels(predicted == support.labels, support.labels, groups)
    assert result.estimate == estimate_accuracy(judged, result.train_share, 3)
    assert result.estimate.low < estimate_accuracy(replace(judged, groups=torch.arange(18)), result.train_share, 3).low


@pytest.mark.parametrize("flipped", [(2, 15), (0, 6, 13)])
def test_a_suspect_has_the_class_and_the_confidence_of_its_held_out_prediction(
    net: Net, flipped: tuple[int, ...]
) -> None:
    support = clear_support()
    labels = support.labels.clone()
    labels[list(flipped)] = (labels[list(flipped)] + 1) % 3
    result = cross_validate(net, replace(support, labels=labels))
    assert result.label_issues
    for issue in result.label_issues:
        held_out = result.held_out[issue.sample]
        assert held_out is not None
        assert (issue.predicted, issue.confidence) == (held_out.predicted, held_out.confidence)
        assert issue.predicted != labels[issue.sample]


@pytest.mark.parametrize(("clear", "doubtful"), [(1, 4), (4, 1)])
def test_the_most_likely_suspect_comes_first(conv4: Net, clear: int, doubtful: int) -> None:
    support = clear_support()
    inputs, labels = support.inputs.clone(), support.labels.clone()
    inputs[doubtful] = 0.65 * inputs[doubtful] + 0.35 * inputs[6]  # has something of the class that it is labelled as
    labels[[clear, doubtful]] = 1
    issues = cross_validate(conv4, replace(support, inputs=inputs, labels=labels)).label_issues
    assert [issue.sample for issue in issues] == [clear, doubtful]


def test_a_rare_class_counts_as_much_as_a_frequent_one(net: Net) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(40, 1, 16, 16, generator=generator)
    result = cross_validate(net, Support(noise, (torch.arange(40) >= 34).long(), 2))
    per_class = result.confusion.diagonal() / result.confusion.sum(1)
    assert abs(result.estimate.accuracy - float(per_class.double().mean())) < 0.1
    assert result.estimate.accuracy < 0.75 < 34 / 40


def test_the_confidence_of_held_out_predictions_is_calibrated(net: Net) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(60, 1, 16, 16, generator=generator)
    overconfident = replace(RECIPE, steps=0, head_scale=1.0)
    support = Support(noise, torch.arange(60) % 3, 3)
    validated = CrossValidator(net, net.start()).adapt_and_score(support, overconfident, 0, ungrouped(support))
    assert isinstance(validated.validation, CrossValidationResult)
    confidences = [prediction.confidence for prediction in validated.validation.held_out if prediction is not None]
    accuracy = int(validated.validation.confusion.diagonal().sum()) / 60
    assert validated.validation.temperature > 1.5
    assert abs(sum(confidences) / 60 - accuracy) < 0.25


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_the_given_share_of_held_out_samples_is_below_the_unknown_threshold(conv4: Net, share: float) -> None:
    support, validator = clear_support(n_shot=8), CrossValidator(conv4, conv4.start())
    result = validator.score(validator.adapt(support, RECIPE, 0, ungrouped(support)), share)
    assert isinstance(result, CrossValidationResult)
    scores = [prediction.in_distribution for prediction in result.held_out if prediction is not None]
    below = sum(score < result.unknown_threshold for score in scores)
    assert below / len(scores) == pytest.approx(share, abs=1 / len(scores))


def test_classes_whose_images_nearly_repeat_each_other_are_named(net: Net) -> None:
    generator = torch.Generator().manual_seed(3)
    shown = torch.rand(6, 1, 16, 16, generator=generator).repeat(4, 1, 1, 1)
    images = shown + 0.01 * torch.rand(shown.shape, generator=generator)
    support = Support(images, torch.arange(24) % 2, 2)
    assert cross_validate(net, support).alike == (0, 1)
    assert cross_validate(net, support, torch.arange(24) % 6).alike == ()


def test_two_classes_of_two_samples_can_be_cross_validated(net: Net) -> None:
    result = cross_validate(net, clear_support(n_way=2, n_shot=2))
    assert result.folds == 3
    assert all(prediction is not None for prediction in result.held_out)
    assert result.estimate.high - result.estimate.low > 0.3


def test_the_only_sample_of_a_class_is_never_held_out(net: Net) -> None:
    support = clear_support()
    kept = torch.tensor([*range(13)])  # the third class has a single sample
    result = cross_validate(net, Support(support.inputs[kept], support.labels[kept], 3))
    assert result.held_out[12] is None
    assert sum(prediction is not None for prediction in result.held_out) == 12
    assert result.confusion[2].sum() == 0


def test_very_unequal_classes_can_be_cross_validated(net: Net) -> None:
    support = clear_support(n_way=2, n_shot=20)
    kept = torch.tensor([*range(20), 20, 21])
    result = cross_validate(net, Support(support.inputs[kept], support.labels[kept], 2))
    assert result.confusion.sum(1).tolist() == [20, 2]


@pytest.mark.parametrize("n_way", [2, 5])
def test_one_sample_per_class_gives_a_version_and_a_reason_for_skipping(net: Net, n_way: int) -> None:
    support = random_support(1, n_way=n_way, n_shot=1)
    validated = CrossValidator(net, net.start()).adapt_and_score(support, RECIPE, 0, ungrouped(support))
    assert isinstance(validated.validation, CrossValidationSkipped)
    assert "one sample" in validated.validation.reason
    assert len(validated.adapted.weights) > 2


def test_identical_images_give_a_version_and_a_reason_for_skipping(net: Net) -> None:
    support = Support(torch.full((6, 1, 16, 16), 0.5), torch.tensor([0, 0, 0, 1, 1, 1]), 2)
    validated = CrossValidator(net, net.start()).adapt_and_score(support, RECIPE, 0, torch.zeros(6, dtype=torch.int64))
    assert isinstance(validated.validation, CrossValidationSkipped)
    assert "copies" in validated.validation.reason


def test_a_prototype_head_without_inner_steps_can_be_cross_validated(net: Net) -> None:
    support = clear_support()
    validated = CrossValidator(net, net.start()).adapt_and_score(
        support, replace(RECIPE, steps=0), 0, ungrouped(support)
    )
    assert isinstance(validated.validation, CrossValidationResult)
    assert validated.validation.estimate.accuracy > 0.9


def test_a_diverging_version_raises(conv4: Net, make_support: MakeSupport) -> None:
    support = make_support(1)
    with pytest.raises(AdaptationDiverged):
        CrossValidator(conv4, conv4.start()).adapt_and_score(
            support, replace(RECIPE, learning_rate=1e30, steps=10), 0, ungrouped(support)
        )


def test_with_a_posterior_temperature_and_confidence_are_those_of_the_averaged_probabilities(
    conv4: Net, make_support: MakeSupport
) -> None:
    support, bayes = make_support(2, n_way=2, n_shot=8), replace(RECIPE, uncertainty="bayes")
    validator = CrossValidator(conv4, conv4.start())
    point, averaged = (validator.adapt_and_score(support, own, 0, ungrouped(support)) for own in (RECIPE, bayes))
    assert isinstance(point.validation, CrossValidationResult)
    assert isinstance(averaged.validation, CrossValidationResult)
    # Averaging over class means flattens probabilities; the temperature makes up for it.
    assert averaged.validation.temperature < point.validation.temperature
    weights = {name: tensor for name, tensor in averaged.adapted.weights.items() if name in point.adapted.weights}
    assert weight_ops.digest(weights) == weight_ops.digest(point.adapted.weights)


def test_copies_of_one_object_do_not_make_class_means_better_known(conv4: Net, make_support: MakeSupport) -> None:
    bayes, groups = replace(RECIPE, uncertainty="bayes"), torch.tensor([0, 0, 0, 0, 1, 2, 3, 4, 5, 5, 6, 7])
    validator = CrossValidator(conv4, conv4.start())
    adapted = validator.adapt(make_support(1, n_way=3, n_shot=4), bayes, 0, groups).adapted
    assert adapted.weights[COUNTS].tolist() == [1, 4, 3]


def test_the_linear_head_has_no_posterior() -> None:
    with pytest.raises(InvalidConfig, match="uncertainty is 'bayes'; allowed: point"):
        replace(RECIPE, head="linear", uncertainty="bayes")
