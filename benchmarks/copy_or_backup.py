"""How many copies of a store in use are damaged: plain copies of its folder, and restored backups.

    python -m benchmarks.copy_or_backup [--copies N]

Meanwhile a thread publishes versions and deletes old ones. Each copy is opened and checked as `anole store check` does.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from models.errors import AnoleError
from service.domain.version import LIVE
from service.store.open_store import open_embedded
from service.store.version_store import VersionStore
from tests.contract.values import CLIENT, a_draft

KEEP = 100


def main() -> None:
    """Print how many copies and restored backups are damaged."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--copies", type=int, default=20, help="copies of each kind (default: 20)")
    copies = parser.parse_args().copies
    for name, copy in (("copytree", copy_folder), ("backup and restore", back_up_and_restore)):
        print(f"{name}: {damaged_copies(copy, copies)} of {copies} damaged")


def damaged_copies(copy: Callable[[VersionStore, Path, Path], None], copies: int) -> int:
    """Copy a store that is in use, again and again; return the number of damaged copies."""
    with tempfile.TemporaryDirectory() as root:
        folder, stop = Path(root) / "store", threading.Event()
        with open_embedded(folder, sync=False) as store:  # faster writes
            for i in range(KEEP):
                publish(store, i)
            writer = threading.Thread(target=write, args=(store, stop))
            writer.start()
            try:
                return sum(is_damaged(store, copy, folder, Path(root) / f"copy-{i}") for i in range(copies))
            finally:
                stop.set()
                writer.join()


def write(store: VersionStore, stop: threading.Event) -> None:
    """Publish and delete versions until stopped."""
    number = KEEP
    while not stop.is_set():
        number = publish(store, number)
        if number > KEEP:
            store.delete_version(CLIENT, number - KEEP)


def publish(store: VersionStore, i: int) -> int:
    """Publish a version with weights of its own and return its number."""
    digest, size_bytes = store.put_weights(CLIENT, {"head.weight": torch.full((40, 40), float(i))}, {"kind": "delta"})
    draft = replace(a_draft(samples=()), weights_digest=digest, weights_bytes=size_bytes)
    return store.publish(draft, [LIVE]).version.number


def copy_folder(_store: VersionStore, folder: Path, target: Path) -> None:
    """Copy the folder file by file."""
    shutil.copytree(folder, target)


def back_up_and_restore(store: VersionStore, _folder: Path, target: Path) -> None:
    """Back up into a folder beside the target and restore it there."""
    backup = target.with_suffix(".backup")
    store.back_up(backup)
    with open_embedded(target) as restored:
        restored.restore(backup)


def is_damaged(
    store: VersionStore, copy: Callable[[VersionStore, Path, Path], None], folder: Path, target: Path
) -> bool:
    """Make one copy and check it."""
    try:
        copy(store, folder, target)
        with open_embedded(target) as copied:
            return not copied.check().whole or not copied.catalog.clients()
    except (AnoleError, OSError, shutil.Error):
        return True


if __name__ == "__main__":
    main()
