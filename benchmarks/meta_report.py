"""Tables for the comparison of meta-learning algorithms, and a summary in a few sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.figures import markdown, percentile
from benchmarks.meta_costs import Memory
from benchmarks.meta_work import ALGORITHMS, NAMES, Algorithm, StepSizes

MIB: Final = 2**20
CLAIMED_MEMORY, CLAIMED_TIME = 0.62, 0.97
"""Shares that popular accounts say Reptile saves against MAML, without saying on which work."""


@dataclass(frozen=True)
class Cost:
    """Cost of an algorithm's meta step at one number of inner steps.

    Attributes:
        seconds: of each meta step measured.
        memory: of a process that takes nothing but such steps.
    """

    algorithm: Algorithm
    inner_steps: int
    seconds: tuple[float, ...]
    memory: Memory

    @property
    def median_s(self) -> float:
        """The middle one of its seconds."""
        return percentile(self.seconds, 0.5)


@dataclass(frozen=True)
class Result:
    """Accuracy of an algorithm's start after some training time.

    Attributes:
        share: of the training time.
        seconds: of training.
        meta_steps: done in them.
        transductive: accuracy and half of its 95 % interval, queries normalised by their own statistics.
        frozen: the same with frozen statistics of the support; None if not measured.
        diverged: whether the training diverged.
    """

    algorithm: Algorithm
    inner_steps: int
    share: float
    seconds: float
    meta_steps: int
    transductive: tuple[float, float]
    frozen: tuple[float, float] | None
    diverged: bool = False


def saved(costs: Sequence[Cost]) -> Mapping[int, tuple[float, float]]:
    """Inner steps -> shares of MAML's memory and time that Reptile saves."""
    by_name = {(cost.algorithm, cost.inner_steps): cost for cost in costs}
    shares = {}
    for steps in sorted({cost.inner_steps for cost in costs}):
        reptile, maml = by_name["reptile", steps], by_name["maml", steps]
        memory = 1 - reptile.memory.added_bytes / max(maml.memory.added_bytes, 1)
        shares[steps] = (memory, 1 - reptile.median_s / maml.median_s)
    return shares


def saved_in_all(costs: Sequence[Cost]) -> Mapping[int, float]:
    """Inner steps -> share of the memory of MAML's whole process that Reptile's saves."""
    held = {(cost.algorithm, cost.inner_steps): cost.memory.before_bytes + cost.memory.added_bytes for cost in costs}
    steps = sorted({cost.inner_steps for cost in costs})
    return {count: 1 - held["reptile", count] / held["maml", count] for count in steps}


def growth(costs: Sequence[Cost], algorithm: Algorithm) -> tuple[float, float] | None:
    """MiB and seconds that each further inner step adds, from the fewest to the most; None with one number of steps."""
    own = sorted((cost for cost in costs if cost.algorithm == algorithm), key=lambda cost: cost.inner_steps)
    steps = own[-1].inner_steps - own[0].inner_steps
    if not steps:
        return None
    added_bytes = own[-1].memory.added_bytes - own[0].memory.added_bytes
    return added_bytes / MIB / steps, (own[-1].median_s - own[0].median_s) / steps


def cost_table(costs: Sequence[Cost], what: str) -> str:
    """A row for each number of inner steps; `what` is "seconds" or "memory"."""
    rows = []
    for steps in sorted({cost.inner_steps for cost in costs}):
        own = {cost.algorithm: cost for cost in costs if cost.inner_steps == steps}
        numbers = {
            name: cost.median_s * 1e3 if what == "seconds" else cost.memory.added_bytes / MIB
            for name, cost in own.items()
        }
        ratio = numbers["maml"] / max(numbers["reptile"], 1e-9)
        rows.append((str(steps), *(f"{numbers[name]:.0f}" for name in ALGORITHMS), f"{ratio:.1f}"))
    grown = [growth(costs, name) for name in ALGORITHMS]
    if all(grown):
        place, unit = (1, 1e3) if what == "seconds" else (0, 1.0)
        rows.append(("each further one", *(f"{both[place] * unit:+.1f}" for both in grown if both), ""))
    return markdown(("inner steps", *(NAMES[name] for name in ALGORITHMS), "MAML / Reptile"), rows)


def result_table(results: Sequence[Result], rates: Mapping[Algorithm, StepSizes]) -> str:
    """A row for each algorithm at the end of its training."""
    rows = [
        (
            NAMES[result.algorithm],
            str(result.inner_steps),
            f"{rates[result.algorithm].inner:g}, {rates[result.algorithm].outer:g}",
            f"{result.meta_steps}" + (" (diverged)" if result.diverged else ""),
            percentage(result.transductive),
            percentage(result.frozen),
        )
        for result in results
        if result.share == 1.0
    ]
    return markdown(
        ("algorithm", "inner steps", "inner, outer rate", "meta steps", "accuracy, transductive", "frozen statistics"),
        rows,
    )


def percentage(score: tuple[float, float] | None) -> str:
    """Mean and half width of its interval in per cent; nothing for None."""
    return "" if score is None else f"{100 * score[0]:.2f} ± {100 * score[1]:.2f} %"


def verdict(costs: Sequence[Cost]) -> str:
    """Compare the results with the popular claim in a few sentences."""
    shares = saved(costs)
    memory = {steps: both[0] for steps, both in shares.items()}
    time = {steps: both[1] for steps, both in shares.items()}
    slower = f"it needs a MAML {1 / (1 - CLAIMED_TIME):.0f} times as slow, which is {_ratios(time)} times as slow here"
    lines = [
        f"The claim: Reptile takes {100 * CLAIMED_MEMORY:.0f} % less memory and {100 * CLAIMED_TIME:.0f} % less time.",
        f"On the same work its meta step takes {_by_steps(memory)} less memory and {_by_steps(time)} less time.",
        f"The {100 * CLAIMED_MEMORY:.0f} % of memory {_reached(memory, CLAIMED_MEMORY)}.",
        f"Of all that the process holds, {_by_steps(saved_in_all(costs))} are saved.",
        f"The {100 * CLAIMED_TIME:.0f} % of time {_reached(time, CLAIMED_TIME)}: {slower}.",
    ]
    grown = {name: growth(costs, name) for name in ALGORITHMS}
    if grown["reptile"] and grown["maml"]:
        lines.append(
            f"Each further inner step adds {grown['maml'][0]:.1f} MiB to MAML, which keeps its graph, and "
            f"{grown['reptile'][0]:.1f} MiB to Reptile: how much memory is saved is a choice of inner steps."
        )
    return "\n".join(lines)


def outcomes(results: Sequence[Result]) -> list[str]:
    """One sentence per number of inner steps on the accuracy after equal training time."""
    sentences = []
    for steps in sorted({result.inner_steps for result in results}):
        ends = [result for result in results if result.inner_steps == steps and result.share == 1.0]
        reached = ", ".join(
            f"{NAMES[end.algorithm]} {percentage(end.transductive)} after {end.meta_steps} meta steps" for end in ends
        )
        sentences.append(f"In equal training time ({ends[0].seconds:g} s each, {steps} inner steps): {reached}.")
    return sentences


def _by_steps(shares: Mapping[int, float]) -> str:
    """E.g. "10, 20 % (at 1, 5 inner steps)"."""
    numbers = ", ".join(f"{100 * share:.0f}" for share in shares.values())
    return f"{numbers} % (at {', '.join(map(str, shares))} inner steps)"


def _reached(shares: Mapping[int, float], claimed: float) -> str:
    reached = [str(steps) for steps, share in shares.items() if share >= claimed]
    return f"is reached or passed at {', '.join(reached)} inner steps" if reached else "is reached nowhere"


def _ratios(time: Mapping[int, float]) -> str:
    low, high = (f"{1 / (1 - share):.1f}" for share in (min(time.values()), max(time.values())))
    return low if low == high else f"{low} to {high}"
