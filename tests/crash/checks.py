"""Checks the store of a killed process against the events that the process reported.

* Everything acknowledged is there, unchanged.
* The step that had begun and was not acknowledged is there completely or not at all.
* Every blob matches its digest.
* A collection removes everything that no version needs.
* The next publish continues the numbers.
* The backup, once there is one, can be restored completely.

The checks run in a process without seeded faults.
"""

from __future__ import annotations

import functools
import hashlib
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from models.errors import AnoleError
from service.domain.version import LIVE
from service.store.backup import MANIFEST
from service.store.open_store import BLOBS_FOLDER, CATALOG_FILE, open_embedded
from service.store.version_store import VersionStore
from tests.crash.model import ClientState, Move, State, Step, states_during, wrong_result
from tests.crash.steps import BACKUP_FOLDER, CLIENTS, perform, weights_digest

EXTRA: Final = 900_000
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Event:
    """What a process reported of a step: that it begins (neither field), its result, or why it failed."""

    step: Step
    result: int | None = None
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class Checked:
    """The problems that were found, and the state of the store now."""

    problems: tuple[str, ...]
    state: State


def check_store(folder: Path, state: State, events: Sequence[Event]) -> Checked:
    """Open the store in `folder` and compare it with `state` and the events that followed.

    It also collects, after it has published once more: the interrupted step if that has a key, else a new version.
    """
    problems: list[str] = []
    state, interrupted = _acknowledged(state, events, problems)
    try:
        problems += _incomplete_blobs(folder, interrupted)
        with open_embedded(folder) as store:
            seen, _ = read_state(store, problems)
            problems += _unexpected_state(state, interrupted, seen)
            problems += _failed_check(store)
            problems += _failed_restore(folder / BACKUP_FOLDER)
            problems += _publish_again(store, folder, seen, interrupted)
            store.collect(grace_s=0.0)
            seen, needed = read_state(store, problems)
            problems += _uncollected(folder, needed)
    except (AnoleError, OSError) as error:
        return Checked((*problems, f"{type(error).__name__}: {error}"), state)
    return Checked(tuple(problems), seen)


def read_state(store: VersionStore, problems: list[str]) -> tuple[State, set[tuple[str, str]]]:
    """Return the state of the store, and the blobs that it needs, each with its client."""
    state: dict[str, ClientState] = {}
    needed: set[tuple[str, str]] = set()
    for summary in store.catalog.clients():
        name, versions = summary.name, store.catalog.versions(summary.name)
        for version in versions:
            needed |= {(name, digest) for digest in version.draft.required_blobs}
            if version.draft.weights_digest != weights_digest(version.draft.seed):
                problems.append(f"version {version.number} of {name} has the weights of another version")
        state[name] = ClientState(
            latest=summary.latest,
            versions=tuple((version.number, version.draft.seed) for version in versions),
            moves=tuple(Move(m.alias, m.revision, m.version, m.reason) for m in store.catalog.history(name)),
            keep_last=store.catalog.settings(name).keep_last,
        )
    return state, needed


def _acknowledged(state: State, events: Sequence[Event], problems: list[str]) -> tuple[State, Step | None]:
    """Return the state after every acknowledged step, and the step that was interrupted."""
    interrupted = None
    for event in events:
        if event.failure is not None:
            problems.append(f"{event.step.kind} {event.step.i} failed: {event.failure}")
        if event.result is None:
            interrupted = event.step
            continue
        interrupted = None
        problem = wrong_result(state, event.step, event.result)
        if problem is not None:
            problems.append(problem)
        state = [state, *states_during(state, event.step, event.result)][-1]
    return state, interrupted


def _unexpected_state(state: State, interrupted: Step | None, seen: State) -> Iterator[str]:
    """Yield the clients that differ from the acknowledged state and from every state of the interrupted step."""
    allowed = [state]
    if interrupted is not None:
        live = seen.get(interrupted.client, ClientState()).current(LIVE)
        allowed += states_during(state, interrupted, 0 if live is None else live.version)
    if seen in allowed:
        return
    for name in sorted({*seen, *state}):
        if seen.get(name) != state.get(name):
            yield f"{name} is {seen.get(name)} after {interrupted} was interrupted; acknowledged was {state.get(name)}"


def _failed_check(store: VersionStore) -> Iterator[str]:
    """Yield what the store's own check finds in its rows and in the blobs that its versions need."""
    report = store.check()
    yield from (f"version {damage.version}: {damage.problem}" for damage in report.damages)
    yield from report.catalog_problems


def _failed_restore(backup: Path) -> Iterator[str]:
    """Yield what is wrong with the backup: it must be complete at every moment after the first one."""
    if not (backup / MANIFEST).exists():
        return
    with tempfile.TemporaryDirectory(prefix="anole-crash-") as folder:
        (Path(folder) / CATALOG_FILE).write_bytes(_empty_catalog())
        with open_embedded(Path(folder), sync=False) as store:
            try:
                store.restore(backup)
            except AnoleError as error:
                yield f"the backup cannot be restored: {error}"
            else:
                yield from _failed_check(store)


@functools.cache
def _empty_catalog() -> bytes:
    """Return the catalog of an empty store, since running every migration for each restore takes long."""
    with tempfile.TemporaryDirectory(prefix="anole-crash-") as folder:
        open_embedded(Path(folder), sync=False).close()
        return (Path(folder) / CATALOG_FILE).read_bytes()


def _incomplete_blobs(folder: Path, interrupted: Step | None) -> Iterator[str]:
    """Yield the blobs that do not match their digest, except the one that the step itself damaged."""
    damaged = (
        {weights_digest(interrupted.i)} if interrupted is not None and interrupted.kind == "damaged_blob" else set()
    )
    for path in sorted((folder / BLOBS_FOLDER).glob("*/*")):
        is_blob = _DIGEST.fullmatch(path.name) and path.name not in damaged
        if is_blob and hashlib.sha256(path.read_bytes()).hexdigest() != path.name:
            yield f"{path.name[:12]} of {path.parent.name} is incomplete: {path.stat().st_size} bytes"


def _publish_again(store: VersionStore, folder: Path, seen: State, interrupted: Step | None) -> Iterator[str]:
    """Repeat the interrupted step if it has a key, which must not make a second version; else publish a new one."""
    again = interrupted is not None and interrupted.kind == "keyed"
    step = interrupted if interrupted is not None and again else Step("publish", CLIENTS[0], EXTRA)
    client_state = seen.get(step.client, ClientState())
    made = [number for number, i in client_state.versions if again and i == step.i]
    expected = made[0] if made else client_state.latest + 1
    number = perform(store, folder, step)
    if number != expected:
        yield f"{'repeated' if again else 'new'} {step.kind} {step.i} returned version {number}, not {expected}"


def _uncollected(folder: Path, needed: set[tuple[str, str]]) -> Iterator[str]:
    """Yield blobs that a collection without grace left and that are not needed, and needed ones that it removed."""
    found = {path.relative_to(folder / BLOBS_FOLDER).parts for path in (folder / BLOBS_FOLDER).glob("*/*")}
    yield from (f"after a collection {'/'.join(parts)[:40]} remains" for parts in sorted(found - needed))
    yield from (f"after a collection {'/'.join(parts)[:40]} is gone" for parts in sorted(needed - found))
