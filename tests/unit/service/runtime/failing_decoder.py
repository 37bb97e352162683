"""A decoder process that obeys commands in the image, such as hang or die, and decodes any other image normally."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.images.decoding import DecodeLimits, decode_pixels
from service.runtime import decoder_child
from service.runtime.decoder_child import PIXELS, REFUSED, REPLY

_decode = decode_pixels
_LIES = {
    b"lie: too large": REPLY.pack(PIXELS, 3 * 300 * 300, 3, 300, 300),
    b"lie: too long": REPLY.pack(PIXELS, 8 * 1100, 1, 8, 1100),
    b"lie: too many bytes": REPLY.pack(PIXELS, 2**31, 1, 8, 8),
    b"lie: no shape": REPLY.pack(PIXELS, 0, 1, 0, 0),
    b"lie: unknown kind": REPLY.pack(9, 0, 0, 0, 0),
    b"lie: unknown refusal": REPLY.pack(REFUSED, 14, 0, 0, 0) + b'["exit", "no"]',
    b"lie: no json": REPLY.pack(REFUSED, 4, 0, 0, 0) + b"nope",
}


def misbehave(content: bytes, limits: DecodeLimits) -> NDArray[np.uint8]:
    if content == b"hang":
        signal.pause()
    while content == b"spin":
        pass
    if content == b"die":
        os.kill(os.getpid(), signal.SIGSEGV)
    if content.startswith(b"write "):
        Path(content[6:].decode()).write_bytes(b"x")
    if content in _LIES:
        socket.socket(fileno=os.dup(0)).sendall(_LIES[content])
        signal.pause()
    return _decode(content, limits)


if __name__ == "__main__":
    vars(decoder_child)["decode_pixels"] = misbehave
    decoder_child.main()
