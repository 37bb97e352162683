"""What `anole predict` prints."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from service.domain.prediction import Uncertainty
from service.usecases.predict import PredictOutcome
from tests.in_process import Web
from tests.unit.service.cli.conftest import Anole


def test_predict_prints_one_row_per_image(anole: Anole, service: Web, folder: Path) -> None:
    anole("adapt", "line", str(folder))
    code, printed, _ = anole("predict", "line", str(folder / "good/1.png"), str(folder / "bad/1.png"))
    assert code == 0
    assert "line, version 1" in printed
    assert printed.count("50.0 %") == 4
    assert len(re.findall(r"\bknown\b", printed)) == 2
    assert printed.count("0.500") == 2
    assert "above 0.750, the verdict is unknown" in printed


def test_predict_says_what_an_image_is_predicted_from_and_how_uncertain_it_is(
    anole: Anole, service: Web, folder: Path
) -> None:
    anole("adapt", "line", str(folder))
    images = [str(folder / name) for name in ("good/1.png", "bad/1.png")]
    assert not any(word in anole("predict", "line", *images)[1] for word in ("from", "uncertainty"))
    run = service.services.prediction.run

    def without_notes(*args: Any) -> PredictOutcome:
        outcome: PredictOutcome = run(*args)
        first, *others = outcome.predictions
        unsure = replace(first, uncertainty=Uncertainty(0.42, 0.31, 0.11), modalities=("image", "text"))
        alone = (replace(each, familiarity=None, unknown_threshold=None, modalities=("image",)) for each in others)
        return replace(outcome, predictions=(unsure, *alone))

    service.services.prediction.run = without_notes
    printed = anole("predict", "line", *images)[1]
    for words in ("image, text", "0.420, of which model 0.110", "above 0.750", "images without a score are known"):
        assert words in printed
    service.services.prediction.run = lambda *args: replace(
        without_notes(*args), predictions=without_notes(*args).predictions[1:]
    )
    printed = anole("predict", "line", *images)[1]
    assert "these images have none, so every verdict is known" in printed
    assert "uncertainty" not in printed
