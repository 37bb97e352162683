"""Loading a checkpoint has no side effects outside this machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


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
