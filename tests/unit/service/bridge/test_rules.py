"""The rules: pass, fail or unknown, debouncing, and the numbers of classes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from service.bridge.config import RulesConfig
from service.bridge.rules import UNLISTED, Rules
from service.bridge.verdict import Judgement
from tests.unit.service.bridge.conftest import BAD, GOOD, verdict

UNSURE = replace(GOOD, confidence=0.5)
NOVEL = replace(GOOD, known=False)


def rules(**fields: Any) -> Rules:
    return Rules(RulesConfig.model_validate({"pass": ["good"], **fields}), "line")


@pytest.mark.parametrize(
    ("judgement", "fields", "result"),
    [
        (GOOD, {}, "pass"),
        (BAD, {}, "fail"),
        (BAD, {"pass": ["good", "bad"]}, "pass"),
        (UNSURE, {}, "pass"),
        (UNSURE, {"min_confidence": 0.6}, "unknown"),
        (NOVEL, {}, "unknown"),
        (NOVEL, {"unknown": "fail"}, "fail"),
        (NOVEL, {"unknown": "pass"}, "pass"),
        (None, {}, "unknown"),
        (None, {"unknown": "fail"}, "fail"),
        (None, {"unknown": "pass"}, "unknown"),
    ],
)
def test_the_result_follows_from_class_confidence_and_verdict(
    judgement: Judgement | None, fields: dict[str, Any], result: str
) -> None:
    assert verdict(judgement, rules(**fields)).result == result


def test_the_state_follows_after_as_many_pictures_as_the_rules_say() -> None:
    three = rules(debounce=3)
    made = [verdict(each, three) for each in (GOOD, GOOD, GOOD, BAD, BAD, GOOD, BAD, BAD, BAD)]
    assert [each.state for each in made] == ["unknown"] * 2 + ["pass"] * 6 + ["fail"]
    assert [each.number for each in made] == list(range(1, 10))


def test_classes_have_numbers_by_name_or_those_of_the_rules() -> None:
    assert [verdict(each).class_number for each in (BAD, GOOD, None)] == [1, 2, 0]
    listed = rules(class_numbers={"good": 7})
    assert [verdict(each, listed).class_number for each in (GOOD, BAD)] == [7, UNLISTED]


def test_a_class_that_the_version_does_not_have_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    mistyped = rules(**{"pass": ["god", "good"]})
    for _ in range(2):
        verdict(GOOD, mistyped)
    assert caplog.messages == ["rules.pass has god, which version 3 does not have; its classes are bad, good"]
