"""Runs ``anole serve`` on a disk whose syncs fail while the file ``failing`` exists in the folder.

python tests/integration/failing_disk.py FOLDER CHECKPOINT
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

from service.cli.serve import run
from service.settings import load_settings


def main(folder: Path, checkpoint: str) -> None:
    """Serve on a free port until the process is stopped."""
    fsync = os.fsync

    def failing(handle: int) -> None:
        if (folder / "failing").exists():
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(handle)

    os.fsync = failing  # type: ignore[assignment]
    settings = load_settings(
        data=folder / "data", model=checkpoint, device="cpu", demo=False, port=0, drain_s=0.0,
        predict_s=60,  # the first prediction waits for a decoder process, which starts slowly on a busy machine
    )  # fmt: skip
    run(settings)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
