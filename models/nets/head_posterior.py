"""How well a head knows its classes: the posterior of its class means, and probabilities averaged over it.

A head of prototypes or of linear discriminant analysis scores a class by the distance of an image to the class's mean,
-d^2 / 2 up to what all classes share, in units of the covariance within the classes. The mean of n samples is known to
within that covariance over n (Murphy 2012, section 4.6.1, with a flat prior). So for one image the score of each class
is Gaussian, with standard deviation d / sqrt(n). This is exact for these heads; inner steps that move a head later
leave it an approximation. It needs no further training, and no passes through the net.

Of the distance, only the part counts in which the classes differ: the part that is common to all classes adds equally
to all of them, and with thousands of features and few samples it would drown the rest. That part follows from the
scores and the Gram matrix of the class means. A temperature divides scores and Gram matrix alike.

The covariance that a head of prototypes implies is a setting, its scale, and no measurement. Bayesian Reptile measures
it on its training tasks: ``head.log_sd`` of its starts is the logarithm of the true standard deviation over the implied
one (`relative_spread`), and multiplies the deviations. Without it, they are as the head implies.

The entropy of the averaged probabilities is the total uncertainty. The average of the samples' entropies is what
remains if the means were known, the aleatoric uncertainty. The difference is the epistemic one, which more samples
reduce (Depeweg et al. 2018, arXiv:1710.07283).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.nets import heads
from models.weights import Weights

GRAM, COUNTS, DRAWS = "head.gram", "head.counts", "head.draws"
LOG_SD = "head.log_sd"
NAMES = (GRAM, COUNTS, DRAWS, LOG_SD)
"""All of them come after the net; LOG_SD belongs to the start, and no inner step changes it."""

SAMPLES = 64

_LEAST_EIGENVALUE = 1e-5
"""Directions in which class means differ by less than this share of the largest count as rounding."""


@dataclass(frozen=True, slots=True)
class Uncertainty:
    """Uncertainty of predictions in nats, (...) each.

    Attributes:
        total: entropy of the averaged probabilities.
        aleatoric: average entropy of the samples' probabilities.
        epistemic: total - aleatoric, the mutual information of class and class means.
    """

    total: Tensor
    aleatoric: Tensor
    epistemic: Tensor


def posterior_weights(weight: Tensor, means: Tensor, counts: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """What an adapted version stores about the posterior.

    Args:
        weight: ``head.weight``, (n_way, features).
        means: mean features of each class, (n_way, features).
        counts: objects of each class in the support, (n_way,).
        generator: source of the draws.

    Returns:
        ``head.gram`` (n_way, n_way), inner products of the class means in units of the covariance; ``head.counts``
        (n_way,); and ``head.draws`` (SAMPLES, n_way), standard normal. They are a Latin hypercube (McKay et al. 1979):
        every class has the same draws in another order, so that chance favours none.
    """
    n_way = len(weight)
    gram = weight @ means.T
    values, vectors = torch.linalg.eigh((gram + gram.T) / 2)  # inner steps leave it slightly unsymmetric
    gram = (vectors * values.clamp(min=0)) @ vectors.T
    orders = torch.stack([torch.randperm(SAMPLES, generator=generator) for _ in range(n_way)], 1)
    draws = torch.special.ndtri((orders + 0.5) / SAMPLES)
    return {GRAM: gram, COUNTS: counts.to(gram), DRAWS: draws.to(gram)}


@dataclass(frozen=True, slots=True)
class HeadPosterior:
    """The posterior of a version's class means. On the CPU, in float64, so that rounding depends on no other image.

    Attributes:
        bias: ``head.bias``, (n_way,).
        gram: see `posterior_weights`; so are
        counts: and
        draws:
        spread: exp(``head.log_sd``), a scalar; 1 for starts without.
    """

    bias: Tensor
    gram: Tensor
    counts: Tensor
    draws: Tensor
    spread: float = 1.0

    @classmethod
    def of(cls, folded: Weights) -> HeadPosterior | None:
        """The posterior of a version with these folded weights; None for versions without."""
        if GRAM not in folded:
            return None
        spread = float(folded[LOG_SD].exp()) if LOG_SD in folded else 1.0
        names = (heads.BIAS, GRAM, COUNTS, DRAWS)
        bias, gram, counts, draws = (folded[name].detach().cpu().double() for name in names)
        return cls(bias, gram, counts, draws, spread)

    @property
    def size_bytes(self) -> int:
        """Memory held."""
        return sum(tensor.nbytes for tensor in (self.bias, self.gram, self.counts, self.draws))

    def inverse_gram(self) -> Tensor:
        """Pseudo-inverse of the Gram matrix, (n_way, n_way)."""
        inverse: Tensor = torch.linalg.pinv(self.gram, rtol=_LEAST_EIGENVALUE, hermitian=True)
        return inverse

    def deviation(self, logits: Tensor) -> Tensor:
        """Standard deviation of each score, spread * d / sqrt(n): (images, n_way) -> (images, n_way)."""
        products = logits.detach().cpu().double() - self.bias  # of each image with each class mean
        length = ((products[:, None] * self.inverse_gram()).sum(-1) * products).sum(-1, keepdim=True)  # (images, 1)
        squares = length - 2 * products + self.gram.diagonal()
        deviation: Tensor = self.spread * (squares.clamp(min=0) / self.counts).sqrt()
        return deviation

    def predict(self, logits: Tensor) -> tuple[Tensor, Uncertainty]:
        """Average probabilities over the posterior.

        Args:
            logits: scores of the head, (images, n_way).

        Returns:
            Probabilities, float32 (images, n_way), each row sums to 1; and their uncertainty, float32 (images,).
        """
        probabilities = sampled_probabilities(logits.detach().cpu().double(), self.deviation(logits), self.draws)
        mean = probabilities.mean(1)
        total, aleatoric = _entropy(mean), _entropy(probabilities).mean(1)
        epistemic = (total - aleatoric).clamp(min=0)
        return mean.float(), Uncertainty(total.float(), aleatoric.float(), epistemic.float())


def relative_spread(head: Weights, known: Tensor, others: Tensor, counts: tuple[int, int]) -> Tensor:
    """Variance within the classes over that which a head implies, from two sets of samples of each class.

    If the implied covariance were the true one, the squared distance between the means of m and of n samples would be
    n_way * (1 / m + 1 / n) on average, one for each direction in which the classes differ.

    Args:
        head: ``head.weight`` and ``head.bias`` made from the known samples.
        known: class means of the samples that the head was made from, (n_way, features).
        others: class means of other samples, (n_way, features).
        counts: samples of each class in both.

    Returns:
        A scalar.
    """
    n_way, (of_known, of_others) = len(known), counts
    stored = posterior_weights(head[heads.WEIGHT], known, torch.ones(n_way), torch.Generator().manual_seed(0))
    posterior = HeadPosterior.of({heads.BIAS: head[heads.BIAS], **stored})
    if posterior is None:
        return torch.ones(())
    distances = posterior.deviation(others @ head[heads.WEIGHT].T + head[heads.BIAS]).diagonal()
    return distances.square().mean().float() / (n_way * (1 / of_known + 1 / of_others))


def sampled_probabilities(logits: Tensor, deviation: Tensor, draws: Tensor) -> Tensor:
    """Probabilities for sampled class means: logits and deviation (images, n_way) -> (images, SAMPLES, n_way)."""
    return (logits[:, None] + deviation[:, None] * draws).softmax(-1)


def _entropy(probabilities: Tensor) -> Tensor:
    """(..., n_way) -> (...), in nats."""
    entropy: Tensor = torch.special.entr(probabilities).sum(-1)
    return entropy
