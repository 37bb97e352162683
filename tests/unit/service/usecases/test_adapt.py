"""Making versions: what an extension builds on, what the gate compares with, and when a request can be stopped."""

from __future__ import annotations

import io
from collections.abc import Hashable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor

from models.checkpoint import load_checkpoint
from models.images.preprocessing import DecodeLimits
from models.task import Support
from service.domain.client import ClientSettings
from service.domain.version import LIVE, Publication, VersionDraft
from service.errors import (
    InvalidRequest,
    JobCancelled,
    NothingToUpgrade,
    ParentSuperseded,
    SamplesNotKept,
    TooFewClasses,
    TooManySamples,
    UnknownCheckpoint,
    UnknownClient,
)
from service.runtime.adapt_queue import JobControl, Stage
from service.runtime.checkpoints import LoadedCheckpoints
from service.runtime.decoder import InlineDecoder, Upload
from service.runtime.loaded_checkpoint import LoadedCheckpoint
from service.store.version_store import VersionStore
from service.usecases.adapt import Adaptation
from service.usecases.adapt_command import AdaptCommand
from tests.generated import encoded, tiny_checkpoint_in
from tests.unit.service.usecases.adapting import CLIENT, KEY, command, in_stage, names, reasons


def test_an_extension_builds_on_a_version_that_another_process_published_meanwhile(
    store: VersionStore, adaptation: Adaptation
) -> None:
    adaptation.run(command(seed=1), JobControl())
    others = iter([command(seed=2)])

    def publish_elsewhere() -> None:
        for other in others:
            adaptation.run(other, JobControl())

    outcome = adaptation.run(command(seed=3), in_stage("store", publish_elsewhere))
    assert (outcome.version.number, outcome.version.draft.parent, outcome.live) == (3, 2, 3)
    assert names(outcome) == ["1-0.png", "1-1.png", "2-0.png", "2-1.png", "3-0.png", "3-1.png"]


def test_an_extension_is_tried_five_times_when_others_keep_publishing(
    store: VersionStore, adaptation: Adaptation
) -> None:
    seeds = iter(range(1, 10))

    def publish_elsewhere() -> None:
        adaptation.run(command(seed=next(seeds), mode="replace"), JobControl())

    with pytest.raises(ParentSuperseded, match="send the request again"):
        adaptation.run(command(), in_stage("store", publish_elsewhere))
    assert [version.draft.parent for version in store.catalog.versions(CLIENT)] == [None] * 5


def test_replacing_needs_no_parent_and_is_compared_with_the_live_version(adaptation: Adaptation) -> None:
    adaptation.run(command(seed=1), JobControl())
    outcome = adaptation.run(command(seed=2, mode="replace", publish="auto"), JobControl())
    assert (outcome.version.draft.parent, outcome.published, outcome.live) == (None, False, 1)
    assert names(outcome) == ["2-0.png", "2-1.png"]
    assert "the next extension builds on version 1" in outcome.version.draft.report["gate"]["reasons"][-1]


def test_replacing_is_held_if_a_class_of_the_live_version_gets_worse(
    store: VersionStore, adaptation: Adaptation
) -> None:
    good = command(samples=6)
    adaptation.run(good, JobControl())
    store.update_settings(CLIENT, ClientSettings(floor=0.0))
    swapped = command(samples=8, seed=1, labels=("coarse",) * 8 + ("fine",) * 8)
    worse = replace(good, uploads=good.uploads[:6] + swapped.uploads, labels=("fine",) * 6 + swapped.labels)
    held = adaptation.run(replace(worse, mode="replace", publish="auto"), JobControl())
    gate = held.version.draft.report["gate"]
    assert (held.published, gate["decision"]) == (False, "hold")
    assert [dropped["label"] for dropped in gate["dropped"]] == ["fine"]
    assert gate["dropped"][0]["judged"] == 6
    assert "class 'fine' got worse: version 1 predicted" in gate["reasons"][0]


def test_a_version_that_is_being_recorded_can_no_longer_be_stopped(
    store: VersionStore, adaptation: Adaptation, monkeypatch: pytest.MonkeyPatch
) -> None:
    control, stopped = JobControl(), []
    record = store.publish

    def publish(draft: VersionDraft, aliases: Sequence[str], *rest: Any, **options: Any) -> Publication:
        stopped.append(control.stop(JobCancelled("too late")))
        return record(draft, aliases, *rest, **options)

    monkeypatch.setattr(store, "publish", publish)
    assert adaptation.run(command(), control).version.number == 1
    assert stopped == [False]


@pytest.mark.parametrize("stage", ["decode", "adapt", "examine", "store"])
def test_a_stopped_adaptation_makes_no_version(store: VersionStore, adaptation: Adaptation, stage: Stage) -> None:
    control = in_stage(stage, lambda: control.stop(JobCancelled("enough")))
    with pytest.raises(JobCancelled, match="enough"):
        adaptation.run(command(samples=2, steps=2), control)
    assert store.catalog.clients() == ()


def test_the_key_of_a_request_belongs_to_its_last_version(store: VersionStore, adaptation: Adaptation) -> None:
    control = JobControl()
    outcome = adaptation.run(command(steps=2, first="prototypes", idempotency=KEY), control)
    assert (control.first.version.number, outcome.version.number) == (1, 2)
    assert [made.version.draft.recipe["steps"] for made in (control.first, outcome)] == [0, 2]
    recalled = store.catalog.recall(CLIENT, KEY)
    assert recalled is not None
    assert recalled.version.number == 2


def test_without_inner_steps_a_first_version_is_not_made_twice(store: VersionStore, adaptation: Adaptation) -> None:
    control = JobControl()
    outcome = adaptation.run(command(samples=2, steps=0, first="prototypes"), control)
    assert (control.first, outcome.version.number, len(store.catalog.versions(CLIENT))) == (None, 1, 1)
    assert any("first=prototypes makes no version of its own" in reason for reason in reasons(outcome))


def test_a_learning_rate_without_inner_steps_is_noted(adaptation: Adaptation) -> None:
    assert any(
        "learning_rate has no effect" in reason
        for reason in reasons(adaptation.run(command(learning_rate=0.5), JobControl()))
    )
    quiet = adaptation.run(command(seed=1, learning_rate=0.5, steps=1), JobControl())
    assert not any("effect" in reason or "steps" in reason for reason in reasons(quiet))


def test_inner_steps_after_a_closed_form_are_noted(store: VersionStore, tmp_path: Path) -> None:
    start = load_checkpoint(tiny_checkpoint_in(tmp_path))
    closed_form = LoadedCheckpoint(replace(start, recipe=replace(start.recipe, head="lda")), torch.device("cpu"))
    adaptation = Adaptation(store, LoadedCheckpoints([closed_form]), InlineDecoder(DecodeLimits(min_side=8)))
    noted = [reasons(adaptation.run(command(steps=steps), JobControl())) for steps in (0, 2)]
    assert [any("changes next to nothing" in reason for reason in each) for each in noted] == [False, True]


@pytest.mark.parametrize("flips", [True, False])
def test_a_mirror_image_is_another_sample_only_for_models_that_do_not_learn_from_mirror_images(
    store: VersionStore, tmp_path: Path, flips: bool
) -> None:
    start = load_checkpoint(tiny_checkpoint_in(tmp_path))
    checkpoint = LoadedCheckpoint(replace(start, recipe=replace(start.recipe, flip_augment=flips)), torch.device("cpu"))
    adaptation = Adaptation(store, LoadedCheckpoints([checkpoint]), InlineDecoder(DecodeLimits(min_side=8)))
    once = command(samples=1)
    mirrored = [
        Upload("mirrored.png", encoded(ImageOps.mirror(Image.open(io.BytesIO(upload.content)))))
        for upload in once.uploads
    ]
    both = replace(once, uploads=(*once.uploads, *mirrored), labels=once.labels * 2)
    report = adaptation.run(both, JobControl()).version.draft.report
    assert (report["estimated_accuracy"] is None) is flips


def test_files_that_repeat_a_picture_are_counted(adaptation: Adaptation) -> None:
    once = command(samples=1)
    twice = replace(once, uploads=once.uploads * 3, labels=once.labels * 3)
    noted = [reasons(adaptation.run(each, JobControl())) for each in (twice, once, command(seed=1))]
    assert "files that repeat a picture: 4 of 6; a picture counts once, with its latest label" in noted[0]
    assert any(reason.startswith("files that repeat a picture: 2 of 2") for reason in noted[1])  # sent before
    assert not any("repeat" in reason for reason in noted[2])


def test_two_processes_that_adapt_with_the_same_key_make_one_version(
    store: VersionStore, adaptation: Adaptation
) -> None:
    others = iter([command(idempotency=KEY)])

    def publish_elsewhere() -> None:
        for other in others:
            adaptation.run(other, JobControl())

    outcome = adaptation.run(command(idempotency=KEY), in_stage("store", publish_elsewhere))
    assert outcome.version.number == 1
    assert len(store.catalog.versions(CLIENT)) == 1


def test_a_version_records_the_samples_classes_and_recipe_of_its_request(adaptation: Adaptation) -> None:
    sent = replace(command(samples=2), steps=3, learning_rate=0.25, seed=9)
    draft = adaptation.run(sent, JobControl()).version.draft
    assert draft.classes == ("fine", "coarse")
    assert [sample.label for sample in draft.samples] == ["fine", "fine", "coarse", "coarse"]
    assert (draft.recipe["steps"], draft.recipe["learning_rate"], draft.seed) == (3, 0.25, 9)
    assert len(draft.report["loss_curve"]) == 3


def test_an_image_that_is_sent_again_counts_once_with_its_latest_label(adaptation: Adaptation) -> None:
    first = command(samples=2)
    adaptation.run(first, JobControl())
    again = replace(first, uploads=first.uploads[:1], labels=("coarse",))
    draft = adaptation.run(again, JobControl()).version.draft
    assert [sample.label for sample in draft.samples] == ["coarse", "fine", "coarse", "coarse"]


@pytest.mark.parametrize("publish", ["always", "never"])
def test_the_request_can_override_the_gate(adaptation: Adaptation, publish: Any) -> None:
    outcome = adaptation.run(command(publish=publish), JobControl())
    assert (outcome.published, outcome.live) == ((True, 1) if publish == "always" else (False, None))


def test_an_extension_of_a_client_without_a_live_version_builds_on_the_newest(adaptation: Adaptation) -> None:
    adaptation.run(command(seed=1, publish="never"), JobControl())
    outcome = adaptation.run(command(seed=2, publish="never"), JobControl())
    assert (outcome.version.draft.parent, names(outcome)) == (1, ["1-0.png", "1-1.png", "2-0.png", "2-1.png"])


def test_a_correction_that_was_held_is_part_of_the_next_extension(adaptation: Adaptation) -> None:
    first = command(samples=2)
    adaptation.run(first, JobControl())
    corrected = replace(first, uploads=first.uploads[:1], labels=("coarse",), publish="never")
    held = adaptation.run(corrected, JobControl())
    outcome = adaptation.run(command(seed=2), JobControl())
    assert (held.published, outcome.version.draft.parent) == (False, 2)
    assert [sample.label for sample in outcome.version.draft.samples[:4]] == ["coarse", "fine", "coarse", "coarse"]


def test_after_a_rollback_an_extension_names_what_it_leaves_out(store: VersionStore, adaptation: Adaptation) -> None:
    first = command(samples=2)
    adaptation.run(first, JobControl())
    more = command(seed=1)
    relabelled = replace(more, uploads=(first.uploads[0], *more.uploads), labels=("coarse", *more.labels))
    adaptation.run(relabelled, JobControl())
    store.catalog.roll_back(CLIENT, LIVE)
    outcome = adaptation.run(command(seed=2), JobControl())
    assert outcome.version.draft.parent == 1
    assert outcome.version.draft.report["gate"]["reasons"][-1] == (
        "this version extends version 1, not the newer version 2: 3 samples of that one are not part of it; send them "
        "again to include them"
    )
    later = adaptation.run(command(seed=3), JobControl()).version.draft
    assert not any("not part of it" in reason for reason in later.report["gate"]["reasons"])


def test_a_version_is_compared_with_the_live_one_and_not_with_a_held_one(
    store: VersionStore, adaptation: Adaptation
) -> None:
    good = command(samples=6)
    adaptation.run(good, JobControl())
    adaptation.run(command(samples=4, seed=1, labels=("coarse",) * 4 + ("fine",) * 4, publish="never"), JobControl())
    store.update_settings(CLIENT, ClientSettings(floor=0.0, tolerance=0.0))
    outcome = adaptation.run(command(seed=2, publish="auto"), JobControl())
    assert outcome.version.draft.parent == 2
    assert "version 1 predicted" in outcome.version.draft.report["gate"]["reasons"][0]


def test_samples_are_stored_unless_the_client_retains_none(store: VersionStore, adaptation: Adaptation) -> None:
    kept = adaptation.run(command(seed=1), JobControl()).version.draft
    store.update_settings(CLIENT, ClientSettings(retain_samples=False))
    dropped = adaptation.run(command(seed=2, mode="replace"), JobControl()).version.draft
    assert (kept.samples_kept, dropped.samples_kept) == (True, False)
    assert store.collect(grace_s=0.0).removed == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": 5}, "steps is 5; use 0 to 4"),
        ({"steps": -1}, "steps is -1; use 0 to 4"),
        ({"seed": -1}, "seed is -1"),
        ({"learning_rate": -0.5}, "learning_rate"),
    ],
)
def test_options_outside_their_limits_are_rejected(
    store: VersionStore, adaptation: Adaptation, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        adaptation.run(replace(command(), **fields), JobControl())
    assert store.catalog.clients() == ()


def test_limits_apply_to_the_stored_samples_and_the_new_ones_together(
    store: VersionStore, adaptation: Adaptation
) -> None:
    for seed in (1, 2):
        adaptation.run(command(samples=6, seed=seed), JobControl())
    with pytest.raises(TooManySamples, match="26 samples, stored ones included; at most 24"):
        adaptation.run(command(samples=1, seed=3), JobControl())
    one_class = replace(command(samples=2), labels=("fine",) * 4, mode="replace")
    with pytest.raises(TooFewClasses, match="only the class 'fine'"):
        adaptation.run(one_class, JobControl())
    assert len(store.catalog.versions(CLIENT)) == 2


def test_the_aliases_of_a_held_version_stay_where_they_are(store: VersionStore, adaptation: Adaptation) -> None:
    adaptation.run(command(seed=1), JobControl())
    held = adaptation.run(command(seed=2, publish="never"), JobControl())
    assert (held.version.number, held.live, store.catalog.alias(CLIENT, LIVE).version) == (2, 1, 1)


def test_a_client_is_adapted_from_the_model_of_its_settings(store: VersionStore, adaptation: Adaptation) -> None:
    made = [adaptation.run(command(steps=None), JobControl()).version.draft]
    store.change_settings(CLIENT, {"model": "omniglot"})
    made.append(adaptation.run(command(steps=None, seed=1), JobControl()).version.draft)
    assert [(draft.meta_model, draft.parent) for draft in made] == [("tiny", None), ("omniglot", 1)]
    assert [draft.recipe["learning_rate"] for draft in made] == [0.05, load_checkpoint("omniglot").recipe.learning_rate]
    assert len(made[1].samples) == 4


def test_a_model_that_is_no_longer_offered_is_named_with_the_way_out(
    store: VersionStore, adaptation: Adaptation
) -> None:
    store.update_settings(CLIENT, ClientSettings(model="gone"))
    with pytest.raises(UnknownCheckpoint, match=r"setting model='gone', but .* available models are tiny, omniglot"):
        adaptation.run(command(), JobControl())


UPGRADE: Final = AdaptCommand(CLIENT, (), (), mode="upgrade")


def test_an_upgrade_adapts_the_stored_samples_from_the_current_model_through_the_gate(
    store: VersionStore, adaptation: Adaptation
) -> None:
    adaptation.run(command(samples=4), JobControl())
    store.change_settings(CLIENT, {"model": "omniglot"})
    outcome = adaptation.run(UPGRADE, JobControl())
    draft = outcome.version.draft
    assert (outcome.version.number, draft.parent, draft.meta_model) == (2, 1, "omniglot")
    assert draft.samples == store.catalog.version(CLIENT, 1).draft.samples
    assert outcome.earlier == store.catalog.version(CLIENT, 1)
    gate = draft.report["gate"]
    assert outcome.published == (gate["decision"] == "publish")
    assert any("no class of version 1 lost more" in reason for reason in gate["reasons"])


def test_an_upgrade_that_the_gate_holds_leaves_the_earlier_version_live(
    store: VersionStore, adaptation: Adaptation
) -> None:
    adaptation.run(command(samples=6, labels=("fine", "coarse") * 6), JobControl())  # labels that mean nothing
    store.update_settings(CLIENT, ClientSettings(model="omniglot"))
    held = adaptation.run(UPGRADE, JobControl())
    assert (held.published, held.live, held.version.draft.report["gate"]["decision"]) == (False, 1, "hold")
    assert store.catalog.alias(CLIENT, LIVE).version == 1


def test_an_upgrade_needs_a_version_of_another_model_with_stored_samples(
    store: VersionStore, adaptation: Adaptation
) -> None:
    with pytest.raises(UnknownClient):
        adaptation.run(UPGRADE, JobControl())
    store.update_settings(CLIENT, ClientSettings())
    with pytest.raises(NothingToUpgrade, match="no version"):
        adaptation.run(UPGRADE, JobControl())
    adaptation.run(command(), JobControl())
    with pytest.raises(NothingToUpgrade, match=r"version 1 .* current model already, 'tiny'"):
        adaptation.run(UPGRADE, JobControl())
    store.update_settings(CLIENT, ClientSettings(model="omniglot", retain_samples=False))
    with pytest.raises(SamplesNotKept, match="mode=replace"):
        adaptation.run(UPGRADE, JobControl())
    assert len(store.catalog.versions(CLIENT)) == 1


class RecordingCheckpoint(LoadedCheckpoint):
    """Records the keys that features are kept by."""

    def support(
        self,
        images: Sequence[Tensor],
        labels: Sequence[int],
        n_way: int,
        control: JobControl | None = None,
        keys: Sequence[Hashable] | None = None,
    ) -> Support:
        self.keys = keys
        return super().support(images, labels, n_way, control, keys)


def test_features_are_kept_by_client_and_only_of_samples_that_are_kept(store: VersionStore, tmp_path: Path) -> None:
    checkpoint = RecordingCheckpoint(load_checkpoint(tiny_checkpoint_in(tmp_path)), torch.device("cpu"))
    adaptation = Adaptation(store, LoadedCheckpoints([checkpoint]), InlineDecoder(DecodeLimits(min_side=8)))
    first = adaptation.run(command(), JobControl())
    assert checkpoint.keys == [(CLIENT, sample.digest) for sample in first.version.draft.samples]
    store.update_settings(CLIENT, ClientSettings(retain_samples=False))
    adaptation.run(command(mode="replace"), JobControl())
    assert checkpoint.keys is None
