"""A device runs signed releases only, even if an attacker controls the web server, the network or an old key.

The attacks are those of section 1.5.2 of the specification of The Update Framework, and those of Anole's own rules.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Root, Targets, Timestamp

from service.edge.bundle import Start
from tests.fleet_repository import (
    CLIENT,
    Device,
    Files,
    Publisher,
    publisher_in,
)

TIMESTAMP = "metadata/timestamp.json"


def replace_the_release(publisher: Publisher, device: Device) -> None:
    """Arbitrary software: another file of the same length."""
    path = device.server.path_of(f".{_release_name(publisher)}")
    device.server.replaced[path] = bytes(len(device.server.read(path)))


def lengthen_the_release(publisher: Publisher, device: Device) -> None:
    """Endless data: the file does not end where its metadata say."""
    path = device.server.path_of(f".{_release_name(publisher)}")
    device.server.replaced[path] = device.server.read(path) + bytes(2**20)


def cut_the_release(publisher: Publisher, device: Device) -> None:
    """A download that ends half-way."""
    path = device.server.path_of(f".{_release_name(publisher)}")
    device.server.replaced[path] = device.server.read(path)[:1000]


def lengthen_the_timestamp(_publisher: Publisher, device: Device) -> None:
    """Endless data in the one file whose length nothing declares."""
    device.server.replaced[TIMESTAMP] = b" " * 2**20


def edit_the_targets(_publisher: Publisher, device: Device) -> None:
    """The signed data are changed."""
    path = "metadata/3.targets.json"
    device.server.replaced[path] = device.server.read(path).replace(b'"percent":100', b'"percent":99.')


def sign_targets_with_a_strange_key(_publisher: Publisher, device: Device) -> None:
    """Valid signatures of keys that the root does not name."""
    path, signer = "metadata/3.targets.json", CryptoSigner.generate_ed25519()
    metadata = Metadata[Targets].from_bytes(device.server.read(path))
    metadata.sign(signer)
    device.server.replaced[path] = metadata.to_bytes()


def swap_the_roles(_publisher: Publisher, device: Device) -> None:
    """Correctly signed metadata of another role."""
    device.server.replaced["metadata/3.targets.json"] = device.server.read("metadata/3.snapshot.json")


def mix_and_match(_publisher: Publisher, device: Device) -> None:
    """Older targets under the name of the newer ones."""
    device.server.replaced["metadata/3.targets.json"] = device.server.read("metadata/2.targets.json")


def roll_the_snapshot_back(_publisher: Publisher, device: Device) -> None:
    """An older snapshot under the name of the newer one."""
    device.server.replaced["metadata/3.snapshot.json"] = device.server.read("metadata/2.snapshot.json")


def forge_a_newer_timestamp(_publisher: Publisher, device: Device) -> None:
    """Fast forward: a timestamp of a strange key with a huge version, which would block all later ones."""
    timestamp = Timestamp(2**31, expires=_later(), snapshot_meta=MetaFile(3))
    metadata = Metadata(timestamp)
    metadata.sign(CryptoSigner.generate_ed25519())
    device.server.replaced[TIMESTAMP] = metadata.to_bytes()


def let_everything_expire(publisher: Publisher, device: Device) -> None:
    """Indefinite freeze: correctly signed, but too long ago."""
    metadata = Metadata[Timestamp].from_bytes(device.server.read(TIMESTAMP))
    metadata.signed.expires = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
    metadata.sign(publisher.signer("timestamp"))
    device.server.replaced[TIMESTAMP] = metadata.to_bytes()


def take_over_the_root(_publisher: Publisher, device: Device) -> None:
    """A new root that names the attacker's keys and is signed by them alone."""
    root = Root(version=2, expires=_later(), consistent_snapshot=True)
    signer = CryptoSigner.generate_ed25519()
    for role in ("root", "targets", "snapshot", "timestamp"):
        root.add_key(signer.public_key, role)
    metadata = Metadata(root)
    metadata.sign(signer)
    device.server.replaced["metadata/2.root.json"] = metadata.to_bytes()


def sign_the_root_with_one_key_twice(publisher: Publisher, device: Device) -> None:
    """A new root with one stolen key of the two that must sign, named twice."""
    stolen = publisher.signer("root")
    metadata = Metadata[Root].from_bytes(device.server.read("metadata/1.root.json"))
    metadata.signed.version = 2
    metadata.signed.add_key(CryptoSigner.generate_ed25519().public_key, "targets")
    metadata.signatures.clear()
    metadata.sign(stolen)
    content = json.loads(metadata.to_bytes())
    content["signatures"] *= 2
    device.server.replaced["metadata/2.root.json"] = json.dumps(content).encode()


def use_a_key_that_was_rotated_out(publisher: Publisher, device: Device) -> None:
    """A stolen key of the timestamp still signs after its rotation."""
    stolen = publisher.signer("timestamp")
    publisher.repository.rotate("timestamp")
    metadata = Metadata[Timestamp].from_bytes(device.server.read(TIMESTAMP))
    metadata.signed.version += 1
    metadata.sign(stolen)
    device.server.replaced[TIMESTAMP] = metadata.to_bytes()


def withhold_the_targets(_publisher: Publisher, device: Device) -> None:
    """A new snapshot without its targets."""
    device.server.replaced["metadata/3.targets.json"] = None


ATTACKS: tuple[Callable[[Publisher, Device], None], ...] = (
    replace_the_release,
    lengthen_the_release,
    cut_the_release,
    lengthen_the_timestamp,
    edit_the_targets,
    sign_targets_with_a_strange_key,
    swap_the_roles,
    mix_and_match,
    roll_the_snapshot_back,
    forge_a_newer_timestamp,
    let_everything_expire,
    take_over_the_root,
    sign_the_root_with_one_key_twice,
    use_a_key_that_was_rotated_out,
    withhold_the_targets,
)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_an_attack_changes_nothing_and_ends_with_it(
    attack: Callable[[Publisher, Device], None], publisher: Publisher, device: Device
) -> None:
    publisher.release(2)
    attack(publisher, device)
    device.agent.poll()
    assert device.agent.problem is not None
    assert device.runs() == 1
    device.restart()
    assert device.runs() == 1
    device.server.replaced.clear()
    device.agent.poll()
    assert not device.agent.problem
    assert device.runs() == 2


def test_a_replayed_repository_is_refused(publisher: Publisher, device: Device) -> None:
    older = device.server.read(TIMESTAMP)
    publisher.release(2)
    device.agent.poll()
    device.server.replaced[TIMESTAMP] = older
    device.agent.poll()
    assert device.agent.problem is not None
    assert "version" in device.agent.problem
    assert device.runs() == 2


def test_a_replayed_repository_is_refused_even_if_the_device_has_lost_its_metadata(
    publisher: Publisher, device: Device
) -> None:
    older = device.server.read(TIMESTAMP)
    publisher.release(2)
    device.agent.poll()
    for path in (device.folder / "metadata").glob("*.json"):
        path.unlink()
    device.server.replaced[TIMESTAMP] = older
    device.restart()
    device.agent.poll()
    assert device.agent.problem == "channel 'stable' is at 1, and was at 2 before; it is replayed"
    assert device.runs() == 2


def test_a_frozen_repository_is_noticed_when_its_signature_expires(publisher: Publisher, device: Device) -> None:
    kept = device.folder / TIMESTAMP
    metadata = Metadata[Timestamp].from_bytes(kept.read_bytes())
    metadata.signed.expires = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=1)
    metadata.sign(publisher.signer("timestamp"))
    kept.write_bytes(metadata.to_bytes())
    device.server.replaced[TIMESTAMP] = metadata.to_bytes()
    device.agent.poll()
    assert device.agent.problem is not None
    assert "frozen" in device.agent.problem
    assert device.runs() == 1


def test_a_signed_release_for_another_start_is_refused(publisher: Publisher, device: Device) -> None:
    publisher.release(2, start="0" * 64)
    device.agent.poll()
    assert "belongs to the start 000000000000…" in (device.agent.problem or "")
    assert device.runs() == 1


def test_a_signed_release_of_another_client_is_refused(publisher: Publisher, device: Device) -> None:
    made = publisher.files.releases[2]
    start = publisher.files.start
    publisher.fleet.publish("stable", made, start, 100)
    content = made.info.model_copy(update={"client": "line-8"})
    other = type(made)(content, made.weights, made.smoke).to_bytes()

    def renamed(targets: object) -> dict[str, dict[str, object]]:
        known = publisher.repository.targets()
        return {path: dict(target.custom or {}) for path, target in known.items()}

    (path,) = [path for path in publisher.repository.targets() if path.startswith(f"releases/{CLIENT}/2-")]
    publisher.repository.publish({path: other}, renamed)
    device.agent.poll()
    assert "a release of client 'line-8', not of 'line-7'" in (device.agent.problem or "")
    assert device.runs() == 1


def test_a_device_without_the_first_root_trusts_nothing(publisher: Publisher, device: Device, tmp_path: Path) -> None:
    stranger = publisher_in(tmp_path / "other", publisher.files)
    stranger.release(2)
    device.server.folder = stranger.repository.folder
    device.agent.poll()
    assert device.agent.problem is not None
    assert device.runs() == 1


def test_a_start_is_named_by_the_digest_of_its_checkpoint(fleet_files: Files) -> None:
    assert Start.from_bytes(fleet_files.start.to_bytes()).info.digest == fleet_files.releases[1].info.start


def _release_name(publisher: Publisher) -> str:
    (path,) = [path for path in publisher.repository.targets() if path.startswith(f"releases/{CLIENT}/2-")]
    return path.rpartition("/")[2]


def _later() -> datetime:
    return datetime.now(UTC).replace(microsecond=0) + timedelta(days=30)
