"""The gate: decides from the records of two versions whether the new one goes live, and says why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from service.domain.client import ClientSettings
from service.domain.diff import KeptClass, compare_kept_samples
from service.domain.report import class_estimates
from service.domain.version import Version, VersionDraft

DEFAULT_TOLERANCE: Final = 0.25

_ROUNDING: Final = 1e-9


@dataclass(frozen=True, slots=True)
class GateDecision:
    """What the gate decided.

    Attributes:
        decision: "publish" or "hold".
        reasons: sentences for people, at least one.
        floor: estimated accuracy that the version had to reach.
        dropped: earlier classes that lost more of their kept samples than the tolerance allows.
    """

    decision: Literal["publish", "hold"]
    reasons: tuple[str, ...]
    floor: float
    dropped: tuple[KeptClass, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the decision as the report has it."""
        return {
            "decision": self.decision,
            "reasons": list(self.reasons),
            "floor": self.floor,
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


def decide(
    publish: Literal["auto", "always", "never"],
    draft: VersionDraft,
    settings: ClientSettings,
    earlier: Version | None,
    no_estimate: str | None,
) -> GateDecision:
    """Decide whether a version that is about to be recorded goes live.

    It does if its estimated accuracy reaches the floor and no class of `earlier` lost more of its kept samples than the
    tolerance allows. The estimate counts, not its lower bound: with few samples the bound would hold nearly every
    version (25 samples, all predicted correctly, have a lower bound of about 80 %). A version without an estimate
    reaches a floor of 0 only.

    Args:
        publish: "auto" leaves it to the gate; "always" and "never" override it.
        draft: the new version, with its report.
        settings: those of its client.
        earlier: the live version, or the latest if none is live; None for the first version of a client.
        no_estimate: why there is no estimate, or None.
    """
    floor = default_floor(len(draft.classes)) if settings.floor is None else settings.floor
    dropped = () if earlier is None else _dropped(earlier.draft, draft, settings.tolerance)
    objections = _objections(draft, floor, earlier, dropped, no_estimate)
    if publish == "never":
        return GateDecision("hold", ("the request has publish=never", *objections), floor, dropped)
    if publish == "always":
        return GateDecision("publish", ("the request has publish=always", *objections), floor, dropped)
    if objections:
        return GateDecision("hold", (*objections, _next_step(earlier)), floor, dropped)
    return GateDecision("publish", tuple(_reasons_to_publish(draft, floor, earlier)), floor, dropped)


def default_floor(n_way: int) -> float:
    """Return the accuracy half way from guessing to perfect: 75 % for two classes, 60 % for five."""
    return (1 + 1 / n_way) / 2


def _dropped(before: VersionDraft, after: VersionDraft, tolerance: float | None) -> tuple[KeptClass, ...]:
    """Find the classes that lost too much; by default a class may lose a quarter of its samples, and always one."""
    return tuple(
        kept
        for kept in compare_kept_samples(before, after).values()
        if kept.lost > (max(DEFAULT_TOLERANCE, 1 / kept.total) if tolerance is None else tolerance) + _ROUNDING
    )


def _objections(
    draft: VersionDraft,
    floor: float,
    earlier: Version | None,
    dropped: Sequence[KeptClass],
    no_estimate: str | None,
) -> list[str]:
    reasons = []
    estimate = draft.report["estimated_accuracy"]
    if estimate is None and floor > 0:
        reasons.append(f"the accuracy could not be estimated: {no_estimate}")
    elif estimate is not None and estimate < floor - _ROUNDING:
        reasons.append(f"the estimated accuracy of {_percent(estimate)} is below the floor of {_percent(floor)}")
    number = None if earlier is None else earlier.number
    reasons += [
        f"class {kept.label!r} got worse: version {number} predicted {kept.correct_before} of its {kept.total} kept "
        f"samples correctly, this version predicts {kept.correct_after}"
        for kept in dropped
    ]
    return reasons


def _reasons_to_publish(draft: VersionDraft, floor: float, earlier: Version | None) -> list[str]:
    report = draft.report
    if report["interval"] is None:
        return ["the client's floor is 0, so the version goes live without an estimated accuracy"]
    low, high = report["interval"]
    estimate = f"{_percent(report['estimated_accuracy'])} (95 % interval {_percent(low)} to {_percent(high)})"
    reasons = [f"the estimated accuracy of {estimate} reaches the floor of {_percent(floor)}"]
    if earlier is not None and compare_kept_samples(earlier.draft, draft):
        reasons.append(f"no class of version {earlier.number} lost more kept samples than the tolerance allows")
    not_estimated = [repr(label) for label, estimate in class_estimates(draft).items() if not estimate.total]
    if not_estimated:
        reasons.append(
            f"the estimate leaves out {', '.join(not_estimated)}: a class needs at least two different images to be "
            "part of it; send another one"
        )
    return reasons


def _next_step(earlier: Version | None) -> str:
    base = "" if earlier is None else f"; until then the next extension builds on version {earlier.number}"
    return f"the version is stored but not live: send more samples, use publish=always, or set the alias to it{base}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
