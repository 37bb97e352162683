"""GET /models: the meta-trained checkpoints that clients are adapted from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from models.checkpoint import SHIPPED_ALIASES, Checkpoint
from models.modalities.given import kind_taken
from service.errors import unknown_checkpoint


@dataclass(frozen=True, slots=True)
class CheckpointSummary:
    """A meta-trained checkpoint as an entry of a list.

    Attributes:
        name: name of the checkpoint.
        digest: SHA-256 (hex) of its weights and settings.
        net: settings of the net as JSON data.
        recipe: default settings of the inner loop as JSON data.
        image: settings of the image preprocessing as JSON data.
        card: how it was trained, and its scores, as JSON data.
    """

    name: str
    digest: str
    net: Mapping[str, Any]
    recipe: Mapping[str, Any]
    image: Mapping[str, Any]
    card: Mapping[str, Any]
    takes: str = "none"

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> CheckpointSummary:
        """Summarise a checkpoint."""
        return cls(
            name=checkpoint.name,
            digest=checkpoint.digest,
            net=checkpoint.net_config.to_json(),
            recipe=checkpoint.recipe.to_json(),
            image=asdict(checkpoint.net_config.image),
            card=dict(checkpoint.training),
            takes=kind_taken(checkpoint.net_config),
        )


class CheckpointList:
    """The available checkpoints. The first one is the default."""

    def __init__(self, checkpoints: Iterable[CheckpointSummary]) -> None:
        self._checkpoints = tuple(checkpoints)

    def list(self) -> tuple[CheckpointSummary, ...]:
        """Return all checkpoints, the default first."""
        return self._checkpoints

    def get(self, name: str) -> CheckpointSummary:
        """Return the checkpoint with that name, which may be an alias.

        Raises:
            UnknownCheckpoint: there is none.
        """
        for summary in self._checkpoints:
            if summary.name == SHIPPED_ALIASES.get(name, name):
                return summary
        raise unknown_checkpoint(name, [summary.name for summary in self._checkpoints])
