"""A search whose candidates are trained and scored on a GPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from models.config import NetConfig
from models.errors import InvalidConfig
from models.meta import curve
from models.meta import search as search_module
from models.meta.evaluation import evaluate
from models.meta.search import Search
from models.nets import Net
from models.weights import Weights
from tests.unit.models.meta.test_search import CONFIG, DATA, LONG_S


def equal_times(nets: Sequence[NetConfig]) -> list[float]:
    return [1.0 for _ in nets]


def open_search(folder: Path) -> Search:
    config = replace(CONFIG, max_mb=4.0)
    return Search(config, DATA, folder, measure=equal_times, device=torch.device("cuda"))


def test_a_search_on_a_gpu_can_be_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curve, "can_plot", lambda: False)
    scored: set[str] = set()

    def watched(net: Net, start: Weights, *rest: Any) -> Iterator[float]:
        scored.update(tensor.device.type for tensor in start.values())
        return evaluate(net, start, *rest)

    monkeypatch.setattr(search_module, "evaluate", watched)
    list(open_search(tmp_path).run(LONG_S, 2))
    search = open_search(tmp_path)
    list(search.run(LONG_S, 4))
    assert [result.number for result in search.results()] == [0, 1, 2, 3]
    assert all(0 <= (result.accuracy or 0.0) <= 1 for result in search.results())
    assert search.results()[0].outcome == "complete"
    assert scored == {"cuda"}
    with pytest.raises(InvalidConfig, match="device"):
        Search(replace(CONFIG, max_mb=4.0), DATA, tmp_path, measure=equal_times)
