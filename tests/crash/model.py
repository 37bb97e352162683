"""A model of the store in plain values: what every step must return and what the store must hold after it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from service.domain.version import LIVE

CANARY: Final = "canary"


@dataclass(frozen=True, slots=True)
class Step:
    """One operation on a store.

    Attributes:
        kind: see ``steps.py``.
        client: client name.
        i: selects the samples, the weights and the idempotency key of a publish.
        version: the version to move to or to delete; for settings, the number of versions to keep.
    """

    kind: str
    client: str
    i: int = 0
    version: int = 0


@dataclass(frozen=True, slots=True)
class Move:
    """One entry of an alias's log."""

    alias: str
    revision: int
    version: int
    reason: str


@dataclass(frozen=True, slots=True)
class ClientState:
    """A client: its highest number, its versions (number, `i` of the step), its log, and its `keep_last` setting."""

    latest: int = 0
    versions: tuple[tuple[int, int], ...] = ()
    moves: tuple[Move, ...] = ()
    keep_last: int | None = None

    def current(self, alias: str) -> Move | None:
        """Return the alias's latest move."""
        return next((move for move in reversed(self.moves) if move.alias == alias), None)

    def numbers(self) -> list[int]:
        """Return the numbers of the versions, oldest first."""
        return [number for number, _ in self.versions]

    def aliased(self) -> set[int]:
        """Return the versions that an alias points at."""
        return {move.version for move in map(self.current, (LIVE, CANARY)) if move is not None}

    def with_move(self, alias: str, version: int, reason: str) -> ClientState:
        """Return the state after one more move."""
        before = self.current(alias)
        move = Move(alias, 1 if before is None else before.revision + 1, version, reason)
        return replace(self, moves=(*self.moves, move))

    def without(self, number: int) -> ClientState:
        """Return the state without that version."""
        return replace(self, versions=tuple(one for one in self.versions if one[0] != number))


State = Mapping[str, ClientState]
"""The state of each client; other clients are unknown to the store."""

PUBLISHES: Final = frozenset({"publish", "keyed", "collect_between", "damaged_blob"})
"""Steps that must make a new live version."""

COLLECTS: Final = frozenset({"collect", "collect_between", "collected_blobs"})
"""Steps that delete versions beyond `keep_last`."""


def states_during(state: State, step: Step, result: int) -> list[State]:
    """Return the states that a step passes through, in order; empty if it changes nothing.

    `result` is the result of the step; only a rollback needs it, for the version that it restored.
    """
    client_state = state.get(step.client, ClientState())
    if step.kind in ("delete_client", "deleted_between"):
        return [{name: other for name, other in state.items() if name != step.client}]
    if step.kind in COLLECTS:
        states = list(_collected(state))
        last = states[-1] if states else state
        return [*states, _published(last, step)] if step.kind in PUBLISHES else states
    after = client_state
    if step.kind in PUBLISHES:
        return [_published(state, step)]
    if step.kind == "move":
        after = client_state.with_move(CANARY, step.version, "set")
    elif step.kind == "roll_back" and result:
        after = client_state.with_move(LIVE, result, "rollback")
    elif step.kind == "delete":
        after = client_state.without(step.version)
    elif step.kind == "settings":
        after = replace(client_state, keep_last=step.version or None)
    return [] if after == client_state else [{**state, step.client: after}]


def wrong_result(state: State, step: Step, result: int) -> str | None:
    """Describe what is wrong with the result of an acknowledged step, given the state before it; None if nothing is."""
    client_state = state.get(step.client, ClientState())
    live = client_state.current(LIVE)
    right = {0}
    if step.kind in PUBLISHES:
        right = {client_state.latest + 1}
    elif step.kind == "move":
        before = client_state.current(CANARY)
        right = {1 if before is None else before.revision + 1}
    elif step.kind == "roll_back":
        right = {0, *client_state.numbers()} - {0 if live is None else live.version} | {0}
    elif step.kind == "backup":
        right = {sum(len(other.versions) for other in state.values())}
    elif step.kind == "read":
        right = {0 if live is None else live.version}
    if result in right:
        return None
    return f"{step.kind} {step.i} of {step.client} returned {result}, but must return one of {sorted(right)}"


def _published(state: State, step: Step) -> State:
    client_state = state.get(step.client, ClientState())
    number = client_state.latest + 1
    made = replace(client_state, latest=number, versions=(*client_state.versions, (number, step.i)))
    return {**state, step.client: made.with_move(LIVE, number, "adapt")}


def _collected(state: State) -> Iterator[State]:
    """Yield the state after each deletion, in the order of clients and numbers."""
    for name in sorted(state):
        client_state = state[name]
        old = [] if client_state.keep_last is None else client_state.numbers()[: -client_state.keep_last]
        for number in old:
            if number not in client_state.aliased():
                state = {**state, name: state[name].without(number)}
                yield state
