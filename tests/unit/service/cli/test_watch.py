"""`anole watch`: which images it classifies, and that outages, restarts and interrupts lose and repeat none."""

from __future__ import annotations

import csv
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.cli import watch
from service.client import Client, InvalidInput, ServiceProblem
from service.client.watched_folder import FolderScan
from tests.in_process import Web
from tests.unit.service.cli.conftest import PNG, Anole

HEADER = "time,file,label,confidence,verdict,version"


@pytest.fixture
def taught(anole: Anole, service: Web, folder: Path) -> Web:
    anole("adapt", "line", str(folder))
    return service


@pytest.fixture
def camera(tmp_path: Path) -> Path:
    camera = tmp_path / "camera"
    camera.mkdir()
    return camera


def put(folder: Path, name: str | bytes, content: bytes = PNG, at_s: float = 1_700_000_000) -> Path:
    path = folder / os.fsdecode(name)
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(content)
    os.utime(path, (at_s, at_s))
    return path


def lines(table: Path) -> list[str]:
    return table.read_text(encoding="utf-8").splitlines()


def run(anole: Anole, camera: Path, *more: str) -> tuple[int, str, str]:
    table = str(camera.parent / "results.csv")
    return anole("watch", str(camera), "--client", "line", "--csv", table, "--once", "--every", "0.05", *more)


def test_each_image_gets_a_line_by_its_time(anole: Anole, taught: Web, camera: Path) -> None:
    put(camera, "b.png", at_s=1_700_000_000)
    put(camera, "monday/a.JPG", at_s=1_700_000_001.5)
    code, printed, _ = run(anole, camera)
    assert (code, len(printed.splitlines())) == (0, 2)
    assert lines(camera.parent / "results.csv") == [
        HEADER,
        "2023-11-14T22:13:20.000000+00:00,b.png,bad,0.5000,known,1",
        "2023-11-14T22:13:21.500000+00:00,monday/a.JPG,bad,0.5000,known,1",
    ]


def test_a_restart_classifies_only_images_that_are_new_or_written_anew(anole: Anole, taught: Web, camera: Path) -> None:
    put(camera, "1.png")
    put(camera, "2.png")
    run(anole, camera)
    put(camera, "2.png", at_s=1_700_000_100)
    put(camera, "3.png")
    rows = [json.loads(line) for line in run(anole, camera, "--json")[1].splitlines()]
    assert [row["file"] for row in rows] == ["3.png", "2.png"]
    assert run(anole, camera)[1] == ""


def test_other_files_are_left_out(anole: Anole, taught: Web, camera: Path) -> None:
    for name in ("1.png", "notes.txt", "2.png.part", "@eaDir/3.png", ".4.png"):
        put(camera, name)
    (camera / "gone.png").symlink_to(camera / "nowhere.png")
    code, printed, error = run(anole, camera)
    assert (code, printed.split()[0]) == (0, "1.png")
    assert sorted(error.splitlines()) == [
        "skipped .4.png: hidden",
        "skipped @eaDir: made by an operating system",
        "skipped gone.png: a link to nothing",
    ]


def test_an_image_counts_once_it_has_not_changed_between_two_looks(camera: Path) -> None:
    scan = FolderScan(camera, lambda name, reason: None)
    path = put(camera, "1.png")
    assert list(scan.complete()) == []
    put(camera, "1.png", PNG * 2)
    assert list(scan.complete()) == []
    assert [found[0] for found in scan.complete()] == [path]
    path.rename(camera / "2.png")
    assert list(scan.complete()) == []
    assert [name for _, name, _ in scan.complete()] == ["2.png"]


def test_an_empty_image_is_not_complete(camera: Path) -> None:
    scan = FolderScan(camera, lambda name, reason: None)
    put(camera, "1.png", b"")
    assert list(scan.complete()) == list(scan.complete()) == []


def answering(*answers: httpx.Response | Exception) -> Client:
    """Return a client of a service that gives these answers, the last one for ever."""
    given = list(answers)

    def respond(_: httpx.Request) -> httpx.Response:
        answer = given.pop(0) if len(given) > 1 else given[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    return Client(transport=httpx.MockTransport(respond), sleep=lambda _: None)


def problem(status: int, code: str) -> httpx.Response:
    body = {"type": "t", "title": "t", "status": status, "code": code, "detail": "d", "instance": "/predict"}
    return httpx.Response(status, json=body, headers={"Content-Type": "application/problem+json"})


def predicted() -> httpx.Response:
    image = {"name": "i", "label": "good", "confidence": 0.9, "scores": {"good": 0.9}, "verdict": "unknown"}
    body = {"client": "line", "version": 7, "weights_digest": "b", "predictions": [image], "seconds": 0.1}
    return httpx.Response(200, json={**body, "predictions": [{**image, "familiarity": 0.1}]})


@pytest.fixture
def patient() -> Callable[[Client], tuple[watch.Patient, list[float]]]:
    def make(anole: Client) -> tuple[watch.Patient, list[float]]:
        waited: list[float] = []
        return watch.Patient(lambda content: anole.predict("line", content), waited.append), waited

    return make


def test_images_wait_while_the_service_does_not_respond(
    patient: Callable[[Client], tuple[watch.Patient, list[float]]], camera: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    down = httpx.ConnectError("refused")
    ask, waited = patient(answering(*[down] * 7, problem(503, "not_ready"), predicted()))
    put(camera, "1.png")
    scan, results = FolderScan(camera, lambda *_: None), watch.ResultTable(camera / "results.csv")
    list(scan.complete())
    assert [row.verdict for row in watch.new_results(scan, results, ask)] == ["unknown"]
    assert waited == [1, 2, 4, 8, 16, 30, 30, 30]
    assert capsys.readouterr().err.count("waiting for the service") == 1


def test_an_image_that_the_service_rejects_is_recorded_and_not_sent_again(
    patient: Callable[[Client], tuple[watch.Patient, list[float]]], camera: Path
) -> None:
    ask, _ = patient(answering(problem(415, "unsupported_image")))
    put(camera, "1.png")
    table = camera / "results.csv"
    for expected in (["error"], []):
        scan, results = FolderScan(camera, lambda *_: None), watch.ResultTable(table)
        list(scan.complete())
        assert [row.verdict for row in watch.new_results(scan, results, ask)] == expected
    assert lines(table)[1:] == ["2023-11-14T22:13:20.000000+00:00,1.png,,,error,"]


@pytest.mark.parametrize("status", [401, 403, 404, 409])
def test_a_wrong_client_or_key_ends_the_command(
    patient: Callable[[Client], tuple[watch.Patient, list[float]]], status: int
) -> None:
    ask, waited = patient(answering(problem(status, "unknown_client")))
    with pytest.raises(ServiceProblem):
        ask(PNG)
    assert waited == []


def test_a_line_that_a_crash_has_cut_is_classified_again(anole: Anole, taught: Web, camera: Path) -> None:
    put(camera, "1.png")
    table = camera.parent / "results.csv"
    table.write_text(f"{HEADER}\r\n2023-11-14T22:13:20.000000+00:00,1.p", encoding="utf-8")
    run(anole, camera)
    assert lines(table)[2] == "2023-11-14T22:13:20.000000+00:00,1.png,bad,0.5000,known,1"
    assert run(anole, camera)[1] == ""


def test_another_table_is_not_overwritten(camera: Path) -> None:
    (camera / "stock.csv").write_text("item,count\nscrew,3\n", encoding="utf-8")
    with pytest.raises(InvalidInput, match="other columns"):
        watch.ResultTable(camera / "stock.csv")
    assert lines(camera / "stock.csv") == ["item,count", "screw,3"]
    with pytest.raises(InvalidInput, match="cannot write"):
        watch.ResultTable(camera / "none" / "results.csv")


def test_names_with_commas_lines_and_bytes_that_are_not_utf8_are_kept(anole: Anole, taught: Web, camera: Path) -> None:
    put(camera, "a,b\n.png")
    code, _, error = run(anole, camera)
    assert (code, error) == (0, "")
    put(camera, b"\xff.png")
    assert "skipped \\xff.png: the name is not UTF-8" in run(anole, camera)[2]
    assert run(anole, camera)[1] == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_command_cleanly(
    anole: Anole, taught: Web, camera: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            signal.raise_signal(number)

    monkeypatch.setattr(watch, "wait", wait)
    put(camera, "1.png")
    table = camera.parent / "results.csv"
    before = signal.getsignal(number)
    code, _, error = anole("watch", str(camera), "--client", "line", "--csv", str(table))
    assert (code, error.replace("\n", " ")) == (0, f"stopped; 1 images classified, results in {table} ")
    assert len(lines(table)) == 2
    assert signal.getsignal(number) == before


def test_a_folder_that_disappears_is_an_error(
    anole: Anole, taught: Web, camera: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "wait", lambda _: camera.rmdir())
    code, _, error = anole("watch", str(camera), "--client", "line", "--csv", str(camera.parent / "results.csv"))
    assert (code, error.startswith(f"error: cannot read {camera}")) == (1, True)


def test_links_to_folders_are_not_followed(anole: Anole, taught: Web, camera: Path) -> None:
    put(camera, "monday/1.png")
    (camera / "monday" / "up").symlink_to(camera)
    (camera / "link.png").symlink_to(camera / "monday" / "1.png")
    code, printed, error = run(anole, camera)
    assert (code, [line.split()[0] for line in printed.splitlines()]) == (0, ["link.png", "monday/1.png"])
    assert error == "skipped monday/up: a link to a folder; watch that folder itself\n"


@pytest.mark.parametrize("cut", ['2023-11-14T22:13:20.000000+00:00,"a,b', '2023-11-14T22:13:20.000000+00:00,"a,b\n'])
def test_a_line_that_was_cut_inside_quotes_swallows_no_other(anole: Anole, taught: Web, camera: Path, cut: str) -> None:
    put(camera, "a,b\n.png")
    put(camera, "2.png")
    table = camera.parent / "results.csv"
    table.write_text(f"{HEADER}\r\n{cut}", encoding="utf-8", newline="")
    assert len(run(anole, camera)[1].splitlines()) == 2
    assert run(anole, camera)[1] == ""
    with table.open(encoding="utf-8", newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert [row["file"] for row in rows if row["version"]] == ["2.png", "a,b\n.png"]


def test_lines_after_one_that_was_cut_inside_quotes_are_remembered(anole: Anole, taught: Web, camera: Path) -> None:
    put(camera, "1.png")
    time = "2023-11-14T22:13:20.000000+00:00"
    (camera.parent / "results.csv").write_text(
        f'{HEADER}\r\n{time},"a,b\r\n{time},1.png,bad,0.5000,known,1\r\n', encoding="utf-8", newline=""
    )
    assert run(anole, camera)[1] == ""


@pytest.mark.parametrize("name", ["=1+1.png", "+1.png", "-1.png", "@x.png", "'=1.png", "''-1.png", "'1.png"])
def test_no_name_is_a_formula_and_a_restart_knows_it(anole: Anole, taught: Web, camera: Path, name: str) -> None:
    put(camera, name)
    assert json.loads(run(anole, camera, "--json")[1])["file"] == name
    cell = lines(camera.parent / "results.csv")[1].split(",")[1]
    assert (cell, cell[0] in "=+-@") == (name if name == "'1.png" else f"'{name}", False)
    assert run(anole, camera)[1] == ""


def test_a_table_with_a_name_that_was_written_without_an_apostrophe_is_known(
    anole: Anole, taught: Web, camera: Path
) -> None:
    put(camera, "=1.png")
    text = f"{HEADER}\r\n2023-11-14T22:13:20.000000+00:00,=1.png,bad,0.5000,known,1\r\n"
    (camera.parent / "results.csv").write_text(text, encoding="utf-8", newline="")
    assert run(anole, camera)[1] == ""


def test_an_empty_image_is_named_once(camera: Path) -> None:
    named: list[tuple[str, str]] = []
    scan = FolderScan(camera, lambda *skipped: named.append(skipped))
    put(camera, "1.png", b"")
    assert [list(scan.complete()) for _ in range(3)] == [[], [], []]
    assert named == [("1.png", "empty so far")]
    put(camera, "1.png")
    assert [len(list(scan.complete())) for _ in range(2)] == [0, 1]


def test_a_folder_that_cannot_be_read_is_named_once(camera: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("open/1.png", "closed/2.png", "deleted/3.png"):
        put(camera, name)
    errors = {"closed": PermissionError(13, "Permission denied"), "deleted": FileNotFoundError(2, "No such file")}
    scandir = os.scandir

    def scan_or_fail(folder: Path) -> Any:
        if folder.name in errors:
            raise errors[folder.name]
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", scan_or_fail)
    named: list[tuple[str, str]] = []
    scan = FolderScan(camera, lambda *skipped: named.append(skipped))
    assert [[name for _, name, _ in scan.complete()] for _ in range(3)] == [[], ["open/1.png"], ["open/1.png"]]
    assert named == [("closed", "cannot be read: Permission denied")]
