"""Run pytest without a network. `make test-offline` starts this in an empty network namespace.

It brings the loopback interface up, checks that nothing else is reachable, and passes its arguments to pytest.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import sys

import pytest

ELSEWHERE = ("192.0.2.1", 9)  # an address reserved for documentation (RFC 5737)
SIOCSIFFLAGS, UP = 0x8914, 0x1


def loopback_up() -> None:
    """Bring the loopback interface up, as `ip link set lo up` does."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", UP))


def is_offline() -> bool:
    """Return whether no other address is reachable."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            any_socket.connect(ELSEWHERE)
        except OSError:
            return True
    return False


def main() -> int:
    loopback_up()
    if not is_offline():
        sys.exit("error: this process has network access; start it with `make test-offline`")
    return pytest.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
