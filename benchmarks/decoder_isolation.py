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
import time
from collections.abc import Callable

import numpy as np
from PIL import Image

from benchmarks.figures import markdown, percentile
from models.images.preprocessing import DEFAULT_LIMITS
from service.runtime.decoding.decoder import Decoder, DecoderPool, InlineDecoder, PoolConfig
from service.settings import child_environment


def main() -> None:
    """Measure and print the table."""
    arguments = parsed()
    inline, pool = InlineDecoder(DEFAULT_LIMITS), pool_of(2)
    rows = [compared(noisy(side), side, arguments.rounds, (inline, pool)) for side in arguments.sides]
    pool.close()
    print(f"load {os.getloadavg()[0]:.2f} before the run, {arguments.rounds} images a line, by turns\n")
    columns = ("side", "bytes", "here p50 ms", "isolated p50 ms", "more ms", "here p99 ms", "isolated p99 ms")
    print(markdown(columns, rows))
    print(f"\na process that was killed, until the next image is decoded in a fresh one: {1e3 * loss_s():.0f} ms")


def parsed() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=400, help="images of each side (default: 400)")
    parser.add_argument("--sides", type=int, nargs="+", default=[64, 128, 256, 1024], help="pixels (64 128 256 1024)")
    return parser.parse_args()


def pool_of(processes: int) -> DecoderPool:
    """A decoder pool as in the service, with running processes."""
    pool = DecoderPool(DEFAULT_LIMITS, PoolConfig(processes), child_environment())
    for _ in range(processes):
        pool.decode(noisy(64))
    return pool


def noisy(side: int) -> bytes:
    """A grey PNG, generated."""
    pixels = np.random.default_rng(side).normal(128, 20, (side, side)).clip(0, 255).astype(np.uint8)
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, "PNG")
    return held.getvalue()


def compared(content: bytes, side: int, rounds: int, decoders: tuple[Decoder, Decoder]) -> tuple[str, ...]:
    """One line of the table: both sides by turns."""
    pairs = [[timed(decoder.decode, content) for decoder in decoders] for _ in range(rounds)]
    here, isolated = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    p50_here, p50_isolated = percentile(here, 0.5), percentile(isolated, 0.5)
    shown = (p50_here, p50_isolated, p50_isolated - p50_here, percentile(here, 0.99), percentile(isolated, 0.99))
    return (str(side), f"{len(content):,}", *(f"{1e3 * seconds:.3f}" for seconds in shown))


def timed(decode: Callable[[bytes], object], content: bytes) -> float:
    """Seconds for one image."""
    began = time.perf_counter()
    decode(content)
    return time.perf_counter() - began


def loss_s() -> float:
    """Seconds to decode an image after the only decoder process was killed."""
    pool = pool_of(1)
    try:
        os.kill(pool.process_ids()[0], signal.SIGKILL)
        return timed(pool.decode, noisy(64))
    finally:
        pool.close()


if __name__ == "__main__":
    main()
