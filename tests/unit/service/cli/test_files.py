"""Files that commands write."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.cli.files import require_writable
from service.client import InvalidInput
from tests.unit.service.cli.conftest import Anole


def test_trying_whether_a_file_can_be_written_leaves_its_folder_and_no_file(tmp_path: Path) -> None:
    require_writable(tmp_path / "new" / "start.safetensors")
    assert list((tmp_path / "new").iterdir()) == []


def test_a_file_in_a_file_or_with_the_name_of_a_folder_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path, words in ((tmp_path / "file" / "a", "File exists"), (tmp_path, "it is a folder; name a file")):
        with pytest.raises(InvalidInput, match=f"^cannot write .*: {words}$"):
            require_writable(path)


@pytest.mark.parametrize("algorithm", ["reptile", "covariance"])
def test_a_training_that_cannot_be_written_does_not_begin(anole: Anole, tmp_path: Path, algorithm: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    out = tmp_path / "file" / "start.safetensors"
    start = ["--start", "efficientnet-lite0"] if algorithm == "covariance" else ["--preset", "surfaces"]
    line = ["train", "--dataset", "textures", "--algorithm", algorithm, *start, "--out", str(out)]
    code, _, error = anole(*line)
    assert (code, error.strip().splitlines()[-1]) == (1, f"error: cannot write {out.parent}: File exists")
