"""`anole search` resumes, trains the winner, and prints a table or JSON."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from models.checkpoint import load_checkpoint
from models.meta import curve
from models.meta import search as search_module
from service.cli import search as command
from tests.generated import striped
from tests.unit.service.cli.conftest import Anole

Options = Callable[..., list[str]]


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Options:
    """Return a function that makes the command line of a tiny search."""
    for period in range(2, 8):
        (tmp_path / "stripes" / f"period-{period}").mkdir(parents=True)
        for number, content in enumerate(striped(6, period)):
            (tmp_path / "stripes" / f"period-{period}" / f"{number}.png").write_bytes(content)
    for module in (command, curve):
        monkeypatch.setattr(module, "can_plot", lambda: False)
    for module in (command, search_module):
        monkeypatch.setattr(module, "can_export", lambda: False)

    def make(trials: int, *more: str) -> list[str]:
        line = f"search --preset omniglot --budget-minutes 60 --trials {trials} --max-ms-per-image inf --max-mb 0.1"
        line += " --ways 2 --episodes 2 --trial-meta-steps 9"
        paths = ["--dataset", f"folder:{tmp_path / 'stripes'}", "--out", str(tmp_path / "out")]
        return [*line.split(), *paths, *more]

    return make


def test_a_search_resumes_and_trains_its_winner_on_all_classes(anole: Anole, options: Options) -> None:
    code, printed, error = anole(*options(1, "--meta-steps", "0"))
    assert (code, "it was not trained further" in printed) == (0, True), error
    assert "as in the preset" in printed
    code, printed, error = anole(*options(2, "--meta-steps", "1", "--json"))
    assert code == 0, error
    assert "has 1 trials" in error
    found = json.loads(printed)
    assert [trial["number"] for trial in found["trials"]] == [0, 1]
    assert found["trials"][0]["outcome"] == "complete"
    checkpoint = load_checkpoint(found["checkpoint"])
    assert checkpoint.digest == found["digest"]
    assert checkpoint.training["data"]["sets"][0]["name"].endswith("stripes")  # not only the classes trained on so far


def test_a_search_without_time_has_no_winner(anole: Anole, options: Options) -> None:
    code, _, error = anole(*options(1, "--budget-minutes", "0"))
    assert (code, "no trial was complete" in error) == (1, True)
    code, printed, error = anole(*options(1, "--budget-minutes", "0", "--json"))
    assert (code, "no trial was complete" in error) == (1, True)
    assert json.loads(printed) == {"winner": None, "checkpoint": None, "digest": None, "trials": []}


def test_a_search_without_an_end_or_a_folder_is_an_error_in_a_line(
    anole: Anole, options: Options, tmp_path: Path
) -> None:
    code, _, error = anole(*options(1, "--budget-minutes", "inf"))
    assert (code, "--budget-minutes" in error) == (2, True)
    (tmp_path / "out").write_bytes(b"a file")
    code, _, error = anole(*options(1))
    assert (code, error.strip()) == (1, f"error: cannot write {tmp_path / 'out'}: File exists")


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        ("omniglot-strokes", "omniglot-strokes has no validation classes; those that have: omniglot,"),
        ("omniglott", "no dataset 'omniglott'; allowed: omniglot,"),
    ],
)
def test_a_dataset_that_cannot_be_searched_on_is_named_as_it_was_given(
    anole: Anole, options: Options, dataset: str, words: str
) -> None:
    code, _, error = anole(*options(1, "--dataset", dataset))
    assert code == 1
    assert words in error


def test_without_optuna_the_command_says_how_to_install_it(
    anole: Anole, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    find: Callable[[str], ModuleSpec | None] = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "optuna" else find(name))
    code, _, error = anole(*options(1))
    assert code == 2
    assert "pip install -e '.[search]'" in error
