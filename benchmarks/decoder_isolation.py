"""Cost of decoding images in isolated processes, compared with decoding in the service's process.

    python benchmarks/decoder_isolation.py [--rounds 400] [--sides 64 128 256 1024]

Decodes the same generated PNG alternately in this process and in a decoder process, as `anole serve` does. Prints the
median of each, and the time from the loss of a decoder process to the next decoded image.
"""

from __future__ import annotations

import argparse
import io
import os
import signal

import numpy as np
from PIL import Image

from benchmarks.figures import Parser, markdown, percentile
from benchmarks.measuring import Times, alternate
from models.images.preprocessing import DEFAULT_LIMITS
from service.runtime.decoder import Decoder, InlineDecoder
from service.runtime.decoder_pool import DecoderPool, PoolConfig
from service.settings import child_environment


def main() -> None:
    """Measure and print the table."""
    arguments = parse_arguments()
    print(f"load {os.getloadavg()[0]:.2f} before the run, {arguments.rounds} images per row, alternating\n")
    inline, pool = InlineDecoder(DEFAULT_LIMITS), started_pool(2)
    rows = [row(side, arguments.rounds, inline, pool) for side in arguments.sides]
    pool.close()
    columns = ("side", "bytes", "here p50 ms", "isolated p50 ms", "added ms", "here p99 ms", "isolated p99 ms")
    print(markdown(columns, rows))
    print(f"\nfrom the loss of a process to the next image, decoded in a new process: {1e3 * recovery_s():.0f} ms")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    parser.option("--rounds", 400, "images of each size")
    parser.option("--sides", [64, 128, 256, 1024], "sizes in pixels")
    return parser.parse_args()


def started_pool(processes: int) -> DecoderPool:
    """A pool as in the service, with running processes."""
    pool = DecoderPool(DEFAULT_LIMITS, PoolConfig(processes), child_environment())
    for _ in range(processes):
        pool.decode(noise(64))
    return pool


def noise(side: int) -> bytes:
    """A grey PNG with random pixels."""
    pixels = np.random.default_rng(side).normal(128, 20, (side, side)).clip(0, 255).astype(np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "PNG")
    return encoded.getvalue()


def row(side: int, rounds: int, inline: Decoder, pool: Decoder) -> tuple[str, ...]:
    """One line of the table."""
    content = noise(side)
    times = alternate(
        {"here": lambda _: inline.decode(content), "isolated": lambda _: pool.decode(content)}, rounds, warm_up=0
    )
    here, isolated = times["here"].elapsed_s, times["isolated"].elapsed_s
    p50_here, p50_isolated = percentile(here, 0.5), percentile(isolated, 0.5)
    shown = (p50_here, p50_isolated, p50_isolated - p50_here, percentile(here, 0.99), percentile(isolated, 0.99))
    return (str(side), f"{len(content):,}", *(f"{1e3 * seconds:.3f}" for seconds in shown))


def recovery_s() -> float:
    """Seconds to decode an image after the only process was killed."""
    pool, times = started_pool(1), Times()
    try:
        os.kill(pool.process_ids()[0], signal.SIGKILL)
        times.measure(lambda: pool.decode(noise(64)))
    finally:
        pool.close()
    return times.elapsed_s[0]


if __name__ == "__main__":
    main()
