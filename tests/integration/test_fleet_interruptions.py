"""A command that is killed while it writes a repository: devices go on, and the next command ends what was begun."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from models.atomic_files import write_atomically
from service.fleet.repository import SignedRepository
from service.fleet.rollout import Fleet
from service.fleet.signing import KeyFolder
from tests.fleet_repository import Device, Publisher, device_of


class Killed(BaseException):
    """Ends a command as a signal would: nothing after it runs."""


@pytest.fixture
def killed_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], object]], bool]:
    """Return a function that runs a change and kills it before a write, and returns whether there was such a write."""

    def run(writes: int, change: Callable[[], object]) -> bool:
        left = writes

        def count(path: Path, content: bytes) -> None:
            nonlocal left
            if left == 0:
                raise Killed
            left -= 1
            write_atomically(path, content)

        with monkeypatch.context() as patched:
            patched.setattr("service.fleet.repository.write_atomically", count)
            try:
                change()
            except Killed:
                return True
        return False

    return run


def reopened(publisher: Publisher) -> tuple[SignedRepository, list[str]]:
    notices: list[str] = []
    return SignedRepository(publisher.repository.folder, publisher.keys, notify=notices.append), notices


def polled(device: Device) -> tuple[int | None, object]:
    device.agent.poll()
    return device.runs(), device.agent.problem


def test_an_interrupted_release_has_no_effect_and_the_next_command_says_so(
    publisher: Publisher, device: Device, killed_at: Callable[[int, Callable[[], object]], bool]
) -> None:
    said: list[list[str]] = []
    while killed_at(len(said), lambda: publisher.release(2)):
        assert polled(device) == (1, None)
        repository, notices = reopened(publisher)
        repository.renew()
        said.append(notices)
        assert polled(device) == (1, None)
        repository, notices = reopened(publisher)
        repository.renew()
        assert notices == []
    assert polled(device) == (2, None)
    (notice,) = {text for notices in said for text in notices}
    assert "has no effect; run its command again" in notice
    assert [len(notices) for notices in said] == [0, 0, 0, 0, 1, 1]  # three files and targets; snapshot; timestamp


@pytest.mark.parametrize("role", ["root", "targets", "snapshot", "timestamp"])
def test_an_interrupted_rotation_is_completed_by_the_next_command(
    publisher: Publisher, device: Device, killed_at: Callable[[int, Callable[[], object]], bool], role: str
) -> None:
    kills = 0
    while killed_at(kills, lambda: publisher.repository.rotate(role)):
        kills += 1
        repository, notices = reopened(publisher)
        repository.renew()
        assert polled(device) == (1, None)
        if role == "targets" and kills > 1:
            assert notices == ["an earlier rotation of keys was interrupted, and is complete now"]
    assert kills == 4  # root, targets, snapshot, timestamp
    assert polled(device) == (1, None)
    publisher.release(2)
    assert polled(device) == (2, None)


def test_an_interrupted_creation_can_be_repeated(
    publisher: Publisher, tmp_path: Path, killed_at: Callable[[int, Callable[[], object]], bool]
) -> None:
    keys, kills = KeyFolder(tmp_path / "other-keys"), 0
    repository = SignedRepository(tmp_path / "other", keys)
    while killed_at(kills, lambda: repository.create({})):
        kills += 1
    assert kills == 4
    Fleet(repository).publish("stable", publisher.files.releases[1], publisher.files.start, 100)
    device = device_of(repository, tmp_path / "new")
    assert polled(device) == (1, None)
