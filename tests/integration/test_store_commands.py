"""`anole store` on a real folder: check, collect, backup, restore, and their exit codes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from service.cli import main as cli
from service.store.open_store import open_embedded
from tests.integration.store_child import CLIENT, publish

Anole = Callable[..., tuple[int, str, str]]


@pytest.fixture
def anole(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Anole:
    """Runs `anole store …` on the store in `tmp_path`; returns exit code, output and errors."""

    def run(*arguments: str, data: str = "data") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["anole", "store", *arguments, "--data", str(tmp_path / data)])
        monkeypatch.setenv("COLUMNS", "300")
        capsys.readouterr()  # what filling the store has logged
        with pytest.raises(SystemExit) as exited:
            cli.main()
        captured = capsys.readouterr()
        return int(exited.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    with open_embedded(tmp_path / "data") as store:
        for i in range(3):
            publish(store, i)
    return tmp_path


def test_a_backup_is_created_and_restored(anole: Anole, filled: Path) -> None:
    code, printed, _ = anole("backup", str(filled / "backup"))
    assert (code, printed.strip()) == (0, "backed up 3 versions of 1 clients: 7 blobs, 7 of them new")
    assert "0 of them new" in anole("backup", str(filled / "backup"))[1]
    code, printed, _ = anole("restore", str(filled / "backup"), data="again")
    assert (code, printed.strip()) == (0, "restored 3 versions of 1 clients: 7 blobs, 7 of them new")
    assert "checked 3 versions and 7 blobs" in anole("check", data="again")[1]


def test_restoring_into_a_store_with_clients_is_rejected_in_one_line(anole: Anole, filled: Path) -> None:
    anole("backup", str(filled / "backup"))
    code, printed, said = anole("restore", str(filled / "backup"))
    assert (code, printed) == (1, "")
    assert "the store holds 1 clients, and a backup is restored into an empty store only" in said


def test_damage_is_reported_with_exit_code_1(anole: Anole, filled: Path) -> None:
    victim = sorted((filled / "data" / "blobs" / CLIENT).iterdir())[0]
    victim.write_bytes(b"damaged")
    for command in (("check",), ("backup", str(filled / "backup"))):
        code, printed, _ = anole(*command)
        assert code == 1
        assert victim.name in printed


def test_a_collection_prints_what_it_deleted(anole: Anole, filled: Path) -> None:
    assert anole("collect")[:2] == (
        0,
        (
            "removed 0 versions with the blobs that only they needed, 0 other blobs (0 bytes) and 0 unfinished files; "
            "7 blobs remain\n"
        ),
    )


@pytest.mark.parametrize("command", [("check",), ("collect",), ("backup", "backup")], ids=lambda words: words[0])
def test_a_command_on_a_folder_without_a_store_fails_and_creates_nothing(
    anole: Anole, filled: Path, command: tuple[str, ...]
) -> None:
    words = [word if word != "backup" or at == 0 else str(filled / "backup") for at, word in enumerate(command)]
    assert anole("backup", str(filled / "backup"))[0] == 0
    before = {path: path.read_bytes() for path in (filled / "backup").rglob("*") if path.is_file()}
    code, printed, said = anole(*words, data="mistyped")
    assert (code, printed) == (1, "")
    assert "there is no store in" in said
    assert not (filled / "mistyped").exists()
    assert {path: path.read_bytes() for path in (filled / "backup").rglob("*") if path.is_file()} == before


def test_a_restore_from_a_folder_without_a_backup_creates_no_store(anole: Anole, filled: Path) -> None:
    (filled / "empty").mkdir()
    code, _, said = anole("restore", str(filled / "empty"), data="again")
    assert (code, "there is no backup in" in said) == (1, True)
    assert not (filled / "again").exists()


@pytest.mark.parametrize("data", ["backup", "backup/data"])
def test_a_backup_is_not_restored_into_its_own_folder(anole: Anole, filled: Path, data: str) -> None:
    anole("backup", str(filled / "backup"))
    before = sorted(filled.rglob("*"))
    code, _, said = anole("restore", str(filled / "backup"), data=data)
    assert (code, "is in the folder of the backup" in said) == (1, True)
    assert sorted(filled.rglob("*")) == before


@pytest.mark.parametrize("folder", ["data/blobs", "data/blobs/copy", "data", "link/copy", ".", "/"])
def test_a_backup_and_its_store_do_not_lie_one_in_the_other(
    anole: Anole, filled: Path, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(filled)
    (filled / "link").symlink_to(filled / "data" / "blobs")
    before = sorted(filled.rglob("*"))
    code, _, said = anole("backup", folder)
    assert code == 1
    assert "the store" in said
    assert "for the backup" in said
    assert sorted(filled.rglob("*")) == before


def test_a_backup_into_an_empty_path_is_rejected(anole: Anole, filled: Path) -> None:
    code, _, said = anole("backup", "")
    assert (code, "the path is empty" in said) == (2, True)


def test_an_earlier_backup_is_restored(anole: Anole, filled: Path) -> None:
    backup = str(filled / "backup")
    anole("backup", backup, "--keep", "2")
    with open_embedded(filled / "data") as store:
        publish(store, 7)
    anole("backup", backup, "--keep", "2")
    assert anole("restore", backup, "--generation", "1", data="before")[1].startswith("restored 3 versions")
    assert anole("restore", backup, data="now")[1].startswith("restored 4 versions")
    code, _, said = anole("restore", backup, "--generation", "2", data="older")
    assert (code, "backups there: 2" in said) == (1, True)
