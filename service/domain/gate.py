"""The gate: decides from the records of two versions whether the new one goes live, and says why."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from models.validation.cross_validation import CrossValidationSkipped
from service.domain.client import ClientSettings
from service.domain.diff import KeptSamples, compare_kept_samples, left_out
from service.domain.reason import MOST_NAMED, Reason, ReasonCode, first_of
from service.domain.report import ClassEstimate, class_estimates
from service.domain.version import Lineage, SampleRef, Version, VersionDraft, comparable_label

DEFAULT_TOLERANCE: Final = 0.25
SIGNIFICANCE: Final = 0.05
"""Without a tolerance of the client, a loss counts if it is this improbable between equally good versions."""

_ROUNDING: Final = 1e-9


@dataclass(frozen=True, slots=True)
class GateDecision:
    """What the gate decided.

    Attributes:
        decision: "publish" or "hold".
        details: the reasons, at least one.
        limits: what the version had to reach.
        dropped: earlier classes that lost more of their kept samples than the tolerance allows.
        notes: those of the reasons that are about what was sent; they do not decide.
    """

    decision: Literal["publish", "hold"]
    details: tuple[Reason, ...]
    limits: Limits
    dropped: tuple[KeptSamples, ...]
    notes: tuple[Reason, ...] = ()

    @property
    def reasons(self) -> tuple[str, ...]:
        """The reasons as sentences for people."""
        return tuple(detail.text for detail in self.details)

    def to_json(self) -> dict[str, Any]:
        """Return the decision as the report has it."""
        return {
            "decision": self.decision,
            "reasons": list(self.reasons),
            "notes": [note.text for note in self.notes],
            "details": [detail.to_json() for detail in self.details],
            "floor": self.limits.floor,
            "lower_bound": self.limits.lower_bound,
            "dropped": [dropped.to_json() for dropped in self.dropped],
        }


@dataclass(frozen=True, slots=True)
class Limits:
    """What a version must reach to go live.

    Attributes:
        floor: estimated accuracy. With 0, a version needs no estimate.
        lower_bound: lower end of the estimate's 95 % interval.
        tolerance: share of the kept samples of a class that may be lost; None for `DEFAULT_TOLERANCE` with a test.
    """

    floor: float
    lower_bound: float
    tolerance: float | None

    @classmethod
    def of(cls, settings: ClientSettings, n_way: int) -> Limits:
        """Return the client's limits, or the defaults for that number of classes.

        The default floor is half way from chance to 1: 75 % for two classes, 60 % for five. The default lower bound is
        chance. Chance is 1 / n_way, because the accuracy is averaged over the classes.
        """
        chance = 1 / n_way
        floor = (1 + chance) / 2 if settings.floor is None else settings.floor
        lower_bound = min(chance, floor) if settings.lower_bound is None else settings.lower_bound
        return cls(floor, lower_bound, settings.tolerance)

    def exceeded_by(self, kept: KeptSamples) -> bool:
        """Whether too many of the kept samples were lost."""
        if self.tolerance is not None:
            return kept.lost > self.tolerance + _ROUNDING
        return kept.lost > DEFAULT_TOLERANCE and kept.p_value < SIGNIFICANCE


def decide(
    publish: Literal["auto", "always", "never"],
    draft: VersionDraft,
    settings: ClientSettings,
    lineage: Lineage,
    skipped: CrossValidationSkipped | Reason | None,
    notes: Sequence[Reason] = (),
) -> GateDecision:
    """Decide whether a version that is about to be recorded goes live.

    It does if its estimated accuracy and the interval reach their limits, if each class is recognised at least once on
    held-out samples, and if the version that it is compared with did not recognise its samples better.

    Args:
        publish: "auto" leaves it to the gate; "always" and "never" override it.
        draft: the new version, with its report.
        settings: those of its client.
        lineage: the versions that the client has so far.
        skipped: why there is no estimate, or None if there is one.
        notes: what a person should know about the request; it does not decide.
    """
    limits = Limits.of(settings, len(draft.classes))
    earlier = lineage.compared
    kept = () if earlier is None else compare_kept_samples(earlier.draft, draft)
    dropped = tuple(each for each in kept if limits.exceeded_by(each))
    objections = [*_objections(draft, limits, skipped), *_losses(earlier, kept, limits)]
    missing = _left_out(draft, lineage)
    remarks = [*notes, *_remarks(draft), *missing]
    holds = publish == "never" or (publish == "auto" and bool(objections))
    if publish != "auto":
        chosen: ReasonCode = "publish_always" if publish == "always" else "publish_never"
        reasons = [Reason(chosen, f"the request has publish={publish}"), *objections, *remarks]
    elif holds:
        reasons = [*objections, *remarks, _next_step(draft, lineage)]
    else:
        reasons = [*_reasons_to_publish(draft, limits, earlier, kept), *remarks]
    decision: Literal["publish", "hold"] = "hold" if holds else "publish"
    return GateDecision(decision, tuple(reasons), limits, dropped, (*notes, *missing))


def _objections(draft: VersionDraft, limits: Limits, skipped: CrossValidationSkipped | Reason | None) -> list[Reason]:
    """What the version's own report says against it."""
    if limits.floor <= 0 and limits.lower_bound <= 0:
        return []
    if isinstance(skipped, Reason):
        return [skipped]
    if skipped is not None:
        return [Reason(skipped.code, f"the accuracy could not be estimated: {skipped.reason}")]
    return [*_too_low(draft, limits), *_not_recognised(draft)]


def _too_low(draft: VersionDraft, limits: Limits) -> list[Reason]:
    estimate, low, reasons = draft.report["estimated_accuracy"], draft.report["interval"][0], []
    if estimate < limits.floor - _ROUNDING:
        text = f"the estimated accuracy of {_percent(estimate)} is below the floor of {_percent(limits.floor)}"
        reasons.append(Reason("estimate_below_floor", text, {"estimate": estimate, "floor": limits.floor}))
    if low < limits.lower_bound - _ROUNDING:
        label = _least_certain(class_estimates(draft))
        text = (
            f"the accuracy may be as low as {_percent(low)} (lower end of its 95 % interval), which is below "
            f"the lower bound of {_percent(limits.lower_bound)}; more samples narrow the interval, first of all more "
            f"of class {label!r}"
        )
        values = {"low": low, "lower_bound": limits.lower_bound, "label": label}
        reasons.append(Reason("interval_below_bound", text, values))
    return reasons


def _least_certain(estimates: Mapping[str, ClassEstimate]) -> str:
    """Return the class whose share of correct predictions varies most with the samples that were held out.

    The share counts one more correct and one more wrong prediction, so that a few correct ones are not taken for all.
    """

    def variance(label: str) -> float:
        total = estimates[label].total + 2
        share = (estimates[label].correct + 1) / total
        return share * (1 - share) / total

    return max(estimates, key=variance)


def _not_recognised(draft: VersionDraft) -> list[Reason]:
    estimates, reasons = class_estimates(draft), []
    unjudged = [label for label, found in estimates.items() if not found.total]
    if unjudged:
        text = f"the estimate leaves out {_classes(unjudged)}; send samples of two different parts of a class"
        reasons.append(Reason("classes_not_estimated", text, first_of(classes=unjudged)))
    missed = [label for label, found in estimates.items() if found.total and not found.correct]
    if missed:
        held_out = sum(estimates[label].total for label in missed)
        were, their = ("was", "its") if len(missed) == 1 else ("were", "their")
        text = f"{_classes(missed)} {were} never recognised: {held_out} of {their} samples were held out"
        reasons.append(Reason("classes_never_recognised", text, {**first_of(classes=missed), "judged": held_out}))
    return reasons


def _losses(earlier: Version | None, kept: Sequence[KeptSamples], limits: Limits) -> list[Reason]:
    """What the comparison with the earlier version says against the new one: class by class, else all classes."""
    if earlier is None or not kept:
        return []
    everything = KeptSamples("all classes", tuple(outcome for each in kept for outcome in each.outcomes))
    lost = _worstfirst_of(each for each in kept if limits.exceeded_by(each))
    reasons = [_worse(f"class {each.label!r}", each, earlier) for each in lost[:MOST_NAMED]]
    if not lost and limits.exceeded_by(everything):
        reasons = [replace(_worse("the version", everything, earlier), code="version_got_worse")]
    more = len(lost) - MOST_NAMED
    if more > 0:
        text = f"{more} more classes got worse, see `dropped`"
        reasons.append(Reason("more_classes_got_worse", text, {"more": more}))
    return reasons


def _worse(name: str, kept: KeptSamples, earlier: Version) -> Reason:
    text = (
        f"{name} got worse: version {earlier.number} predicted {kept.correct_before} of its {kept.total} "
        f"kept samples correctly, this version predicts {kept.correct_after}"
    )
    return Reason("class_got_worse", text, {"version": earlier.number, **kept.to_json()})


def _worstfirst_of(kept: Iterable[KeptSamples]) -> list[KeptSamples]:
    return sorted(kept, key=lambda each: each.lost, reverse=True)


def _reasons_to_publish(
    draft: VersionDraft, limits: Limits, earlier: Version | None, kept: Sequence[KeptSamples]
) -> list[Reason]:
    report = draft.report
    if report["interval"] is None:
        text = "the client's floor is 0, so the version goes live without an estimated accuracy"
        return [Reason("no_estimate_needed", text)]
    low, high = report["interval"]
    estimate = f"{_percent(report['estimated_accuracy'])} (95 % interval {_percent(low)} to {_percent(high)})"
    text = f"the estimated accuracy of {estimate} reaches the floor of {_percent(limits.floor)}"
    values = {"estimate": report["estimated_accuracy"], "low": low, "high": high, "floor": limits.floor}
    reasons = [Reason("estimate_reaches_floor", text, values)]
    if earlier is not None and kept:
        lost_more = "clearly lost more" if limits.tolerance is None else "lost more"
        allowed = DEFAULT_TOLERANCE if limits.tolerance is None else limits.tolerance
        text = (
            f"no class of version {earlier.number} {lost_more} than the tolerance, {_percent(allowed)} of its kept "
            "samples"
        )
        reasons.append(Reason("no_class_got_worse", text, {"version": earlier.number, "tolerance": allowed}))
        lost = _worstfirst_of(each for each in kept if each.lost > 0)
        changes = [
            f"{each.correct_after} instead of {each.correct_before} of {each.total} in class {each.label!r}"
            for each in lost[:MOST_NAMED]
        ]
        if changes:
            text = f"this version predicts fewer kept samples correctly: {_and_more(changes, len(lost))}"
            reasons.append(Reason("fewer_correct", text, first_of(classes=[each.to_json() for each in lost])))
    return reasons


def _remarks(draft: VersionDraft) -> list[Reason]:
    """What a person should know and what does not decide."""
    remarks = []
    if draft.report["estimated_accuracy"] is None and draft.report.get("unknown_threshold") is None:
        text = "the version has no threshold for unknown images, so it gives every image the verdict known"
        remarks.append(Reason("no_unknown_verdict", text))
    alike = draft.report.get("alike")
    if alike:
        text = (
            f"images of {_named(alike)} nearly repeat each other, so the estimate may be too high for new parts; if a "
            "part was photographed more than once, send `parts`"
        )
        remarks.append(Reason("classes_alike", text, first_of(classes=alike)))
    shared = _parts_of_several_classes(draft.samples)
    if shared:
        text = (
            f"samples of part {_named(shared)} are in more than one class; cross-validation keeps them together. If "
            "that is a mistake, send them again with the right label or part"
        )
        remarks.append(Reason("parts_in_several_classes", text, first_of(parts=shared)))
    for names in _easily_confused(draft.classes):
        text = (
            f"the classes {_named(names)} differ only in case, blanks or invisible characters; if they are one class, "
            "send the samples again with one label"
        )
        remarks.append(Reason("classes_easily_confused", text, first_of(classes=names)))
    return remarks


def _left_out(draft: VersionDraft, lineage: Lineage) -> list[Reason]:
    """What an extension of an older version does not have, such as the samples of one that was rolled back."""
    missing = left_out(lineage, draft)
    if not missing or lineage.newest is None:
        return []
    newest = lineage.newest.number
    text = (
        f"this version extends version {draft.parent}, not the newer version {newest}: "
        f"{len(missing)} samples of that one are not part of it; send them again to include them"
    )
    return [Reason("samples_left_out", text, {"parent": draft.parent, "newest": newest, "samples": len(missing)})]


def _next_step(draft: VersionDraft, lineage: Lineage) -> Reason:
    text = "the version is stored but not live: send more samples, use publish=always, or set the alias to it; "
    if draft.parent is not None or lineage.base is None or lineage.live is None:
        return Reason("next_builds_on_it", text + "the next extension builds on it; delete it to leave its samples out")
    base = lineage.base.number
    text += f"until then the next extension builds on version {base}"
    return Reason("next_builds_on_version", text, {"version": base})


def _parts_of_several_classes(samples: Sequence[SampleRef]) -> list[str]:
    labels: defaultdict[str, set[str]] = defaultdict(set)
    for sample in samples:
        if sample.part is not None:
            labels[sample.part].add(sample.label)
    return [part for part, found in labels.items() if len(found) > 1]


def _classes(labels: Sequence[str]) -> str:
    return f"class{'' if len(labels) == 1 else 'es'} {_named(labels)}"


def _easily_confused(classes: Sequence[str]) -> list[list[str]]:
    groups: dict[str, list[str]] = {}
    for label in classes:
        groups.setdefault(comparable_label(label), []).append(label)
    return [names for names in groups.values() if len(names) > 1]


def _named(names: Sequence[str]) -> str:
    return _and_more([repr(name) for name in names[:MOST_NAMED]], len(names))


def _and_more(shown: Sequence[str], total: int) -> str:
    more = f" and {total - len(shown)} more" if total > len(shown) else ""
    return ", ".join(shown) + more


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
