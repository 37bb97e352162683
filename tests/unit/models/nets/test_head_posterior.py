"""The posterior of class means, compared with distances in closed form, and what it does to probabilities."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.nets import heads
from models.nets.head_posterior import (
    COUNTS,
    DRAWS,
    LOG_SD,
    SAMPLES,
    HeadPosterior,
    posterior_weights,
    relative_spread,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def posterior_of(head: dict[str, Tensor], means: Tensor, counts: list[int], seed: int = 0) -> HeadPosterior:
    stored = posterior_weights(head[heads.WEIGHT], means, torch.tensor(counts), seeded(seed))
    found = HeadPosterior.of({**head, **stored})
    assert found is not None
    return found


def scores_of(head: dict[str, Tensor], features: Tensor) -> Tensor:
    return features @ head[heads.WEIGHT].T + head[heads.BIAS]


MEANS = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 3.0]])
QUERIES = torch.tensor([[0.5, 0.5], [2.0, 0.0], [-1.0, 4.0]])
HEAD = heads.prototype_head(MEANS, 0.5)
"""Of scale 1/2: scores are -distance^2 / 2, and the covariance within the classes is the identity."""


def test_scores_vary_by_the_distance_to_the_mean_over_the_root_of_the_samples() -> None:
    found = posterior_of(HEAD, MEANS, [1, 4, 9]).deviation(scores_of(HEAD, QUERIES))
    expected = torch.cdist(QUERIES, MEANS) / torch.tensor([1.0, 2.0, 3.0])
    torch.testing.assert_close(found.float(), expected, atol=2e-3, rtol=1e-4)


def test_distances_of_an_lda_head_are_in_units_of_its_covariance() -> None:
    generator = seeded(1)
    labels = torch.arange(3).repeat_interleave(20)
    features = MEANS[labels] + torch.randn(60, 2, generator=generator) * torch.tensor([0.3, 2.0])
    head = heads.lda_head(features, labels, 3, heads.LdaOptions(0.2, 5.0))
    means = heads.class_means(features[None], labels[None], 3)[0]
    residuals = (features - means[labels]).double()
    covariance = 0.8 * residuals.T @ residuals / 60 + 0.2 * residuals.square().mean() * torch.eye(2).double()
    shifts = (QUERIES[:, None] - means).double()  # (queries, ways, 2)
    squares = (shifts @ covariance.inverse() * shifts).sum(-1)
    level = (0.5 * (means.double() @ covariance.inverse() * means.double()).sum(-1)).mean()
    found = posterior_of(head, means, [5, 5, 5]).deviation(scores_of(head, QUERIES))
    torch.testing.assert_close(found, (squares * 5.0 / level / 5).sqrt(), atol=1e-3, rtol=1e-3)


def test_what_lies_outside_the_span_of_the_means_does_not_count() -> None:
    means, queries = (torch.cat([own, torch.zeros(3, 1)], 1) for own in (MEANS, QUERIES))
    head = heads.prototype_head(means, 0.5)
    posterior, far = posterior_of(head, means, [2, 2, 2]), queries + torch.tensor([0.0, 0.0, 100.0])
    inside, outside = (posterior.deviation(scores_of(head, rows)) for rows in (queries, far))
    torch.testing.assert_close(inside, outside)


def test_total_uncertainty_is_that_of_the_data_plus_that_of_the_model() -> None:
    probabilities, found = posterior_of(HEAD, MEANS, [2, 2, 2]).predict(scores_of(HEAD, QUERIES))
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(3))
    torch.testing.assert_close(found.total, torch.special.entr(probabilities).sum(-1))
    torch.testing.assert_close(found.total, found.aleatoric + found.epistemic)
    assert float(found.epistemic.min()) > 0


def test_more_samples_leave_the_model_less_uncertain_and_the_data_as_uncertain_as_the_softmax_says() -> None:
    logits = scores_of(HEAD, QUERIES)
    models = [posterior_of(HEAD, MEANS, 3 * [count]).predict(logits)[1].epistemic for count in (1, 10, 100)]
    assert bool((models[0] > models[1]).all())
    assert bool((models[1] > models[2]).all())
    probabilities, found = posterior_of(HEAD, MEANS, 3 * [10**9]).predict(logits)
    torch.testing.assert_close(probabilities, logits.softmax(-1), atol=1e-4, rtol=1e-4)
    assert float(found.epistemic.max()) < 1e-6


def test_averages_match_those_over_many_random_class_means() -> None:
    posterior, logits = posterior_of(HEAD, MEANS, [4, 4, 4]), scores_of(HEAD, QUERIES)
    noise = torch.randn(3, 100_000, 3, generator=seeded(2), dtype=torch.float64)
    sampled = (logits[:, None] + posterior.deviation(logits)[:, None] * noise).softmax(-1).mean(1)
    torch.testing.assert_close(posterior.predict(logits)[0].double(), sampled, atol=0.02, rtol=0)


def test_every_class_gets_the_same_draws_in_another_order() -> None:
    draws = posterior_weights(HEAD[heads.WEIGHT], MEANS, torch.ones(3), seeded())[DRAWS]
    assert draws.shape == (SAMPLES, 3)
    ordered = draws.sort(0).values
    assert torch.equal(ordered[:, 0], ordered[:, 1])
    assert not torch.equal(draws[:, 0], draws[:, 1])
    assert float(draws.mean()) == pytest.approx(0, abs=1e-6)
    assert float(draws.std()) == pytest.approx(1, abs=0.05)


def test_the_seed_determines_the_draws() -> None:
    first, again, other = (
        posterior_weights(HEAD[heads.WEIGHT], MEANS, torch.ones(3), seeded(seed))[DRAWS] for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_prediction_has_the_same_bits_alone_and_among_others() -> None:
    posterior = posterior_of(HEAD, MEANS, [2, 3, 4])
    logits = 3 * torch.randn(200, 3, generator=seeded(5))
    together, uncertainty = posterior.predict(logits)
    for row in range(0, 200, 7):
        alone, of_alone = posterior.predict(logits[row : row + 1])
        assert torch.equal(alone[0], together[row])
        assert torch.equal(of_alone.epistemic[0], uncertainty.epistemic[row])


def test_weights_without_a_posterior_have_none() -> None:
    assert HeadPosterior.of(HEAD) is None
    assert COUNTS in posterior_weights(HEAD[heads.WEIGHT], MEANS, torch.ones(3), seeded())


def test_the_spread_of_a_start_multiplies_the_deviations() -> None:
    logits = scores_of(HEAD, QUERIES)
    stored = posterior_weights(HEAD[heads.WEIGHT], MEANS, torch.tensor([2, 2, 2]), seeded())
    plain, narrow = (
        HeadPosterior.of({**HEAD, **stored}),
        HeadPosterior.of({**HEAD, **stored, LOG_SD: torch.tensor(-1.0)}),
    )
    assert plain is not None
    assert narrow is not None
    torch.testing.assert_close(narrow.deviation(logits), plain.deviation(logits) / torch.e)


@pytest.mark.parametrize("true_sd", [0.5, 2.0])
def test_the_relative_spread_is_the_variance_within_the_classes_over_that_which_the_head_implies(
    true_sd: float,
) -> None:
    generator, found = seeded(3), []
    centres = torch.randn(4, 6, generator=generator) * 10
    for _ in range(400):
        known = centres + true_sd * torch.randn(4, 6, generator=generator) / 1**0.5
        others = centres + true_sd * torch.randn(4, 6, generator=generator) / 4**0.5
        found.append(relative_spread(heads.prototype_head(known, 0.5), known, others, (1, 4)))
    assert float(torch.stack(found).mean()) == pytest.approx(true_sd**2, rel=0.1)
