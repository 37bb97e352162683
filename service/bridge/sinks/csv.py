"""Verdicts as lines of a CSV file."""

from __future__ import annotations

import asyncio
import csv
import io
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

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
        """Write the header if the file is new."""
        if not self._path.exists():
            await asyncio.to_thread(self._append, COLUMNS)
        yield

    async def send(self, verdict: Verdict) -> None:
        """Append a line."""
        fields = verdict.fields()
        await asyncio.to_thread(self._append, [to_cell(str(fields[name])) for name in COLUMNS])

    def _append(self, cells: Iterable[str]) -> None:
        line = io.StringIO(newline="")
        csv.writer(line).writerow(cells)
        content = line.getvalue().encode()
        with self._path.open("ab", buffering=0) as table:
            end = table.seek(0, os.SEEK_END)
            if table.write(content) != len(content):  # one call, so that an interrupt leaves no half a line
                table.truncate(end)
                raise OSError(f"{self._path} takes only a part of a line; is the disk full?")
