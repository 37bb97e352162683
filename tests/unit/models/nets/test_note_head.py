"""Notes beside the images of a frozen backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from models.adaptation.adapt import Adapted, BatchingOptions, adapt, adapt_one
from models.checkpoint import load_checkpoint
from models.config import BACKBONE_RECIPE, InnerLoopConfig
from models.inference.predict import (
    FeaturePredictor,
    PredictionRequest,
    Predictions,
    fold_calibrated,
    predict_images,
)
from models.modalities.rows import keep_only, pack_rows
from models.modalities.text import TEXT_SIZE, text_vector
from models.nets import BackboneNet, heads
from models.task import Support
from models.validation.cross_validation import CrossValidationResult, CrossValidator

SIDES = ("drive side", "operator side")
LABELS = torch.arange(4).repeat_interleave(5)
"""A class is a kind, which the image shows, on a side, which the note names: kind = class // 2, side = class % 2."""

MEMORY = InnerLoopConfig(steps=0, learning_rate=0.01, head="lda", feature_gains="fisher", patch_memory=True)


@pytest.fixture(scope="module")
def net() -> BackboneNet:
    built = load_checkpoint("efficientnet-lite0").build_net()
    assert isinstance(built, BackboneNet)
    return built


def images(net: BackboneNet, seed: int) -> Tensor:
    """Embedded images that show the kind of each label."""
    embedded = torch.randn(len(LABELS), net.embedding_count, generator=torch.Generator().manual_seed(seed))
    embedded[:, : net.feature_count] += (LABELS // 2)[:, None] * 0.5
    return embedded


def sides(labels: Tensor = LABELS) -> list[str | None]:
    return [f"shift {place % 3}, {SIDES[label % 2]}" for place, label in enumerate(labels.tolist())]


def rows(embedded: Tensor, notes: Sequence[str | None]) -> Tensor:
    missing = torch.full((TEXT_SIZE,), torch.nan)
    vectors = [missing if note is None else text_vector(note) for note in notes]
    return pack_rows(embedded, torch.stack(vectors), TEXT_SIZE)


def taught(net: BackboneNet, inputs: Tensor, recipe: InnerLoopConfig = BACKBONE_RECIPE) -> Adapted:
    return adapt_one(net, {}, Support(inputs, LABELS, 4), recipe, seed=0)


def predicted(net: BackboneNet, version: Adapted, inputs: Tensor) -> Predictions:
    return predict_images(net, fold_calibrated(version.kept(), version.statistics), inputs)


def accuracy(found: Predictions) -> float:
    return float((found.probabilities.argmax(-1) == LABELS).float().mean())


@pytest.mark.parametrize("recipe", [BACKBONE_RECIPE, replace(BACKBONE_RECIPE, steps=2)], ids=["lda", "steps"])
def test_a_note_decides_where_images_look_alike(net: BackboneNet, recipe: InnerLoopConfig) -> None:
    version = taught(net, rows(images(net, 1), sides()), recipe)
    asked = rows(images(net, 2), sides())
    assert accuracy(predicted(net, version, asked)) >= 0.95
    assert accuracy(predicted(net, version, keep_only(asked, TEXT_SIZE, "image"))) <= 0.7


def test_without_a_note_a_prediction_is_that_of_the_images_alone(net: BackboneNet) -> None:
    with_notes, alone = taught(net, rows(images(net, 1), sides())), taught(net, images(net, 1))
    asked = images(net, 2)
    expected = predicted(net, alone, asked).probabilities
    for unnoted in (asked, rows(asked, [None] * len(asked))):
        torch.testing.assert_close(predicted(net, with_notes, unnoted).probabilities, expected, atol=1e-5, rtol=0)


def test_images_without_any_note_give_the_same_version_to_the_bit(net: BackboneNet) -> None:
    alone, empty = (taught(net, inputs).kept() for inputs in (images(net, 1), rows(images(net, 1), [None] * 20)))
    assert alone.keys() == empty.keys()
    assert all(torch.equal(alone[name], empty[name]) for name in alone)


@pytest.mark.parametrize("note", ["shift {}", "line 3"], ids=["drawn", "the same"])
def test_notes_that_tell_nothing_count_for_nothing(net: BackboneNet, note: str) -> None:
    told = taught(net, rows(images(net, 1), [note.format(place % 5) for place in range(len(LABELS))]))
    assert told.weights[heads.LEVEL] == pytest.approx(float(taught(net, images(net, 1)).weights[heads.LEVEL]))
    columns = told.weights[heads.WEIGHT][:, net.feature_count :]
    assert columns.abs().max() < 1e-4
    assert taught(net, rows(images(net, 1), sides())).weights[heads.WEIGHT][:, net.feature_count :].abs().max() > 0.1


def test_a_note_unlike_those_of_the_support_counts_no_more_than_they_do(net: BackboneNet) -> None:
    told = taught(net, rows(images(net, 1), [f"lot {label + 1}" for label in LABELS.tolist()]))
    predictor = FeaturePredictor(net.embedding_count)
    weights = predictor.serving_weights(fold_calibrated(told.kept(), told.statistics))

    def distance(note: str | None) -> float:
        asked = rows(images(net, 2), [note] * len(LABELS))
        (found,) = predictor.predict([PredictionRequest(weights, asked.numpy())])
        alone = predicted(net, told, images(net, 2)).probabilities
        torch.testing.assert_close(found.probabilities, predicted(net, told, asked).probabilities, atol=1e-5, rtol=0)
        return float((found.probabilities.log() - alone.log()).abs().amax())

    assert distance(None) < 1e-3
    assert distance("2") <= 1.5 * max(distance(f"lot {place}") for place in range(1, 5))


def test_one_note_a_class_counts_and_a_class_may_have_none(net: BackboneNet) -> None:
    notes = [note if place in (0, 5, 10) else None for place, note in enumerate(sides())]
    version = taught(net, rows(images(net, 1), notes))
    columns = version.weights[heads.WEIGHT][:, net.feature_count :]
    assert columns[:3].abs().amax(1).min() > 0.1
    assert torch.equal(columns[3], torch.zeros(TEXT_SIZE + 1))


@pytest.mark.parametrize("recipe", [BACKBONE_RECIPE, MEMORY], ids=["lda", "memory"])
def test_a_version_with_notes_is_served_as_it_predicts(net: BackboneNet, recipe: InnerLoopConfig) -> None:
    version = taught(net, rows(images(net, 1), sides()), recipe)
    folded, predictor = fold_calibrated(version.kept(), version.statistics, 1.5), FeaturePredictor(net.embedding_count)
    some = [note if place % 3 else None for place, note in enumerate(sides())]
    for asked in (rows(images(net, 2), some), images(net, 2)):
        (got,) = predictor.predict([PredictionRequest(predictor.serving_weights(folded), asked.numpy())])
        expected = predict_images(net, folded, asked)
        assert got.in_distribution is not None
        assert expected.in_distribution is not None
        torch.testing.assert_close(got.probabilities, expected.probabilities, atol=1e-5, rtol=0)
        torch.testing.assert_close(got.in_distribution, expected.in_distribution, atol=1e-5, rtol=0)


def test_a_version_without_notes_is_served_the_same_beside_one_with_notes(net: BackboneNet) -> None:
    """One batch has rows of one length, which may be longer than a version without notes needs."""
    version, predictor = taught(net, images(net, 1)), FeaturePredictor(net.embedding_count)
    weights = predictor.serving_weights(fold_calibrated(version.kept(), version.statistics))
    asked = images(net, 2)
    alone, beside = (
        predictor.predict([PredictionRequest(weights, inputs.numpy())])[0].probabilities
        for inputs in (asked, rows(asked, sides()))
    )
    assert torch.equal(alone, beside)


def test_tasks_with_and_without_notes_share_a_call(net: BackboneNet) -> None:
    inputs = [rows(images(net, 1), sides()), images(net, 2), rows(images(net, 3), [None] * 20)]
    supports = [Support(each, LABELS, 4) for each in inputs]
    together = adapt(net, {}, supports, BACKBONE_RECIPE, [0, 0, 0], BatchingOptions(batch_size=3))
    for one, own in zip(together, inputs, strict=True):
        assert isinstance(one, Adapted)
        asked = predicted(net, one, own).probabilities
        torch.testing.assert_close(asked, predicted(net, taught(net, own), own).probabilities, atol=1e-4, rtol=0)


def test_folds_predict_held_out_samples_with_their_notes(net: BackboneNet) -> None:
    support = Support(rows(images(net, 1), sides()), LABELS, 4)
    result = CrossValidator(net, {}).adapt_and_score(support, BACKBONE_RECIPE, 0, torch.arange(20)).validation
    assert isinstance(result, CrossValidationResult)
    assert float(result.confusion.diagonal().sum()) >= 18
