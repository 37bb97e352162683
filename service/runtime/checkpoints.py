"""The checkpoints of this process: those that clients are adapted from, and those that only earlier versions need."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence

from models.checkpoint import SHIPPED_ALIASES
from service.errors import UnknownCheckpoint, unknown_checkpoint
from service.runtime.loaded_checkpoint import LoadedCheckpoint


class LoadedCheckpoints:
    """The offered checkpoints, and others that are loaded when a version needs them. Thread-safe.

    Args:
        offered: the checkpoints that clients are adapted from. The first one is the default.
        others: loaders by checkpoint digest. Each is called at most once, unless it fails.

    Attributes:
        offered: as given.
    """

    def __init__(
        self, offered: Sequence[LoadedCheckpoint], others: Mapping[str, Callable[[], LoadedCheckpoint]] | None = None
    ) -> None:
        self.offered = tuple(offered)
        self._loaders = dict(others or {})
        self._loaded = {checkpoint.digest: checkpoint for checkpoint in offered}
        self._locks = {digest: threading.Lock() for digest in self._loaders}

    def named(self, name: str | None) -> LoadedCheckpoint:
        """Return the offered checkpoint with that name, which may be an alias; the default for None.

        Raises:
            UnknownCheckpoint: it is not offered.
        """
        if name is None:
            return self.offered[0]
        for checkpoint in self.offered:
            if checkpoint.checkpoint.name == SHIPPED_ALIASES.get(name, name):
                return checkpoint
        raise unknown_checkpoint(name, [checkpoint.checkpoint.name for checkpoint in self.offered])

    def find(self, digest: str, name: str) -> LoadedCheckpoint | None:
        """Return the checkpoint with that digest, or None if `get` would have to load it first.

        Args:
            digest: the checkpoint's digest.
            name: its name, for the message.

        Raises:
            UnknownCheckpoint: this process does not have the checkpoint.
        """
        found = self._loaded.get(digest)
        if found is None and digest not in self._loaders:
            raise UnknownCheckpoint(
                f"the version was adapted from checkpoint {name!r} with digest {digest[:12]}…, which this service does "
                "not have; start the service with `--model` for that checkpoint too, or adapt again"
            )
        return found

    def get(self, digest: str, name: str) -> LoadedCheckpoint:
        """Return the checkpoint with that digest, and load it first if necessary.

        Raises:
            UnknownCheckpoint: this process does not have the checkpoint.
            CheckpointInvalid: its file is damaged.
        """
        found = self.find(digest, name)
        if found is not None:
            return found
        with self._locks[digest]:  # one lock each, so that a load delays only those who need the same checkpoint
            if digest not in self._loaded:
                self._loaded[digest] = self._loaders[digest]()
            return self._loaded[digest]

    def start_digest(self) -> str:
        """Digest the weights of the offered checkpoints as they are in memory now. It must never change."""
        digests = [checkpoint.start_digest() for checkpoint in self.offered]
        return hashlib.sha256("".join(digests).encode()).hexdigest()

    def close(self) -> None:
        """Stop the threads of all loaded checkpoints."""
        for checkpoint in list(self._loaded.values()):
            checkpoint.close()
