"""`anole watch`: classify every image that appears in a folder, and append the results to a table."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Annotated, Final

import httpx
import typer

from service.cli import connection
from service.cli.connection import Key, Url
from service.cli.console import AsJson, notices, output, percent, plain
from service.client import InvalidInput, PredictResponse, ServiceProblem, ServiceUnreachable
from service.client.folders import shown
from service.client.table_cells import from_cell, to_cell
from service.client.watched_folder import FolderScan

_FAILED: Final = "error"
_ABOUT_THE_IMAGE: Final = frozenset({400, 413, 415, 422})
"""Statuses that reject an image. Others reject the client or the key, or say that the service is busy."""
_RECORD: Final = re.compile(r"\r?\n(?=\d{4}-\d\d-\d\dT)")
"""Where a line of the table ends: each begins with a time. Names may have line ends too."""
_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table.

    Attributes:
        time: when the image was written, in UTC.
        file: path within the folder.
        label: the most probable class; empty if the image was rejected.
        confidence: its probability, 0 to 1.
        verdict: "known" or "unknown", or "error" if the image was rejected.
        version: the version that predicted.
    """

    time: str
    file: str
    label: str
    confidence: str
    verdict: str
    version: str


class ResultTable:
    """The table of results. It is also the memory of which images are done, so that a restart repeats none.

    A cell that a spreadsheet would compute, such as a file name that begins with `=`, gets an apostrophe before it.

    Args:
        path: CSV file. It is created if it does not exist.

    Raises:
        InvalidInput: the file cannot be read or written, or is another table.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        header = [field.name for field in fields(Row)]
        content = self._content()
        # one by one, so that a line that was cut inside quotes does not swallow those after it
        records = _RECORD.split(content)
        rows = self._rows(records)
        if rows and rows[0] != header:
            raise InvalidInput(f"{shown(path)} is a table with other columns; name a new file with --csv")
        self._done = {(from_cell(row[1]), row[0]) for row in rows[1:] if len(row) == len(header)}
        if not rows:
            self._write(header)
        elif records[-1].count('"') % 2:  # the last line was cut by a crash, inside quotes
            self._append('"\r\n')
        elif not content.endswith("\n"):
            self._append("\r\n")

    def has(self, file: str, time: str) -> bool:
        """Return whether the table has the result of this state of a file."""
        return (file, time) in self._done

    def add(self, row: Row) -> None:
        """Append a result."""
        self._write([to_cell(text) for text in astuple(row)])
        self._done.add((row.file, row.time))

    def _content(self) -> str:
        try:
            return self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput(f"cannot read {shown(self.path)} as a table: {error}") from error

    def _rows(self, records: Iterable[str]) -> list[list[str]]:
        try:
            return [row for record in records for row in csv.reader(io.StringIO(record, newline=""))]
        except csv.Error as error:
            raise InvalidInput(f"{shown(self.path)} is not a CSV table: {error}; name a new file with --csv") from error

    def _write(self, cells: Iterable[str]) -> None:
        line = io.StringIO(newline="")
        csv.writer(line).writerow(cells)
        self._append(line.getvalue())

    def _append(self, text: str) -> None:
        try:
            with self.path.open("ab", buffering=0) as table:
                table.write(text.encode())  # in one call, so that an interrupt leaves no half a line
        except OSError as error:
            raise InvalidInput(f"cannot write {shown(self.path)}: {error.strerror or error}") from error


def watch(
    folder: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="Folder to watch, with its sub-folders.", exists=True, file_okay=False),
    ],
    client: Annotated[str, typer.Option(metavar="CLIENT", help="Name of the client.")],
    table: Annotated[Path, typer.Option("--csv", metavar="FILE", help="Table that results are appended to.")],
    alias: Annotated[str | None, typer.Option(help="Use the version that this alias points at.")] = None,
    every_s: Annotated[float, typer.Option("--every", min=0.05, help="Seconds between two looks at the folder.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Classify the images that are there, then end.")] = False,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Classify every image that appears in FOLDER, and append the result to a CSV table.

    The columns are time (when the image was written), file, label, confidence, verdict and version. An image that is in
    the table is not classified again, unless it is written anew. An image counts as complete once it has not changed
    between two looks. While the service does not respond, images wait. End the command with Ctrl-C.

    With --json, each result is also printed as a line of JSON.
    """
    results = ResultTable(table)
    scan = FolderScan(folder, lambda name, reason: notices().print(plain(f"skipped {name}: {reason}")))
    count = 0
    try:
        with _interruptible(), connection.connect(url, key) as anole:
            ask = Patient(lambda content: anole.predict(client, content, alias=alias), wait)
            list(scan.complete())  # the next look sees which images are complete
            while True:
                wait(every_s)
                for row in new_results(scan, results, ask):
                    count += 1
                    _print(row, as_json=as_json)
                if once:
                    break
    except KeyboardInterrupt:
        notices().print(plain(f"stopped; {count} images classified, results in {table}"))


def wait(seconds: float) -> None:
    """Wait. A signal ends it."""
    threading.Event().wait(seconds)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Raise KeyboardInterrupt for SIGINT and SIGTERM. A shell starts background jobs with SIGINT ignored."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def new_results(
    scan: FolderScan, results: ResultTable, ask: Callable[[bytes], PredictResponse | ServiceProblem]
) -> Iterator[Row]:
    """Classify the complete images that are not in the table, add them to it, and yield them."""
    for path, name, time in scan.complete():
        if results.has(name, time):
            continue
        try:
            content = path.read_bytes()
        except OSError as error:
            notices().print(plain(f"skipped {name}: {error.strerror or error}"))
            continue
        answer = ask(content)
        if isinstance(answer, ServiceProblem):
            notices().print(plain(f"{name}: {answer}"))
            row = Row(time, name, "", "", _FAILED, "")
        else:
            (image,) = answer.predictions
            row = Row(time, name, image.label, f"{image.confidence:.4f}", image.verdict, str(answer.version))
        results.add(row)
        yield row


class Patient:
    """Asks a service until it responds, with pauses that grow.

    Args:
        predict: classifies one image.
        wait: called with the seconds to wait.
    """

    def __init__(self, predict: Callable[[bytes], PredictResponse], wait: Callable[[float], object]) -> None:
        self._predict = predict
        self._wait = wait

    def __call__(self, content: bytes) -> PredictResponse | ServiceProblem:
        """Return the response, or the problem if the service rejects the image.

        Raises:
            ServiceProblem: the service rejects the client or the key.
        """
        pause_s = 0.0
        while True:
            try:
                answer = self._predict(content)
            except (ServiceProblem, ServiceUnreachable) as error:
                if isinstance(error, ServiceProblem) and error.status in _ABOUT_THE_IMAGE:
                    return error
                if isinstance(error, ServiceProblem) and not _is_busy(error):
                    raise
                if not pause_s:
                    notices().print(plain(f"waiting for the service: {error}"))
                pause_s = min(2 * pause_s or _FIRST_PAUSE_S, _LONGEST_PAUSE_S)
                self._wait(pause_s)
            else:
                if pause_s:
                    notices().print("the service responds again")
                return answer


def _is_busy(problem: ServiceProblem) -> bool:
    return problem.status == httpx.codes.TOO_MANY_REQUESTS or problem.status >= httpx.codes.INTERNAL_SERVER_ERROR


def _print(row: Row, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({field.name: getattr(row, field.name) for field in fields(Row)}))
    else:
        confidence = percent(float(row.confidence)) if row.confidence else ""
        output().print(plain("  ".join(filter(None, (row.file, row.label, confidence, row.verdict)))))
