"""The attack on a client's difference: it finds what is there, and nothing that is not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks.clinics import CHARACTERS, NET, RECIPE, make_clinics
from benchmarks.difference_attacks import Observed, View, flatten, hit_rate, likelihood_ratio, sent_differences
from benchmarks.federated_privacy import SMALL, of_classes
from benchmarks.figures import auroc
from models.data.class_dataset import ArrayDataset
from models.meta.federated import Privacy, client_updates
from models.nets import build

CLIENTS, NUMBERS = 200, 40


def pool() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (CHARACTERS, 20, 1, 28, 28), generator=generator, dtype=torch.uint8)
    source = ArrayDataset("noise", [f"class {index}" for index in range(CHARACTERS)], list(images))
    return SMALL.pool(make_clinics(source, 1)[0])


def observed(strength: float, seed: int) -> Observed:
    """Clients whose numbers shift by `strength` with each candidate that they have."""
    generator = torch.Generator().manual_seed(seed)
    member = torch.rand(CLIENTS, 6, generator=generator) < 0.3
    shifts = torch.randn(6, NUMBERS, generator=torch.Generator().manual_seed(99))
    seen = strength * member.float() @ shifts + torch.randn(CLIENTS, NUMBERS, generator=generator)
    return Observed(seen, member, torch.ones_like(member))


@pytest.mark.parametrize(("strength", "least", "most"), [(1.0, 0.97, 1.0), (0.0, 0.4, 0.6)])
def test_members_are_found_if_they_leave_a_trace_and_only_then(strength: float, least: float, most: float) -> None:
    attack, targets = likelihood_ratio(observed(strength, 1)), observed(strength, 2)
    members, others = targets.split(attack.scores(targets.seen))
    assert least <= auroc(members, others) <= most
    assert (hit_rate(members, others) > 0.5) == (strength > 0)


def test_questions_that_are_not_asked_do_not_count() -> None:
    shadows = observed(1.0, 1)
    asked = torch.rand(shadows.member.shape, generator=torch.Generator().manual_seed(3)) < 0.5
    misleading = Observed(shadows.seen, torch.where(asked, shadows.member, ~shadows.member), asked)
    honest = Observed(shadows.seen, shadows.member, asked)
    seen = observed(1.0, 2).seen
    assert torch.equal(likelihood_ratio(misleading).scores(seen), likelihood_ratio(honest).scores(seen))


def test_a_client_has_what_its_support_shows_and_sends_what_the_rounds_send() -> None:
    images = pool()
    supports, member = SMALL.draw(images, 2, 5)
    assert member.sum((1, 2)).tolist() == [5, 5]
    assert {image.sum().item() for image in supports[0].inputs} == {image.sum().item() for image in images[member[0]]}
    start = build(NET, 0).start()
    sent = sent_differences(start, supports, RECIPE, 7)
    generators = [torch.Generator().manual_seed((7 << 20) + client) for client in range(2)]
    clip = Privacy(clip_norm=float(sent.norm(dim=1).min()) / 2)
    updates = client_updates(build(NET), start, supports, RECIPE, clip, generators)
    expected = torch.stack([flatten(update.difference) for update in updates])
    seen = View("clipped", clip).observe(sent, sent, torch.Generator())
    torch.testing.assert_close(seen, expected)


def test_a_mean_of_a_cohort_has_all_of_the_noise_once() -> None:
    others = torch.zeros(20, 5000)
    view = View("noisy", Privacy(clip_norm=2.0, noise_multiplier=3.0, cohort=10), cohort=10)
    seen = view.observe(others, others, torch.Generator().manual_seed(0))
    assert float(seen.std()) == pytest.approx(3.0 * 2.0 / 10, rel=0.02)


def test_a_class_is_there_if_one_of_its_images_is() -> None:
    _, member = SMALL.draw(pool(), 3, 1)
    clients = Observed(torch.zeros(3, 1), member.flatten(1), member.flatten(1))
    assert of_classes(clients, SMALL).member.sum(1).tolist() == [SMALL.n_way] * 3
