"""Stored samples: which are listed, how each is judged, and who may see a picture."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from PIL import Image, ImageChops

from service.domain.client import ClientSettings
from service.errors import SamplesNotKept, UnknownClient, UnknownSample, UnknownVersion
from service.store.version_store import VersionStore
from service.usecases.adapt import Adaptation
from service.usecases.stored_samples import StoredSamples
from tests.unit.service.usecases.adapting import CLIENT, adapt, command


@pytest.fixture
def stored(store: VersionStore) -> StoredSamples:
    return StoredSamples(store)


def test_the_samples_are_those_that_an_extension_would_build_on(adaptation: Adaptation, stored: StoredSamples) -> None:
    adapt(adaptation, command(samples=2))
    held = adapt(adaptation, command(samples=1, seed=1, publish="never"))
    page = stored.page(CLIENT)
    assert [each.sample.digest for each in page.samples] == sorted(s.digest for s in held.version.draft.samples)
    assert {(each.sample.name, each.first_version) for each in page.samples} == {
        *((f"0-{index}.png", 1) for index in range(4)),
        *((f"1-{index}.png", 2) for index in range(2)),
    }
    adapt(adaptation, command(seed=2, mode="replace"))
    assert {each.sample.name for each in stored.page(CLIENT).samples} == {"2-0.png", "2-1.png"}


def test_a_sample_is_judged_by_the_folds_of_the_live_version_or_of_a_given_one(
    adaptation: Adaptation, stored: StoredSamples
) -> None:
    adapt(adaptation, command(samples=3))
    adapt(adaptation, command(samples=1, seed=1, publish="never"))
    live, held = stored.page(CLIENT), stored.page(CLIENT, version=2)
    assert (live.judged_by, held.judged_by) == (1, 2)
    judged = {each.sample.name for each in live.samples if each.held_out is not None}
    assert judged == {f"0-{index}.png" for index in range(6)}
    assert all(each.held_out is not None for each in held.samples)
    with pytest.raises(UnknownVersion):
        stored.page(CLIENT, version=3)


def test_a_sample_with_a_wrong_label_is_a_suspect(adaptation: Adaptation, stored: StoredSamples) -> None:
    request = command(samples=6)
    labels = ("coarse", *request.labels[1:])
    uploads = tuple(replace(upload, name="1.png") for upload in request.uploads)
    outcome = adapt(adaptation, replace(request, uploads=uploads, labels=labels))
    assert [issue["sample"] for issue in outcome.version.draft.report["suspects"]] == ["1.png"]
    (suspect,) = [each for each in stored.page(CLIENT).samples if each.suspect]
    assert suspect.sample.digest == outcome.version.draft.samples[0].digest
    assert suspect.held_out is not None
    assert suspect.held_out.label == "fine"


def test_pages_follow_each_other_by_digest_and_can_be_of_one_label(
    adaptation: Adaptation, stored: StoredSamples
) -> None:
    adapt(adaptation, command(samples=3))
    every = [each.sample for each in stored.page(CLIENT).samples]
    first = stored.page(CLIENT, limit=4).samples
    rest = stored.page(CLIENT, after=first[-1].sample.digest).samples
    assert [each.sample for each in [*first, *rest]] == every
    fine = stored.page(CLIENT, label="fine").samples
    assert [each.sample for each in fine] == [sample for sample in every if sample.label == "fine"]


def test_a_client_without_versions_has_no_samples(store: VersionStore, stored: StoredSamples) -> None:
    with pytest.raises(UnknownClient):
        stored.page(CLIENT)
    store.update_settings(CLIENT, ClientSettings())
    assert (stored.page(CLIENT).judged_by, stored.page(CLIENT).samples) == (None, ())


def test_a_client_that_keeps_no_samples_says_so(
    store: VersionStore, adaptation: Adaptation, stored: StoredSamples
) -> None:
    digest = adapt(adaptation, command()).version.draft.samples[0].digest
    store.update_settings(CLIENT, ClientSettings(retain_samples=False))
    for read in (lambda: stored.page(CLIENT), lambda: stored.picture(CLIENT, digest)):
        with pytest.raises(SamplesNotKept, match="mode=replace"):
            read()
    store.update_settings(CLIENT, ClientSettings())
    with pytest.raises(SamplesNotKept, match="were deleted"):  # those of the version are gone all the same
        stored.page(CLIENT)
    with pytest.raises(UnknownSample):
        stored.picture(CLIENT, digest)


def test_a_picture_is_the_image_that_was_sent(adaptation: Adaptation, stored: StoredSamples) -> None:
    request = command()
    digest = adapt(adaptation, request).version.draft.samples[0].digest
    picture = Image.open(io.BytesIO(stored.picture(CLIENT, digest)))
    sent = Image.open(io.BytesIO(request.uploads[0].content))
    assert ImageChops.difference(picture, sent).getbbox() is None
    assert Image.open(io.BytesIO(stored.picture(CLIENT, digest, max_side=16))).size == (16, 16)


def test_only_samples_of_the_client_are_pictures(
    store: VersionStore, adaptation: Adaptation, stored: StoredSamples
) -> None:
    mine = adapt(adaptation, command()).version.draft
    theirs = adapt(adaptation, replace(command(seed=1), client="other")).version.draft
    for digest in (theirs.samples[0].digest, mine.weights_digest, "0" * 64, "../other"):
        with pytest.raises(UnknownSample):
            stored.picture(CLIENT, digest)
    adapt(adaptation, command(seed=2, mode="replace"))
    assert stored.picture(CLIENT, mine.samples[0].digest)
    store.delete_version(CLIENT, 1)
    with pytest.raises(UnknownSample):
        stored.picture(CLIENT, mine.samples[0].digest)
