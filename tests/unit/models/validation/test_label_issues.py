"""Label issues: which samples are found, with which class, and in which order."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.validation.label_issues import LabelIssue, find_label_issues

SCALE = 5.0


def issues_of(values: list[float], labels: list[int], groups: list[int] | None = None) -> tuple[LabelIssue, ...]:
    """Find the issues of samples with one feature each."""
    features = torch.tensor(values)[:, None]
    grouped: Tensor = torch.arange(len(values)) if groups is None else torch.tensor(groups)
    return find_label_issues(features, torch.tensor(labels), grouped, SCALE)


def test_samples_near_their_own_class_are_no_issues() -> None:
    assert issues_of([0.0, 0.1, 0.2, 10.0, 10.1, 10.2], [0, 0, 0, 1, 1, 1]) == ()


def test_issues_are_in_order_of_their_probability() -> None:
    values = [0.0, 0.1, 0.2, 0.3, 0.4, 7.0, 9.9, 10.0, 10.1, 10.2, 10.3, 10.4, 3.5, 0.15]
    labels = [0] * 7 + [1] * 7
    issues = issues_of(values, labels)
    assert {issue.sample: issue.predicted for issue in issues} == {6: 1, 13: 0, 5: 1, 12: 0}
    assert {issue.sample for issue in issues[:2]} == {6, 13}
    assert [issue.confidence for issue in issues] == sorted((issue.confidence for issue in issues), reverse=True)
    assert len({round(issue.confidence, 6) for issue in issues}) >= 3


def test_the_order_does_not_follow_the_order_of_the_samples() -> None:
    values = [7.0, 10.0, 0.0, 0.1, 0.2, 0.3, 0.4, 10.1, 10.2, 10.3, 10.4, 10.5]
    issues = issues_of(values, [0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1])
    assert [issue.sample for issue in issues] == [1, 0]


def test_copies_do_not_vouch_for_a_wrong_label() -> None:
    values = [0.0, 0.1, 0.2, 10.0, 10.0, 10.0, 10.0, 16.0, 16.1, 16.2]
    labels = [0, 0, 0, 0, 0, 0, 0, 1, 1, 1]
    copies = [0, 1, 2, 3, 3, 3, 3, 4, 5, 6]
    assert {issue.sample: issue.predicted for issue in issues_of(values, labels, copies)} == {3: 1, 4: 1, 5: 1, 6: 1}
    assert issues_of(values, labels) == ()  # four different images may well be a part of their class


def test_copies_under_two_labels_do_not_vouch_for_either() -> None:
    values = [0.0, 0.1, 0.2, 10.0, 10.0, 10.1, 10.2, 10.3]
    labels = [0, 0, 0, 0, 1, 1, 1, 1]
    copies = [0, 1, 2, 3, 3, 4, 5, 6]
    assert [(issue.sample, issue.predicted) for issue in issues_of(values, labels, copies)] == [(3, 1)]


@pytest.mark.parametrize("groups", [None, [0, 0, 1, 1]])
def test_a_class_of_one_sample_or_of_copies_of_one_is_not_judged(groups: list[int] | None) -> None:
    labels = [0, 1, 2, 3] if groups is None else [0, 0, 1, 1]
    assert issues_of([0.0, 0.1, 10.0, 10.1], labels, groups) == ()
