"""Serves like ``anole serve``, by a net that kills its process when it learns with seed 13.

python tests/integration/dying_service.py FOLDER CHECKPOINT
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from service.cli.serve import run
from service.runtime.loaded_checkpoint import LoadedCheckpoint
from service.settings import load_settings

DEADLY_SEED = 13


def main(folder: Path, checkpoint: str) -> None:
    """Serve on a free port until ended."""
    adapt = LoadedCheckpoint.adapt_with_folds

    def deadly(
        self: LoadedCheckpoint, support: Any, images: Any, recipe: Any, seed: int, *others: Any, **named: Any
    ) -> Any:
        if seed == DEADLY_SEED:
            os.kill(os.getpid(), signal.SIGKILL)
        return adapt(self, support, images, recipe, seed, *others, **named)

    LoadedCheckpoint.adapt_with_folds = deadly  # type: ignore[method-assign]
    run(load_settings(data=folder / "data", meta_model=checkpoint, device="cpu", demo=False, port=0, drain_s=0.0))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
