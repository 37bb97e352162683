"""Time of publishing a version, durably and not, and its size in bytes by kind.

    python benchmarks/store_publish.py [--checkpoint NAME|PATH] [--folder FOLDER] [--publishes N]

The versions are real: the checkpoint adapted to five classes of ten random images, because neither time nor size
depends on the images. Accuracy is not measured.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

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
class InnerLoopExecutor:
    """One store, and the milliseconds of every publish by stage."""

    store: VersionStore
    stage_ms: dict[str, list[float]] = field(default_factory=lambda: {stage: [] for stage in STAGES})


def main() -> None:
    """Measure and print both tables."""
    arguments = parsed()
    torch.set_num_threads(1)
    checkpoint = load_checkpoint(arguments.checkpoint)
    generator = torch.Generator().manual_seed(0)
    delta = adapted_delta(checkpoint, images(N_WAY * N_SHOT, generator), n_way=N_WAY)
    folder = Path(tempfile.mkdtemp(prefix="anole-store-", dir=arguments.folder))
    try:
        times(folder, delta, arguments.publishes, generator)
        sizes(folder, checkpoint, delta, generator)
    finally:
        shutil.rmtree(folder)


def parsed() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="surfaces", help="shipped name or path (default: surfaces)")
    parser.add_argument("--folder", type=Path, default=None, help="where to write: the disk that is measured")
    parser.add_argument("--publishes", type=int, default=300, help="publishes a store (default: 300)")
    return parser.parse_args()


def images(count: int, generator: torch.Generator) -> list[Tensor]:
    """Random grey images, uint8 (1, side, side) each."""
    return [torch.randint(0, 256, (1, SIDE, SIDE), dtype=torch.uint8, generator=generator) for _ in range(count)]


def adapted_delta(checkpoint: Checkpoint, samples: Sequence[Tensor], *, n_way: int) -> dict[str, Tensor]:
    """Stored tensors of a version of that checkpoint."""
    learner = LoadedCheckpoint(checkpoint, torch.device("cpu"))
    support = learner.support(samples, [i % n_way for i in range(len(samples))], n_way)
    return learner.delta(learner.adapt(support, checkpoint.recipe, seed=0))


def times(folder: Path, delta: dict[str, Tensor], publishes: int, generator: torch.Generator) -> None:
    """Publish to a durable and a volatile store alternately, and print the milliseconds."""
    benches = [
        InnerLoopExecutor(open_embedded(folder / name, sync=sync))
        for name, sync in (("durable", True), ("volatile", False))
    ]
    warm_up = 5
    for i in range(publishes + warm_up):
        new = images(N_SHOT, generator)
        weights = {name: tensor + i for name, tensor in delta.items()}
        for bench in benches if i % 2 else reversed(benches):
            publish(bench, new, weights)
            if i < warm_up:
                bench.stage_ms = {stage: [] for stage in STAGES}
    print(f"\n{publishes} publishes each, {N_SHOT} samples of {SIDE} x {SIDE}, by turns; milliseconds\n")
    print("| stage | fsync p50 | fsync p99 | none p50 | none p99 | price of fsync, p50 |")
    print("|---|---|---|---|---|---|")
    durable, volatile = benches
    for stage in STAGES:
        print_row(stage, durable.stage_ms[stage], volatile.stage_ms[stage])
    print_row("all", *(totals(bench) for bench in benches))
    for bench in benches:
        bench.store.close()


def totals(bench: InnerLoopExecutor) -> list[float]:
    """Milliseconds of each publish, all stages together."""
    return [sum(stages) for stages in zip(*bench.stage_ms.values(), strict=True)]


def publish(bench: InnerLoopExecutor, new: Sequence[Tensor], weights: dict[str, Tensor]) -> None:
    """One version of `new` samples and `weights`, timed by stage."""
    store = bench.store
    digests = timed(bench, STAGES[0], lambda: store.put_samples(CLIENT, list(map(encode_sample, new))))
    digest, size_bytes = timed(bench, STAGES[1], lambda: store.put_weights(CLIENT, weights, {"kind": "delta"}))
    draft = draft_of(digests, digest, size_bytes)
    timed(bench, STAGES[2], lambda: store.publish(draft, [LIVE]))


def timed(bench: InnerLoopExecutor, stage: str, work: Callable[[], Result]) -> Result:
    """Run the work and record its milliseconds."""
    begun = time.perf_counter()
    result = work()
    bench.stage_ms[stage].append((time.perf_counter() - begun) * 1e3)
    return result


def draft_of(samples: Sequence[str], weights_digest: str, size_bytes: int) -> VersionDraft:
    """A draft with a report of the usual size."""
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


def print_row(stage: str, durable_ms: Sequence[float], volatile_ms: Sequence[float]) -> None:
    """One line of the table of times."""
    cells = [value for times_ms in (durable_ms, volatile_ms) for value in (median(times_ms), p99(times_ms))]
    price = median(durable_ms) - median(volatile_ms)
    print(f"| {stage} | " + " | ".join(f"{cell:.2f}" for cell in cells) + f" | {price:+.2f} |")


def median(values: Sequence[float]) -> float:
    """Median."""
    return statistics.median(values)


def p99(values: Sequence[float]) -> float:
    """99th percentile."""
    return sorted(values)[min(len(values) - 1, int(len(values) * 0.99))]


def sizes(folder: Path, checkpoint: Checkpoint, delta: dict[str, Tensor], generator: torch.Generator) -> None:
    """Publish a first version and extensions of it, and print the bytes that each adds."""
    place = folder / "sizes"
    extensions = 100
    with open_embedded(place, sync=False) as store:
        bench, samples = InnerLoopExecutor(store), images(N_WAY * N_SHOT, generator)
        publish(bench, samples, delta)
        first = bytes_on_disk(place)
        catalog_bytes = (place / CATALOG_FILE).stat().st_size
        for i in range(extensions):
            samples[-N_SHOT:] = images(N_SHOT, generator)
            publish(bench, samples, {name: tensor + i + 1 for name, tensor in delta.items()})
        catalog_bytes = (place / CATALOG_FILE).stat().st_size - catalog_bytes
        blob_bytes = bytes_on_disk(place)
    sample_bytes = len(to_bytes({"image": samples[0]}))
    weights_bytes = len(to_bytes(delta, {"kind": "delta"}))
    whole_bytes = len(to_bytes(checkpoint.weights))
    print(f"\nBytes of a version ({checkpoint.name}, {N_WAY} classes x {N_SHOT} images of {SIDE} x {SIDE})\n")
    print("| what | bytes |")
    print("|---|---|")
    print(f"| the meta-model's weights, held once by the service | {whole_bytes:,} |")
    print(f"| weights as stored: what differs, head and statistics ({len(delta)} tensors) | {weights_bytes:,} |")
    print(f"| one sample, grey | {sample_bytes:,} |")
    print(f"| rows of a version with {len(samples)} samples, mean of {extensions} | {catalog_bytes // extensions:,} |")
    print(f"| a first version with {len(samples)} samples, blobs alone | {first:,} |")
    added = (blob_bytes - first) // extensions + catalog_bytes // extensions
    print(f"| a version that extends it by {N_SHOT} samples, rows included | {added:,} |")


def bytes_on_disk(place: Path) -> int:
    """Total size of the client's blobs."""
    return sum(path.stat().st_size for path in (place / BLOBS_FOLDER / CLIENT).iterdir())


if __name__ == "__main__":
    main()
