"""Use case: may this process get requests? It runs the checks it was given and knows not what they look at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from models.errors import AnoleError

Check = Callable[[], None]
"""Returns when all is well and raises an `AnoleError` that says what is not."""


@dataclass(frozen=True, slots=True)
class ReadinessReport:
    """What the checks found.

    Attributes:
        ready: every check passed and the process is not draining.
        checks: name of the check -> "ok" or what is wrong.
    """

    ready: bool
    checks: Mapping[str, str]


class Readiness:
    """Checks that must pass before requests are sent here, and the mark that the process is about to stop."""

    def __init__(self, checks: Mapping[str, Check]) -> None:
        self._checks = dict(checks)
        self._draining = False

    def drain(self) -> None:
        """Report not ready from now on; requests that come all the same are still answered.

        It takes no lock: a signal handler calls it, and a second signal may interrupt the first one's handler.
        """
        self._draining = True

    def report(self) -> ReadinessReport:
        """Run every check."""
        found = {name: _outcome(check) for name, check in self._checks.items()}
        found["draining"] = "the process is about to stop" if self._draining else "ok"
        return ReadinessReport(ready=all(text == "ok" for text in found.values()), checks=found)


def _outcome(check: Check) -> str:
    try:
        check()
    except AnoleError as error:
        return str(error)
    return "ok"
