"""Decoding in isolated processes: a bad image costs its own request and nothing else."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models.errors import ImageCorrupt, ImageRejected, ImageTooLarge, ImageUndecodable
from models.images.preprocessing import DEFAULT_LIMITS, DecodeLimits, decode
from service.errors import DeadlinePassed, DecoderUnavailable, Overloaded
from service.runtime.decoder import InlineDecoder, Upload
from service.runtime.decoder_child import READY, REPLY, ChildLimits
from service.runtime.decoder_pool import DecoderPool, PoolConfig
from service.runtime.decoder_process import PROGRAM, DecoderProcess, ProcessLost
from service.settings import child_environment
from tests.generated import striped
from tests.unit.models.pictures import encoded, png_claiming, scene

FAILING = "tests.unit.service.runtime.failing_decoder"
GOOD = striped(1, 7)[0]
MEBIBYTE = 1024 * 1024
LIMIT_S = 60

Started = Callable[..., DecoderPool]


@pytest.fixture
def started() -> Iterator[Started]:
    """Return a function that starts pools whose processes fail on command. Closes them after the test."""
    pools: list[DecoderPool] = []

    def start(limits: DecodeLimits = DEFAULT_LIMITS, **config: float) -> DecoderPool:
        given = PoolConfig(**{"processes": 1, "image_s": 30.0, "image_wall_s": 300.0, **config})  # type: ignore[arg-type]
        pools.append(DecoderPool(limits, given, child_environment(), FAILING))
        return pools[-1]

    yield start
    for pool in pools:
        pool.close()


def wait_until(happened: Callable[[], bool]) -> None:
    """Wait for something that another process does."""
    deadline = time.monotonic() + LIMIT_S
    while not happened():
        assert time.monotonic() < deadline
        threading.Event().wait(0.005)


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
    with pytest.raises(ImageUndecodable, match="ended its decoder twice"):
        pool.decode(b"die")
    assert torch.equal(pool.decode(GOOD), decode(GOOD))
    assert pool.metrics()["decoder_processes_lost_total"] == 2  # the image was retried once


def test_an_image_that_hangs_the_decoder_is_rejected_at_the_time_limit(started: Started) -> None:
    pool = started(image_wall_s=0.3)
    for _ in range(2):
        with pytest.raises(ImageUndecodable, match=r"more than 0\.3 s"):
            pool.decode(b"hang")
    assert pool.metrics()["decoder_images_quarantined"] == 0  # the machine may have been slow
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
    pool = started(processes=2, image_wall_s=2.0)
    with ThreadPoolExecutor(1) as thread:
        hanging = thread.submit(pool.decode, b"hang")
        while not hanging.done():
            assert pool.decode(GOOD).shape == (1, 40, 40)
        with pytest.raises(ImageUndecodable):
            hanging.result()


def test_an_idle_process_that_was_killed_is_replaced_and_fails_no_image(started: Started) -> None:
    pool = started()
    assert pool.decode(GOOD).shape == (1, 40, 40)
    (killed,) = pool.process_ids()
    os.kill(killed, signal.SIGKILL)
    assert pool.decode(GOOD).shape == (1, 40, 40)
    assert pool.process_ids() != [killed]
    assert pool.metrics() == {"decoder_processes_lost_total": 1, "decoder_images_quarantined": 0}


def test_a_pool_is_available_once_a_process_has_started_and_stays_so_when_images_end_them(started: Started) -> None:
    with pytest.raises(DecoderUnavailable, match="no decoder process has started yet"):
        started().check()
    pool = started()
    with pytest.raises(ImageUndecodable):
        pool.decode(b"die")
    pool.check()


def test_a_dead_idle_process_is_noticed_before_an_image_needs_it(started: Started) -> None:
    pool = started()
    pool.decode(GOOD)
    (killed,) = pool.process_ids()
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: pool.process_ids() not in ([killed], []))
    assert pool.metrics()["decoder_processes_lost_total"] == 1


def test_an_image_is_not_blamed_for_a_crash_that_does_not_happen_again(started: Started, tmp_path: Path) -> None:
    pool = started()
    assert pool.decode(b"die-once " + bytes(tmp_path / "crashed")).shape == (1, 16, 16)
    assert pool.metrics() == {"decoder_processes_lost_total": 1, "decoder_images_quarantined": 0}


def test_an_image_is_not_blamed_for_processes_that_are_killed_from_outside(started: Started) -> None:
    pool = started()
    for _ in range(2):
        with pytest.raises(DecoderUnavailable, match="was ended"):
            pool.decode(b"killed")
    assert pool.metrics()["decoder_images_quarantined"] == 0


def test_an_image_is_decoded_by_a_new_process_when_the_first_is_paused(started: Started) -> None:
    pool = started(image_wall_s=1.0)
    pool.decode(GOOD)
    (paused,) = pool.process_ids()
    os.kill(paused, signal.SIGSTOP)
    assert pool.decode(GOOD).shape == (1, 40, 40)
    assert pool.metrics()["decoder_images_quarantined"] == 0


def test_a_process_is_replaced_after_a_number_of_images(started: Started) -> None:
    pool = started(images_each=3)
    pool.decode(GOOD)
    first = pool.process_ids()
    pool.decode(GOOD)
    assert pool.process_ids() == first
    pool.decode(GOOD)
    wait_until(lambda: pool.process_ids() not in (first, []))
    assert pool.metrics()["decoder_processes_lost_total"] == 0


@pytest.mark.parametrize(
    "lie",
    ["too large", "too long", "too many bytes", "no shape", "bit depth", "unknown kind", "unknown refusal", "no json"],
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
    large = encoded(Image.new("RGBA", (5000, 5000)))
    with pytest.raises(ImageTooLarge, match="memory"):
        pool.decode(large)
    assert pool.decode(GOOD).shape == (1, 40, 40)
    assert pool.metrics()["decoder_processes_lost_total"] == 0


def test_the_largest_allowed_image_fits_into_the_memory_limit(started: Started) -> None:
    pool = started(image_s=60.0, image_wall_s=600.0)
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
        with pytest.raises(ProcessLost, match="more than 0 s of processor time"):
            process.decode(b"spin", limit_s=60.0)
        wait_until(lambda: not process.alive)
    finally:
        process.end()


def test_a_process_ends_when_its_socket_closes() -> None:
    ours, theirs = socket.socketpair()
    limits = ChildLimits(DEFAULT_LIMITS, 1024 * MEBIBYTE, cpu_s=5).to_text()
    process = subprocess.Popen([sys.executable, "-m", PROGRAM, limits], stdin=theirs.fileno())
    theirs.close()
    assert ours.recv(REPLY.size) == REPLY.pack(READY, 0, 0, 0, 0, 0)
    ours.close()
    assert process.wait(60) == 0


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
        with pytest.raises(DecoderUnavailable, match="could not be started"):
            pool.check()
    finally:
        pool.close()


def test_many_threads_share_few_processes(started: Started) -> None:
    pool, images = started(processes=2), striped(40, 9)
    with ThreadPoolExecutor(8) as threads:
        decoded = list(threads.map(pool.decode, images))
    assert all(torch.equal(found, decode(content)) for found, content in zip(decoded, images, strict=True))


def test_closing_does_not_wait_for_an_image_and_leaves_no_process(started: Started, tmp_path: Path) -> None:
    pool = started(processes=2)
    works = [pool.submit([Upload("a", b"wait " + bytes(tmp_path / "never"))] * 3) for _ in range(2)]
    wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
    processes = pool.process_ids()
    pool.close()
    for work in works:
        with pytest.raises(Overloaded, match="stopping"):
            work.result(0)
    assert pool.process_ids() == []
    assert not any(Path(f"/proc/{process}").exists() for process in processes)
    with pytest.raises(Overloaded, match="stopping"):
        pool.decode(GOOD)


def test_a_pool_that_is_closed_while_its_processes_start_leaves_none(started: Started) -> None:
    pool = started(processes=2)
    pool.close()
    assert pool.process_ids() == []


def test_images_of_a_request_are_returned_in_order(started: Started) -> None:
    pool, contents = started(processes=2), striped(12, 9)
    images = pool.submit([Upload(str(index), content) for index, content in enumerate(contents)]).result(LIMIT_S)
    assert all(torch.equal(image.pixels, decode(content)) for image, content in zip(images, contents, strict=True))


def test_the_first_bad_image_of_a_request_is_reported_with_its_name(started: Started) -> None:
    uploads = [Upload("good.png", GOOD), *(Upload(f"{index}.png", b"bad") for index in range(20))]
    for _ in range(5):
        with pytest.raises(ImageCorrupt, match=r"^0\.png: "):
            started(processes=3).submit(uploads).result(LIMIT_S)


def test_a_single_image_passes_the_batch_of_another_caller(started: Started, tmp_path: Path) -> None:
    pool, gate, order = started(), tmp_path / "gate", list[str]()
    pool.submit([Upload("first", b"wait " + bytes(gate))], "batches")
    wait_until(lambda: any(tmp_path.iterdir()))
    batch = pool.submit([Upload("a", GOOD)] * 40, "batches")
    single = pool.submit([Upload("b", GOOD)], "singles")
    batch.add_done_callback(lambda _: order.append("batch"))
    single.add_done_callback(lambda _: order.append("single"))
    gate.touch()
    assert len(batch.result(LIMIT_S)) == 40
    assert order == ["single", "batch"]


def test_images_of_a_request_that_has_ended_are_given_up(started: Started, tmp_path: Path) -> None:
    pool = started()
    work = pool.submit([Upload("a", b"wait " + bytes(tmp_path / "never"))] * 64)
    wait_until(lambda: any(tmp_path.iterdir()))
    assert work.cancel()
    assert pool.decode(GOOD).shape == (1, 40, 40)
    assert len(list(tmp_path.iterdir())) == 1
    assert pool.metrics()["decoder_processes_lost_total"] == 0


def test_a_request_ends_at_its_time_limit(started: Started, tmp_path: Path) -> None:
    pool = started()
    work = pool.submit([Upload("a", b"wait " + bytes(tmp_path / "never"))] * 2, limit_s=0.1)
    with pytest.raises(DeadlinePassed, match=r"within 0\.1 s"):
        work.result(LIMIT_S)
    assert pool.decode(GOOD).shape == (1, 40, 40)


def test_one_process_stays_free_of_a_caller_whose_images_are_slow(started: Started, tmp_path: Path) -> None:
    pool, gate = started(processes=2, slow_s=0.0), tmp_path / "gate"
    pool.submit([Upload("a", GOOD)], "slow").result(LIMIT_S)
    work = pool.submit([Upload("a", b"wait " + bytes(gate))] * 2, "slow")
    wait_until(lambda: any(tmp_path.iterdir()))
    pool.submit([Upload("b", GOOD)], "quick").result(LIMIT_S)
    assert len(list(tmp_path.iterdir())) == 1
    gate.touch()
    assert len(work.result(LIMIT_S)) == 2


def test_large_images_are_decoded_one_at_a_time(started: Started, tmp_path: Path) -> None:
    pool = started(processes=3)
    works = [pool.submit([Upload("a", b"alone " + bytes(tmp_path))] * 3, caller) for caller in ("x", "y")]
    small = pool.submit([Upload("b", GOOD)] * 9, "z")
    assert [len(work.result(LIMIT_S)) for work in works] == [3, 3]
    assert len(small.result(LIMIT_S)) == 9


def test_the_processes_together_stay_within_a_bound_of_memory_when_both_get_images_of_25_megapixels() -> None:
    content = encoded(Image.new("RGBA", (5000, 5000), (1, 2, 3, 100)), "WEBP", lossless=True, method=0)
    pool = DecoderPool(DEFAULT_LIMITS, PoolConfig(image_s=60.0, image_wall_s=600.0), child_environment())
    try:
        works = [pool.submit([Upload("a", content)] * 2, caller) for caller in ("x", "y")]
        peak_bytes = before_bytes = 0
        while not all(work.done() for work in works):
            now_bytes = sum(map(resident_bytes, pool.process_ids()))
            peak_bytes = max(peak_bytes, min(before_bytes, now_bytes))  # a decoded image may be freed a moment later
            before_bytes = now_bytes
            threading.Event().wait(0.05)
        assert all(image.pixels.shape == (3, 256, 256) for work in works for image in work.result(0))
    finally:
        pool.close()
    assert peak_bytes < 750 * MEBIBYTE  # an image takes 420 MiB; two at once would take more


def resident_bytes(process_id: int) -> int:
    try:
        pages = Path(f"/proc/{process_id}/statm").read_text().split()[1]
    except OSError:
        return 0
    return int(pages) * resource.getpagesize()


def test_a_process_that_cannot_be_replaced_fails_no_image_that_another_can_decode(
    started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = started(processes=2)
    wait_until(lambda: len(pool.process_ids()) == 2)
    monkeypatch.setattr(sys, "executable", "/there/is/no/python")
    os.kill(pool.process_ids()[0], signal.SIGKILL)
    for _ in range(5):
        assert pool.decode(GOOD).shape == (1, 40, 40)
    assert pool.submit([], "nothing").result(LIMIT_S) == []
