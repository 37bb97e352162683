"""The program `anole`. It imports the commands, which takes a moment, and ends quietly if that is interrupted."""

from __future__ import annotations

import sys
from typing import Final

INTERRUPTED: Final = 130


def main() -> None:
    """Run the command line. An interrupt is exit code 130, also while the commands are being imported."""
    try:
        from service.cli.main import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
