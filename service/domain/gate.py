"""The gate: whether a new version goes live, and why. It decides from records alone and moves nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from service.domain.client import ClientSettings
from service.domain.diff import KeptClass, kept_classes
from service.domain.report import class_estimates
from service.domain.version import Version, VersionDraft

DEFAULT_TOLERANCE: Final = 0.25

_EXACT: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Decision:
    """What the gate decided.

    Attributes:
        decision: "publish" or "hold".
        reasons: sentences for people, at least one.
        floor: what the estimate had to reach.
        dropped: earlier classes that lost more of their kept samples than the tolerance allows.
    """

    decision: Literal["publish", "hold"]
    reasons: tuple[str, ...]
    floor: float
    dropped: tuple[KeptClass, ...]

    def to_json(self) -> dict[str, Any]:
        """As the report has it."""
        return {
            "decision": self.decision,
            "reasons": list(self.reasons),
            "floor": self.floor,
            "dropped": [
                {"label": own.label, "judged": own.judged, "before": own.right_before, "after": own.right_after}
                for own in self.dropped
            ],
        }


def decide(
    wanted: Literal["auto", "always", "never"],
    draft: VersionDraft,
    settings: ClientSettings,
    earlier: Version | None,
    no_estimate: str | None,
) -> Decision:
    """Decide about a version that is about to be recorded.

    Publish only if the estimate itself, not its lower bound, can_access the floor, and no class that `earlier` has lost
    more than the tolerance of its kept samples. The lower bound would hold nearly every version of a few samples: of 25
    samples all judged right it is about 80 %. Without an estimate only a floor of 0 is reached.

    Args:
        wanted: "auto" asks the gate; "always" and "never" overrule it.
        draft: with the findings in its report.
        settings: of its client.
        earlier: the live version, or the latest where none is live; None for a client's first.
        no_estimate: why there is none, or None.
    """
    floor = default_floor(len(draft.classes)) if settings.floor is None else settings.floor
    dropped = () if earlier is None else _dropped(earlier.draft, draft, settings.tolerance)
    against = _against(draft, floor, earlier, dropped, no_estimate)
    if wanted == "never":
        return Decision("hold", ("the request asked not to publish", *against), floor, dropped)
    if wanted == "always":
        return Decision("publish", ("the request asked to publish in any case", *against), floor, dropped)
    if against:
        return Decision("hold", (*against, _what_now(earlier)), floor, dropped)
    return Decision("publish", tuple(_in_favour(draft, floor, earlier)), floor, dropped)


def default_floor(n_way: int) -> float:
    """Half way from guessing to perfection: 75 % for two classes, 60 % for five."""
    return (1 + 1 / n_way) / 2


def _dropped(before: VersionDraft, after: VersionDraft, tolerance: float | None) -> tuple[KeptClass, ...]:
    """Without a tolerance of its own, a client's classes may lose a quarter, and always one sample."""
    return tuple(
        own
        for own in kept_classes(before, after).values()
        if own.dropped > (max(DEFAULT_TOLERANCE, 1 / own.judged) if tolerance is None else tolerance) + _EXACT
    )


def _against(
    draft: VersionDraft,
    floor: float,
    earlier: Version | None,
    dropped: Sequence[KeptClass],
    no_estimate: str | None,
) -> list[str]:
    reasons = []
    estimate = draft.report["estimated_accuracy"]
    if estimate is None and floor > 0:
        reasons.append(f"there is no estimate of its accuracy: {no_estimate}")
    elif estimate is not None and estimate < floor - _EXACT:
        reasons.append(f"its estimated accuracy of {_percent(estimate)} is below the floor of {_percent(floor)}")
    number = None if earlier is None else earlier.number
    reasons += [
        f"class {own.label!r} dropped: of {own.judged} kept samples {own.right_before} were named rightly in version "
        f"{number}, {own.right_after} are now"
        for own in dropped
    ]
    return reasons


def _in_favour(draft: VersionDraft, floor: float, earlier: Version | None) -> list[str]:
    report = draft.report
    if report["interval"] is None:
        return ["it goes live without an estimate: the client's floor is 0"]
    low, high = report["interval"]
    reasons = [
        (
            f"its estimated accuracy of {_percent(report['estimated_accuracy'])} (95 % interval {_percent(low)} to "
            f"{_percent(high)}) can_access the floor of {_percent(floor)}"
        )
    ]
    if earlier is not None and kept_classes(earlier.draft, draft):
        reasons.append(f"no class of version {earlier.number} lost more kept samples than its tolerance")
    unjudged = [repr(name) for name, own in class_estimates(draft).items() if not own.judged]
    if unjudged:
        reasons.append(
            f"{', '.join(unjudged)} had no sample that could be left out, and no part in the estimate; "
            "send another, different picture"
        )
    return reasons


def _what_now(earlier: Version | None) -> str:
    stays = "" if earlier is None else f"; the next extension builds on version {earlier.number} again"
    return f"it is kept and not live: send more samples, or publish=always, or point the alias at it{stays}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
