"""Starts compared by accuracy and time."""

from __future__ import annotations

from benchmarks.figures import machine
from benchmarks.start_speed import start_called, table
from models.checkpoint import load_checkpoint


def test_a_start_can_see_images_of_another_size() -> None:
    start, shipped = start_called("efficientnet-lite0@160"), load_checkpoint("efficientnet-lite0")
    assert start.net_config.image.side == 160
    assert start.digest != shipped.digest
    assert start_called("efficientnet-lite0").digest == shipped.digest


def test_starts_are_compared_with_the_last_one() -> None:
    starts = [
        {"start": "/tmp/small.safetensors@160", "p50_s": 0.005, "accuracies": {5: [0.8, 0.9]}},
        {"start": "large", "p50_s": 0.010, "accuracies": {5: [0.9, 1.0]}},
    ]
    record = {"set": "parts", "images": 9, "episodes": 2, "shots": [5], "machine": machine("large"), "starts": starts}
    rows = table(record).splitlines()
    assert any(row.startswith("| small@160 | 5.0 | 0.50 | 85.0") and "-10.0" in row for row in rows)
