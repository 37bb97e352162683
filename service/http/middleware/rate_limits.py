"""How much of the service one caller may take: so many requests a second, so many in work. Counted in this process.

It knows no HTTP and no key; who a caller is comes in as a word. Callers that are idle are forgotten, so that nobody
can fill the memory with names.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from service.errors import RateExceeded

_BURST_S: Final = 2.0
"""A caller that was quiet may send so many seconds' worth at once."""

_REMEMBERED: Final = 10_000


@dataclass(frozen=True, slots=True)
class Allowance:
    """What one caller may take.

    Attributes:
        in_flight: requests in work at the same time.
        rate_per_s: requests a second, on average.
    """

    in_flight: int
    rate_per_s: float = math.inf


@dataclass(slots=True)
class _Account:
    """One caller's state: requests left to send at `seen_at`, monotonic seconds, and how many are in work."""

    left: float
    seen_at: float
    in_flight: int = 0


class Allowances:
    """Keeps an account a caller.

    Args:
        allowance: of each.
        clock: monotonic seconds.
        remembered: accounts kept at most; requests in work are never forgotten.
    """

    def __init__(
        self, allowance: Allowance, clock: Callable[[], float] = time.monotonic, remembered: int = _REMEMBERED
    ) -> None:
        self._allowance = allowance
        self._most = max(1.0, allowance.rate_per_s * _BURST_S)
        self._clock = clock
        self._remembered = remembered
        self._accounts: OrderedDict[str, _Account] = OrderedDict()

    def __len__(self) -> int:
        return len(self._accounts)

    @contextmanager
    def taken(self, caller: str) -> Iterator[None]:
        """Count one request for the length of the block.

        Raises:
            RateExceeded: the caller has taken its share; says when to come again.
        """
        account = self._account(caller)
        if account.in_flight >= self._allowance.in_flight:
            raise RateExceeded(
                f"{account.in_flight} requests of this caller are in work and no more are taken; "
                "wait for their answers, or try again in 1 s",
                retry_after_s=1,
            )
        if account.left < 1:
            wait_s = math.ceil((1 - account.left) / self._allowance.rate_per_s)
            raise RateExceeded(
                f"this caller sends more than {self._allowance.rate_per_s:g} requests a second; "
                f"try again in {wait_s} s",
                retry_after_s=wait_s,
            )
        account.left -= 1
        account.in_flight += 1
        try:
            yield
        finally:
            account.in_flight -= 1

    def _account(self, caller: str) -> _Account:
        now = self._clock()
        account = self._accounts.setdefault(caller, _Account(self._most, now))
        self._accounts.move_to_end(caller)
        if now > account.seen_at:
            account.left = min(self._most, account.left + (now - account.seen_at) * self._allowance.rate_per_s)
            account.seen_at = now
        while len(self._accounts) > self._remembered:
            idlest = next((name for name, other in self._accounts.items() if not other.in_flight), caller)
            if idlest == caller:
                break
            del self._accounts[idlest]
        return account
