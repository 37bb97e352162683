"""The gate: decides from the records of two versions whether the new one goes live, and says why."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from service.domain.client import ClientSettings
from service.domain.diff import KeptSamples, compare_kept_samples, left_out
from service.domain.report import class_estimates
from service.domain.version import Lineage, SampleRef, Version, VersionDraft, comparable_label

DEFAULT_TOLERANCE: Final = 0.25
SIGNIFICANCE: Final = 0.05
"""Without a tolerance of the client, a loss counts if it is this improbable between equally good versions."""

_ROUNDING: Final = 1e-9
_MOST_NAMED: Final = 3
"""Classes that a sentence names; it counts the others."""


@dataclass(frozen=True, slots=True)
class GateDecision:
    """What the gate decided.

    Attributes:
        decision: "publish" or "hold".
        reasons: sentences for people, at least one.
        limits: what the version had to reach.
        dropped: earlier classes that lost more of their kept samples than the tolerance allows.
        notes: those of the reasons that are about what was sent; they do not decide.
    """

    decision: Literal["publish", "hold"]
    reasons: tuple[str, ...]
    limits: Limits
    dropped: tuple[KeptSamples, ...]
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the decision as the report has it."""
        return {
            "decision": self.decision,
            "reasons": list(self.reasons),
            "notes": list(self.notes),
            "floor": self.limits.floor,
            "lower_bound": self.limits.lower_bound,
            "dropped": [
                {
                    "label": dropped.label,
                    "judged": dropped.total,
                    "before": dropped.correct_before,
                    "after": dropped.correct_after,
                }
                for dropped in self.dropped
            ],
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
    no_estimate: str | None,
    notes: Sequence[str] = (),
) -> GateDecision:
    """Decide whether a version that is about to be recorded goes live.

    It does if its estimated accuracy and the interval reach their limits, if each class is recognised at least once on
    held-out samples, and if the version that it is compared with did not recognise its samples better.

    Args:
        publish: "auto" leaves it to the gate; "always" and "never" override it.
        draft: the new version, with its report.
        settings: those of its client.
        lineage: the versions that the client has so far.
        no_estimate: why there is no estimate, or None.
        notes: what a person should know about the request; it does not decide.
    """
    limits = Limits.of(settings, len(draft.classes))
    earlier = lineage.compared
    kept = () if earlier is None else compare_kept_samples(earlier.draft, draft)
    dropped = tuple(each for each in kept if limits.exceeded_by(each))
    objections = [*_objections(draft, limits, no_estimate), *_losses(earlier, kept, limits)]
    missing = _left_out(draft, lineage)
    remarks = [*notes, *_remarks(draft), *missing]
    holds = publish == "never" or (publish == "auto" and bool(objections))
    if publish != "auto":
        reasons = [f"the request has publish={publish}", *objections, *remarks]
    elif holds:
        reasons = [*objections, *remarks, _next_step(draft, lineage)]
    else:
        reasons = [*_reasons_to_publish(draft, limits, earlier, kept), *remarks]
    decision: Literal["publish", "hold"] = "hold" if holds else "publish"
    return GateDecision(decision, tuple(reasons), limits, dropped, (*notes, *missing))


def _objections(draft: VersionDraft, limits: Limits, no_estimate: str | None) -> list[str]:
    """What the version's own report says against it."""
    if limits.floor <= 0 and limits.lower_bound <= 0:
        return []
    estimate, interval = draft.report["estimated_accuracy"], draft.report["interval"]
    if estimate is None:
        return [f"the accuracy could not be estimated: {no_estimate}"]
    reasons = []
    if estimate < limits.floor - _ROUNDING:
        reasons.append(f"the estimated accuracy of {_percent(estimate)} is below the floor of {_percent(limits.floor)}")
    estimates = class_estimates(draft)
    if interval[0] < limits.lower_bound - _ROUNDING:
        fewest = min(estimates, key=lambda label: estimates[label].total)
        reasons.append(
            f"the accuracy may be as low as {_percent(interval[0])} (lower end of its 95 % interval), which is below "
            f"the lower bound of {_percent(limits.lower_bound)}; more samples narrow the interval, first of all more "
            f"of class {fewest!r}"
        )
    unjudged = [label for label, found in estimates.items() if not found.total]
    if unjudged:
        reasons.append(f"the estimate leaves out {_classes(unjudged)}; send samples of two different parts of a class")
    missed = [label for label, found in estimates.items() if found.total and not found.correct]
    if missed:
        held_out = sum(estimates[label].total for label in missed)
        were, their = ("was", "its") if len(missed) == 1 else ("were", "their")
        reasons.append(f"{_classes(missed)} {were} never recognised: {held_out} of {their} samples were held out")
    return reasons


def _losses(earlier: Version | None, kept: Sequence[KeptSamples], limits: Limits) -> list[str]:
    """What the comparison with the earlier version says against the new one: class by class, else all classes."""
    if earlier is None or not kept:
        return []
    everything = KeptSamples("all classes", tuple(outcome for each in kept for outcome in each.outcomes))
    lost = _worst_first(each for each in kept if limits.exceeded_by(each))
    named = [(f"class {each.label!r}", each) for each in lost[:_MOST_NAMED]]
    if not lost and limits.exceeded_by(everything):
        named = [("the version", everything)]
    sentences = [
        f"{name} got worse: version {earlier.number} predicted {each.correct_before} of its {each.total} "
        f"kept samples correctly, this version predicts {each.correct_after}"
        for name, each in named
    ]
    if len(lost) > _MOST_NAMED:
        sentences.append(f"{len(lost) - _MOST_NAMED} more classes got worse, see `dropped`")
    return sentences


def _worst_first(kept: Iterable[KeptSamples]) -> list[KeptSamples]:
    return sorted(kept, key=lambda each: each.lost, reverse=True)


def _reasons_to_publish(
    draft: VersionDraft, limits: Limits, earlier: Version | None, kept: Sequence[KeptSamples]
) -> list[str]:
    report = draft.report
    if report["interval"] is None:
        return ["the client's floor is 0, so the version goes live without an estimated accuracy"]
    low, high = report["interval"]
    estimate = f"{_percent(report['estimated_accuracy'])} (95 % interval {_percent(low)} to {_percent(high)})"
    reasons = [f"the estimated accuracy of {estimate} reaches the floor of {_percent(limits.floor)}"]
    if earlier is not None and kept:
        reasons.append(f"no class of version {earlier.number} lost more kept samples than the tolerance allows")
        lost = _worst_first(each for each in kept if each.lost > 0)
        changes = [
            f"{each.correct_after} instead of {each.correct_before} of {each.total} in class {each.label!r}"
            for each in lost[:_MOST_NAMED]
        ]
        if changes:
            reasons.append(f"this version predicts fewer kept samples correctly: {_and_more(changes, len(lost))}")
    return reasons


def _remarks(draft: VersionDraft) -> list[str]:
    """What a person should know and what does not decide."""
    remarks = []
    if draft.report["estimated_accuracy"] is None:
        remarks.append("the version has no threshold for unknown images, so it gives every image the verdict known")
    alike = draft.report.get("alike")
    if alike:
        remarks.append(
            f"images of {_named(alike)} nearly repeat each other, so the estimate may be too high for new parts; if a "
            "part was photographed more than once, send `parts`"
        )
    shared = _parts_of_several_classes(draft.samples)
    if shared:
        remarks.append(
            f"samples of part {_named(shared)} are in more than one class; cross-validation keeps them together. If "
            "that is a mistake, send them again with the right label or part"
        )
    remarks.extend(
        f"the classes {_named(names)} differ only in case, blanks or invisible characters; if they are one class, send "
        "the samples again with one label"
        for names in _easily_confused(draft.classes)
    )
    return remarks


def _left_out(draft: VersionDraft, lineage: Lineage) -> list[str]:
    """What an extension of an older version does not have, such as the samples of one that was rolled back."""
    missing = left_out(lineage, draft)
    if not missing or lineage.newest is None:
        return []
    note = (
        f"this version extends version {draft.parent}, not the newer version {lineage.newest.number}: "
        f"{len(missing)} samples of that one are not part of it; send them again to include them"
    )
    return [note]


def _next_step(draft: VersionDraft, lineage: Lineage) -> str:
    if draft.parent is not None or lineage.base is None or lineage.live is None:
        base = "the next extension builds on it; delete it to leave its samples out"
    else:
        base = f"until then the next extension builds on version {lineage.base.number}"
    return f"the version is stored but not live: send more samples, use publish=always, or set the alias to it; {base}"


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
    return _and_more([repr(name) for name in names[:_MOST_NAMED]], len(names))


def _and_more(shown: Sequence[str], total: int) -> str:
    more = f" and {total - len(shown)} more" if total > len(shown) else ""
    return ", ".join(shown) + more


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
