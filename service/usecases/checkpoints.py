"""Use case: which meta-trained starts this service offers. It knows neither their weights nor where they came from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from service.errors import UnknownCheckpoint


@dataclass(frozen=True, slots=True)
class CheckpointSummary:
    """A meta-trained start as a listing shows it.

    Attributes:
        name: what it is called.
        digest: SHA-256 (hex) of its weights and settings.
        net: the net's settings as JSON data.
        recipe: the inner loop's settings unless a request says otherwise, as JSON data.
        image: what an image becomes before the net sees it, as JSON data.
        card: how it was trained and what it scores, as JSON data.
    """

    name: str
    digest: str
    net: Mapping[str, Any]
    recipe: Mapping[str, Any]
    image: Mapping[str, Any]
    card: Mapping[str, Any]


class CheckpointList:
    """The meta-trained starts on offer; the first is the one that adaptation uses."""

    def __init__(self, offered: Iterable[CheckpointSummary]) -> None:
        self._offered = tuple(offered)

    def list(self) -> tuple[CheckpointSummary, ...]:
        """All of them, the one in use first."""
        return self._offered

    def get(self, name: str) -> CheckpointSummary:
        """Return the one of that name.

        Raises:
            UnknownCheckpoint: there is none.
        """
        for summary in self._offered:
            if summary.name == name:
                return summary
        names = ", ".join(summary.name for summary in self._offered)
        raise UnknownCheckpoint(f"there is no meta-model {name!r} here; this service offers {names}")
