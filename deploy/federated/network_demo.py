"""Clinics that learn together over a network: a SuperLink and SuperNodes of Flower as processes, with TLS on loopback.

    PYTHONPATH=. .venv-federated/bin/python deploy/federated/network_demo.py [--clinics 3] [--rounds 6]

`make federated-network` runs it. Each clinic has a folder with generated samples. In the second round, one clinic is
killed; the others go on without it. It prints what the rounds changed, and ends with an error if they changed nothing.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from demo import NET, SERVE, accuracy, clinic
from PIL import Image

from models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from models.nets import build

BIN: Final = Path(sys.executable).parent
HERE: Final = Path(__file__).parent
HOST: Final = "127.0.0.1"
LIMIT_S: Final = 900
IMAGES: Final = 8
"""Samples of a class."""


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.create_server((HOST, 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate for loopback that is its own authority, and its key."""
    certificate, key = folder / "server.crt", folder / "server.key"
    request = f"req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN={HOST} -addext subjectAltName=IP:{HOST}"
    subprocess.run(
        ["openssl", *request.split(), "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True
    )
    return certificate, key


def write_samples(number: int, folder: Path) -> Path:
    """Write the samples of a clinic, one folder per class."""
    dataset = clinic(number, NET.image)
    for index, name in enumerate(dataset.class_names):
        target = folder / f"clinic-{number}" / name.replace("/", "-")
        target.mkdir(parents=True)
        for image, pixels in enumerate(dataset.images(index)[:IMAGES]):
            Image.fromarray(pixels[0].numpy()).save(target / f"{image}.png")
    return folder / f"clinic-{number}"


@contextmanager
def started(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program of Flower inside the block, with its children in a group of their own."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        yield process
    finally:
        kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a program and its children at once, as a loss of power does."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@dataclass(frozen=True)
class Network:
    """The processes of a SuperLink and of its SuperNodes.

    Attributes:
        folder: of everything that they read and write.
        link: the SuperLink; it runs the ServerApp.
        nodes: the SuperNode of each clinic; it runs the ClientApp.
    """

    folder: Path
    link: subprocess.Popen[bytes]
    nodes: Sequence[subprocess.Popen[bytes]]

    def log(self, program: str) -> str:
        """What a program has written."""
        return (self.folder / f"{program}.log").read_text()

    def wait_for(self, reached: Callable[[], bool], what: str) -> None:
        """Wait until something has happened; after the time limit, exit with the ends of all logs."""
        until = time.monotonic() + LIMIT_S
        while not reached():
            if time.monotonic() > until or self.link.poll() is not None:
                logs = sorted(self.folder.glob("*.log"))
                ends = "\n".join(f"== {log.name}\n{log.read_text()[-2000:]}" for log in logs)
                sys.exit(f"error: {what} did not happen within {LIMIT_S} s, or the SuperLink has ended\n{ends}")
            threading.Event().wait(0.2)


@contextmanager
def network(folder: Path, clinics: int, settings: str) -> Iterator[Network]:
    """Start a SuperLink and the SuperNodes of the clinics, and wait until all are connected."""
    certificate, key = make_certificate(folder)
    tls = ["--ssl-certfile", str(certificate), "--ssl-keyfile", str(key), "--ssl-ca-certfile", str(certificate)]
    port = free_port()
    (folder / "config.toml").write_text(
        f'[superlink]\ndefault = "clinics"\n\n[superlink.clinics]\naddress = "{HOST}:{port}"\n'
        f'root-certificates = "{certificate}"\n'
    )
    with ExitStack() as stack:
        superlink = [str(BIN / "flower-superlink"), "--port", str(port), *tls]
        superlink.append("--disable-runtime-dependency-installation")
        link = stack.enter_context(started(superlink, folder / "superlink.log"))
        nodes = []
        for number in range(clinics):
            samples = f'samples="{write_samples(number, folder)}" {settings}'
            supernode = [str(BIN / "flower-supernode"), "--superlink", f"{HOST}:{port}"]
            supernode += ["--root-certificates", str(certificate), "--port", str(free_port()), *tls]
            command = [*supernode, "--node-config", samples]
            nodes.append(stack.enter_context(started(command, folder / f"clinic-{number}.log")))
        found = Network(folder, link, nodes)
        found.wait_for(
            lambda: found.log("superlink").count("Activated node_id") >= clinics, "connections of all clinics"
        )
        yield found


def run(folder: Path, options: argparse.Namespace) -> None:
    """Run the rounds, kill a clinic in the second of them, and print what the rounds changed."""
    start, out = folder / "start.safetensors", folder / "federated.safetensors"
    untrained = Checkpoint("start", NET, SERVE, build(NET, 0).start())
    save_checkpoint(untrained, start)
    privacy = f'checkpoint="{start}" cohort=2 clip-norm=5.0'
    settings = f'{privacy} rounds={options.rounds} timeout-s={options.timeout_s} out="{out}"'
    os.environ["FLWR_HOME"] = str(folder)
    with network(folder, options.clinics, privacy) as running:
        command = [str(BIN / "flwr"), "run", str(HERE), "clinics", "--run-config", settings]
        subprocess.run(command, check=True)
        last = f"clinic-{options.clinics - 1}"
        running.wait_for(lambda: "ROUND 2]" in running.log(last), "the second round")
        kill(running.nodes[-1])
        print(f"killed {last} in round 2, after it got a message of that round", flush=True)
        running.wait_for(out.exists, "the end of the rounds")
    new = load_checkpoint(out)
    completed = int(str(new.training["federated"]["rounds"]))
    before, after = accuracy(untrained), accuracy(new)
    print(f"rounds that moved the start: {completed} of {options.rounds}")
    print(f"5-way 5-shot accuracy of new clinics: {100 * before.mean:.1f} % before, {100 * after.mean:.1f} % after")
    if completed == 0:
        sys.exit("error: no round moved the start")


def main() -> None:
    """Run the rounds and print what they changed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clinics", type=int, default=3, help="number of clinics; one of them is killed (3)")
    parser.add_argument("--rounds", type=int, default=6, help="number of rounds (6)")
    parser.add_argument("--timeout-s", type=float, default=60.0, help="how long the server waits for a clinic (60)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        run(Path(name), options)


if __name__ == "__main__":
    main()
