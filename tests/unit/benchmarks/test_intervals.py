"""Plots of means and intervals."""

from __future__ import annotations

import pytest

from benchmarks.intervals import plot_intervals
from models.meta.evaluation import Score

LOW, HIGH = Score((0.1, 0.2)), Score((0.8, 0.9))


def size(png: bytes) -> tuple[int, int]:
    assert png.startswith(b"\x89PNG")
    return int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")


def test_the_picture_grows_with_panels_and_rows() -> None:
    pytest.importorskip("matplotlib")
    row = {"ours": LOW, "theirs": HIGH}
    one, wide, high = (
        size(plot_intervals(panels, "accuracy (%)"))
        for panels in ({"a": {"x": row}}, {"a": {"x": row}, "b": {"x": row}}, {"a": {"x": row, "y": row}})
    )
    assert wide[0] > one[0]
    assert wide[1] == one[1]
    assert high[0] == one[0]
    assert high[1] > one[1]


def test_a_row_that_one_panel_lacks_is_not_left_out_silently() -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(KeyError, match="y"):
        plot_intervals({"a": {"x": {"": LOW}, "y": {"": LOW}}, "b": {"x": {"": HIGH}}}, "accuracy (%)")


def test_other_numbers_are_another_picture() -> None:
    pytest.importorskip("matplotlib")
    pictures = {plot_intervals({"a": {"x": {"": score}}}, "accuracy (%)", against=50.0) for score in (LOW, HIGH)}
    assert len(pictures) == 2
