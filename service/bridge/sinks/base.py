"""What every sink is."""

from __future__ import annotations

import abc
from contextlib import AbstractAsyncContextManager
from typing import ClassVar

from service.bridge.verdict import Verdict


class VerdictRejected(Exception):
    """The sink will never take this verdict, so it is not sent again."""


class Sink(abc.ABC):
    """Passes verdicts on.

    Attributes:
        name: name of the sink in the configuration.
        connection_errors: errors after which the bridge connects again and repeats the verdict.
    """

    connection_errors: ClassVar[tuple[type[Exception], ...]] = (OSError,)

    def __init__(self, name: str) -> None:
        self.name = name

    @abc.abstractmethod
    def connected(self) -> AbstractAsyncContextManager[None]:
        """Be connected inside the block. Raises one of `connection_errors`."""

    async def check(self) -> None:  # noqa: B027 - most sinks find out when they send
        """Raise one of `connection_errors` if the connection is gone. Called now and then while there is no verdict."""

    @abc.abstractmethod
    async def send(self, verdict: Verdict) -> None:
        """Pass a verdict on, and return when it has arrived.

        Raises:
            VerdictRejected: it will never be taken.
            One of `connection_errors`: it is to be sent again.
        """
