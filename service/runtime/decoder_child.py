"""The program of a decoder process: reads images from a socket and answers with pixels or an error.

The parent runs ``python -m service.runtime.decoder_child LIMITS`` with the socket as standard input. The input is
untrusted, so the process is expendable: it loads no torch, holds no keys and no open files, cannot write files, and has
limits on memory and processor time.
"""

from __future__ import annotations

import ctypes
import json
import resource
import socket
import struct
import sys
import time
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from models.errors import ImageRejected
from models.images.decoding import SMALL_BYTES, DecodeLimits, MemoryNeeded, decode_pixels

REQUEST: Final = struct.Struct("!I?")
"""Number of bytes of the image that follows, and whether decoding it may take more memory than `SMALL_BYTES`."""

REPLY: Final = struct.Struct("!BIHHHB")
"""Kind, number of bytes that follow, and for pixels (channels, height, width) and the undeclared bit depth or 0.

Two and four channels are one and three, and what these would be if all samples were zero.
"""

READY: Final = 0
PIXELS: Final = 1
REFUSED: Final = 2
LARGE: Final = 3
"""Decoding the image takes more memory than the request allowed."""

_OPEN_FILES: Final = 16


@dataclass(frozen=True, slots=True)
class ChildLimits:
    """Resource limits of one decoder process.

    Attributes:
        limits: of an image.
        memory_bytes: address space, including the code and the encoded image.
        cpu_s: processor time per image, in whole seconds.
    """

    limits: DecodeLimits
    memory_bytes: int
    cpu_s: int

    def to_text(self) -> str:
        """Serialise for the command line of the process."""
        limits = {name: getattr(self.limits, name) for name in self.limits.__dataclass_fields__}
        return json.dumps({"limits": limits, "memory_bytes": self.memory_bytes, "cpu_s": self.cpu_s})

    @classmethod
    def from_text(cls, text: str) -> ChildLimits:
        """Parse the output of `to_text`."""
        values: dict[str, Any] = json.loads(text)
        limits = {**values["limits"], "formats": tuple(values["limits"]["formats"])}
        return cls(DecodeLimits(**limits), values["memory_bytes"], values["cpu_s"])


def main() -> None:
    """Apply the limits, report readiness, and answer images until the socket closes."""
    child_limits = ChildLimits.from_text(sys.argv[1])
    _confine(child_limits.memory_bytes)
    with socket.socket(fileno=sys.stdin.fileno()) as channel:
        channel.sendall(REPLY.pack(READY, 0, 0, 0, 0, 0))
        while (request := _receive(channel)) is not None:
            _allow_processor_time(child_limits.cpu_s)
            reply = _reply(*request, child_limits.limits)
            if request[1]:
                _give_back_memory()
            channel.sendall(reply)


def _give_back_memory() -> None:
    """Return freed memory to the system before another process decodes a large image. glibc keeps 400 MiB otherwise."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries have none
    if trim is not None:
        trim(0)


def _confine(memory_bytes: int) -> None:
    _lower(resource.RLIMIT_AS, memory_bytes)
    _lower(resource.RLIMIT_NOFILE, _OPEN_FILES)
    _lower(resource.RLIMIT_FSIZE, 0)
    _lower(resource.RLIMIT_CORE, 0)


def _lower(what: int, to: int) -> None:
    hard = resource.getrlimit(what)[1]
    bound = to if hard == resource.RLIM_INFINITY else min(to, hard)
    resource.setrlimit(what, (bound, bound))


def _allow_processor_time(cpu_s: int) -> None:
    """Extend the limit for the next image; the system counts from the start of the process."""
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    bound = int(time.process_time()) + 1 + cpu_s
    resource.setrlimit(resource.RLIMIT_CPU, (bound if hard == resource.RLIM_INFINITY else min(bound, hard), hard))


def _receive(channel: socket.socket) -> tuple[bytearray, bool] | None:
    """Read the next image and whether it may take much memory, or return None when the socket is closed."""
    head = channel.recv(REQUEST.size, socket.MSG_WAITALL)
    if len(head) < REQUEST.size:
        return None
    size, large = REQUEST.unpack(head)
    content = bytearray(size)
    view = memoryview(content)
    while view:
        count = channel.recv_into(view)
        if count == 0:
            return None
        view = view[count:]
    return content, large


def _reply(content: bytearray, large: bool, limits: DecodeLimits) -> bytes:
    try:
        decoded = decode_pixels(bytes(content), limits, working_bytes=None if large else SMALL_BYTES)
    except MemoryNeeded:
        return REPLY.pack(LARGE, 0, 0, 0, 0, 0)
    except ImageRejected as error:
        message = json.dumps([type(error).__name__, str(error)]).encode()
        return REPLY.pack(REFUSED, len(message), 0, 0, 0, 0) + message
    pixels = decoded.pixels if decoded.zero is None else np.concatenate([decoded.pixels, decoded.zero])
    return REPLY.pack(PIXELS, pixels.nbytes, *pixels.shape, decoded.bit_depth or 0) + pixels.tobytes()


if __name__ == "__main__":
    main()
