"""Time of publishing a version, durably and not, and its size in bytes by kind.

    python benchmarks/store_publish.py [--checkpoint NAME|PATH] [--folder FOLDER] [--publishes N]

The versions are real: the checkpoint adapted to five classes of ten random images, because neither time nor size
depends on the images. Accuracy is not measured.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from benchmarks.figures import Parser, markdown, percentile, script
from benchmarks.fixtures import DEFAULT_MODEL
from models.checkpoint import Checkpoint, load_checkpoint
from service.domain.version import LIVE, SampleRef, VersionDraft
from service.runtime.loaded_checkpoint import LoadedCheckpoint
from service.store.open_store import BLOBS_FOLDER, CATALOG_FILE, open_embedded
from service.store.tensor_bytes import to_bytes
from service.store.version_store import VersionStore, encode_sample

Result = TypeVar("Result")

CLIENT = "benchmark"
N_WAY = 5
N_SHOT = 10
SIDE = 128
STAGES = (f"{N_SHOT} new samples", "weights", "row and alias")


@dataclass
class TimedStore:
    """A store, and the milliseconds of every publish by stage."""

    store: VersionStore
    stage_ms: dict[str, list[float]] = field(default_factory=lambda: {stage: [] for stage in STAGES})

    def timed(self, stage: str, run: Callable[[], Result]) -> Result:
        """Run and record the milliseconds."""
        began = time.perf_counter()
        result = run()
        self.stage_ms[stage].append((time.perf_counter() - began) * 1e3)
        return result

    def publish(self, new: Sequence[Tensor], weights: dict[str, Tensor]) -> None:
        """Publish one version of `new` samples and `weights`."""
        encoded = list(map(encode_sample, new))
        digests = self.timed(STAGES[0], lambda: self.store.put_samples(CLIENT, encoded))
        digest, size_bytes = self.timed(STAGES[1], lambda: self.store.put_weights(CLIENT, weights, {"kind": "delta"}))
        draft = make_draft(digests, digest, size_bytes)
        self.timed(STAGES[2], lambda: self.store.publish(draft, [LIVE]))


@script
def main() -> None:
    """Measure and print both tables."""
    arguments = parse_arguments()
    torch.set_num_threads(1)
    checkpoint = load_checkpoint(arguments.checkpoint)
    generator = torch.Generator().manual_seed(0)
    delta = adapted_delta(checkpoint, images(N_WAY * N_SHOT, generator), n_way=N_WAY)
    with tempfile.TemporaryDirectory(prefix="anole-store-", dir=arguments.folder) as folder:
        print_times(Path(folder), delta, arguments.publishes, generator)
        print_sizes(Path(folder), checkpoint, delta, generator)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    parser.option("--checkpoint", DEFAULT_MODEL, "name of a shipped checkpoint, or path to one")
    parser.add_argument("--folder", type=Path, help="folder on the disk to measure (default: the temporary folder)")
    parser.option("--publishes", 300, "publishes per store")
    return parser.parse_args()


def images(count: int, generator: torch.Generator) -> list[Tensor]:
    """Random grey images, uint8 (1, side, side) each."""
    return [torch.randint(0, 256, (1, SIDE, SIDE), dtype=torch.uint8, generator=generator) for _ in range(count)]


def adapted_delta(checkpoint: Checkpoint, samples: Sequence[Tensor], *, n_way: int) -> dict[str, Tensor]:
    """The weights that a version of that checkpoint stores."""
    learner = LoadedCheckpoint(checkpoint, torch.device("cpu"))
    support = learner.support(samples, [i % n_way for i in range(len(samples))], n_way)
    return learner.delta(learner.adapt(support, checkpoint.recipe, seed=0))


def print_times(folder: Path, delta: dict[str, Tensor], publishes: int, generator: torch.Generator) -> None:
    """Publish alternately to a store with fsync and to one without, and print the milliseconds."""
    stores = [TimedStore(open_embedded(folder / f"sync-{sync}", sync=sync)) for sync in (True, False)]
    warm_up = 5
    for i in range(publishes + warm_up):
        new = images(N_SHOT, generator)
        weights = {name: tensor + i for name, tensor in delta.items()}
        for timed in stores if i % 2 else reversed(stores):
            timed.publish(new, weights)
            if i < warm_up:
                timed.stage_ms = {stage: [] for stage in STAGES}
    for timed in stores:
        timed.stage_ms["total"] = [sum(stages) for stages in zip(*timed.stage_ms.values(), strict=True)]
        timed.store.close()
    rows = []
    for stage in (*STAGES, "total"):
        synced, unsynced = (timed.stage_ms[stage] for timed in stores)
        cells = [percentile(times_ms, share) for times_ms in (synced, unsynced) for share in (0.5, 0.99)]
        rows.append((stage, *(f"{cell:.2f}" for cell in cells), f"{cells[0] - cells[2]:+.2f}"))
    print(f"\n{publishes} publishes each, {N_SHOT} samples of {SIDE} x {SIDE}, alternating; milliseconds\n")
    print(markdown(("stage", "fsync p50", "fsync p99", "without p50", "without p99", "cost of fsync, p50"), rows))


def make_draft(samples: Sequence[str], weights_digest: str, size_bytes: int) -> VersionDraft:
    """A draft with a report of typical size."""
    seconds = dict.fromkeys(("decode", "adapt", "examine", "store", "total"), 0.123456789)
    return VersionDraft(
        client=CLIENT,
        parent=None,
        classes=tuple(f"class-{i}" for i in range(N_WAY)),
        samples=tuple(SampleRef(digest, f"class-{i % N_WAY}", f"part-{i:04}.png") for i, digest in enumerate(samples)),
        meta_model="surfaces",
        meta_model_digest=hashlib.sha256(b"surfaces").hexdigest(),
        recipe={"steps": 20, "learning_rate": 0.01, "batch_size": 10, "optimiser": "sgd", "rates": []},
        seed=0,
        weights_digest=weights_digest,
        weights_bytes=size_bytes,
        device="cpu",
        batched_with=0,
        report={
            "support_accuracy": 0.98,
            "loss_curve": [0.123456789] * 20,
            "seconds": seconds,
            "gate": {"reasons": []},
        },
    )


def print_sizes(folder: Path, checkpoint: Checkpoint, delta: dict[str, Tensor], generator: torch.Generator) -> None:
    """Publish a version and extensions of it, and print the bytes that each adds."""
    place, extensions = folder / "sizes", 100
    with open_embedded(place, sync=False) as store:
        timed, samples = TimedStore(store), images(N_WAY * N_SHOT, generator)
        timed.publish(samples, delta)
        first, catalog_before = bytes_on_disk(place), (place / CATALOG_FILE).stat().st_size
        for i in range(extensions):
            samples[-N_SHOT:] = images(N_SHOT, generator)
            timed.publish(samples, {name: tensor + i + 1 for name, tensor in delta.items()})
        catalog_bytes = ((place / CATALOG_FILE).stat().st_size - catalog_before) // extensions
        blob_bytes = (bytes_on_disk(place) - first) // extensions
    rows = {
        "weights of the meta-model, stored once": len(to_bytes(checkpoint.weights)),
        f"weights of a version: difference to the meta-model, head, statistics ({len(delta)} tensors)": len(
            to_bytes(delta, {"kind": "delta"})
        ),
        "one grey sample": len(to_bytes({"image": samples[0]})),
        f"rows of a version with {len(samples)} samples, mean of {extensions}": catalog_bytes,
        f"a first version with {len(samples)} samples, blobs only": first,
        f"a version that extends it by {N_SHOT} samples, including rows": blob_bytes + catalog_bytes,
    }
    print(f"\nBytes of a version ({checkpoint.name}, {N_WAY} classes x {N_SHOT} images of {SIDE} x {SIDE})\n")
    print(markdown(("what", "bytes"), [(name, f"{size:,}") for name, size in rows.items()]))


def bytes_on_disk(place: Path) -> int:
    """Size of all blobs of the client."""
    return sum(path.stat().st_size for path in (place / BLOBS_FOLDER / CLIENT).iterdir())


if __name__ == "__main__":
    main()
