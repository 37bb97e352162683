"""Corrections: what they change about stored samples, and how requests that cannot be met are answered."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

import pytest

from service.domain.client import ClientSettings
from service.domain.reason import first_of
from service.domain.version import VersionDraft
from service.errors import (
    InvalidName,
    InvalidRequest,
    NothingToCorrect,
    SamplesNotKept,
    TooFewClasses,
    UnknownClient,
    UnknownSample,
)
from service.store.version_store import VersionStore
from service.usecases.adapt import Adaptation
from service.usecases.adapt_command import AdaptCommand, AdaptOutcome
from service.usecases.corrections import Corrections
from tests.unit.service.usecases.adapting import CLIENT, adapt, command, details, in_stage, names, reasons


def correction(relabel: Mapping[str, str] | None = None, remove: Collection[str] = (), **fields: Any) -> AdaptCommand:
    corrections = Corrections.of(relabel or {}, remove)
    return AdaptCommand(CLIENT, (), (), mode="correct", corrections=corrections, **{"publish": "always", **fields})


def labels(outcome: AdaptOutcome) -> dict[str, str]:
    return {sample.name: sample.label for sample in outcome.version.draft.samples}


@pytest.fixture
def mislabelled(adaptation: Adaptation) -> VersionDraft:
    """Return version 1, of six samples a class, of which `0-0.png` should be fine and `0-11.png` is not wanted."""
    request = command(samples=6)
    return adapt(adaptation, replace(request, labels=("coarse", *request.labels[1:]))).version.draft


def digest(draft: VersionDraft, name: str) -> str:
    return next(sample.digest for sample in draft.samples if sample.name == name)


def test_samples_get_other_labels_or_are_left_out(adaptation: Adaptation, mislabelled: VersionDraft) -> None:
    wrong, unwanted = digest(mislabelled, "0-0.png"), digest(mislabelled, "0-11.png")
    outcome = adapt(adaptation, correction({wrong: " fine "}, [unwanted]))
    assert (outcome.version.number, outcome.version.draft.parent, outcome.live) == (2, 1, 2)
    assert labels(outcome) == {
        **{f"0-{index}.png": "fine" for index in range(6)},
        **{f"0-{index}.png": "coarse" for index in range(6, 11)},
    }
    assert "corrected samples: 1 relabelled, 1 removed" in reasons(outcome)
    assert details(outcome)["corrected"] == {"relabelled": 1, "removed": 1}
    before, after = mislabelled.report, outcome.version.draft.report
    assert [issue["sample"] for issue in before["suspects"]] == ["0-0.png"]
    assert after["suspects"] == []
    assert after["estimated_accuracy"] > before["estimated_accuracy"]


def test_the_next_extension_builds_on_the_corrected_samples(adaptation: Adaptation, mislabelled: VersionDraft) -> None:
    wrong, unwanted = digest(mislabelled, "0-0.png"), digest(mislabelled, "0-11.png")
    adapt(adaptation, correction({wrong: "fine"}, [unwanted], publish="never"))
    extended = adapt(adaptation, command(samples=1, seed=1))
    assert extended.version.draft.parent == 2
    assert labels(extended)["0-0.png"] == "fine"
    assert names(extended) == [*(f"0-{index}.png" for index in range(11)), "1-0.png", "1-1.png"]


def test_a_sample_can_get_the_label_of_a_new_class(adaptation: Adaptation, mislabelled: VersionDraft) -> None:
    wanted = {digest(mislabelled, name): "medium" for name in ("0-4.png", "0-5.png")}
    assert set(adapt(adaptation, correction(wanted)).version.draft.classes) == {"coarse", "fine", "medium"}


def test_a_class_may_lose_its_last_sample_if_two_classes_remain(
    adaptation: Adaptation, mislabelled: VersionDraft
) -> None:
    third = {digest(mislabelled, "0-5.png"): "medium"}
    adapt(adaptation, correction(third))
    outcome = adapt(adaptation, correction(remove=list(third)))
    assert set(outcome.version.draft.classes) == {"coarse", "fine"}
    assert "classes without samples left: 'medium'" in reasons(outcome)
    assert details(outcome)["classes_gone"] == first_of(classes=["medium"])
    coarse = [sample.digest for sample in mislabelled.samples if sample.label == "coarse"]
    with pytest.raises(TooFewClasses, match="only the class 'fine'"):
        adapt(adaptation, correction(remove=coarse))
    with pytest.raises(TooFewClasses, match="all samples would be removed"):
        adapt(adaptation, correction(remove=[sample.digest for sample in outcome.version.draft.samples]))


def test_unknown_samples_are_all_named_and_nothing_is_stored(
    store: VersionStore, adaptation: Adaptation, mislabelled: VersionDraft
) -> None:
    known = digest(mislabelled, "0-0.png")
    request = correction({"a" * 64: "fine", known: "fine"}, ["c" * 64, "b" * 64])
    with pytest.raises(UnknownSample) as raised:
        adapt(adaptation, request)
    named = [letter for letter in "abc" if letter * 64 in str(raised.value)]
    assert named == ["a", "b", "c"]
    assert known not in str(raised.value)
    assert [version.number for version in store.catalog.versions(CLIENT)] == [1]
    with pytest.raises(UnknownSample, match="and 950 more") as raised:
        adapt(adaptation, correction(remove=[f"{index:064x}" for index in range(1000)]))
    assert len(str(raised.value)) < 5000


def test_a_sample_that_is_relabelled_and_removed_is_rejected() -> None:
    with pytest.raises(InvalidRequest, match=f"both have '{'a' * 64}'; name"):
        Corrections.of({"a" * 64: "fine", "b" * 64: "fine"}, ["a" * 64])


def test_labels_follow_the_same_rules_as_those_of_new_samples() -> None:
    with pytest.raises(InvalidName, match="label"):
        Corrections.of({"a" * 64: " "}, [])


def test_corrections_that_change_nothing_are_rejected(adaptation: Adaptation, mislabelled: VersionDraft) -> None:
    with pytest.raises(NothingToCorrect, match="changes nothing"):
        Corrections.of({}, [])
    with pytest.raises(NothingToCorrect, match="these labels already"):
        adapt(adaptation, correction({digest(mislabelled, "0-0.png"): "coarse"}))


def no_client(_store: VersionStore, _adaptation: Adaptation) -> None:
    """Leave the store empty."""


def only_settings(store: VersionStore, _adaptation: Adaptation) -> None:
    store.update_settings(CLIENT, ClientSettings())


def no_samples(store: VersionStore, adaptation: Adaptation) -> None:
    adapt(adaptation, command())
    store.update_settings(CLIENT, ClientSettings(retain_samples=False))


@pytest.mark.parametrize(
    ("prepare", "error"), [(no_client, UnknownClient), (only_settings, UnknownSample), (no_samples, SamplesNotKept)]
)
def test_a_client_without_stored_samples_has_nothing_to_correct(
    store: VersionStore,
    adaptation: Adaptation,
    prepare: Callable[[VersionStore, Adaptation], None],
    error: type[Exception],
) -> None:
    prepare(store, adaptation)
    with pytest.raises(error):
        adapt(adaptation, correction(remove=["a" * 64]))


def test_corrections_are_applied_to_what_another_process_published_meanwhile(
    adaptation: Adaptation, mislabelled: VersionDraft
) -> None:
    others = iter([command(samples=1, seed=1)])

    def publish_elsewhere() -> None:
        for other in others:
            adapt(adaptation, other)

    request = correction({digest(mislabelled, "0-0.png"): "fine"})
    outcome = adapt(adaptation, request, in_stage("store", publish_elsewhere))
    assert (outcome.version.number, outcome.version.draft.parent) == (3, 2)
    assert labels(outcome)["0-0.png"] == "fine"
    assert {"1-0.png", "1-1.png"} < set(names(outcome))
