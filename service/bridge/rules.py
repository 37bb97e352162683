"""The rules that turn what Anole says about a picture into pass, fail or unknown."""

from __future__ import annotations

import logging
from typing import Final

from service.bridge.config import RulesConfig
from service.bridge.verdict import Judgement, Picture, Result, Verdict

LOG: Final = logging.getLogger("anole.bridge")
UNLISTED: Final = 65535
"""Number of a class that `rules.class_numbers` does not have."""


class Rules:
    """Applies the rules to one picture after the other.

    Args:
        config: the rules.
        client: name of the client that judges.
    """

    def __init__(self, config: RulesConfig, client: str) -> None:
        self._config = config
        self._client = client
        self._number = 0
        self._runs: dict[str, tuple[Result, int]] = {}
        self._states: dict[str, Result] = {}
        self._checked_version = 0

    def apply(self, picture: Picture, judgement: Judgement | None, error: str = "") -> Verdict:
        """Return the verdict about a picture. A picture that Anole rejected, with its error, never passes."""
        self._number += 1
        self._check_classes(judgement)
        result = self._result(judgement)
        return Verdict(
            picture=picture,
            client=self._client,
            number=self._number,
            result=result,
            state=self._state(picture.source, result),
            class_number=self._class_number(judgement),
            judgement=judgement,
            error=error,
        )

    def _result(self, judgement: Judgement | None) -> Result:
        config = self._config
        if judgement is None:
            return "fail" if config.unknown == "fail" else "unknown"
        if not judgement.known or judgement.confidence < config.min_confidence:
            return config.unknown
        return "pass" if judgement.label in config.pass_classes else "fail"

    def _state(self, source: str, result: Result) -> Result:
        """Return the last result that came `debounce` times in a row. Before there is one, the state is unknown."""
        before, length = self._runs.get(source, (result, 0))
        length = length + 1 if before == result else 1
        self._runs[source] = (result, length)
        if length >= self._config.debounce:
            self._states[source] = result
        return self._states.get(source, "unknown")

    def _check_classes(self, judgement: Judgement | None) -> None:
        """Warn once per version of classes in the rules that the version does not have."""
        if judgement is None or judgement.version == self._checked_version:
            return
        self._checked_version = judgement.version
        named = {"pass": self._config.pass_classes, "class_numbers": frozenset(self._config.class_numbers)}
        for key, classes in named.items():
            missing = sorted(classes - set(judgement.classes))
            if missing:
                LOG.warning(
                    "rules.%s has %s, which version %d does not have; its classes are %s",
                    key,
                    ", ".join(missing),
                    judgement.version,
                    ", ".join(judgement.classes),
                )

    def _class_number(self, judgement: Judgement | None) -> int:
        if judgement is None:
            return 0
        if self._config.class_numbers:
            return self._config.class_numbers.get(judgement.label, UNLISTED)
        return judgement.classes.index(judgement.label) + 1
