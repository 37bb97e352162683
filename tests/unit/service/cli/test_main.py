"""The command line: what it prints, and how it fails."""

from __future__ import annotations

import functools
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from service.cli import clients as talk
from service.cli import main as cli
from service.client.client import Client
from service.domain.key import Grant, prefix_of
from service.usecases.keys import create
from tests.in_process import Web
from tests.unit.service.scripted_job import PATH, Scripted, event, job

PNG = b"\x89PNG"
Anole = Callable[..., tuple[int, str, str]]


@pytest.fixture
def anole(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Anole:
    """Runs a command line and returns its exit code, standard output and standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["anole", *arguments])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as exited:
            cli.main()
        captured = capsys.readouterr()
        lines = [line for line in captured.out.splitlines() if "[info" not in line]
        return int(exited.value.code or 0), "\n".join(lines), captured.err

    return run


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, web: Web, in_process: httpx.BaseTransport) -> Web:
    monkeypatch.setattr(talk, "_connect", lambda url, key: Client("http://127.0.0.1", key=key, transport=in_process))
    return web


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("good/1.png", "bad/1.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(PNG)
    return tmp_path


def test_adapting_tells_the_version_its_estimate_and_the_verdict_of_the_gate(
    anole: Anole, served: Web, folder: Path
) -> None:
    code, printed, _ = anole("adapt", "line", str(folder), "--seed", "3")
    assert code == 0
    for word in ("1, live", "bad, good", "100.0 %", "publish: every sample is named right", "anole predict line"):
        assert word in printed
    assert served.services.adaptation.commands[0].seed == 3


def test_adapting_off_a_terminal_prints_the_table_alone(anole: Anole, served: Web, folder: Path) -> None:
    code, printed, said = anole("adapt", "line", str(folder), "--first", "prototypes")
    assert (code, said) == (0, "")
    assert printed.startswith("client ")
    assert served.services.adaptation.commands[0].first == "prototypes"


def test_adapting_that_is_interrupted_cancels_the_job_says_so_and_is_exit_code_130(
    anole: Anole, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    service = Scripted(event("progress", job()), KeyboardInterrupt())
    monkeypatch.setattr(talk, "_connect", lambda url, key: Client(transport=service.transport))
    code, printed, said = anole("adapt", "line", str(folder))
    assert (code, printed) == (130, "")
    assert said == "stopped; job 5f1c was cancelled, and made no version\n"
    assert service.asked[-1] == f"DELETE {PATH}"


def test_adapting_that_is_interrupted_before_any_answer_says_where_to_look(
    anole: Anole, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    def interrupted(_: httpx.Request) -> httpx.Response:
        raise KeyboardInterrupt

    transport = httpx.MockTransport(interrupted)
    monkeypatch.setattr(talk, "_connect", lambda url, key: Client(transport=transport))
    code, _, said = anole("adapt", "line", str(folder))
    assert code == 130
    assert said == "stopped; the service had not answered yet; see what it made with: anole versions line\n"


def test_predicting_prints_one_row_an_image(anole: Anole, served: Web, folder: Path) -> None:
    anole("adapt", "line", str(folder))
    code, printed, _ = anole("predict", "line", str(folder / "good/1.png"), str(folder / "bad/1.png"))
    assert code == 0
    assert "line, version 1" in printed
    assert printed.count("50.0 %") == 4
    assert printed.count("known") == 2


def test_versions_are_a_table_and_rolling_back_says_where_it_went(anole: Anole, served: Web, folder: Path) -> None:
    anole("adapt", "line", str(folder))
    anole("adapt", "line", str(folder))
    code, printed, _ = anole("versions", "line")
    assert code == 0
    rows = [line.split() for line in printed.splitlines()[2:]]
    assert [(row[0], row[3]) for row in rows] == [("1", "2"), ("2", "2")]  # version, number of classes
    code, printed, _ = anole("rollback", "line")
    assert (code, printed) == (0, "live of line points at version 1; it was 2")


def test_a_problem_is_one_line_with_its_code_and_exit_code_1(anole: Anole, served: Web) -> None:
    code, printed, said = anole("versions", "nobody")
    assert (code, printed) == (1, "")
    assert said == "error: unknown_client: there is no client 'nobody'\n"


def test_no_service_is_one_line(anole: Anole) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        code, _, said = anole("versions", "line", "--url", f"http://127.0.0.1:{taken.getsockname()[1]}")
    assert code == 1
    assert "is the service running there?" in said
    assert said.count("\n") == 1


def test_text_from_outside_is_neither_markup_nor_escapes(anole: Anole, served: Web, folder: Path) -> None:
    (folder / "[red]x").mkdir()
    (folder / "[red]x" / "\x1b[31m.png").write_bytes(PNG)
    _, printed, _ = anole("adapt", "line", str(folder))
    assert "[red]x" in printed
    _, printed, _ = anole("predict", "line", str(folder / "[red]x" / "\x1b[31m.png"))
    assert "\x1b" not in printed
    assert "\\x1b[31m.png" in printed


@pytest.mark.parametrize(
    "arguments", [["predict", "line"], ["adapt", "line"], ["nonsense"], ["serve", "--port", "many"]]
)
def test_a_wrong_use_is_exit_code_2(anole: Anole, arguments: list[str]) -> None:
    code, _, said = anole(*arguments)
    assert code == 2
    assert "Usage" in said


def test_a_port_in_use_is_one_line(anole: Anole, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, said = anole("serve", "--port", str(port), "--data", str(tmp_path))
    assert code == 1
    assert f"127.0.0.1:{port} cannot be listened on" in said
    assert "--port" in said
    assert list(tmp_path.iterdir()) == []


def test_the_commands_of_the_contract_are_there(anole: Anole) -> None:
    _, printed, _ = anole("--help")
    for command in ("serve", "train", "evaluate", "adapt", "predict", "versions", "rollback", "store", "keys"):
        assert f" {command} " in printed
    _, printed, _ = anole("store", "--help")
    assert " check " in printed
    assert " collect " in printed


def test_a_key_is_printed_once_listed_by_its_name_and_revoked(anole: Anole, tmp_path: Path) -> None:
    data = ("--data", str(tmp_path))
    options = ("--client", "line-7", "--client", "line-8", "--scope", "adapt", "--scope", "predict")
    code, key, said = anole("keys", "create", "camera 7", *options, *data)
    assert (code, key.count("\n")) == (0, 0)
    assert prefix_of(key.encode()) == key[:14]
    assert f"key {key[:14]} (camera 7) may predict, adapt for line-7, line-8" in said
    _, listed, _ = anole("keys", "list", *data)
    assert key[:14] in listed
    assert key[15:] not in listed
    assert " good" in listed
    code, printed, _ = anole("keys", "revoke", key[:14], *data)
    assert (code, printed) == (0, f"{key[:14]} (camera 7) is revoked")
    _, listed, _ = anole("keys", "list", *data)
    assert " revoked " in listed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["create", "x", "--client", "*", "--scope", "root"], "root"),
        (["create", "x", "--client", "*", "--client", "line"], "alone for all"),
        (["create", "x", "--client", "Line"], "'Line'"),
        (["revoke", "anole_nothing1"], "`anole keys list`"),
    ],
)
def test_what_is_wrong_about_a_key_is_one_line(anole: Anole, tmp_path: Path, arguments: list[str], said: str) -> None:
    code, _, error = anole("keys", *arguments, "--data", str(tmp_path))
    assert code == 1
    assert said in error
    assert error.count("\n") == 1


def test_the_command_line_presents_the_key_that_it_is_given(
    anole: Anole, monkeypatch: pytest.MonkeyPatch, web: Web, in_process: httpx.BaseTransport
) -> None:
    key, _ = create(web.services.kept_keys, Grant("cli", ("predict",), ("line",)))
    web.services.keys.read()
    monkeypatch.setattr(talk, "Client", functools.partial(Client, transport=in_process))
    assert "key_missing" in anole("versions", "line")[2]
    assert "unknown_client" in anole("versions", "line", "--key", key)[2]
    monkeypatch.setenv("ANOLE_API_KEY", key)
    assert "unknown_client" in anole("versions", "line")[2]
