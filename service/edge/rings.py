"""Which release a device should run: rings are percentages of all devices, chosen by a hash of the device's id."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

Channel = Literal["canary", "stable"]

CUSTOM: Final = "anole"
"""Key of Anole's data in the custom fields of a target."""


class _Signed(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Rollout(_Signed):
    """How far a client's newest release is rolled out on a channel.

    Attributes:
        target: path of the release.
        version: its number.
        start: path of the start that it belongs to.
        percent: of the devices, those that should run it.
        halted: whether devices should go back to the release before.
        previous: path of the release before; None for the first one.
        previous_start: path of its start.
    """

    target: str
    version: int
    start: str
    percent: int = Field(ge=0, le=100)
    halted: bool = False
    previous: str | None = None
    previous_start: str | None = None

    def wanted(self, device: str) -> list[tuple[str, str]]:
        """The releases that a device may run, the best first: path of the release, and of its start."""
        found = []
        if not self.halted and position(device, self.target) < self.percent:
            found.append((self.target, self.start))
        if self.previous is not None and self.previous_start is not None:
            found.append((self.previous, self.previous_start))
        return found


class ChannelState(_Signed):
    """What a channel offers, as signed in the custom fields of its target.

    Attributes:
        serial: grows with every change; a device never accepts a smaller one than before.
        clients: the rollout of each client's newest release, by client name.
    """

    serial: int = Field(ge=0)
    clients: Mapping[str, Rollout] = {}


def channel_path(channel: str) -> str:
    """Path of a channel's target."""
    return f"channels/{channel}.json"


def position(device: str, target: str) -> float:
    """Where a device stands among all devices for a release, in per cent from 0 to below 100.

    Every release has an order of its own, so that it is not always the same devices that try releases first.
    """
    digest = hashlib.sha256(f"{target}\n{device}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64 * 100
