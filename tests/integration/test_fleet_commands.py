"""`anole release`, `anole rollout` and `anole edge`, from the store to a device."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import uvicorn
from tuf.api.metadata import Metadata, Root

from service.cli import main
from service.edge.bundle import Release
from service.edge.reports import DeviceReport, ReleaseCounts
from service.errors import InvalidRequest
from service.fleet.repository import SignedRepository, Validity
from service.fleet.rollout import Fleet
from service.fleet.signing import KeyFolder, Threshold
from service.settings import Settings
from tests.fleet_repository import CLIENT, Files, adapted_settings, device_of, publisher_in

Anole = Callable[..., tuple[int, str, str]]
MOST_RELEASE_BYTES = 300_000
ROOT = Path(__file__).parents[2]


@pytest.fixture
def anole(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Anole:
    """Run a command and return its exit code, its output and its notices."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["anole", *arguments])
        code = 0
        try:
            main.main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


@pytest.fixture
def released(fleet_files: Files, tmp_path: Path) -> Path:
    """A repository with version 1 at 1 per cent of the channel stable, and its keys beside it."""
    repository = SignedRepository(tmp_path / "repository", KeyFolder(tmp_path / "repository-keys"))
    repository.create({})
    Fleet(repository).publish("stable", fleet_files.releases[1], fleet_files.start)
    return repository.folder


def rollout(anole: Anole, repository: Path, *arguments: str) -> tuple[int, str, str]:
    return anole("rollout", *arguments, "--repository", str(repository))


def test_rollouts_advance_halt_and_resume(anole: Anole, released: Path) -> None:
    (shown,) = json.loads(rollout(anole, released, "status", "--json")[1])
    assert (shown["client"], shown["rollout"]["percent"], shown["rollout"]["halted"]) == (CLIENT, 1, False)
    assert rollout(anole, released, "halt", CLIENT)[1] == f"version 1 of {CLIENT} on stable is halted\n"
    code, _, err = rollout(anole, released, "advance", CLIENT)
    assert (code, "is halted; resume it first" in err) == (1, True)
    assert rollout(anole, released, "resume", CLIENT)[1] == f"version 1 of {CLIENT} on stable is at 1 %\n"
    assert "at 50 %" in rollout(anole, released, "advance", CLIENT, "--percent", "50")[1]
    code, _, err = rollout(anole, released, "advance", CLIENT, "--percent", "20")
    assert (code, "it can only advance to more" in err) == (1, True)
    code, _, err = rollout(anole, released, "halt", "line-9")
    assert (code, "has no release of 'line-9'" in err) == (1, True)


def test_reports_that_breach_the_rule_halt_the_ring(anole: Anole, released: Path, tmp_path: Path) -> None:
    counts = ReleaseCounts(client=CLIENT, version=1, images=300, unknown=200, failed=0, seconds=1.0)
    report = DeviceReport(device="0" * 64, channel="stable", releases=(counts,))
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "a.json").write_text(report.model_dump_json())
    given = ("--reports", str(tmp_path / "reports"))
    code, out, _ = rollout(anole, released, "status", *given)
    assert (code, "66.7% of the images are unknown" in out) == (1, True)
    code, out, err = rollout(anole, released, "advance", CLIENT, *given)
    assert (code, "is halted" in out, "66.7%" in err) == (1, True, True)
    keys = str(released.with_name("repository-keys"))
    assert rollout(anole, released, "status", "--keys", keys, *given)[0] == 0


def test_keys_are_never_inside_the_repository(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="which is delivered to everyone"):
        SignedRepository(tmp_path, KeyFolder(tmp_path / "keys"))


def test_keys_are_readable_by_their_owner_alone(released: Path) -> None:
    keys = sorted(released.with_name("repository-keys").iterdir())
    assert [path.name.split("-")[0] for path in keys] == ["root", "snapshot", "targets", "timestamp"]
    assert {path.stat().st_mode & 0o777 for path in keys} == {0o600}


def test_without_enough_keys_nothing_is_signed(anole: Anole, released: Path) -> None:
    (key,) = released.with_name("repository-keys").glob("targets-*")
    key.unlink()
    code, _, err = rollout(anole, released, "advance", CLIENT)
    assert (code, "has 0 of the 1 keys of 'targets' that must sign" in err) == (1, True)


def test_a_rotation_without_all_keys_changes_nothing(anole: Anole, released: Path) -> None:
    keys = released.with_name("repository-keys")
    next(keys.glob("targets-*")).unlink()
    before = sorted(path.name for path in (*keys.iterdir(), *(released / "metadata").iterdir()))
    code, _, err = anole("release", "keys", "rotate", "timestamp", "--repository", str(released))
    assert (code, "has 0 of the 1 keys of 'targets' that must sign" in err) == (1, True)
    assert sorted(path.name for path in (*keys.iterdir(), *(released / "metadata").iterdir())) == before


def test_a_mistyped_repository_is_not_created(anole: Anole, tmp_path: Path) -> None:
    code, _, err = anole("release", "renew", "--repository", str(tmp_path / "typo"))
    assert (code, "there is no repository" in err, list(tmp_path.iterdir())) == (1, True, [])


def test_a_repository_may_be_the_current_folder(anole: Anole, released: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(released)
    assert rollout(anole, Path(), "advance", CLIENT)[0] == 0


@pytest.mark.parametrize("text", ["root=3/2", "root=0/1", "mirrors=1/1", "root", "root=a/b"])
def test_thresholds_that_cannot_be_met_are_rejected(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"allowed is ROLE=SIGNATURES/KEYS"):
        Threshold.parse(text)


def test_a_repository_is_not_created_twice(anole: Anole, released: Path) -> None:
    code, _, err = anole("release", "keys", "create", "--repository", str(released))
    assert (code, "has a repository already" in err) == (1, True)


@pytest.mark.parametrize("role", ["root", "targets", "snapshot", "timestamp"])
def test_devices_follow_the_rotation_of_a_key(anole: Anole, role: str, fleet_files: Files, tmp_path: Path) -> None:
    publisher = publisher_in(tmp_path, fleet_files)
    publisher.release(1)
    device = device_of(publisher.repository, tmp_path / "device")
    device.agent.poll()
    code, out, _ = anole(
        "release", "keys", "rotate", role,
        "--repository", str(publisher.repository.folder), "--keys", str(publisher.keys.folder),
    )  # fmt: skip
    assert (code, f"{role}: key " in out) == (0, True)
    root = Metadata[Root].from_file(str(publisher.repository.folder / "metadata" / "2.root.json")).signed
    assert len(root.roles[role].keyids) == (3 if role == "root" else 1)
    publisher.release(2)
    device.agent.poll()
    assert device.runs() == 2


def test_renewing_moves_the_expiry_and_changes_no_target(anole: Anole, released: Path) -> None:
    keys = KeyFolder(released.with_name("repository-keys"))
    tomorrow = datetime.now(UTC) + timedelta(days=85)
    later = SignedRepository(released, keys, now=lambda: tomorrow)
    before = SignedRepository(released, keys).targets()
    until = later.renew()
    expiries = later.expiries()
    assert expiries["timestamp"] == until == (tomorrow + timedelta(days=7)).replace(microsecond=0)
    assert expiries["targets"] > tomorrow + timedelta(days=80)
    assert later.targets() == before
    assert "devices accept the repository until" in anole("release", "renew", "--repository", str(released))[1]


def test_renewing_tells_in_time_that_root_expires(anole: Anole, fleet_files: Files, tmp_path: Path) -> None:
    keys = tmp_path / "repository-keys"
    repository = publisher_in(tmp_path, fleet_files, Validity(root=3)).repository
    (tmp_path / "keys").rename(keys)
    code, out, err = anole("release", "renew", "--repository", str(repository.folder))
    assert (code, "root expires soon" in err) == (0, True)
    assert f"devices accept the repository until {repository.expiries()['root']:%Y-%m-%d %H:%M} UTC" in out
    assert anole("release", "keys", "rotate", "timestamp", "--repository", str(repository.folder))[0] == 0
    code, out, err = anole("release", "renew", "--repository", str(repository.folder))
    assert (code, "root expires soon" in err) == (0, False)


def test_encrypted_keys_sign_only_with_their_passphrase(
    anole: Anole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANOLE_SIGNING_PASSPHRASE", "correct horse")
    repository = ("--repository", str(tmp_path / "updates"))
    assert anole("release", "keys", "create", *repository)[0] == 0
    keys = sorted((tmp_path / "updates-keys").iterdir())
    assert all(path.read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----") for path in keys)
    assert anole("release", "keys", "rotate", "targets", *repository)[0] == 0
    assert anole("release", "renew", *repository)[0] == 0
    monkeypatch.setenv("ANOLE_SIGNING_PASSPHRASE", "wrong")
    code, _, err = anole("release", "renew", *repository)
    assert (code, "cannot be opened with ANOLE_SIGNING_PASSPHRASE" in " ".join(err.split())) == (1, True), err
    monkeypatch.delenv("ANOLE_SIGNING_PASSPHRASE")
    code, _, err = anole("release", "renew", *repository)
    assert (code, "is encrypted; set ANOLE_SIGNING_PASSPHRASE" in " ".join(err.split())) == (1, True), err


def test_keys_without_a_passphrase_still_sign_when_there_is_one(
    anole: Anole, released: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANOLE_SIGNING_PASSPHRASE", "correct horse")
    assert anole("release", "renew", "--repository", str(released))[0] == 0


def test_a_client_with_the_name_of_a_command_is_released_with_publish(
    anole: Anole, released: Path, small_fleet: Settings
) -> None:
    store = ("--repository", str(released), "--data", str(small_fleet.data))
    for name in ("keys", "publish", "renew"):
        code, _, err = anole("release", "publish", name, *store)
        assert (code, f"there is no client '{name}'" in err) == (1, True), err
    assert "anole release publish CLIENT" in " ".join(anole("release", "--help")[1].split())


def test_a_version_that_does_not_exist_is_named(anole: Anole, released: Path, small_fleet: Settings) -> None:
    data = str(small_fleet.data)
    code, _, err = anole("release", CLIENT, "--version", "9", "--repository", str(released), "--data", data)
    assert (code, "version 9" in err) == (1, True)


def test_a_device_says_that_it_needs_a_root(anole: Anole, tmp_path: Path) -> None:
    code, _, err = anole("edge", "--repository", "http://127.0.0.1:1", "--data", str(tmp_path))
    assert (code, "does not know which keys to trust" in err) == (1, True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"--repository": "updates"}, "the repository 'updates' is not a URL"),
        ({"--listen": "127.0.0.1:99999"}, "a port up to 65535"),
        ({"--listen": "127.0.0.1:²"}, "a port up to 65535"),
        ({"--data": "/dev/null/device"}, "the folder /dev/null/device cannot be used"),
    ],
)
def test_an_agent_says_what_is_wrong_with_its_options(
    anole: Anole, tmp_path: Path, options: dict[str, str], said: str
) -> None:
    given = {"--repository": "http://127.0.0.1:1", "--data": str(tmp_path), **options}
    code, _, err = anole("edge", *(word for option in given.items() for word in option))
    assert (code, said in " ".join(err.split())) == (1, True), err


def test_the_agent_is_started_with_the_installed_releases(
    anole: Anole, released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: dict[str, object] = {}

    def run(app: object, **options: object) -> None:
        started.update(options, app=app)

    monkeypatch.setattr(uvicorn, "run", run)
    root = str(released / "metadata" / "1.root.json")
    code, _, err = anole(
        "edge", "--repository", "http://127.0.0.1:1", "--data", str(tmp_path), "--root", root, "--listen", "[::1]:0"
    )
    assert (code, started["host"], started["port"]) == (0, "::1", 0)
    assert "follows stable of http://127.0.0.1:1" in err
    assert (tmp_path / "root.json").read_bytes() == (released / "metadata" / "1.root.json").read_bytes()
    assert "is not used" not in err
    (tmp_path / "other.json").write_bytes(b"another root")
    code, _, err = anole(
        "edge", "--repository", "http://127.0.0.1:1", "--data", str(tmp_path), "--root", str(tmp_path / "other.json")
    )
    assert (code, "other.json is not used: the device trusts" in " ".join(err.split())) == (0, True), err
    assert "poll" not in {thread.name for thread in threading.enumerate()}


def test_two_agents_do_not_share_a_folder(
    anole: Anole, released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = str(released / "metadata" / "1.root.json")
    command = ("edge", "--repository", "http://127.0.0.1:1", "--data", str(tmp_path), "--root", root)
    second: list[tuple[int, str, str]] = []
    monkeypatch.setattr(uvicorn, "run", lambda *_, **__: second.append(anole(*command)))
    assert anole(*command)[0] == 0
    assert (second[0][0], f"another agent uses {tmp_path}" in second[0][2]) == (1, True)


def test_the_commands_of_the_page_bring_a_small_release_of_the_default_start_to_a_device(
    anole: Anole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapted = adapted_settings(tmp_path / "store", "efficientnet-lite0", versions=1)
    monkeypatch.setattr(uvicorn, "run", lambda *_, **__: None)
    monkeypatch.setenv("ANOLE_DATA", str(adapted.data))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reports").mkdir()
    blocks = re.findall(r"^```sh\n(.*?)^```", (ROOT / "docs" / "fleet.md").read_text(encoding="utf-8"), re.S | re.M)
    commands = [line for block in blocks for line in block.splitlines() if line.startswith("anole ")]
    assert len(commands) == 8
    for command in commands:
        words = [word.replace("/var/lib/anole", "device") for word in shlex.split(command)[1:]]
        if words[0] == "edge":
            shutil.copy(tmp_path / "updates" / "metadata" / "1.root.json", "1.root.json")
            words[words.index("--repository") + 1] = "http://127.0.0.1:1"
        code, _, err = anole(*words)
        assert code == 0, (command, err)
    (shown,) = json.loads(anole("rollout", "status", "--repository", "updates", "--json")[1])
    assert (shown["client"], shown["rollout"]["percent"]) == (CLIENT, 100)
    (file,) = (tmp_path / "updates" / "targets" / "releases" / CLIENT).iterdir()
    assert file.stat().st_size < MOST_RELEASE_BYTES
    assert Release.from_bytes(file.read_bytes()).info.start_name == "efficientnet-lite0"
    device = device_of(SignedRepository(tmp_path / "updates", KeyFolder(tmp_path / "none")), tmp_path / "other")
    device.agent.poll()
    assert (device.agent.problem, device.runs()) == (None, 1)
