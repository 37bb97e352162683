"""A model of the store in plain values: what every step must return and what the store must hold after it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from service.domain.version import LIVE

CANARY: Final = "canary"


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do to a store.

    Attributes:
        kind: see ``steps.py``.
        client: whom it is done to.
        i: what is published: which samples and weights, and under which key.
        version: the version that is moved to or deleted, or how many are to be kept.
    """

    kind: str
    client: str
    i: int = 0
    version: int = 0


@dataclass(frozen=True, slots=True)
class Move:
    """One line of an alias's log."""

    alias: str
    revision: int
    version: int
    reason: str


@dataclass(frozen=True, slots=True)
class Page:
    """What is known of a client: its count, its versions (number, what was published), its log, what it keeps."""

    latest: int = 0
    versions: tuple[tuple[int, int], ...] = ()
    moves: tuple[Move, ...] = ()
    keep_last: int | None = None

    def current(self, alias: str) -> Move | None:
        """The alias's latest move."""
        return next((move for move in reversed(self.moves) if move.alias == alias), None)

    def numbers(self) -> list[int]:
        """The numbers of the versions, oldest first."""
        return [number for number, _ in self.versions]

    def held(self) -> set[int]:
        """The versions that an alias points at."""
        return {move.version for move in map(self.current, (LIVE, CANARY)) if move is not None}

    def moved(self, alias: str, version: int, reason: str) -> Page:
        """With one more move."""
        before = self.current(alias)
        move = Move(alias, 1 if before is None else before.revision + 1, version, reason)
        return replace(self, moves=(*self.moves, move))

    def without(self, number: int) -> Page:
        """With one version less."""
        return replace(self, versions=tuple(one for one in self.versions if one[0] != number))


Book = Mapping[str, Page]
"""The pages by client; a client without a page is unknown."""

PUBLISHES: Final = frozenset({"publish", "keyed", "patient", "decay"})
"""The steps that must come to a new version that is live."""

COLLECTS: Final = frozenset({"collect", "patient", "overtaken"})
"""The steps in which old versions are let go of."""


def passed(book: Book, step: Step, result: int) -> list[Book]:
    """The books that a step comes through, in order, up to where it is done; empty if it changes nothing.

    `result` is what the step came to; it tells only what a roll-back went to.
    """
    page = book.get(step.client, Page())
    if step.kind == "erase":
        return [{name: other for name, other in book.items() if name != step.client}]
    if step.kind in COLLECTS:
        books = list(_collected(book))
        last = books[-1] if books else book
        return [*books, _published(last, step)] if step.kind in PUBLISHES else books
    after = page
    if step.kind in PUBLISHES:
        return [_published(book, step)]
    if step.kind == "move":
        after = page.moved(CANARY, step.version, "set")
    elif step.kind == "roll_back" and result:
        after = page.moved(LIVE, result, "rollback")
    elif step.kind == "delete":
        after = page.without(step.version)
    elif step.kind == "settings":
        after = replace(page, keep_last=step.version or None)
    return [] if after == page else [{**book, step.client: after}]


def complaint(book: Book, step: Step, result: int) -> str | None:
    """What is wrong with what a step that was acknowledged came to, in view of the book before it; None if nothing."""
    page = book.get(step.client, Page())
    live = page.current(LIVE)
    right = {0}
    if step.kind in PUBLISHES:
        right = {page.latest + 1}
    elif step.kind == "move":
        before = page.current(CANARY)
        right = {1 if before is None else before.revision + 1}
    elif step.kind == "roll_back":
        right = {0, *page.numbers()} - {0 if live is None else live.version} | {0}
    elif step.kind == "read":
        right = {0 if live is None else live.version}
    if result in right:
        return None
    return f"{step.kind} {step.i} of {step.client} came to {result}, which can only be {sorted(right)}"


def _published(book: Book, step: Step) -> Book:
    page = book.get(step.client, Page())
    number = page.latest + 1
    made = replace(page, latest=number, versions=(*page.versions, (number, step.i)))
    return {**book, step.client: made.moved(LIVE, number, "adapt")}


def _collected(book: Book) -> Iterator[Book]:
    """Version by version, in the order of clients and numbers."""
    for name in sorted(book):
        page = book[name]
        old = [] if page.keep_last is None else page.numbers()[: -page.keep_last]
        for number in old:
            if number not in page.held():
                book = {**book, name: book[name].without(number)}
                yield book
