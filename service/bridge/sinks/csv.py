"""Verdicts as lines of a CSV file."""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from service.bridge.appending import append_whole
from service.bridge.config import CsvSink
from service.bridge.sinks.base import Sink
from service.bridge.verdict import Verdict
from service.client.table_cells import to_cell

COLUMNS = (
    *("id", "number", "time", "source", "name", "result", "state", "label", "confidence", "known", "class_number"),
    *("client", "version", "error"),
)


class Csv(Sink):
    """A CSV file. It gets a header if it is new. Texts that a spreadsheet would compute get an apostrophe.

    Args:
        config: the file.
    """

    def __init__(self, config: CsvSink) -> None:
        super().__init__(config.name)
        self._path = config.path

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Write the header if the file is new or empty."""
        await self._append(b"")
        yield

    async def send(self, verdict: Verdict) -> None:
        """Append a line."""
        fields = verdict.fields()
        await self._append(_line(to_cell(str(fields[name])) for name in COLUMNS))

    async def _append(self, line: bytes) -> None:
        await asyncio.to_thread(append_whole, self._path, line, _line(COLUMNS))


def _line(cells: Iterable[str]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerow(cells)
    return text.getvalue().encode()
