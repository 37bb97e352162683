"""Nodes of a network on this machine: network namespaces, each with an address, on one bridge. Needs Linux and root."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from models.errors import AnoleError

BRIDGE: Final = "anole-nodes"


class NoNetwork(AnoleError):
    """The nodes could not be made."""


@dataclass(frozen=True, slots=True)
class Node:
    """A network namespace with an address. Its end of the link on this machine has the same name."""

    name: str
    address: str

    def inside(self, *command: str | Path) -> list[str | Path]:
        """The command that runs another one on this node."""
        return ["ip", "netns", "exec", self.name, *command]

    def kill(self) -> None:
        """Kill all processes of this node, also those that are started meanwhile."""
        while pids := self.pids():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def link(self, state: str) -> None:
        """Set the link "up" or "down"."""
        ip("link", "set", self.name, state)

    def pids(self) -> list[int]:
        """All processes of this node."""
        return [int(pid) for pid in ip("netns", "pids", self.name).split()]


def ip(*arguments: str) -> str:
    """Run `ip` and return its output. Raises NoNetwork."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoNetwork(f"`ip {' '.join(arguments)}` failed: {done.stderr.strip()}")
    return done.stdout


@contextmanager
def network(address: str, nodes: Sequence[Node]) -> Iterator[None]:
    """A bridge with nodes; all of it, and all processes of the nodes, are gone afterwards.

    Args:
        address: of this machine on the bridge; all have the same first 24 bits.
        nodes: what to make.

    Raises:
        NoNetwork: something is missing, or a name is taken, e.g. by a run that was killed.
    """
    if os.geteuid() != 0 or shutil.which("ip") is None:
        raise NoNetwork("this needs Linux, root and `ip` (Debian: apt-get install iproute2), for network namespaces")
    with ExitStack() as stack:
        ip("link", "add", BRIDGE, "type", "bridge")
        stack.callback(ip, "link", "del", BRIDGE)
        ip("addr", "add", f"{address}/24", "dev", BRIDGE)
        ip("link", "set", BRIDGE, "up")
        for node in nodes:
            ip("netns", "add", node.name)
            stack.callback(ip, "netns", "del", node.name)
            stack.callback(node.kill)
            ip("link", "add", node.name, "type", "veth", "peer", "name", "eth0", "netns", node.name)
            ip("link", "set", node.name, "master", BRIDGE, "up")
            ip("-n", node.name, "addr", "add", f"{node.address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                ip("-n", node.name, "link", "set", device, "up")
        yield
