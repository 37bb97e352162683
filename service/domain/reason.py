"""The reasons of the gate: each is a sentence, and a code with values for programs that phrase it themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from models.validation.cross_validation import SkipCode

ReasonCode = Literal[
    SkipCode,
    # Against the version
    "imported",
    "estimate_below_floor",
    "interval_below_bound",
    "classes_not_estimated",
    "classes_never_recognised",
    "class_got_worse",
    "more_classes_got_worse",
    "version_got_worse",
    # For the version
    "publish_always",
    "publish_never",
    "no_estimate_needed",
    "estimate_reaches_floor",
    "no_class_got_worse",
    "fewer_correct",
    # What does not decide
    "no_unknown_verdict",
    "classes_alike",
    "parts_in_several_classes",
    "classes_easily_confused",
    "samples_left_out",
    "next_builds_on_version",
    "next_builds_on_it",
    # About the request
    "corrected",
    "classes_gone",
    "repeated_files",
    "first_without_effect",
    "learning_rate_without_effect",
    "steps_without_effect",
]
"""Stable: the page and other programs have texts for them."""

MOST_NAMED: Final = 3
"""Classes or parts that a reason names; it counts the others."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Something that the gate says about a version.

    Attributes:
        code: what it says.
        text: a sentence for people.
        values: the numbers and names of the sentence as JSON data, lists as `first_of` shortens them.
    """

    code: ReasonCode
    text: str
    values: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the reason as the report has it."""
        return {"code": self.code, "text": self.text, "values": dict(self.values)}


def first_of(**lists: Sequence[Any]) -> dict[str, Any]:
    """Return the first entries of one list as values of a reason, and the number of others as `more`."""
    ((name, entries),) = lists.items()
    return {name: list(entries[:MOST_NAMED]), "more": max(0, len(entries) - MOST_NAMED)}
