"""Checkpoints that only older versions need are loaded on demand."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from models.checkpoint import load_checkpoint
from service.errors import UnknownCheckpoint
from service.runtime.loaded_checkpoint import LoadedCheckpoint, LoadedCheckpoints

WAIT_S = 30


@pytest.fixture(scope="module")
def current() -> LoadedCheckpoint:
    return LoadedCheckpoint(load_checkpoint("omniglot"), torch.device("cpu"))


def test_concurrent_requests_for_an_older_checkpoint_load_it_once(current: LoadedCheckpoint) -> None:
    loading, finish, loads = threading.Event(), threading.Event(), []
    older = LoadedCheckpoint(load_checkpoint("paper"), torch.device("cpu"))

    def load() -> LoadedCheckpoint:
        loads.append(threading.get_ident())
        loading.set()
        assert finish.wait(WAIT_S)
        return older

    checkpoints = LoadedCheckpoints(current, [(older.digest, load)])
    with ThreadPoolExecutor(3) as pool:
        results = [pool.submit(checkpoints.get, older.digest, "paper") for _ in range(3)]
        assert loading.wait(WAIT_S)
        finish.set()
        assert all(result.result(WAIT_S) is older for result in results)
    assert len(loads) == 1


def test_a_checkpoint_that_the_service_does_not_have_is_named_in_the_error(current: LoadedCheckpoint) -> None:
    with pytest.raises(UnknownCheckpoint, match=r"checkpoint 'mine' with digest abcabc"):
        LoadedCheckpoints(current).get("abc" * 20, "mine")


def test_onnxruntime_is_imported_after_its_telemetry_is_disabled(tmp_path: Path) -> None:
    code = """
import os, sys
from pathlib import Path
from service import bootstrap
from service.settings import Settings
assert "onnxruntime" not in sys.modules
bootstrap.build(Settings(data=Path(sys.argv[1]), decoder_processes=0)).close()
assert "onnxruntime" in sys.modules
assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
