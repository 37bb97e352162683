"""GET /readyz: whether this process should get requests.

It looks at the store (the catalog and the blobs can be read), at the weights in memory (unchanged since the start), at
the decoders of images, and at whether the process is about to stop. See `readiness_checks`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from models.errors import AnoleError, CheckpointInvalid

Check = Callable[[], None]
"""Returns if all is well, and raises an `AnoleError` with the problem otherwise."""

FRESH_S: Final = 1.0
"""How long the results of the checks are used again."""

WEIGHTS_FRESH_S: Final = 60.0
"""How long the check of the weights is used again. It reads all of them."""


@dataclass(frozen=True, slots=True)
class ReadinessReport:
    """Results of the checks.

    Attributes:
        ready: every check passed, and the process is not about to stop.
        checks: name of the check -> "ok", or the problem.
    """

    ready: bool
    checks: Mapping[str, str]


class Readiness:
    """Runs the checks, once a second at most, and remembers that the process is about to stop. Thread-safe.

    Args:
        checks: the checks by name.
        clock: monotonic seconds.
    """

    def __init__(self, checks: Mapping[str, Check], clock: Callable[[], float] = time.monotonic) -> None:
        self._checks = dict(checks)
        self._clock = clock
        self._lock = threading.Lock()
        self._results: Mapping[str, str] = {}
        self._checked_s = -float("inf")
        self._draining = False

    def drain(self) -> None:
        """Report not ready from now on. Requests are still served.

        Signal handlers call this, and one may interrupt another, so it takes no lock.
        """
        self._draining = True

    def report(self) -> ReadinessReport:
        """Return the results of the checks, which may be up to `FRESH_S` seconds old."""
        with self._lock:
            if self._clock() - self._checked_s >= FRESH_S:
                self._results = {name: _result(check) for name, check in self._checks.items()}
                self._checked_s = self._clock()
            results = dict(self._results)
        results["draining"] = "the process is about to stop" if self._draining else "ok"
        return ReadinessReport(ready=all(text == "ok" for text in results.values()), checks=results)


def readiness_checks(ping_store: Check, compute_digest: Callable[[], str], check_decoder: Check) -> dict[str, Check]:
    """Return the checks by name.

    Args:
        ping_store: raises `StoreUnavailable` if the catalog or the blobs cannot be read.
        compute_digest: digest of the checkpoint's weights in memory.
        check_decoder: raises `DecoderUnavailable` if no image can be decoded.
    """
    return {"store": ping_store, "meta_model": weights_unchanged(compute_digest), "decoder": check_decoder}


def weights_unchanged(compute_digest: Callable[[], str], clock: Callable[[], float] = time.monotonic) -> Check:
    """Return a check that the weights of the checkpoint in memory still have the digest that they have now.

    The digest is computed once in `WEIGHTS_FRESH_S` seconds at most.
    """
    digest = expected = compute_digest()
    computed_s = clock()

    def check() -> None:
        nonlocal digest, computed_s
        if clock() - computed_s >= WEIGHTS_FRESH_S:
            digest, computed_s = compute_digest(), clock()
        if digest != expected:
            raise CheckpointInvalid(
                f"the weights of the checkpoint in memory have changed: their digest is {digest[:12]}…, and was "
                f"{expected[:12]}… at the start; restart the service"
            )

    return check


def _result(check: Check) -> str:
    try:
        check()
    except AnoleError as error:
        return str(error)
    return "ok"
