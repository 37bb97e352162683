"""Making versions: what an extension builds on, what the gate compares with, and when a request can be stopped."""

from __future__ import annotations

import io
import time
from collections.abc import Hashable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor

from models.checkpoint import load_checkpoint
from models.images.preprocessing import DecodeLimits
from models.modalities.given import Given
from models.task import Support
from service.domain.client import ClientSettings
from service.domain.job import JobRecord, JobState, Stage, new_job_id
from service.domain.version import LIVE, Publication, VersionDraft
from service.errors import (
    InvalidRequest,
    JobCancelled,
    LabelCountMismatch,
    NothingToUpgrade,
    ParentSuperseded,
    PartCountMismatch,
    SamplesNotKept,
    TooFewClasses,
    TooManySamples,
    UnknownCheckpoint,
    UnknownClient,
)
from service.runtime.adapt_queue import JobControl
from service.runtime.checkpoints import LoadedCheckpoints
from service.runtime.decoder import DecodedImage, InlineDecoder, Upload
from service.runtime.loaded_checkpoint import LoadedCheckpoint
from service.store.version_store import VersionStore
from service.usecases.adapt import Adaptation
from service.usecases.adapt_command import AdaptCommand
from tests.generated import encoded, tiny_checkpoint_in
from tests.unit.service.usecases.adapting import CLIENT, KEY, adapt, command, details, in_stage, names, reasons


def test_an_extension_builds_on_a_version_that_another_process_published_meanwhile(
    store: VersionStore, adaptation: Adaptation
) -> None:
    adapt(adaptation, command(seed=1))
    others = iter([command(seed=2)])

    def publish_elsewhere() -> None:
        for other in others:
            adapt(adaptation, other)

    outcome = adapt(adaptation, command(seed=3), in_stage("store", publish_elsewhere))
    assert (outcome.version.number, outcome.version.draft.parent, outcome.live) == (3, 2, 3)
    assert names(outcome) == ["1-0.png", "1-1.png", "2-0.png", "2-1.png", "3-0.png", "3-1.png"]


def test_an_extension_is_tried_five_times_when_others_keep_publishing(
    store: VersionStore, adaptation: Adaptation
) -> None:
    seeds = iter(range(1, 10))

    def publish_elsewhere() -> None:
        adapt(adaptation, command(seed=next(seeds), mode="replace"))

    with pytest.raises(ParentSuperseded, match="send the request again"):
        adapt(adaptation, command(), in_stage("store", publish_elsewhere))
    assert [version.draft.parent for version in store.catalog.versions(CLIENT)] == [None] * 5


def test_replacing_needs_no_parent_and_is_compared_with_the_live_version(adaptation: Adaptation) -> None:
    adapt(adaptation, command(seed=1))
    outcome = adapt(adaptation, command(seed=2, mode="replace", publish="auto"))
    assert (outcome.version.draft.parent, outcome.published, outcome.live) == (None, False, 1)
    assert names(outcome) == ["2-0.png", "2-1.png"]
    assert "the next extension builds on version 1" in outcome.version.draft.report["gate"]["reasons"][-1]


def test_replacing_is_held_if_a_class_of_the_live_version_gets_worse(
    store: VersionStore, adaptation: Adaptation
) -> None:
    good = command(samples=6)
    adapt(adaptation, good)
    store.update_settings(CLIENT, ClientSettings(floor=0.0))
    swapped = command(samples=8, seed=1, labels=("coarse",) * 8 + ("fine",) * 8)
    worse = replace(good, uploads=good.uploads[:6] + swapped.uploads, labels=("fine",) * 6 + swapped.labels)
    held = adapt(adaptation, replace(worse, mode="replace", publish="auto"))
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
    assert adapt(adaptation, command(), control).version.number == 1
    assert stopped == [False]


@pytest.mark.parametrize("stage", ["decode", "adapt", "examine", "store"])
def test_a_stopped_adaptation_makes_no_version(store: VersionStore, adaptation: Adaptation, stage: Stage) -> None:
    control = in_stage(stage, lambda: control.stop(JobCancelled("enough")))
    with pytest.raises(JobCancelled, match="enough"):
        adapt(adaptation, command(samples=2, steps=2), control)
    assert store.catalog.clients() == ()


def test_the_key_of_a_request_belongs_to_its_last_version(store: VersionStore, adaptation: Adaptation) -> None:
    control = JobControl()
    outcome = adapt(adaptation, command(steps=2, first="prototypes", idempotency=KEY), control)
    assert (control.first.version.number, outcome.version.number) == (1, 2)
    assert [made.version.draft.recipe["steps"] for made in (control.first, outcome)] == [0, 2]
    recalled = store.catalog.recall(CLIENT, KEY)
    assert recalled is not None
    assert recalled.version.number == 2


def test_a_job_runs_on_after_its_first_version(store: VersionStore, adaptation: Adaptation) -> None:
    job_id, states = new_job_id(), list[JobState]()
    jobs = store.catalog.jobs
    jobs.add(JobRecord(job_id, CLIENT, "worker", None, datetime.now(UTC)))

    def look() -> None:
        found = jobs.get(job_id)
        assert found is not None
        states.append(found.state)

    adapt(adaptation, command(steps=1, first="prototypes", job=job_id), in_stage("examine", look))
    ended = jobs.get(job_id)
    assert (states[0], states[-1]) == ("waiting", "running")
    assert ended is not None
    assert ended.first is not None
    assert ended.result is not None
    assert (ended.state, ended.first.version.number, ended.result.version.number) == ("done", 1, 2)


def test_without_inner_steps_a_first_version_is_not_made_twice(store: VersionStore, adaptation: Adaptation) -> None:
    control = JobControl()
    outcome = adapt(adaptation, command(samples=2, steps=0, first="prototypes"), control)
    assert (control.first, outcome.version.number, len(store.catalog.versions(CLIENT))) == (None, 1, 1)
    assert any("first=prototypes makes no version of its own" in reason for reason in reasons(outcome))


def test_a_learning_rate_without_inner_steps_is_noted(adaptation: Adaptation) -> None:
    assert any(
        "learning_rate has no effect" in reason for reason in reasons(adapt(adaptation, command(learning_rate=0.5)))
    )
    quiet = adapt(adaptation, command(seed=1, learning_rate=0.5, steps=1))
    assert not any("effect" in reason or "steps" in reason for reason in reasons(quiet))


def test_inner_steps_after_a_closed_form_are_noted(store: VersionStore, tmp_path: Path) -> None:
    start = load_checkpoint(tiny_checkpoint_in(tmp_path))
    closed_form = LoadedCheckpoint(replace(start, recipe=replace(start.recipe, head="lda")), torch.device("cpu"))
    adaptation = Adaptation(store, LoadedCheckpoints([closed_form]), InlineDecoder(DecodeLimits(min_side=8)))
    quiet, noted = (adapt(adaptation, command(steps=steps)) for steps in (0, 2))
    assert not any("changes next to nothing" in reason for reason in reasons(quiet))
    assert any("changes next to nothing" in reason for reason in reasons(noted))
    assert details(noted)["steps_without_effect"] == {"steps": 2, "model": start.name}


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
    report = adapt(adaptation, both).version.draft.report
    assert (report["estimated_accuracy"] is None) is flips


def test_files_that_repeat_a_picture_are_counted(adaptation: Adaptation) -> None:
    once = command(samples=1)
    twice = replace(once, uploads=once.uploads * 3, labels=once.labels * 3)
    outcomes = [adapt(adaptation, each) for each in (twice, once, command(seed=1))]
    assert details(outcomes[0])["repeated_files"] == {"copies": 4, "files": 6}
    noted = [reasons(outcome) for outcome in outcomes]
    assert "files that repeat a picture: 4 of 6; a picture counts once, with its latest label" in noted[0]
    assert any(reason.startswith("files that repeat a picture: 2 of 2") for reason in noted[1])  # sent before
    assert not any("repeat" in reason for reason in noted[2])


def test_two_processes_that_adapt_with_the_same_key_make_one_version(
    store: VersionStore, adaptation: Adaptation
) -> None:
    others = iter([command(idempotency=KEY)])

    def publish_elsewhere() -> None:
        for other in others:
            adapt(adaptation, other)

    outcome = adapt(adaptation, command(idempotency=KEY), in_stage("store", publish_elsewhere))
    assert outcome.version.number == 1
    assert len(store.catalog.versions(CLIENT)) == 1


def test_a_version_records_the_samples_classes_and_recipe_of_its_request(adaptation: Adaptation) -> None:
    sent = replace(command(samples=2), steps=3, learning_rate=0.25, seed=9)
    draft = adapt(adaptation, sent).version.draft
    assert draft.classes == ("fine", "coarse")
    assert [sample.label for sample in draft.samples] == ["fine", "fine", "coarse", "coarse"]
    assert (draft.recipe["steps"], draft.recipe["learning_rate"], draft.seed) == (3, 0.25, 9)
    assert len(draft.report["loss_curve"]) == 3


def test_the_seconds_of_the_stages_are_part_of_the_total(adaptation: Adaptation) -> None:
    started_s = time.monotonic()
    seconds = adapt(adaptation, command()).version.draft.report["seconds"]
    assert 0 <= seconds["decode"] <= seconds["total"] <= time.monotonic() - started_s


def test_an_image_that_is_sent_again_counts_once_with_its_latest_label(adaptation: Adaptation) -> None:
    first = command(samples=2)
    adapt(adaptation, first)
    again = replace(first, uploads=first.uploads[:1], labels=("coarse",))
    draft = adapt(adaptation, again).version.draft
    assert [sample.label for sample in draft.samples] == ["coarse", "fine", "coarse", "coarse"]


@pytest.mark.parametrize("publish", ["always", "never"])
def test_the_request_can_override_the_gate(adaptation: Adaptation, publish: Any) -> None:
    outcome = adapt(adaptation, command(publish=publish))
    assert (outcome.published, outcome.live) == ((True, 1) if publish == "always" else (False, None))


def test_an_extension_of_a_client_without_a_live_version_builds_on_the_newest(adaptation: Adaptation) -> None:
    adapt(adaptation, command(seed=1, publish="never"))
    outcome = adapt(adaptation, command(seed=2, publish="never"))
    assert (outcome.version.draft.parent, names(outcome)) == (1, ["1-0.png", "1-1.png", "2-0.png", "2-1.png"])


def test_a_correction_that_was_held_is_part_of_the_next_extension(adaptation: Adaptation) -> None:
    first = command(samples=2)
    adapt(adaptation, first)
    corrected = replace(first, uploads=first.uploads[:1], labels=("coarse",), publish="never")
    held = adapt(adaptation, corrected)
    outcome = adapt(adaptation, command(seed=2))
    assert (held.published, outcome.version.draft.parent) == (False, 2)
    assert [sample.label for sample in outcome.version.draft.samples[:4]] == ["coarse", "fine", "coarse", "coarse"]


def test_after_a_rollback_an_extension_names_what_it_leaves_out(store: VersionStore, adaptation: Adaptation) -> None:
    first = command(samples=2)
    adapt(adaptation, first)
    more = command(seed=1)
    relabelled = replace(more, uploads=(first.uploads[0], *more.uploads), labels=("coarse", *more.labels))
    adapt(adaptation, relabelled)
    store.catalog.roll_back(CLIENT, LIVE)
    outcome = adapt(adaptation, command(seed=2))
    assert outcome.version.draft.parent == 1
    assert outcome.version.draft.report["gate"]["reasons"][-1] == (
        "this version extends version 1, not the newer version 2: 3 samples of that one are not part of it; send them "
        "again to include them"
    )
    assert outcome.version.draft.report["gate"]["notes"] == reasons(outcome)[-1:]
    later = adapt(adaptation, command(seed=3)).version.draft
    assert not any("not part of it" in reason for reason in later.report["gate"]["reasons"])


def test_a_version_is_compared_with_the_live_one_and_not_with_a_held_one(
    store: VersionStore, adaptation: Adaptation
) -> None:
    good = command(samples=6)
    adapt(adaptation, good)
    adapt(adaptation, command(samples=4, seed=1, labels=("coarse",) * 4 + ("fine",) * 4, publish="never"))
    store.update_settings(CLIENT, ClientSettings(floor=0.0, tolerance=0.0))
    outcome = adapt(adaptation, command(seed=2, publish="auto"))
    assert outcome.version.draft.parent == 2
    assert "version 1 predicted" in outcome.version.draft.report["gate"]["reasons"][0]


def test_samples_are_stored_unless_the_client_retains_none(store: VersionStore, adaptation: Adaptation) -> None:
    kept = adapt(adaptation, command(seed=1)).version.draft
    store.update_settings(CLIENT, ClientSettings(retain_samples=False))
    dropped = adapt(adaptation, command(seed=2, mode="replace")).version.draft
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
        adapt(adaptation, replace(command(), **fields))
    assert store.catalog.clients() == ()


def test_limits_apply_to_the_stored_samples_and_the_new_ones_together(
    store: VersionStore, adaptation: Adaptation
) -> None:
    for seed in (1, 2):
        adapt(adaptation, command(samples=6, seed=seed))
    with pytest.raises(TooManySamples, match="26 samples, stored ones included; at most 24"):
        adapt(adaptation, command(samples=1, seed=3))
    one_class = replace(command(samples=2), labels=("fine",) * 4, mode="replace")
    with pytest.raises(TooFewClasses, match="only the class 'fine'"):
        adapt(adaptation, one_class)
    assert len(store.catalog.versions(CLIENT)) == 2


def test_the_aliases_of_a_held_version_stay_where_they_are(store: VersionStore, adaptation: Adaptation) -> None:
    adapt(adaptation, command(seed=1))
    held = adapt(adaptation, command(seed=2, publish="never"))
    assert (held.version.number, held.live, store.catalog.alias(CLIENT, LIVE).version) == (2, 1, 1)


def test_a_client_is_adapted_from_the_model_of_its_settings(store: VersionStore, adaptation: Adaptation) -> None:
    made = [adapt(adaptation, command(steps=None)).version.draft]
    store.change_settings(CLIENT, {"model": "omniglot"})
    made.append(adapt(adaptation, command(steps=None, seed=1)).version.draft)
    assert [(draft.meta_model, draft.parent) for draft in made] == [("tiny", None), ("omniglot", 1)]
    assert [draft.recipe["learning_rate"] for draft in made] == [0.05, load_checkpoint("omniglot").recipe.learning_rate]
    assert len(made[1].samples) == 4


def test_a_model_that_is_no_longer_offered_is_named_with_the_way_out(
    store: VersionStore, adaptation: Adaptation
) -> None:
    store.update_settings(CLIENT, ClientSettings(model="gone"))
    with pytest.raises(UnknownCheckpoint, match=r"setting model='gone', but .* available models are tiny, omniglot"):
        adapt(adaptation, command())


UPGRADE: Final = AdaptCommand(CLIENT, (), (), mode="upgrade")


def test_an_upgrade_adapts_the_stored_samples_from_the_current_model_through_the_gate(
    store: VersionStore, adaptation: Adaptation
) -> None:
    adapt(adaptation, command(samples=4))
    store.change_settings(CLIENT, {"model": "omniglot"})
    outcome = adapt(adaptation, UPGRADE)
    draft = outcome.version.draft
    assert (outcome.version.number, draft.parent, draft.meta_model) == (2, 1, "omniglot")
    assert draft.samples == store.catalog.version(CLIENT, 1).draft.samples
    assert outcome.earlier == store.catalog.version(CLIENT, 1)
    gate = draft.report["gate"]
    assert outcome.published == (gate["decision"] == "publish")
    assert any("no class of version 1 clearly lost more than the tolerance" in reason for reason in gate["reasons"])


def test_an_upgrade_that_the_gate_holds_leaves_the_earlier_version_live(
    store: VersionStore, adaptation: Adaptation
) -> None:
    adapt(adaptation, command(samples=6, labels=("fine", "coarse") * 6))  # labels that mean nothing
    store.update_settings(CLIENT, ClientSettings(model="omniglot"))
    held = adapt(adaptation, UPGRADE)
    assert (held.published, held.live, held.version.draft.report["gate"]["decision"]) == (False, 1, "hold")
    assert store.catalog.alias(CLIENT, LIVE).version == 1


def test_an_upgrade_follows_the_setting_uncertainty_there_and_back(store: VersionStore, adaptation: Adaptation) -> None:
    adapt(adaptation, command())
    for uncertainty in ("bayes", None):
        store.update_settings(CLIENT, ClientSettings(uncertainty=uncertainty))
        made = adapt(adaptation, replace(UPGRADE, publish="always")).version.draft
        assert made.recipe.get("uncertainty", "point") == (uncertainty or "point")
        with pytest.raises(NothingToUpgrade, match="with its `uncertainty`"):
            adapt(adaptation, UPGRADE)


def test_an_upgrade_needs_a_version_of_another_model_with_stored_samples(
    store: VersionStore, adaptation: Adaptation
) -> None:
    with pytest.raises(UnknownClient):
        adapt(adaptation, UPGRADE)
    store.update_settings(CLIENT, ClientSettings())
    with pytest.raises(NothingToUpgrade, match="no version"):
        adapt(adaptation, UPGRADE)
    adapt(adaptation, command())
    with pytest.raises(NothingToUpgrade, match=r"version 1 .* current model already, 'tiny'"):
        adapt(adaptation, UPGRADE)
    store.update_settings(CLIENT, ClientSettings(model="omniglot", retain_samples=False))
    with pytest.raises(SamplesNotKept, match="mode=replace"):
        adapt(adaptation, UPGRADE)
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
        given: Sequence[Given | None] = (),
    ) -> Support:
        self.keys = keys
        return super().support(images, labels, n_way, control, keys, given)


def test_features_are_kept_by_client_and_only_of_samples_that_are_kept(store: VersionStore, tmp_path: Path) -> None:
    checkpoint = RecordingCheckpoint(load_checkpoint(tiny_checkpoint_in(tmp_path)), torch.device("cpu"))
    adaptation = Adaptation(store, LoadedCheckpoints([checkpoint]), InlineDecoder(DecodeLimits(min_side=8)))
    first = adapt(adaptation, command())
    assert checkpoint.keys == [(CLIENT, sample.digest) for sample in first.version.draft.samples]
    store.update_settings(CLIENT, ClientSettings(retain_samples=False))
    adapt(adaptation, command(mode="replace"))
    assert checkpoint.keys is None


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"labels": ("fine",)}, LabelCountMismatch),
        ({"parts": ("1",)}, PartCountMismatch),
        ({"labels": ()}, LabelCountMismatch),
    ],
)
def test_a_request_whose_labels_or_parts_do_not_fit_is_rejected_before_an_image_is_decoded(
    store: VersionStore, checkpoints: LoadedCheckpoints, fields: Any, error: type[Exception]
) -> None:
    class Counting(InlineDecoder):
        decoded = 0

        def submit(self, *arguments: Any) -> Future[list[DecodedImage]]:
            self.decoded += 1
            return super().submit(*arguments)

    decoder = Counting(DecodeLimits(min_side=8))
    adaptation = Adaptation(store, checkpoints, decoder)
    with pytest.raises(error):
        adapt(adaptation, replace(command(), **fields))
    assert decoder.decoded == 0
    adapt(adaptation, command())
    assert decoder.decoded == 1
