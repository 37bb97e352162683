"""The program of a decoder process: images in over a socket, pixels or a refusal out, until the socket closes.

Run by ``decoder.py`` as ``python -m service.runtime.decoding.child BOUNDS``, the socket being its standard input. What
it decodes is hostile, so it is meant to be lost: it holds no torch, no key, no client, no open file, and may neither
write one nor take more memory or processor time than it was given.
"""

from __future__ import annotations

import json
import resource
import socket
import struct
import sys
import time
from dataclasses import dataclass
from typing import Any, Final

from models.errors import ImageRejected
from models.images.decoding import DecodeLimits, decode_pixels

REQUEST: Final = struct.Struct("!I")
"""Bytes of the image that follows."""

REPLY: Final = struct.Struct("!BIHHH")
"""Kind, bytes that follow, and for pixels (channels, height, width)."""

READY: Final = 0
PIXELS: Final = 1
REFUSED: Final = 2

_OPEN_FILES: Final = 16


@dataclass(frozen=True, slots=True)
class ChildBounds:
    """What one decoder process may use.

    Attributes:
        limits: what an image may claim.
        memory_bytes: address space of the process, its own code and the image's bytes included.
        cpu_s: processor time for one image, whole seconds.
    """

    limits: DecodeLimits
    memory_bytes: int
    cpu_s: int

    def to_text(self) -> str:
        """For the command line of the process."""
        limits = {name: getattr(self.limits, name) for name in self.limits.__dataclass_fields__}
        return json.dumps({"limits": limits, "memory_bytes": self.memory_bytes, "cpu_s": self.cpu_s})

    @classmethod
    def from_text(cls, text: str) -> ChildBounds:
        """What `to_text` wrote."""
        said: dict[str, Any] = json.loads(text)
        limits = {**said["limits"], "formats": tuple(said["limits"]["formats"])}
        return cls(DecodeLimits(**limits), said["memory_bytes"], said["cpu_s"])


def main() -> None:
    """Confine this process, say that it is there, and answer images until nobody sends any."""
    bounds = ChildBounds.from_text(sys.argv[1])
    _confine(bounds.memory_bytes)
    with socket.socket(fileno=sys.stdin.fileno()) as channel:
        channel.sendall(REPLY.pack(READY, 0, 0, 0, 0))
        while (content := _received(channel)) is not None:
            _allow_processor_time(bounds.cpu_s)
            channel.sendall(_reply(content, bounds.limits))


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
    """Count from now: the limit is on what the process has used since its start. Past it the system kills."""
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    bound = int(time.process_time()) + 1 + cpu_s
    resource.setrlimit(resource.RLIMIT_CPU, (bound if hard == resource.RLIM_INFINITY else min(bound, hard), hard))


def _received(channel: socket.socket) -> bytearray | None:
    """The next image's bytes, or None when the other side has gone."""
    head = channel.recv(REQUEST.size, socket.MSG_WAITALL)
    if len(head) < REQUEST.size:
        return None
    content = bytearray(REQUEST.unpack(head)[0])
    view = memoryview(content)
    while view:
        count = channel.recv_into(view)
        if count == 0:
            return None
        view = view[count:]
    return content


def _reply(content: bytearray, limits: DecodeLimits) -> bytes:
    try:
        pixels = decode_pixels(bytes(content), limits)
    except ImageRejected as error:
        said = json.dumps([type(error).__name__, str(error)]).encode()
        return REPLY.pack(REFUSED, len(said), 0, 0, 0) + said
    channels, height, width = pixels.shape
    return REPLY.pack(PIXELS, pixels.nbytes, channels, height, width) + pixels.tobytes()


if __name__ == "__main__":
    main()
