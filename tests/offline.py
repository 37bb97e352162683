"""pytest where no network is: `make test-offline` starts this in a network of its own, which has nothing in it.

It brings the loopback up, makes sure that nothing else is reachable, and runs what it is told to.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import sys

import pytest

ELSEWHERE = ("192.0.2.1", 9)  # an address kept for documentation (RFC 5737)
SIOCSIFFLAGS, UP = 0x8914, 0x1


def loopback_up() -> None:
    """Sets the interface's flag, as `ip link set lo up` does."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", UP))


def cut_off() -> bool:
    """Whether there is no way to anywhere else."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            any_socket.connect(ELSEWHERE)
        except OSError:
            return True
    return False


def main() -> int:
    loopback_up()
    if not cut_off():
        sys.exit("error: this process has a network; start it by `make test-offline`")
    return pytest.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
