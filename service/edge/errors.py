"""The errors of the agent on devices."""

from __future__ import annotations

from models.errors import AnoleError


class EdgeError(AnoleError):
    """Base class of the agent's errors."""


class ReleaseInvalid(EdgeError):
    """A release or its start cannot be used on this device."""


class AnoleMismatch(ReleaseInvalid):
    """A file needs another release of Anole than the device has. It can be used once either of them is updated."""


class RepositoryUnusable(EdgeError):
    """The repository cannot be reached, or what it delivers is not signed, not whole, expired or older than before."""


class ClockBehind(EdgeError):
    """The clock of the device shows a time before one that it has shown earlier."""


class NothingInstalled(EdgeError):
    """The device has no release of the client."""
