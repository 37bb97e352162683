"""A pool of isolated decoder processes that callers share equally.

Image decoders are C code. On hostile input they may hang, crash or exhaust memory. Here that costs one image: each
process runs under system limits (see `decoder_child.py`), is ended when an image takes too long or its request
has ended, and is replaced. An image that ended two processes, the second of which was new, is remembered by its digest
and rejected from then on. A process that was killed from outside, or paused, is no evidence against its image.
"""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final

from models.errors import AnoleError, ImageRejected, ImageUndecodable
from models.images.decoding import DecodeLimits
from service.errors import RETRY_BUSY_S, RETRY_UNAVAILABLE_S, DeadlinePassed, DecoderUnavailable
from service.runtime.decoder import DecodedImage, Decoder, Upload, closed
from service.runtime.decoder_child import ChildLimits
from service.runtime.decoder_process import (
    PROGRAM,
    DecoderProcess,
    DecoderTooSlow,
    NeedsMemory,
    NotWanted,
    ProcessLost,
)
from service.runtime.fair_queue import FairQueue

_MAX_REJECTED: Final = 1024
_CHECK_IDLE_S: Final = 1.0
"""How often an idle process is checked. One that died is replaced before an image needs it."""

_FINISH_S: Final = 1.0
"""An image of a request that has ended may take so long, because ending its process costs more than most images."""

_SLOW_FOR_S: Final = 10.0
"""How long a caller with a slow image does not get the last free process."""


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """Size and limits of a decoder pool.

    Attributes:
        processes: number of processes.
        image_s: seconds of processor time per image, rounded up, after which its process ends.
        image_wall_s: seconds by the clock after which a process that does not reply is ended. It is longer, because the
            machine may be busy with other work.
        slow_s: seconds after which an image counts as slow. One process is kept free of the images of its sender.
        memory_bytes: address space of one process.
        images_each: images after which a process is replaced, so that leaks do not accumulate.
    """

    processes: int = 2
    image_s: float = 5.0
    image_wall_s: float = 30.0
    slow_s: float = 1.0
    memory_bytes: int = 1024 * 1024 * 1024
    images_each: int = 5000


class _Task:
    """The files of one request. The pool's lock guards it.

    Attributes:
        waiting: indices of the files that were not given to a process yet, in order.
        in_work: how many files were, and have no outcome yet.
    """

    def __init__(self, uploads: Sequence[Upload], caller: str, limit_s: float) -> None:
        self.caller = caller
        self.future: Future[list[DecodedImage]] = Future()
        self.uploads = list(uploads)
        self.waiting = list(range(len(uploads)))
        self.in_work = 0
        self._images: dict[int, DecodedImage] = {}
        self._errors: dict[int, Exception] = {}
        self._complete = False
        self._limit_s = limit_s
        self._deadline = time.monotonic() + limit_s

    @property
    def wanted(self) -> bool:
        """Whether somebody still waits for the images."""
        return not self.future.done() and time.monotonic() < self._deadline

    def needs(self, index: int) -> bool:
        """Whether the outcome of a file still matters: someone waits, and no file before it failed."""
        return self.wanted and all(index < failed for failed in self._errors)

    def record(self, index: int, outcome: DecodedImage | Exception) -> None:
        """Record the outcome of a file."""
        self.in_work -= 1
        if isinstance(outcome, Exception):
            self.fail(outcome, index)
        else:
            self._images[index] = outcome

    def take_back(self, index: int) -> None:
        """Let a file wait again."""
        self.in_work -= 1
        self.waiting.insert(0, index)

    def fail(self, error: Exception, index: int = -1) -> None:
        """Record an error of a file, or of the whole request, and drop the files that wait."""
        self._errors[index] = error
        self.waiting.clear()

    def complete(self) -> bool:
        """Return True once, when there is nothing left to do. Then call `settle` without the lock."""
        if self._complete or self.waiting or self.in_work:
            return False
        self._complete = True
        return True

    def settle(self) -> None:
        """Set the result of the future."""
        if not self.future.set_running_or_notify_cancel():
            return
        if self._errors:
            self.future.set_exception(self._errors[min(self._errors)])
        else:
            self.future.set_result([self._images[index] for index in range(len(self._images))])

    def too_late(self) -> DeadlinePassed:
        """The error of a request whose time has passed."""
        return DeadlinePassed(
            f"the images were not decoded within {self._limit_s:g} s; try again in {RETRY_BUSY_S} s, with fewer or "
            "smaller images",
            RETRY_BUSY_S,
        )


class _TakenBack(AnoleError):
    """The process of an image was lost and not replaced; another process can decode the image."""


@dataclass(frozen=True, slots=True, eq=False)
class _Image:
    """One file of a task that a process works on."""

    task: _Task
    index: int
    large: bool = False

    @property
    def content(self) -> bytes:
        return self.task.uploads[self.index].content


class DecoderPool(Decoder):
    """A pool of decoder processes, each decoding one image at a time. Thread-safe.

    At most one process at a time decodes an image that takes much memory, so that the pool's memory stays bounded.

    Args:
        limits: of an image.
        config: size and limits of the pool.
        environment: environment variables of the processes; it must not contain secrets.
        program: the module that the processes run.
    """

    def __init__(
        self, limits: DecodeLimits, config: PoolConfig, environment: Mapping[str, str], program: str = PROGRAM
    ) -> None:
        self._config = config
        self._child = ChildLimits(limits, config.memory_bytes, math.ceil(config.image_s))
        self._environment = environment
        self._program = program
        self._changed = threading.Condition()
        self._tasks: FairQueue[_Task] = FairQueue()
        self._large: FairQueue[_Image] = FairQueue()
        self._large_in_work = self._large_was_last = False
        self._in_work = 0
        self._slow_until: dict[str, float] = {}
        self._processes: dict[int, DecoderProcess] = {}
        self._unavailable: str | None = "no decoder process has started yet"
        self._closed = False
        self._rejected: OrderedDict[bytes, None] = OrderedDict()
        self._lost = 0
        self._threads = [
            threading.Thread(target=self._run, args=(number,), name=f"decode-{number}", daemon=True)
            for number in range(config.processes)
        ]
        for thread in self._threads:
            thread.start()

    def submit(
        self, uploads: Sequence[Upload], caller: str = "", limit_s: float = math.inf
    ) -> Future[list[DecodedImage]]:
        """See `Decoder.submit`."""
        task = _Task(uploads, caller, limit_s)
        with self._changed:
            if self._closed:
                raise closed()
            if uploads:
                self._tasks.push(task, caller, len(uploads))
                self._changed.notify(len(uploads))
            complete = task.complete()
        if complete:
            task.settle()
        task.future.add_done_callback(lambda future: self._drop(task) if future.cancelled() else None)
        return task.future

    def check(self) -> None:
        """See `Decoder.check`. A process that was lost is replaced, so losing one does not count."""
        if self._unavailable is not None:
            raise DecoderUnavailable(self._unavailable, RETRY_UNAVAILABLE_S)

    def metrics(self) -> Mapping[str, float]:
        """See `Decoder.metrics`."""
        return {"decoder_processes_lost_total": self._lost, "decoder_images_quarantined": len(self._rejected)}

    def process_ids(self) -> list[int]:
        """Return the ids of the processes that have started."""
        with self._changed:
            return [process.process_id for process in self._processes.values()]

    def close(self) -> None:
        """See `Decoder.close`. Does not wait for images in work."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._fail_all(closed())
        for thread in self._threads:
            thread.join()

    # Scheduling

    def _run(self, number: int) -> None:
        """Keep a process and give it one image after another, until the pool is closed."""
        while not self._closed:
            try:
                process = self._live_process(number)
            except DecoderUnavailable as error:
                self._start_failed(error)
                continue
            if process is not None and (image := self._next()) is not None:
                started_s = time.monotonic()
                outcome = self._outcome(image, number, process)
                self._finish(image, outcome, time.monotonic() - started_s)
        self._end(number)

    def _next(self) -> _Image | None:
        """Return the next image, or None if there is none for a while."""
        with self._changed:
            image = self._pick()
            if image is None and not self._closed:
                self._changed.wait(_CHECK_IDLE_S)
                image = self._pick()
            self._in_work += image is not None
            return image

    def _pick(self) -> _Image | None:
        """Take the next image out of the queues, large and other images alternately. The lock is held."""
        large = next((image for image in self._large if self._may_start(image.task.caller)), None)
        task = next((task for task in self._tasks if self._may_start(task.caller)), None)
        if self._closed:
            return None
        if large is not None and not self._large_in_work and not (self._large_was_last and task):
            self._large_in_work = self._large_was_last = True
            self._large.take(large)
            return large
        if task is None:
            return None
        self._large_was_last = False
        task.in_work += 1
        image = _Image(task, task.waiting.pop(0))
        if not task.waiting:
            self._tasks.take(task)
        return image

    def _may_start(self, caller: str) -> bool:
        """Whether a free process may take an image of the caller. One process is kept free of slow images."""
        last_free = 1 < self._config.processes == self._in_work + 1
        return not last_free or self._slow_until.get(caller, 0.0) < time.monotonic()

    def _drop(self, task: _Task) -> None:
        """Remove a request that was cancelled."""
        with self._changed:
            task.waiting.clear()
            self._tasks.discard(task)

    def _finish(self, image: _Image, outcome: DecodedImage | Exception, seconds: float) -> None:
        """Record the outcome of an image, or queue it as one that needs much memory."""
        task = image.task
        with self._changed:
            self._in_work -= 1
            if seconds > self._config.slow_s:
                self._slow_until[task.caller] = time.monotonic() + _SLOW_FOR_S
            if image.large:
                self._large_in_work = False
            if isinstance(outcome, NeedsMemory) and not self._closed:
                self._large.push(_Image(task, image.index, large=True), task.caller)
            elif isinstance(outcome, _TakenBack):
                self._tasks.discard(task)
                task.take_back(image.index)
                self._tasks.push(task, task.caller, len(task.waiting))
            else:
                task.record(image.index, outcome)
            if not task.waiting:
                self._tasks.discard(task)
            complete = task.complete()
            self._changed.notify_all()
        if complete:
            task.settle()

    def _fail_all(self, error: Exception) -> None:
        """End everything that waits with `error`."""
        with self._changed:
            tasks = self._tasks.clear()
            for task in tasks:
                task.fail(error)
            for image in self._large.clear():
                image.task.record(image.index, error)
                tasks.append(image.task)
            complete = [task for task in tasks if task.complete()]
        for task in complete:
            task.settle()

    # Decoding

    def _outcome(self, image: _Image, number: int, process: DecoderProcess) -> DecodedImage | Exception:
        """Decode an image and return its pixels or its error. If its process is lost, it is tried once more."""
        if not image.task.needs(image.index):
            return image.task.too_late()
        try:
            self._check_not_rejected(image.content)
            try:
                return self._tried(image, process)
            except (ProcessLost, DecoderTooSlow) as first:
                self._lost += 1
                self._end(number)
                return self._tried_again(image, number, first)
        except ImageRejected as error:
            return image.task.uploads[image.index].rejected(error)
        except NeedsMemory as error:
            return error
        except NotWanted:
            self._end(number)
            return closed() if self._closed else image.task.too_late()
        except (DecoderUnavailable, _TakenBack) as error:
            return error

    def _tried(self, image: _Image, process: DecoderProcess) -> DecodedImage:
        finish_by = time.monotonic() + _FINISH_S

        def wanted() -> bool:
            return not self._closed and (image.task.wanted or time.monotonic() < finish_by)

        return process.decode(image.content, self._config.image_wall_s, wanted, large=image.large)

    def _tried_again(self, image: _Image, number: int, first: ProcessLost | DecoderTooSlow) -> DecodedImage:
        """Decode an image whose process was lost in a new process, which no other image can have damaged."""
        try:
            process = self._live_process(number)
        except DecoderUnavailable:
            if not self._processes:
                raise
            raise _TakenBack from None
        if process is None:
            raise NotWanted("the pool is closed")
        try:
            return self._tried(image, process)
        except DecoderTooSlow as error:
            self._lost += 1
            self._end(number)
            raise ImageUndecodable(
                f"decoding the image took more than {self._config.image_wall_s:g} s; send a smaller image, or convert "
                "it to another format"
            ) from error
        except ProcessLost as error:
            self._lost += 1
            self._end(number)
            if isinstance(first, ProcessLost) and first.blames_image and error.blames_image:
                self._remember(image.content)
                raise ImageUndecodable(
                    f"the image ended its decoder twice ({error}) and will not be tried again; send a smaller image, "
                    "or convert it to another format"
                ) from error
            raise DecoderUnavailable(
                f"the decoder was ended while it decoded the image; try again in {RETRY_UNAVAILABLE_S} s",
                retry_after_s=RETRY_UNAVAILABLE_S,
            ) from error

    # Processes

    def _live_process(self, number: int) -> DecoderProcess | None:
        """Return the running process of a thread and start one if necessary; None if the pool is closed meanwhile.

        Raises:
            DecoderUnavailable: it did not start.
        """
        process = self._processes.get(number)
        if process is not None and process.alive and process.images < self._config.images_each:
            return process
        if process is not None:
            self._lost += not process.alive
            self._end(number)
        process = DecoderProcess(self._child, self._environment, self._program)
        try:
            process.wait_until_ready(lambda: not self._closed)
        except NotWanted:
            process.end()
            return None
        except BaseException:
            process.end()
            raise
        with self._changed:
            self._processes[number] = process
            self._unavailable = None
        return process

    def _end(self, number: int) -> None:
        with self._changed:
            process = self._processes.pop(number, None)
        if process is not None:
            process.end()

    def _start_failed(self, error: DecoderUnavailable) -> None:
        """Wait before the next start. If no other process runs, everything that waits ends with `error`."""
        with self._changed:
            if not self._tasks and not self._closed:
                self._changed.wait(_CHECK_IDLE_S)
            unreachable = not self._processes
            if unreachable:
                self._unavailable = str(error)
        if unreachable:
            self._fail_all(error)

    def _check_not_rejected(self, content: bytes) -> None:
        if self._rejected and hashlib.sha256(content).digest() in self._rejected:
            raise ImageUndecodable("this image ended decoders before; convert it to another format")

    def _remember(self, content: bytes) -> None:
        with self._changed:
            self._rejected[hashlib.sha256(content).digest()] = None
            while len(self._rejected) > _MAX_REJECTED:
                self._rejected.popitem(last=False)
