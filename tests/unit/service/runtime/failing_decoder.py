"""A decoder process that obeys commands in the image, such as hang or die, and decodes any other image normally.

A command may be followed by a path, which tests and processes use to wait for each other. Processes cannot write to
files, but they can create empty ones.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from models.errors import ImageCorrupt
from models.images.decoding import DecodedPixels, DecodeLimits, MemoryNeeded, decode_pixels
from service.runtime import decoder_child
from service.runtime.decoder_child import PIXELS, REFUSED, REPLY

_decode = decode_pixels
_POLL_S = 0.005
_LIES = {
    b"lie: too large": REPLY.pack(PIXELS, 3 * 300 * 300, 3, 300, 300, 0),
    b"lie: too long": REPLY.pack(PIXELS, 8 * 1100, 1, 8, 1100, 0),
    b"lie: too many bytes": REPLY.pack(PIXELS, 2**31, 1, 8, 8, 0),
    b"lie: no shape": REPLY.pack(PIXELS, 0, 1, 0, 0, 0),
    b"lie: bit depth": REPLY.pack(PIXELS, 8 * 8, 1, 8, 8, 200),
    b"lie: unknown kind": REPLY.pack(9, 0, 0, 0, 0, 0),
    b"lie: unknown refusal": REPLY.pack(REFUSED, 14, 0, 0, 0, 0) + b'["exit", "no"]',
    b"lie: no json": REPLY.pack(REFUSED, 4, 0, 0, 0, 0) + b"nope",
}


def misbehave(content: bytes, limits: DecodeLimits, *, working_bytes: int | None) -> DecodedPixels:
    """Obey the command in `content`, or decode it."""
    command, _, argument = content.partition(b" ")
    if content in _LIES:
        socket.socket(fileno=os.dup(0)).sendall(_LIES[content])
        signal.pause()
    if command == b"alone":
        _check_alone(Path(os.fsdecode(argument)), working_bytes)
    elif command in _COMMANDS:
        _COMMANDS[command](argument)
    else:
        return _decode(content, limits)
    return DecodedPixels(np.zeros((1, 16, 16), np.uint8))


def _spin(_argument: bytes) -> None:
    while True:
        pass


def _write(argument: bytes) -> None:
    Path(os.fsdecode(argument)).write_bytes(b"x")


def _reject(argument: bytes) -> None:
    raise ImageCorrupt(argument.decode())


def _die_once(argument: bytes) -> None:
    path = Path(os.fsdecode(argument))
    if not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGSEGV)


def _wait(argument: bytes) -> None:
    """Create a file that says that an image waits for a path, then wait for it."""
    path = Path(os.fsdecode(argument))
    path.with_name(f"{path.name}-started-{os.getpid()}").touch()
    while not path.exists():
        threading.Event().wait(_POLL_S)


def _check_alone(folder: Path, working_bytes: int | None) -> None:
    """Check that no other process decodes such an image at the same time."""
    if working_bytes is not None:
        raise MemoryNeeded
    mine = folder / str(os.getpid())
    mine.touch()
    threading.Event().wait(20 * _POLL_S)
    others = len(list(folder.iterdir())) - 1
    mine.unlink()
    if others:
        raise ImageCorrupt(f"{others} other processes decode a large image")


_COMMANDS: Mapping[bytes, Callable[[bytes], object]] = {
    b"hang": lambda _: signal.pause(),
    b"spin": _spin,
    b"die": lambda _: os.kill(os.getpid(), signal.SIGSEGV),
    b"killed": lambda _: os.kill(os.getpid(), signal.SIGKILL),
    b"write": _write,
    b"bad": _reject,
    b"die-once": _die_once,
    b"wait": _wait,
}


if __name__ == "__main__":
    vars(decoder_child)["decode_pixels"] = misbehave
    decoder_child.main()
