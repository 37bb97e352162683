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
from service.store.open_store import CATALOG_FILE, StoreLocation, open_embedded, open_store
from service.store.version_store import VersionStore
from tests.crash.model import ClientState, Move, State, Step, states_during, wrong_result
from tests.crash.steps import BACKUP_FOLDER, CLIENTS, perform, weights_digest
from tests.crash.stores import blob_names, read_blob, settle

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


def check_store(location: StoreLocation, state: State, events: Sequence[Event]) -> Checked:
    """Open the store at `location` and compare it with `state` and the events that followed.

    It also collects, after it has published once more: the interrupted step if that has a key, else a new version.
    """
    problems: list[str] = []
    state, interrupted = _acknowledged(state, events, problems)
    settle(location)
    try:
        problems += _incomplete_blobs(location, interrupted)
        with open_store(location) as store:
            seen, _ = read_state(store, problems)
            problems += _unexpected_state(state, interrupted, seen)
            problems += _failed_check(store)
            problems += _failed_restore(location.folder / BACKUP_FOLDER, events)
            problems += _publish_again(store, location, seen, interrupted)
            store.collect(grace_s=0.0)
            seen, needed = read_state(store, problems)
            problems += _uncollected(location, needed)
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


def _failed_restore(backup: Path, events: Sequence[Event]) -> Iterator[str]:
    """Yield what is wrong with the backup.

    After the first one it must be complete at every moment. An acknowledged one must have all its versions, unless
    another one began since.
    """
    backups = [event.result for event in events if event.step.kind == "backup"]
    if not (backup / MANIFEST).exists():
        if any(versions is not None for versions in backups):
            yield "the backup is gone"
        return
    with tempfile.TemporaryDirectory(prefix="anole-crash-") as folder:
        (Path(folder) / CATALOG_FILE).write_bytes(_empty_catalog())
        with open_embedded(Path(folder), sync=False) as store:
            try:
                restored = store.restore(backup).versions
            except AnoleError as error:
                yield f"the backup cannot be restored: {error}"
            else:
                if backups and backups[-1] not in (None, restored):
                    yield f"the backup of {backups[-1]} versions has {restored}"
                yield from _failed_check(store)


@functools.cache
def _empty_catalog() -> bytes:
    """Return the catalog of an empty store, since running every migration for each restore takes long."""
    with tempfile.TemporaryDirectory(prefix="anole-crash-") as folder:
        open_embedded(Path(folder), sync=False).close()
        return (Path(folder) / CATALOG_FILE).read_bytes()


def _incomplete_blobs(location: StoreLocation, interrupted: Step | None) -> Iterator[str]:
    """Yield the blobs that do not match their digest, except the one that the step itself damaged."""
    damaged = (
        {weights_digest(interrupted.i)} if interrupted is not None and interrupted.kind == "damaged_blob" else set()
    )
    for client, name in sorted(blob_names(location)):
        if _DIGEST.fullmatch(name) and name not in damaged:
            content = read_blob(location, client, name)
            if hashlib.sha256(content).hexdigest() != name:
                yield f"{name[:12]} of {client} is incomplete: {len(content)} bytes"


def _publish_again(
    store: VersionStore, location: StoreLocation, seen: State, interrupted: Step | None
) -> Iterator[str]:
    """Repeat the interrupted step if it has a key, which must not make a second version; else publish a new one."""
    again = interrupted is not None and interrupted.kind == "keyed"
    step = interrupted if interrupted is not None and again else Step("publish", CLIENTS[0], EXTRA)
    client_state = seen.get(step.client, ClientState())
    made = [number for number, i in client_state.versions if again and i == step.i]
    expected = made[0] if made else client_state.latest + 1
    number = perform(store, location, step)
    if number != expected:
        yield f"{'repeated' if again else 'new'} {step.kind} {step.i} returned version {number}, not {expected}"


def _uncollected(location: StoreLocation, needed: set[tuple[str, str]]) -> Iterator[str]:
    """Yield blobs that a collection without grace left and that are not needed, and needed ones that it removed."""
    found = blob_names(location)
    yield from (f"after a collection {'/'.join(parts)[:40]} remains" for parts in sorted(found - needed))
    yield from (f"after a collection {'/'.join(parts)[:40]} is gone" for parts in sorted(needed - found))
