"""Pictures that did not pass, kept in a folder."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from service.bridge.config import FailuresSink
from service.bridge.sinks.base import Sink
from service.bridge.verdict import Verdict

_OWN: Final = re.compile(r"\d{8}T\d{6}\.\d{6}-(?:pass|fail|unknown)-.*-[0-9a-f]{32}\.\w+")
"""Names of files that this sink has written. Others in the folder are left alone."""
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_.-]+")
_SUFFIXES: Final = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"BM": ".bmp", b"II*\0": ".tif", b"MM\0*": ".tif"}


class Failures(Sink):
    """Writes pictures as TIME-RESULT-LABEL-ID, and deletes the oldest when there are too many files or bytes.

    Args:
        config: the folder and its bounds.
    """

    def __init__(self, config: FailuresSink) -> None:
        super().__init__(config.name)
        self._config = config

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Create the folder if it does not exist."""
        self._config.path.mkdir(parents=True, exist_ok=True)
        yield

    async def send(self, verdict: Verdict) -> None:
        """Write the picture if its result is one of those that are kept."""
        if verdict.result in self._config.results:
            await asyncio.to_thread(self._write, verdict)

    def _write(self, verdict: Verdict) -> None:
        picture = verdict.picture
        time = picture.taken_at.strftime("%Y%m%dT%H%M%S.%f")
        label = _UNSAFE.sub("_", verdict.label)[:64]
        (self._config.path / f"{time}-{verdict.result}-{label}-{picture.id}{_suffix(picture.content)}").write_bytes(
            picture.content
        )
        kept = sorted(path for path in self._config.path.iterdir() if _OWN.fullmatch(path.name))
        sizes = {path: path.stat().st_size for path in kept}
        total = sum(sizes.values())
        while kept and (len(kept) > self._config.max_files or total > self._config.max_bytes):
            oldest: Path = kept.pop(0)
            total -= sizes[oldest]
            oldest.unlink()


def _suffix(content: bytes) -> str:
    return next((suffix for beginning, suffix in _SUFFIXES.items() if content.startswith(beginning)), ".img")
