"""The clinics of the federated benchmark, and their rounds."""

from __future__ import annotations

import pytest
import torch

from benchmarks.clinics import CHARACTERS, PooledClinics, make_clinics, training_supports
from benchmarks.federated_rounds import Federation
from models.data.class_dataset import ArrayDataset
from models.errors import DatasetUnavailable
from models.meta.federated import Privacy
from models.weights import changed


@pytest.fixture(scope="module")
def drawings() -> ArrayDataset:
    generator = torch.Generator().manual_seed(0)
    blobs = torch.rand(3 * CHARACTERS, 1, 7, 7, generator=generator)
    classes = torch.nn.functional.interpolate(blobs, size=28, mode="bilinear")
    images = [255 * (blob + 0.1 * torch.rand(20, 1, 28, 28, generator=generator)).clamp(0, 1) for blob in classes]
    names = [f"class {index}" for index in range(len(images))]
    return ArrayDataset("drawings", names, [each.to(torch.uint8) for each in images])


def test_clinics_share_no_class_and_see_through_different_scanners(drawings: ArrayDataset) -> None:
    first, second = make_clinics(drawings, 2)
    assert not set(first.class_names) & set(second.class_names)
    means = [clinic.images(0).float().mean() for clinic in (first, second)]
    assert abs(means[0] - means[1]) > 1
    (again,) = make_clinics(drawings, 1)
    assert torch.equal(first.images(3), again.images(3))


def test_more_clinics_than_the_dataset_has_classes_for_are_refused(drawings: ArrayDataset) -> None:
    with pytest.raises(DatasetUnavailable, match="4 clinics need 64"):
        make_clinics(drawings, 4)


def test_pooled_clinics_know_the_clinic_of_a_class(drawings: ArrayDataset) -> None:
    pooled = PooledClinics(make_clinics(drawings, 2))
    assert len(pooled) == 2 * CHARACTERS
    assert [pooled.product_line(index) for index in (0, CHARACTERS - 1, CHARACTERS)] == [0, 0, 1]


def test_a_clinic_learns_from_another_task_in_every_round(drawings: ArrayDataset) -> None:
    clinics = make_clinics(drawings, 1)
    (first,), (second,) = training_supports(clinics, 0), training_supports(clinics, 1)
    assert not torch.equal(first.inputs, second.inputs)


def test_rounds_move_the_start_and_keep_what_was_asked_for(drawings: ArrayDataset) -> None:
    federation = Federation(make_clinics(drawings, 2), rounds=2)
    starts = federation.starts(lambda *round_: federation.federated(Privacy(), 0.0, *round_), [2], "test")
    assert sorted(starts) == [0, 2]
    assert changed(starts[0], starts[2])
