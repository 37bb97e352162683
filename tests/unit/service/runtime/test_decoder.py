"""Decoding in isolated processes: a bad image costs its own request and nothing else."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models.errors import ImageRejected, ImageTooLarge, ImageUndecodable
from models.images.preprocessing import DEFAULT_LIMITS, DecodeLimits, decode
from service.errors import DecoderUnavailable
from service.runtime.decoder import DecoderPool, DecoderProcess, InlineDecoder, PoolConfig, ProcessLost
from service.runtime.decoder_child import ChildLimits
from service.settings import child_environment
from tests.generated import striped
from tests.unit.models.pictures import encoded, png_claiming, scene

FAILING = "tests.unit.service.runtime.failing_decoder"
GOOD = striped(1, 7)[0]
MEBIBYTE = 1024 * 1024

Started = Callable[..., DecoderPool]


@pytest.fixture
def started() -> Iterator[Started]:
    """Return a function that starts pools whose processes fail on command. Closes them after the test."""
    pools: list[DecoderPool] = []

    def start(limits: DecodeLimits = DEFAULT_LIMITS, **config: float) -> DecoderPool:
        given = PoolConfig(**{"processes": 1, "image_s": 30.0, **config})  # type: ignore[arg-type]
        pools.append(DecoderPool(limits, given, child_environment(), FAILING))
        return pools[-1]

    yield start
    for pool in pools:
        pool.close()


@pytest.mark.parametrize("size", [(40, 24), (700, 300)])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_process_returns_the_same_pixels_as_inline_decoding(
    started: Started, size: tuple[int, int], mode: str
) -> None:
    content = encoded(Image.fromarray(scene(*size)).convert(mode))
    pixels = started().decode(content)
    assert torch.equal(pixels, decode(content))
    pixels += 1  # the tensor is writable


def test_a_process_rejects_with_the_same_error_as_inline_decoding(started: Started) -> None:
    pool, inline = started(), InlineDecoder(DEFAULT_LIMITS)
    for content in (b"", b"GIF89a", GOOD[:80], png_claiming(20_000, 20_000), png_claiming(4, 4)):
        with pytest.raises(ImageRejected) as here:
            inline.decode(content)
        with pytest.raises(type(here.value)) as there:
            pool.decode(content)
        assert str(there.value) == str(here.value)
    assert pool.metrics()["decoder_processes_lost_total"] == 0


def test_the_limits_apply_in_the_processes(started: Started) -> None:
    with pytest.raises(ImageTooLarge, match="at most 100 are allowed"):
        started(DecodeLimits(max_bytes=100)).decode(GOOD)


def test_an_image_that_crashes_the_decoder_is_rejected_and_the_next_one_is_decoded(started: Started) -> None:
    pool = started()
    with pytest.raises(ImageUndecodable, match="crashed the decoder twice"):
        pool.decode(b"die")
    assert torch.equal(pool.decode(GOOD), decode(GOOD))
    assert pool.metrics()["decoder_processes_lost_total"] == 2  # the image was retried once


def test_an_image_that_hangs_the_decoder_is_rejected_at_the_time_limit(started: Started) -> None:
    pool = started(image_s=1.0)
    with pytest.raises(ImageUndecodable, match="more than 1 s"):
        pool.decode(b"hang")
    assert pool.decode(GOOD).shape == (1, 40, 40)


def test_an_image_that_crashed_a_process_is_never_tried_again(started: Started) -> None:
    pool = started()
    with pytest.raises(ImageUndecodable):
        pool.decode(b"die")
    for _ in range(5):
        with pytest.raises(ImageUndecodable, match="before"):
            pool.decode(b"die")
    assert pool.metrics() == {"decoder_processes_lost_total": 2, "decoder_images_quarantined": 1}


def test_other_images_are_decoded_while_one_hangs(started: Started) -> None:
    pool = started(processes=2, image_s=5.0)
    with ThreadPoolExecutor(1) as thread:
        hanging = thread.submit(pool.decode, b"hang")
        while not hanging.done():
            assert pool.decode(GOOD).shape == (1, 40, 40)
        with pytest.raises(ImageUndecodable):
            hanging.result()


def test_killing_an_idle_process_fails_no_image(started: Started) -> None:
    pool = started()
    pool.decode(GOOD)
    os.kill(pool.process_ids()[0], signal.SIGKILL)
    assert pool.decode(GOOD).shape == (1, 40, 40)


def test_a_process_is_replaced_after_a_number_of_images(started: Started) -> None:
    pool = started(images_each=3)
    pool.decode(GOOD)
    first = pool._idle[0]._process
    for _ in range(3):
        pool.decode(GOOD)
    assert first.poll() is not None
    assert pool._idle[0]._process is not first
    assert pool.metrics()["decoder_processes_lost_total"] == 0


@pytest.mark.parametrize(
    "lie", ["too large", "too long", "too many bytes", "no shape", "unknown kind", "unknown refusal", "no json"]
)
def test_an_invalid_reply_of_a_process_is_rejected(started: Started, lie: str) -> None:
    pool = started()
    with pytest.raises(ImageUndecodable):
        pool.decode(f"lie: {lie}".encode())
    assert pool.decode(GOOD).shape == (1, 40, 40)


def test_a_long_narrow_image_passes_the_check_of_replies(started: Started) -> None:
    assert started().decode(encoded(Image.new("RGB", (12_000, 600)))).shape == (3, 51, 1024)


def test_an_image_over_the_memory_limit_is_rejected_and_the_process_survives(started: Started) -> None:
    pool = started(memory_bytes=256 * MEBIBYTE)
    large = encoded(Image.fromarray(np.zeros((5000, 5000), np.uint16)))
    with pytest.raises(ImageTooLarge, match="memory"):
        pool.decode(large)
    assert pool.decode(GOOD).shape == (1, 40, 40)
    assert pool.metrics()["decoder_processes_lost_total"] == 0


def test_the_largest_allowed_image_fits_into_the_memory_limit(started: Started) -> None:
    pool = started(image_s=60.0)
    side = 5000
    assert side * side == DEFAULT_LIMITS.max_pixels
    for deep in (Image.fromarray(np.zeros((side, side), np.uint16)), Image.new("RGBA", (side, side))):
        assert max(pool.decode(encoded(deep)).shape) == 256


def test_a_decoder_cannot_write_files(started: Started, tmp_path: Path) -> None:
    target = tmp_path / "written"
    with pytest.raises(ImageUndecodable):
        started().decode(b"write " + bytes(target))
    assert not target.exists() or target.stat().st_size == 0


def test_a_process_ends_at_its_processor_time_limit() -> None:
    process = DecoderProcess(ChildLimits(DEFAULT_LIMITS, 1024 * MEBIBYTE, cpu_s=0), child_environment(), FAILING)
    try:
        process.wait_until_ready()
        with pytest.raises(ProcessLost):
            process.decode(b"spin", limit_s=60.0)
        assert process._process.wait(60) == -signal.SIGXCPU
    finally:
        process.end()


def test_a_process_ends_when_its_socket_closes() -> None:
    process = DecoderProcess(ChildLimits(DEFAULT_LIMITS, 1024 * MEBIBYTE, cpu_s=5), child_environment())
    process.wait_until_ready()
    process._channel.close()
    assert process._process.wait(60) == 0


def test_no_setting_and_no_secret_reaches_the_processes(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANOLE_API_KEY", "secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    pool = started()
    pool.decode(GOOD)
    environment = Path(f"/proc/{pool.process_ids()[0]}/environ").read_bytes()
    assert b"PYTHONPATH" in environment
    assert b"secret" not in environment


def test_a_process_that_does_not_start_rejects_no_image() -> None:
    pool = DecoderPool(DEFAULT_LIMITS, PoolConfig(processes=1), child_environment(), "tests.there_is_no_such_program")
    try:
        for _ in range(2):
            with pytest.raises(DecoderUnavailable, match="could not be started"):
                pool.decode(GOOD)
        assert pool.metrics()["decoder_images_quarantined"] == 0
    finally:
        pool.close()


def test_a_request_without_a_free_process_in_time_gets_decoder_unavailable(started: Started) -> None:
    pool = started(image_s=1.0)
    held = pool._acquire()
    with pytest.raises(DecoderUnavailable, match="no decoder was free"):
        pool.decode(GOOD)
    pool._release(held)
    assert pool.decode(GOOD).shape == (1, 40, 40)


def test_many_threads_share_few_processes(started: Started) -> None:
    pool, images = started(processes=2), striped(40, 9)
    with ThreadPoolExecutor(8) as threads:
        decoded = list(threads.map(pool.decode, images))
    assert all(torch.equal(found, decode(content)) for found, content in zip(decoded, images, strict=True))


def test_a_closed_pool_leaves_no_process(started: Started) -> None:
    pool = started(processes=2)
    pool.decode(GOOD)
    idle, at_work = pool._idle[0]._process, pool._acquire()
    pool.close()
    pool._release(at_work)
    assert idle.poll() is not None
    assert at_work._process.poll() is not None
    with pytest.raises(DecoderUnavailable):
        pool.decode(GOOD)
