"""Pictures of how far confidences can be trusted: reliability diagrams, and errors against coverage."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor

Judged = tuple[Tensor, Tensor]
"""Confidences (images,), and whether each prediction is right (images,)."""

BINS: Final = 10
LEAST: Final = 20
"""Images of a bin that is shown."""
COLOURS: Final = ("#14507e", "#d0651b", "#3d8f5f", "#8a4fa3", "#777777")


def reliability(judged: Judged) -> list[tuple[float, float]]:
    """Mean confidence and share of right predictions of images of about the same confidence, lowest first."""
    confidences, hits = judged
    number = (confidences * BINS).long().clamp(max=BINS - 1)
    bins = [number == index for index in range(BINS)]
    return [
        (float(confidences[rows].mean()), float(hits[rows].float().mean())) for rows in bins if int(rows.sum()) >= LEAST
    ]


def risk_coverage(judged: Judged) -> tuple[Tensor, Tensor]:
    """Share of images that are answered, most confident first, and of wrong answers among them; (images,) each."""
    confidences, hits = judged
    wrong = ~hits[confidences.argsort(descending=True, stable=True)].bool()
    answered = torch.arange(1, len(wrong) + 1)
    return answered / len(wrong), wrong.cumsum(0) / answered


def plot(parts: Mapping[str, Mapping[str, Judged]]) -> bytes:
    """Plot both for each part, side by side: part -> method -> predictions. Returns a PNG.

    Raises:
        ImportError: matplotlib is not installed: pip install -e '.[plot]'.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(parts), 6), dpi=100, layout="constrained")
    axes = figure.subplots(2, len(parts), squeeze=False)
    for column, (title, methods) in zip(axes.T, parts.items(), strict=True):
        top, bottom = column
        top.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=1)
        for (name, judged), colour in zip(methods.items(), COLOURS, strict=False):
            top.plot(*_columns(reliability(judged)), color=colour, marker="o", markersize=3, linewidth=1.2, label=name)
            coverage, risk = risk_coverage(judged)
            bottom.plot(100 * coverage, 100 * risk, color=colour, linewidth=1.2, label=name)
        top.set(title=title, xlabel="confidence", ylabel="share that is right", xlim=(0, 1), ylim=(0, 1))
        bottom.set(xlabel="answered, most confident first (%)", ylabel="wrong among them (%)", xlim=(0, 100))
        bottom.set_ylim(bottom=0)
        for each in column:
            each.legend(frameon=False, fontsize=8)
            each.grid(alpha=0.3)
            each.spines[["top", "right"]].set_visible(False)
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()


def judged_of(rows: Sequence[Mapping[str, Any]]) -> Judged:
    """The predictions of all episodes together, from rows with "confidence" and "hits"."""
    return torch.cat([row["confidence"] for row in rows]), torch.cat([row["hits"] for row in rows])


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]
