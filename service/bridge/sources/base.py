"""What every source is."""

from __future__ import annotations

import abc
from collections.abc import AsyncIterator
from typing import ClassVar

from service.bridge.verdict import Picture, Verdict


class Source(abc.ABC):
    """Yields pictures.

    Attributes:
        name: name of the source in the configuration.
        connection_errors: errors after which the bridge calls `pictures` again.
    """

    connection_errors: ClassVar[tuple[type[Exception], ...]] = (OSError,)

    def __init__(self, name: str) -> None:
        self.name = name

    @abc.abstractmethod
    def pictures(self) -> AsyncIterator[Picture]:
        """Connect, and yield pictures as they come. Raises one of `connection_errors` if the connection is lost."""

    def judged(self, verdict: Verdict) -> None:  # noqa: B027 - most sources need not know
        """Note that a picture of this source has a verdict."""

    def delivered(self, picture: Picture) -> None:  # noqa: B027 - most sources need not know
        """Note that every sink has taken or dropped the verdict about a picture."""

    def dropped(self, picture: Picture) -> None:  # noqa: B027 - most sources need not know
        """Note that a picture was dropped, unjudged, because too many wait."""
