"""Which versions references name now, many at once; what was read stands until the catalog says that it has changed.

Nothing it says is older than the call: the catalog is asked for its revision every time, and that number differs after
any commit of any process. Between commits a reference costs no query.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from models.errors import AnoleError
from service.domain.version import ServedVersion
from service.store.version_store import VersionStore

Reference = tuple[str, str | int]
"""A client's name, and an alias or a version's number."""


class ServedReads:
    """Reads `VersionStore.served` for many requests. Safe from several threads.

    Args:
        store: where versions and aliases are kept.
        remembered: references kept at most; with one more all are forgotten.
    """

    def __init__(self, store: VersionStore, remembered: int = 20_000) -> None:
        self._store = store
        self._remembered = remembered
        self._lock = threading.Lock()
        self._revision: int | None = None
        self._known: dict[Reference, ServedVersion] = {}

    def now(self, references: Sequence[Reference]) -> list[ServedVersion | AnoleError]:
        """What each reference names, or why it names nothing: UnknownClient, UnknownAlias, UnknownVersion.

        Raises:
            StoreUnavailable: the catalog cannot be read.
        """
        revision = self._store.revision()
        known = self._of(revision)
        found = {reference: known.get(reference) or self._read(reference) for reference in set(references)}
        if revision is not None:
            self._remember(revision, found)
        return [found[reference] for reference in references]

    def _of(self, revision: int | None) -> dict[Reference, ServedVersion]:
        """What is known of that revision; an older one's knowledge is dropped."""
        with self._lock:
            if revision is None or revision != self._revision or len(self._known) > self._remembered:
                self._revision, self._known = revision, {}
            return self._known

    def _read(self, reference: Reference) -> ServedVersion | AnoleError:
        try:
            return self._store.served(*reference)
        except AnoleError as error:
            return error

    def _remember(self, revision: int, found: dict[Reference, ServedVersion | AnoleError]) -> None:
        """Keep what was read, unless the catalog was seen changed meanwhile: what was read may be from before that."""
        with self._lock:
            if revision == self._revision:
                self._known.update({key: value for key, value in found.items() if isinstance(value, ServedVersion)})
