"""Whether what a store writes can still be trusted to be on the disk. Knows no file and no database.

After a failed sync the kernel may drop the pages that it could not write and let the next sync succeed, so a failure is
final: the whole store takes no more writes, reads go on, and whoever runs the process is told to start it anew.
"""

from __future__ import annotations

from collections.abc import Callable

from service.errors import StoreUnavailable

Told = Callable[[str], None]
"""Is given what failed, once; it must not raise and not wait."""


def nobody(_said: str) -> None:
    """Nobody wants to know."""


class Durability:
    """What the parts of one store have in common. Safe from any number of threads.

    Args:
        told: is told of the first failure.
    """

    def __init__(self, told: Told = nobody) -> None:
        self._told = told
        self._failure: str | None = None

    def failed(self, said: str) -> None:
        """A sync failed; from now on nothing is written."""
        if self._failure is None:
            self._failure = said
            self._told(said)

    def refuse_after_failure(self, where: str) -> None:
        """Raises StoreUnavailable once a sync has failed."""
        if self._failure is not None:
            raise StoreUnavailable(
                f"an earlier write could not be made durable ({self._failure}), so what would follow it in {where} "
                "could not be trusted; check the disk, then start the service anew; reading goes on"
            )
