"""Judges the store that a death left behind by what its process had said: begun, and done.

Everything acknowledged must be there and unchanged; of the one step that was begun and not acknowledged there must be
all or nothing; under every digest lies the whole of what it names; what is left over is removed by a collection; and
the next publish goes on where the numbers stopped. The store is opened by the code as it is, in a process that was told
of no fault.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from models.errors import AnoleError
from service.domain.version import LIVE
from service.store.open_store import BLOBS_FOLDER, open_embedded
from service.store.version_store import VersionStore
from tests.crash.book import Book, Move, Page, Step, complaint, passed
from tests.crash.steps import CLIENTS, perform, weights_digest

PROBE: Final = 900_000
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Said:
    """A line of what a process said of a step: that it begins, or what it came to, or why it could not be done."""

    step: Step
    result: int | None = None
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is wrong, and what the store says now."""

    wrong: tuple[str, ...]
    book: Book


def judge(folder: Path, book: Book, said: Sequence[Said]) -> Verdict:
    """Open the store in `folder` and hold it to what was said since it was what the book says.

    It also publishes once more, or sends a step that was cut off and carries a key again, and collects.
    """
    wrong: list[str] = []
    book, cut_off = _acknowledged(book, said, wrong)
    try:
        wrong += _torn(folder, cut_off)
        with open_embedded(folder) as store:
            seen, _ = observed(store, wrong)
            wrong += _unexplained(book, cut_off, seen)
            wrong += _unsound(store)
            wrong += _probed(store, folder, seen, cut_off)
            store.collect(grace_s=0.0)
            seen, needed = observed(store, wrong)
            wrong += _left_over(folder, needed)
    except (AnoleError, OSError) as error:
        return Verdict((*wrong, f"{type(error).__name__}: {error}"), book)
    return Verdict(tuple(wrong), seen)


def observed(store: VersionStore, wrong: list[str]) -> tuple[Book, set[tuple[str, str]]]:
    """All that the store says, page by page, and the blobs that it needs, each with its client."""
    book: dict[str, Page] = {}
    needed: set[tuple[str, str]] = set()
    for summary in store.clients():
        name, versions = summary.name, store.versions(summary.name)
        for version in versions:
            needed |= {(name, digest) for digest in version.draft.required_blobs}
            if version.draft.weights_digest != weights_digest(version.draft.seed):
                wrong.append(f"version {version.number} of {name} has the weights of another")
        book[name] = Page(
            latest=summary.latest,
            versions=tuple((version.number, version.draft.seed) for version in versions),
            moves=tuple(Move(m.alias, m.revision, m.version, m.reason) for m in store.history(name)),
            keep_last=store.settings(name).keep_last,
        )
    return book, needed


def _acknowledged(book: Book, said: Sequence[Said], wrong: list[str]) -> tuple[Book, Step | None]:
    """The book after every step that was acknowledged, and the step that was not."""
    cut_off = None
    for line in said:
        if line.failure is not None:
            wrong.append(f"{line.step.kind} {line.step.i} could not be done: {line.failure}")
        if line.result is None:
            cut_off = line.step
            continue
        cut_off = None
        complained = complaint(book, line.step, line.result)
        if complained is not None:
            wrong.append(complained)
        book = [book, *passed(book, line.step, line.result)][-1]
    return book, cut_off


def _unexplained(book: Book, cut_off: Step | None, seen: Book) -> Iterator[str]:
    """Nothing, if the store is what was acknowledged, or what the step that was cut off passes through."""
    allowed = [book]
    if cut_off is not None:
        live = seen.get(cut_off.client, Page()).current(LIVE)
        allowed += passed(book, cut_off, 0 if live is None else live.version)
    if seen in allowed:
        return
    for name in sorted({*seen, *book}):
        if seen.get(name) != book.get(name):
            yield f"{name} is {seen.get(name)} after {cut_off}; acknowledged was {book.get(name)}"


def _unsound(store: VersionStore) -> Iterator[str]:
    """What the store's own check finds: it reads every blob that a version needs, and every row."""
    report = store.check()
    yield from (f"version {damage.version}: {damage.problem}" for damage in report.damages)
    yield from report.catalog_problems


def _torn(folder: Path, cut_off: Step | None) -> Iterator[str]:
    """Files whose name is a digest and whose content is not what it names, but for what the step itself spoiled."""
    spoiled = {weights_digest(cut_off.i)} if cut_off is not None and cut_off.kind == "decay" else set()
    for path in sorted((folder / BLOBS_FOLDER).glob("*/*")):
        named = _DIGEST.fullmatch(path.name) and path.name not in spoiled
        if named and hashlib.sha256(path.read_bytes()).hexdigest() != path.name:
            yield f"{path.name[:12]} of {path.parent.name} is torn: {path.stat().st_size} bytes"


def _probed(store: VersionStore, folder: Path, seen: Book, cut_off: Step | None) -> Iterator[str]:
    """Publish: the step that was cut off again if it has a key, which must come to one version; else a new one."""
    again = cut_off is not None and cut_off.kind == "keyed"
    step = cut_off if cut_off is not None and again else Step("publish", CLIENTS[0], PROBE)
    page = seen.get(step.client, Page())
    made = [number for number, i in page.versions if again and i == step.i]
    wanted = made[0] if made else page.latest + 1
    number = perform(store, folder, step)
    if number != wanted:
        yield f"sent {'again' if again else 'anew'}, {step.kind} {step.i} came to version {number}, not {wanted}"


def _left_over(folder: Path, needed: set[tuple[str, str]]) -> Iterator[str]:
    """What is there after a collection without grace and is not needed, or the other way round."""
    found = {path.relative_to(folder / BLOBS_FOLDER).parts for path in (folder / BLOBS_FOLDER).glob("*/*")}
    yield from (f"after a collection {'/'.join(parts)[:40]} is left over" for parts in sorted(found - needed))
    yield from (f"after a collection {'/'.join(parts)[:40]} is gone" for parts in sorted(needed - found))
