"""Commands that read and change what the service keeps, and that every operation has a command."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from service.cli import connection
from service.client import Client
from service.domain.report import HeldOutPrediction
from service.domain.version import SampleRef
from service.usecases.export import ExportCommand
from service.usecases.stored_samples import SamplePage, StoredSample
from tests.in_process import PNG, InProcess, Web, operation_of, operations
from tests.unit.service.cli.conftest import Anole
from tests.unit.service.scripted_job import DONE, PROBLEM, Scripted, event
from tests.unit.service.scripted_job import job as a_job

DIGEST = "d" * 64


class Recording(InProcess):
    """Records which operations are requested."""

    def __init__(self, web: Web) -> None:
        super().__init__(web)
        self.operations: set[str | None] = set()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.operations.add(operation_of(request.method, request.url.path))
        return super().handle_request(request)


def stored(label: str = "good", name: str = "1.png") -> SamplePage:
    judged = HeldOutPrediction("bad", 0.75, known=True)
    return SamplePage(2, [StoredSample(SampleRef(DIGEST, label, name, "17"), 1, judged, suspect=True)])


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch, web: Web) -> Recording:
    transport = Recording(web)
    monkeypatch.setattr(connection, "connect", lambda url, key: Client("http://127.0.0.1", transport=transport))
    return transport


def start_job(web: Web) -> str:
    files = [("samples", (f"{label}.png", PNG)) for label in ("good", "bad")]
    data = {"client": "line", "labels": ["good", "bad"]}
    response = web("POST", "/adapt", data=data, files=files, headers={"Prefer": "respond-async"})
    return str(response.json()["job"])


def test_every_operation_has_a_command(anole: Anole, recorded: Recording, folder: Path, web: Web) -> None:
    image = str(folder / "good" / "1.png")
    web.services.samples.page_of = stored()
    for arguments in (
        ["adapt", "line", str(folder)],
        ["adapt", "line", str(folder)],
        ["predict", "line", image],
        ["clients"],
        ["clients", "line"],
        ["versions", "line"],
        ["versions", "line", "1"],
        ["diff", "line", "1", "2"],
        ["samples", "line", "--out", str(folder / "out")],
        ["correct", "line", "--remove", DIGEST[:8]],
        ["rollback", "line"],
        ["alias", "line"],
        ["alias", "line", "stable", "--set", "1"],
        ["history", "line"],
        ["audit", "--client", "line"],
        ["predictions", "line"],
        ["alias", "line", "candidate", "--set", "1"],
        ["shadow", "line"],
        ["promote", "line"],
        ["drift", "line"],
        ["settings", "line"],
        ["settings", "line", "floor=0.7"],
        ["settings", "line", "floor=0.7", "--replace"],
        ["upgrade", "line"],
        ["weights", "line", "1", "--out", str(folder / "weights")],
        ["export", "line", "-o", str(folder / "line.onnx")],
        ["import", "line", str(folder / "line.onnx")],
        ["models"],
        ["models", web.services.checkpoints.list()[0].name],
        ["status"],
        ["status", "--metrics"],
        ["delete", "line", "--version", "1", "--yes"],
        ["delete", "line", "--yes"],
    ):
        code, _, error = anole(*arguments)
        assert (code, error) == (0, ""), arguments
    number = start_job(web)
    for arguments in (["job", number, "--follow"], ["job", number, "--cancel"]):
        assert anole(*arguments)[0] == 0
    assert operations().keys() - recorded.operations == set()


def test_clients_and_one_client_are_printed(anole: Anole, service: Web, folder: Path) -> None:
    anole("adapt", "line", str(folder))
    _, printed, _ = anole("clients")
    assert printed.splitlines()[1].split() == ["line", "1", "1", "live", "1", "2026-03-01", "12:00"]
    assert json.loads(anole("clients", "--json")[1])["clients"][0]["client"] == "line"
    assert json.loads(anole("clients", "line", "--json")[1])["live"] == 1


def test_one_version_is_printed_with_its_report(anole: Anole, service: Web, folder: Path) -> None:
    anole("adapt", "line", str(folder))
    _, printed, _ = anole("versions", "line", "1")
    for words in ("bad, good", "publish: every sample is named right", "live", "tiny"):
        assert words in printed
    assert len(json.loads(anole("versions", "line", "1", "--json")[1])["sample_list"]) == 2


def test_an_alias_is_moved_and_its_history_printed(anole: Anole, service: Web, folder: Path) -> None:
    for _ in range(2):
        anole("adapt", "line", str(folder))
    etag = json.loads(anole("alias", "line", "--json")[1])["etag"]
    assert anole("alias", "line", "live", "--set", "1", "--etag", etag)[0] == 0
    code, _, error = anole("alias", "line", "live", "--set", "2", "--etag", etag)
    assert (code, "alias_conflict" in error) == (1, True)
    _, printed, _ = anole("history", "line")
    assert [line.split()[:2] for line in printed.splitlines()[1:4]] == [["live", "1"], ["live", "2"], ["live", "1"]]
    assert printed.splitlines()[-1] == "live: version 1"
    for moment in ("2026-03-01T12:01:30Z", "2026-03-01T14:01:30+02:00"):
        assert json.loads(anole("history", "line", "--at", moment, "--json")[1])["live"] == 2
    assert anole("history", "line", "--at", "noon")[0] == 2


def test_a_promoted_candidate_is_compared_with_the_version_before(anole: Anole, service: Web, folder: Path) -> None:
    anole("adapt", "line", str(folder), "--publish", "always")
    anole("alias", "line", "candidate", "--set", "1")
    code, _, err = anole("shadow", "line")
    assert (code, "nothing to compare; name two versions" in err) == (1, True)
    anole("adapt", "line", str(folder), "--publish", "never")
    anole("alias", "line", "candidate", "--set", "2")
    assert anole("shadow", "line")[1].startswith("line, version 1, and version 2 as the candidate\n")
    anole("promote", "line")
    assert anole("shadow", "line")[1].startswith("line, version 1, and version 2 as the candidate\n")


def test_settings_are_changed_by_name(anole: Anole, service: Web, folder: Path) -> None:
    anole("adapt", "line", str(folder))
    name = service.services.checkpoints.list()[0].name
    assert anole("settings", "line", "floor=0.75", "keep_last=3", f"model={name}")[0] == 0
    changed = json.loads(anole("settings", "line", "keep_last=null", "--json")[1])
    assert (changed["floor"], changed["keep_last"], changed["model"]) == (0.75, None, name)
    assert json.loads(anole("settings", "line", "keep_last=5", "--replace", "--json")[1])["floor"] is None
    assert "keep_last" in anole("settings", "line")[1]


@pytest.mark.parametrize(("arguments", "code"), [(["floor"], 2), (["floor=9"], 1), (["floor=9", "--replace"], 1)])
def test_a_wrong_setting_is_an_error_and_no_traceback(
    anole: Anole, service: Web, arguments: list[str], code: int
) -> None:
    result = anole("settings", "line", *arguments)
    assert result[0] == code
    assert "floor" in result[2]


def test_a_client_is_not_deleted_without_a_confirmation(anole: Anole, service: Web, folder: Path) -> None:
    anole("adapt", "line", str(folder))
    code, _, error = anole("delete", "line")
    assert (code, "--yes" in error) == (2, True)
    assert anole("clients", "line")[0] == 0
    assert anole("delete", "line", "--yes")[1] == "deleted client line, all its versions and samples"
    assert anole("clients", "line")[0] == 1


def test_weights_are_written_to_a_file(
    anole: Anole, service: Web, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    anole("adapt", "line", str(folder))
    monkeypatch.chdir(folder)
    assert anole("weights", "line", "1")[1] == "line-1.safetensors: 11 bytes"
    assert (folder / "line-1.safetensors").read_bytes() == b"safetensors"
    code, _, error = anole("weights", "line", "1", "--out", str(folder))
    assert (code, error.startswith(f"error: cannot write {folder}")) == (1, True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["-o", "line.txt"], "the file line.txt has the format onnx; give a name that ends with .onnx"),
        (["--format", "openvino", "-o", "line.onnx"], "give a name that ends with .zip"),
        (["-o", "none/line.onnx"], "there is no folder none; create it first"),
    ],
)
def test_the_name_of_an_exported_file_is_checked_before_the_service_exports(
    anole: Anole, service: Web, options: list[str], said: str
) -> None:
    code, _, error = anole("export", "line", *options)
    assert (code, said in error) == (1, True)
    assert service.services.exports.commands == []


def test_the_live_version_is_exported_to_a_file_and_imported_without_going_live(
    anole: Anole, service: Web, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    anole("adapt", "line", str(folder))
    monkeypatch.chdir(folder)
    code, printed, _ = anole("export", "line", "--precision", "int8", "--batch")
    assert (code, printed) == (0, "line-1.onnx: version 1, 4 bytes; to check it: anole verify line-1.onnx")
    assert (folder / "line-1.onnx").read_bytes() == b"onnx"
    assert service.services.exports.commands == [ExportCommand("line", 1, "onnx", "int8", batch=True)]
    code, printed, _ = anole("import", "copy", "line-1.onnx", "--json")
    assert (code, json.loads(printed)["published"]) == (0, False)
    assert [command.content for command in service.services.imports.commands] == [b"onnx"]
    assert anole("import", "copy", "line-1.onnx", "--publish", "auto")[0] == 3
    code, _, error = anole("import", "copy", "missing.onnx")
    assert (code, error) == (1, "error: cannot read missing.onnx: No such file or directory\n")


def test_samples_are_listed_and_downloaded(anole: Anole, service: Web, folder: Path) -> None:
    anole("adapt", "line", str(folder))
    service.services.samples.page_of = stored()
    _, printed, _ = anole("samples", "line", "--label", "good")
    assert printed.splitlines()[1].split() == ["d" * 12, "good", "1.png", "17", "1", "bad", "75.0", "%", "yes"]
    out = folder / "out"
    (listed,) = json.loads(anole("samples", "line", "--out", str(out), "--json")[1])["samples"]
    assert listed["path"] == str(out / "good" / f"1-{'d' * 12}.png")
    assert Path(listed["path"]).read_bytes() == f"{DIGEST} None".encode()


def several(*labels: str, name: str = "1.png") -> SamplePage:
    (sample,) = stored().samples
    return SamplePage(
        2,
        [replace(sample, sample=SampleRef(f"{index:012x}{0:052x}", label, name)) for index, label in enumerate(labels)],
    )


def test_different_labels_have_different_folders(anole: Anole, service: Web, folder: Path) -> None:
    anole("adapt", "line", str(folder))
    labels = ("a:b", "a?b", "A_b", "a_b", "a/b", "a:b", "Scratch", "scratch", "a_b-2")
    for turn, order in enumerate((labels, labels[::-1])):
        service.services.samples.page_of = several(*order)
        out = folder / f"out {turn}"
        code, printed, error = anole("samples", "line", "--out", str(out), "--json")
        assert (code, error) == (0, "")
        listed = json.loads(printed)["samples"]
        assert {each["label"]: Path(each["path"]).parent.name for each in listed} == {
            "A_b": "A_b",
            "Scratch": "Scratch",
            "a_b": "a_b-6",
            "a_b-2": "a_b-2",
            "scratch": "scratch-2",
            "a/b": "a_b-3",
            "a:b": "a_b-4",
            "a?b": "a_b-5",
        }
        assert len(list(out.rglob("*.png"))) == len(labels)
        (alone,) = json.loads(anole("samples", "line", "--label", "a?b", "--out", str(out), "--json")[1])["samples"]
        assert Path(alone["path"]).parent.name == "a_b-5"


def test_names_that_are_too_long_for_the_file_system_are_cut(anole: Anole, service: Web, folder: Path) -> None:
    anole("adapt", "line", str(folder))
    service.services.samples.page_of = several("裂" * 200, "裂" * 199 + "?", "x" * 300, name="纹" * 200 + ".png")
    out = folder / "out"
    code, printed, _ = anole("samples", "line", "--out", str(out), "--json")
    paths = [Path(each["path"]) for each in json.loads(printed)["samples"]]
    assert (code, len({path.parent for path in paths})) == (0, 3)
    assert all(path.is_file() and re.search(r"-0{11}[0-2]\.png$", path.name) for path in paths)


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "..", "", "a/b", "C:\\x", "x\n"])
def test_no_label_and_no_name_lead_out_of_the_folder(anole: Anole, service: Web, folder: Path, name: str) -> None:
    anole("adapt", "line", str(folder))
    service.services.samples.page_of = stored(name, name)
    out = folder / "out"
    (listed,) = json.loads(anole("samples", "line", "--out", str(out), "--json")[1])["samples"]
    assert [path.parent.parent for path in out.rglob("*.png")] == [out]
    assert Path(listed["path"]).is_file()


def test_a_job_is_followed_until_it_is_over(anole: Anole, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted = Scripted(event("progress", a_job()), event("done", DONE), polls=[a_job()])
    monkeypatch.setattr(connection, "connect", lambda url, key: Client(transport=scripted.transport))
    code, printed, _ = anole("job", "5f1c", "--follow")
    assert (code, "done" in printed, "1, live" in printed) == (0, True, True)


def test_a_failed_job_is_exit_code_1(anole: Anole, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted = Scripted(polls=[a_job("failed", problem=PROBLEM)])
    monkeypatch.setattr(connection, "connect", lambda url, key: Client(transport=scripted.transport))
    code, printed, _ = anole("job", "5f1c")
    assert (code, "overloaded: d" in printed) == (1, True)


def test_a_service_that_is_not_ready_is_exit_code_1(anole: Anole, service: Web) -> None:
    code, printed, _ = anole("status")
    assert (code, "ready" in printed, "adapt_body_bytes" in printed) == (0, True, True)
    service.services.readiness.drain()
    assert anole("status", "--json")[0] == 1
    assert anole("status", "--metrics")[1].startswith("# HELP")


def test_samples_are_corrected_by_the_beginning_of_their_digests(anole: Anole, service: Web, folder: Path) -> None:
    anole("adapt", "line", str(folder))
    service.services.samples.page_of = stored()
    corrected = ("--relabel", f"{DIGEST[:12]}=bad=worse", "--remove", "e" * 64, "--json")
    code, printed, notice = anole("correct", "line", *corrected)
    assert (code, json.loads(printed)["version"]) == (0, 2)
    assert "new for line: 'bad=worse'; its classes so far are" in notice
    corrections = service.services.adaptation.commands[-1].corrections
    assert corrections is not None
    assert (corrections.relabel, corrections.remove) == ({DIGEST: "bad=worse"}, {"e" * 64})


def test_a_beginning_of_several_digests_is_an_error(anole: Anole, service: Web, folder: Path) -> None:
    anole("adapt", "line", str(folder))
    (sample,) = stored().samples
    other = replace(sample, sample=replace(sample.sample, digest="d" * 63 + "e"))
    service.services.samples.page_of = SamplePage(1, [sample, other])
    code, _, error = anole("correct", "line", "--remove", "ddd")
    assert (code, "2 samples of line begin with 'ddd'" in error) == (1, True)
    assert anole("correct", "line", "--relabel", "ddd")[0] == 2
    code, _, error = anole("correct", "line")
    assert (code, "nothing" in error) == (1, True)


def test_two_labels_for_one_sample_are_an_error(anole: Anole, service: Web, folder: Path) -> None:
    anole("adapt", "line", str(folder))
    service.services.samples.page_of = stored()
    for first in (DIGEST, DIGEST[:12]):
        given = ("--relabel", f"{first}=p", "--relabel", f"{DIGEST}=q")
        code, _, error = anole("correct", "line", *given)
        assert (code, error) == (1, f"error: the same sample has two labels: 'p' and 'q' for {'d' * 12}; give one\n")
    assert anole("correct", "line", "--relabel", f"{DIGEST}=p", "--relabel", f"{DIGEST[:9]}=p")[0] == 0
