"""Heads in closed form, compared with their textbook definitions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.nets import heads


def samples(per_class: int, dimensions: int, ways: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(ways).repeat_interleave(per_class)
    centres = torch.randn(ways, dimensions, generator=generator)
    return centres[labels] + 0.5 * torch.randn(len(labels), dimensions, generator=generator), labels


@pytest.mark.parametrize(("per_class", "dimensions"), [(4, 30), (40, 6)])
def test_lda_scores_are_those_of_the_textbook_up_to_their_scale(per_class: int, dimensions: int) -> None:
    features, labels = samples(per_class, dimensions)
    head = heads.lda_head(features, labels, 3, heads.LdaOptions(0.3, 5.0))
    means = torch.stack([features[labels == label].mean(0) for label in range(3)]).double()
    residuals = features.double() - means[labels]
    covariance = residuals.T @ residuals / len(residuals)
    identity = torch.eye(dimensions, dtype=torch.float64)
    shrunk = 0.7 * covariance + 0.3 * covariance.trace() / dimensions * identity
    inverse = shrunk.inverse()
    expected = features.double() @ inverse @ means.T - 0.5 * (means @ inverse * means).sum(-1)
    scores = heads.logits({name: tensor[None] for name, tensor in head.items()}, features[None])[0].double()
    assert torch.allclose(scores / scores.norm(), expected / expected.norm(), atol=1e-4)


def test_an_image_at_its_class_mean_scores_the_level_of_an_lda_head_on_average() -> None:
    features, labels = samples(per_class=5, dimensions=40)
    head = heads.lda_head(features, labels, 3, heads.LdaOptions(0.5, 5.0))
    means = heads.class_means(features[None], labels[None], 3)
    scores = heads.logits({name: tensor[None] for name, tensor in head.items()}, means)[0]  # (ways, ways)
    assert float(scores.diagonal().mean()) == pytest.approx(5.0, rel=1e-4)
    assert float(head[heads.LEVEL]) == 5.0


def test_lda_needs_no_second_sample_of_a_class() -> None:
    features = torch.eye(3, 8)
    head = heads.lda_head(features, torch.arange(3), 3, heads.LdaOptions(0.5, 5.0))
    scores = heads.logits({name: tensor[None] for name, tensor in head.items()}, features[None])[0]
    assert scores.argmax(-1).tolist() == [0, 1, 2]
    assert torch.isfinite(scores).all()


def test_lda_ignores_a_direction_in_which_all_classes_vary() -> None:
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(2).repeat_interleave(6)
    nuisance = 20 * torch.randn(12, 1, generator=generator)
    signal = labels[:, None] + 0.05 * torch.randn(12, 1, generator=generator)
    head = heads.lda_head(torch.cat([nuisance, signal], 1), labels, 2, heads.LdaOptions(0.001, 5.0))
    queries = torch.tensor([[60.0, 0.0], [60.0, 1.0], [-60.0, 0.0], [-60.0, 1.0]])
    scores = heads.logits({name: tensor[None] for name, tensor in head.items()}, queries[None])[0]
    assert scores.argmax(-1).tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(("per_class", "dimensions"), [(4, 30), (40, 6)])
def test_a_prior_adds_its_covariance_to_that_of_the_support(per_class: int, dimensions: int) -> None:
    features, labels = samples(per_class, dimensions)
    directions = torch.randn(2, dimensions, generator=torch.Generator().manual_seed(3))
    head = heads.lda_head(features, labels, 3, heads.LdaOptions(0.3, 5.0, prior_directions=directions, prior_ridge=0.7))
    means = torch.stack([features[labels == label].mean(0) for label in range(3)]).double()
    residuals = features.double() - means[labels]
    prior = directions.double().T @ directions.double() + 0.7 * torch.eye(dimensions, dtype=torch.float64)
    inverse = (residuals.T @ residuals / len(residuals) + prior).inverse()
    expected = features.double() @ inverse @ means.T - 0.5 * (means @ inverse * means).sum(-1)
    scores = heads.logits({name: tensor[None] for name, tensor in head.items()}, features[None])[0].double()
    assert torch.allclose(scores / scores.norm(), expected / expected.norm(), atol=1e-4)


def test_fisher_gains_keep_one_telling_feature_from_drowning_among_thousands() -> None:
    generator = torch.Generator().manual_seed(4)
    labels = torch.arange(3).repeat_interleave(5)
    queries = torch.arange(3).repeat_interleave(20)

    def draw(classes: Tensor) -> Tensor:
        noise = torch.randn(len(classes), 2000, generator=generator)
        noise[:, 7] = classes + 0.05 * noise[:, 7]
        return noise

    features, asked = draw(labels), draw(queries)
    correct = []
    for fisher in (False, True):
        head = heads.lda_head(features, labels, 3, heads.LdaOptions(0.5, 5.0, fisher_gains=fisher))
        scores = heads.logits({name: tensor[None] for name, tensor in head.items()}, asked[None])[0]
        correct.append(float((scores.argmax(-1) == queries).float().mean()))
    assert correct[1] > 0.9 > correct[0]


def test_fisher_gains_use_no_prior() -> None:
    features, labels = samples(4, 30)
    directions = torch.randn(2, 30, generator=torch.Generator().manual_seed(3))
    with_prior = heads.lda_head(features, labels, 3, heads.LdaOptions(0.3, 5.0, True, directions, 0.7))
    without = heads.lda_head(features, labels, 3, heads.LdaOptions(0.3, 5.0, True))
    assert torch.equal(with_prior[heads.WEIGHT], without[heads.WEIGHT])


LEADS = torch.tensor([[0.0, 2.0, 1.5], [0.0, 2.0, 1.95], [3.0, 0.0, 1.0], [1.0, 1.625, 0.0]])
"""Scores whose best class leads by 0.5, 0.05, 2 and 0.625."""


def test_the_turned_image_counts_in_full_where_the_lead_is_at_most_half_the_margin() -> None:
    turned = LEADS.flip(-1) + 1
    combined = heads.second_look(LEADS, turned, torch.tensor(1.0))
    assert torch.allclose(combined[:2], (LEADS[:2] + turned[:2]) / 2)


def test_the_turned_image_counts_partly_up_to_the_margin_and_not_beyond() -> None:
    combined = heads.second_look(LEADS, LEADS.flip(-1), torch.tensor(1.0))
    average = (LEADS + LEADS.flip(-1)) / 2
    assert torch.equal(combined[2], LEADS[2])
    assert torch.allclose(combined[3], 0.25 * LEADS[3] + 0.75 * average[3])  # 0.625: a quarter of the way to 1


@pytest.mark.parametrize("lead", [0.5, 1.0])
def test_a_second_look_never_makes_scores_jump(lead: float) -> None:
    below, above = (torch.tensor([[0.0, lead + nudge]]) for nudge in (-1e-5, 1e-5))
    turned = torch.tensor([[4.0, 0.0]])
    one, other = (heads.second_look(scores, turned, torch.tensor(1.0)) for scores in (below, above))
    assert torch.allclose(one, other, atol=1e-4)
