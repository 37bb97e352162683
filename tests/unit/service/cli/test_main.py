"""The command line: output, errors and exit codes."""

from __future__ import annotations

import functools
import json
import os
import re
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer

from service.cli import connection, serve
from service.cli import main as cli
from service.cli.console import EXIT_CODES
from service.client import Client
from service.domain.key import Grant, prefix_of
from service.errors import SamplesNotKept, StoreFull
from service.settings import Settings
from service.usecases.keys import create
from tests.in_process import Web
from tests.unit.service.cli.conftest import PNG, Anole
from tests.unit.service.scripted_job import PATH, Scripted, event, job


def test_adapt_prints_the_version_its_estimate_and_the_gate_decision(anole: Anole, service: Web, folder: Path) -> None:
    code, printed, _ = anole("adapt", "line", str(folder), "--seed", "3")
    assert code == 0
    for word in ("1, live", "bad, good", "100.0 %", "publish: every sample is named right", "anole predict line"):
        assert word in printed
    assert service.services.adaptation.commands[0].seed == 3


def test_adapt_finds_parts_in_file_names(anole: Anole, service: Web, folder: Path) -> None:
    assert anole("adapt", "line", str(folder), "--parts", r"(\d)\.")[0] == 0
    assert [command.parts for command in service.services.adaptation.commands] == [("1", "1")]
    code, _, error = anole("adapt", "line", str(folder), "--parts", "(x)")
    assert (code, "no part in the file name" in error) == (1, True)


def test_adapt_without_a_terminal_prints_only_the_table(anole: Anole, service: Web, folder: Path) -> None:
    code, printed, error = anole("adapt", "line", str(folder), "--first", "prototypes")
    assert (code, error) == (0, "")
    assert printed.startswith("client ")
    assert service.services.adaptation.commands[0].first == "prototypes"


def test_an_error_of_a_later_request_names_the_versions_that_exist(anole: Anole, service: Web, folder: Path) -> None:
    def fail_second() -> None:
        if len(service.services.adaptation.commands) == 2:
            raise StoreFull("the disk is full")

    service.services.adaptation.before = fail_second
    for index in range(70):
        (folder / "good" / f"{index}.png").write_bytes(PNG + bytes([index]))
    (folder / "bad" / "1.png").write_bytes(PNG + b"bad")
    code, _, error = anole("adapt", "line", str(folder))
    assert code == 1
    assert error.startswith("error: store_full: the disk is full; version 1 of line, not live, has the samples")


def test_interrupting_adapt_cancels_the_job_with_exit_code_130(
    anole: Anole, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    service = Scripted(event("progress", job()), KeyboardInterrupt())
    monkeypatch.setattr(connection, "connect", lambda url, key: Client(transport=service.transport))
    code, printed, error = anole("adapt", "line", str(folder))
    assert (code, printed) == (130, "")
    assert error == "interrupted: job 5f1c was cancelled and created no version\n"
    assert service.requests[-1] == f"DELETE {PATH}"


def test_interrupting_adapt_before_a_response_says_how_to_find_the_version(
    anole: Anole, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    def interrupted(_: httpx.Request) -> httpx.Response:
        raise KeyboardInterrupt

    transport = httpx.MockTransport(interrupted)
    monkeypatch.setattr(connection, "connect", lambda url, key: Client(transport=transport))
    code, _, error = anole("adapt", "line", str(folder))
    assert code == 130
    assert (
        error == "interrupted: the service has not answered; to see whether it created a version: anole versions line\n"
    )


def test_versions_prints_a_table_and_rollback_both_versions(anole: Anole, service: Web, folder: Path) -> None:
    anole("adapt", "line", str(folder))
    anole("adapt", "line", str(folder))
    code, printed, _ = anole("versions", "line")
    assert code == 0
    rows = [line.split() for line in printed.splitlines()[2:]]
    assert [(row[0], row[3]) for row in rows] == [("1", "2"), ("2", "2")]  # version, number of classes
    code, printed, _ = anole("rollback", "line")
    assert (code, printed) == (0, "live of line points at version 1; before: 2")


def test_upgrade_prints_both_estimates_and_the_decision(anole: Anole, service: Web, folder: Path) -> None:
    anole("adapt", "line", str(folder))
    code, printed, _ = anole("upgrade", "line")
    assert code == 0
    assert [line.split() for line in printed.splitlines()[1:]] == [
        ["line", "1", "tiny", "-", "-"],
        ["2", "larger", "90.0", "%", "80.0", "%", "to", "100.0", "%", "publish"],
        ["line:", "every", "sample", "is", "named", "right"],
    ]
    code, printed, _ = anole("upgrade", "--all")
    assert (code, printed) == (0, "line: up to date: version 2 was adapted from 'larger' already")


def test_upgrade_all_goes_on_after_a_client_that_cannot_be_upgraded(
    anole: Anole, service: Web, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for client in ("a", "b", "c"):
        anole("adapt", client, str(folder))
    adaptation = service.services.adaptation

    def fail_for_b() -> None:
        adaptation.raises = SamplesNotKept("no samples") if adaptation.commands[-1].client == "b" else None

    adaptation.before = fail_for_b
    code, printed, _ = anole("upgrade", "--all", "--json", "--publish", "always")
    upgrades = json.loads(printed)["upgrades"]
    assert [(each["client"], each["upgrade"] and each["upgrade"]["version"]) for each in upgrades] == [
        ("a", 2), ("b", None), ("c", 2)
    ]  # fmt: skip
    assert upgrades[0]["upgrade"]["before"]["version"] == 1
    assert (code, upgrades[1]["problem"]["code"]) == (1, "samples_not_kept")
    code, _, error = anole("upgrade", "b")
    assert (code, error) == (1, "error: samples_not_kept: no samples\n")


def test_a_problem_is_printed_as_one_line_with_exit_code_1(anole: Anole, service: Web) -> None:
    code, printed, error = anole("versions", "missing")
    assert (code, printed) == (1, "")
    assert error.startswith("error: unknown_client: there is no client 'missing'")
    assert error.count("\n") == 1


def test_a_missing_service_is_printed_as_one_line(anole: Anole) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        code, _, error = anole("versions", "line", "--url", f"http://127.0.0.1:{taken.getsockname()[1]}")
    assert code == 1
    assert "is the service running there?" in error
    assert error.count("\n") == 1


def test_names_are_neither_markup_nor_escape_sequences(anole: Anole, service: Web, folder: Path) -> None:
    (folder / "[red]x").mkdir()
    (folder / "[red]x" / "\x1b[31m.png").write_bytes(PNG)
    _, printed, _ = anole("adapt", "line", str(folder))
    assert "[red]x" in printed
    _, printed, _ = anole("predict", "line", str(folder / "[red]x" / "\x1b[31m.png"))
    assert "\x1b" not in printed
    assert "\ufffd[31m.png" in printed


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict", "line"],
        ["adapt", "line"],
        ["upgrade"],
        ["upgrade", "line", "--all"],
        ["nonsense"],
        ["serve", "--port", "many"],
    ],
)
def test_wrong_usage_is_exit_code_2(anole: Anole, arguments: list[str]) -> None:
    code, _, error = anole(*arguments)
    assert code == 2
    assert "Usage" in error


@pytest.mark.parametrize(
    ("arguments", "models"),
    [
        (["--model", "surfaces", "--model", "data/mine.safetensors"], ("surfaces", "data/mine.safetensors")),
        ([], ("paper", "omniglot")),
    ],
)
def test_serve_offers_the_given_models_or_those_of_the_environment(
    anole: Anole, monkeypatch: pytest.MonkeyPatch, arguments: list[str], models: tuple[str, ...]
) -> None:
    served: list[Settings] = []
    monkeypatch.setattr(serve, "run", lambda settings, as_json: served.append(settings))
    monkeypatch.setenv("ANOLE_MODEL", "paper,omniglot")
    assert anole("serve", *arguments)[0] == 0
    assert [settings.model for settings in served] == [models]


@pytest.mark.usefixtures("restored_logging")
def test_a_port_in_use_is_printed_as_one_line(anole: Anole, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, error = anole("serve", "--port", str(port), "--data", str(tmp_path))
    assert code == 1
    assert f"cannot listen on 127.0.0.1:{port}" in error
    assert "--port" in error
    assert list(tmp_path.iterdir()) == []


def test_the_commands_of_the_contract_exist(anole: Anole) -> None:
    _, printed, _ = anole("--help")
    for command in (
        "serve",
        "train",
        "evaluate",
        "adapt",
        "predict",
        "versions",
        "rollback",
        "upgrade",
        "store",
        "keys",
    ):
        assert f" {command} " in printed
    _, printed, _ = anole("store", "--help")
    assert " check " in printed
    assert " collect " in printed


def test_a_key_is_printed_once_listed_by_its_prefix_and_revoked(anole: Anole, tmp_path: Path) -> None:
    data = ("--data", str(tmp_path))
    options = ("--client", "line-7", "--client", "line-8", "--scope", "adapt", "--scope", "predict")
    code, key, notice = anole("keys", "create", "camera 7", *options, *data)
    assert (code, key.count("\n")) == (0, 0)
    assert prefix_of(key.encode()) == key[:14]
    assert f"key {key[:14]} (camera 7) allows predict, adapt for line-7, line-8" in notice
    assert f"there was no store in {tmp_path}" in notice
    assert "there was no store" not in anole("keys", "create", "camera 8", "--client", "*", *data)[2]
    _, listed, _ = anole("keys", "list", *data)
    assert key[:14] in listed
    assert key[15:] not in listed
    assert " valid" in listed
    code, printed, _ = anole("keys", "revoke", key[:14], *data)
    assert (code, printed) == (0, f"{key[:14]} (camera 7) is revoked")
    _, listed, _ = anole("keys", "list", *data)
    assert " revoked " in listed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["create", "x", "--client", "*", "--scope", "root"], "root"),
        (["create", "x", "--client", "*", "--client", "line"], "alone for all"),
        (["create", "x", "--client", "Line"], "'Line'"),
        (["revoke", "anole_nothing1"], "`anole keys list`"),
    ],
)
def test_an_invalid_key_request_is_printed_as_one_line(
    anole: Anole, tmp_path: Path, arguments: list[str], message: str
) -> None:
    assert anole("keys", "create", "camera 7", "--client", "*", "--data", str(tmp_path))[0] == 0
    code, _, error = anole("keys", *arguments, "--data", str(tmp_path))
    assert code == 1
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("arguments", [["list"], ["revoke", "anole_nothing1"]])
def test_keys_of_a_mistyped_folder_are_an_error_and_make_no_store(
    anole: Anole, tmp_path: Path, arguments: list[str]
) -> None:
    folder = tmp_path / "mistyped"
    code, _, error = anole("keys", *arguments, "--data", str(folder))
    assert code == 1
    assert f"there is no store in {folder}" in error
    assert "--data" in error
    assert not folder.exists()


def test_the_key_comes_from_the_option_or_the_environment(
    anole: Anole, monkeypatch: pytest.MonkeyPatch, web: Web, in_process: httpx.BaseTransport
) -> None:
    key, _ = create(web.services.kept_keys, Grant("cli", ("predict",), ("line",)))
    web.services.keys.read()
    monkeypatch.setattr(connection, "Client", functools.partial(Client, transport=in_process))
    assert "key_missing" in anole("versions", "line")[2]
    assert "unknown_client" in anole("versions", "line", "--key", key)[2]
    monkeypatch.setenv("ANOLE_API_KEY", key)
    assert "unknown_client" in anole("versions", "line")[2]


def commands() -> list[list[str]]:
    """Return all commands, with the names of their groups."""
    found: list[list[str]] = []
    groups: list[tuple[list[str], Any]] = [([], typer.main.get_group(cli.cli))]
    while groups:
        path, group = groups.pop()
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                groups.append(([*path, name], command))
            else:
                found.append([*path, name])
    return sorted(found)


LOCAL = (
    "doctor",
    "serve",
    "verify",
    "train",
    "evaluate",
    "search",
    "import-backbone",
    "store",
    "keys",
    "release",
    "rollout",
    "edge",
)
"""Commands and groups that work on files and do not call a service."""


def test_every_command_has_a_summary_json_output_and_documented_exit_codes(anole: Anole) -> None:
    assert len(commands()) >= 14
    lists = {group: " ".join(anole(*group, "--help")[1].split()) for group in {tuple(path[:-1]) for path in commands()}}
    for command in commands():
        _, printed, _ = anole(*command, "--help")
        assert printed.splitlines()[3].strip()[:40] in lists[tuple(command[:-1])], command
        assert "--json" in printed, command
        assert "Exit codes: 0 success" in printed, command
        assert "3 the gate kept a new version" in printed, command
        assert ("--url" in printed and "--key" in printed) == (command[0] not in LOCAL), command


def test_the_page_lists_every_command_and_exit_code() -> None:
    page = (Path(__file__).parents[4] / "docs" / "cli.md").read_text(encoding="utf-8")
    rows = " ".join(line.split(" | ")[0] for line in page.splitlines() if line.startswith("| `anole"))
    for command in commands():
        assert re.search(rf"`(anole )?{' '.join(command)}\b" if len(command) == 1 else rf"\b{command[-1]}\b", rows), (
            command
        )
    listed = [line.split(" | ")[0].strip("| ") for line in page.splitlines() if re.match(r"\| \d", line)]
    assert listed == re.findall(r"(\d+) ", EXIT_CODES)


def test_the_version_is_printed(anole: Anole) -> None:
    assert anole("--version")[:2] == (0, f"anole {metadata.version('anole')}")


@pytest.mark.parametrize(("words", "completed"), [("anole rollb", "rollback"), ("anole import-b", "import-backbone")])
def test_shells_complete_commands_without_torch(words: str, completed: str) -> None:
    program = """
import sys
from service.cli.main import cli
try:
    cli(prog_name="anole")
finally:
    assert "torch" not in sys.modules
"""
    environment = {**os.environ, "_ANOLE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.stdout, done.stderr) == (f"{completed}\n", "")


def test_the_port_of_make_run_is_the_default_address(anole: Anole, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        monkeypatch.setenv("PORT", str(port))
        assert f"cannot connect to http://127.0.0.1:{port}" in anole("versions", "line")[2]
        monkeypatch.setenv("ANOLE_URL", "http://[::1")
        assert "http://[::1" in anole("versions", "line")[2]


def test_names_are_whole_in_a_pipe(anole: Anole, service: Web, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    name, label = f"{'long-' * 20}.png", "a long label " * 8 + "x"
    (folder / label).mkdir()
    (folder / label / name).write_bytes(PNG)
    assert label in anole("adapt", "line", str(folder))[1]
    printed = anole("predict", "line", str(folder / label / name))[1]
    assert [line for line in printed.splitlines() if line.endswith(" ")] == []
    assert name in printed
    assert label in printed


def test_a_version_that_the_gate_holds_is_exit_code_3(anole: Anole, service: Web, folder: Path) -> None:
    service.services.adaptation.decision = "hold"
    code, printed, _ = anole("adapt", "line", str(folder))
    assert (code, "is stored but not live" in printed) == (3, True)
    assert anole("adapt", "line", str(folder), "--json")[0] == 3
    assert anole("adapt", "line", str(folder), "--publish", "never")[0] == 0
    assert anole("upgrade", "line")[0] == 3


def test_adapt_says_what_it_skips(anole: Anole, service: Web, folder: Path) -> None:
    for name in ("good/Thumbs.db", "notes.txt"):
        (folder / name).write_bytes(b"")
    reasons = {"good/Thumbs.db": "made by an operating system", "notes.txt": "not in a class folder; move it into one"}
    code, _, error = anole("adapt", "line", str(folder))
    assert (code, error.splitlines()) == (0, [f"skipped {path}: {reasons[path]}" for path in sorted(reasons)])
    skipped = json.loads(anole("adapt", "line", str(folder), "--json")[1])["skipped"]
    assert {each["path"]: each["reason"] for each in skipped} == reasons


def test_commands_print_the_responses_of_the_service_as_json(anole: Anole, service: Web, folder: Path) -> None:
    made = [json.loads(anole("adapt", "line", str(folder), "--json")[1]) for _ in range(2)]
    assert [response["version"] for response in made] == [1, 2]
    assert made[0]["report"]["gate"]["decision"] == "publish"
    predicted = json.loads(anole("predict", "line", str(folder / "good/1.png"), "--json")[1])
    assert (predicted["version"], predicted["predictions"][0]["label"]) == (2, "bad")
    listed = json.loads(anole("versions", "line", "--json")[1])
    assert [version["version"] for version in listed["versions"]] == [1, 2]
    assert json.loads(anole("rollback", "line", "--json")[1])["version"] == 1


def test_keys_are_printed_as_json_without_their_digests(anole: Anole, tmp_path: Path) -> None:
    data = ("--data", str(tmp_path), "--json")
    created = json.loads(anole("keys", "create", "camera 7", "--client", "*", *data)[1])
    assert created["key"].startswith(created["prefix"])
    (listed,) = json.loads(anole("keys", "list", *data)[1])["keys"]
    assert set(listed) == {"prefix", "name", "scopes", "clients", "created_at", "revoked_at"}
    assert json.loads(anole("keys", "revoke", created["prefix"], *data)[1])["revoked_at"]


def test_commands_for_keys_and_the_store_start_without_torch(tmp_path: Path) -> None:
    program = """
import sys
from service.cli.main import cli
data = ["--data", sys.argv[1]]
backup = sys.argv[1] + "-backup"
create = ["keys", "create", "camera 7", "--client", "*"]
for command in (create, ["keys", "list"], ["store", "check"], ["store", "collect"], ["store", "backup", backup]):
    cli([*command, *data], standalone_mode=False)
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_interrupt_is_exit_code_130(anole: Anole, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: httpx.Request) -> httpx.Response:
        raise KeyboardInterrupt

    transport = httpx.MockTransport(interrupt)
    monkeypatch.setattr(connection, "connect", lambda url, key: Client(transport=transport))
    assert anole("versions", "line")[0] == 130


def test_a_malformed_address_is_printed_as_one_line(anole: Anole) -> None:
    code, _, error = anole("versions", "line", "--url", "http://[::1")
    assert (code, error.count("\n")) == (1, 1)


def test_a_dataset_of_another_product_becomes_a_client(anole: Anole, service: Web, folder: Path) -> None:
    table = folder / "parts.csv"
    table.write_text("file,label,part\ngood/1.png,good,7\nbad/1.png,bad,8\nnone.png,bad,9\n", encoding="utf-8")
    command = ("import-dataset", "csv", str(table), "--client", "line")
    code, printed, error = anole(*command, "--dry-run")
    assert (code, service.services.adaptation.commands) == (0, [])
    assert [line.split() for line in printed.splitlines()[1:3]] == [["bad", "1"], ["good", "1"]]
    assert error.startswith("skipped none.png: its image is not in")
    assert json.loads(anole(*command, "--dry-run", "--json")[1])["classes"] == {"bad": 1, "good": 1}
    code, printed, _ = anole(*command, "--json", "--publish", "never")
    assert (code, json.loads(printed)["version"], len(json.loads(printed)["skipped"])) == (0, 1, 1)
    (sent,) = service.services.adaptation.commands
    assert (sent.labels, sent.parts, sent.publish) == (("good", "bad"), ("7", "8"), "never")
    service.services.adaptation.decision = "hold"
    assert anole(*command)[0] == 3


def test_import_dataset_says_that_yolo_takes_no_root(anole: Anole, folder: Path) -> None:
    code, _, error = anole("import-dataset", "yolo", str(folder), "--client", "line", "--root", str(folder))
    assert code == 2
    assert "the kind yolo takes no --root" in error


def test_a_dataset_of_an_unknown_product_is_wrong_usage(anole: Anole, folder: Path) -> None:
    code, _, error = anole("import-dataset", "excel", str(folder), "--client", "line")
    assert (code, "azure-custom-vision" in error) == (2, True)
