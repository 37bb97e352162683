"""Invalid forms: the status, the code and the name of the part, and that nothing else happens."""

from __future__ import annotations

import io
import zipfile
from typing import Any, NamedTuple

import pytest

from service.http.archives import unpack
from service.http.problems import ArchiveTooLarge
from service.runtime.decoder import Upload
from service.settings import load_settings
from tests.in_process import Web

PNG = b"\x89PNG"


class Bad(NamedTuple):
    """A form of parts (name, file name or None, content), and the expected response."""

    why: str
    parts: list[tuple[str, str | None, bytes]]
    status: int
    code: str
    named: str


CLIENT = ("client", None, b"line")
LABEL = ("labels", None, b"good")
SAMPLE = ("samples", "a.png", PNG)

ADAPT = [
    Bad("no client", [LABEL, SAMPLE], 422, "field_missing", "'client'"),
    Bad("client empty", [("client", None, b""), LABEL, SAMPLE], 422, "field_missing", "'client'"),
    Bad("client twice", [CLIENT, CLIENT, LABEL, SAMPLE], 422, "field_duplicate", "'client'"),
    Bad("client as a file", [("client", "x.txt", b"line"), LABEL, SAMPLE], 422, "field_invalid", "'client'"),
    Bad("client name in capitals", [("client", None, b"LINE"), LABEL, SAMPLE], 422, "invalid_name", "'LINE'"),
    Bad("client name of a path", [("client", None, b"../x"), LABEL, SAMPLE], 422, "invalid_name", "'../x'"),
    Bad("client name too long", [("client", None, b"a" * 65), LABEL, SAMPLE], 422, "invalid_name", "aaa"),
    Bad("unknown field", [CLIENT, LABEL, SAMPLE, ("lables", None, b"x")], 422, "field_unknown", "'lables'"),
    Bad("no samples", [CLIENT, LABEL], 422, "no_samples", "'samples'"),
    Bad("nothing but a client", [CLIENT], 422, "no_samples", "'archive'"),
    Bad("sample as text", [CLIENT, LABEL, ("samples", None, b"a.png")], 422, "field_invalid", "'samples'"),
    Bad("mode unknown", [CLIENT, LABEL, SAMPLE, ("mode", None, b"add")], 422, "field_invalid", "'mode'"),
    Bad("publish unknown", [CLIENT, LABEL, SAMPLE, ("publish", None, b"yes")], 422, "field_invalid", "'publish'"),
    Bad("steps no number", [CLIENT, LABEL, SAMPLE, ("steps", None, b"many")], 422, "field_invalid", "'steps'"),
    Bad("steps negative", [CLIENT, LABEL, SAMPLE, ("steps", None, b"-1")], 422, "field_invalid", "'steps'"),
    Bad("steps too many", [CLIENT, LABEL, SAMPLE, ("steps", None, b"101")], 422, "field_invalid", "0 to 100"),
    Bad(
        "steps in other digits", [CLIENT, LABEL, SAMPLE, ("steps", None, "٣".encode())], 422, "field_invalid", "'steps'"
    ),
    Bad("rate nan", [CLIENT, LABEL, SAMPLE, ("learning_rate", None, b"nan")], 422, "field_invalid", "'learning_rate'"),
    Bad("rate infinite", [CLIENT, LABEL, SAMPLE, ("learning_rate", None, b"inf")], 422, "field_invalid", "'inf'"),
    Bad("rate huge", [CLIENT, LABEL, SAMPLE, ("learning_rate", None, b"9e39")], 422, "field_invalid", "at most 1e+06"),
    Bad("rate zero", [CLIENT, LABEL, SAMPLE, ("learning_rate", None, b"0")], 422, "field_invalid", "above 0"),
    Bad("rate with _", [CLIENT, LABEL, SAMPLE, ("learning_rate", None, b"1_0")], 422, "field_invalid", "'1_0'"),
    Bad("seed too large", [CLIENT, LABEL, SAMPLE, ("seed", None, b"9" * 20)], 422, "field_invalid", "'seed'"),
    Bad("field too long", [CLIENT, LABEL, SAMPLE, ("mode", None, b"x" * 5000)], 400, "too_many_parts", "4096"),
    Bad("long sample as text", [CLIENT, LABEL, ("samples", None, PNG * 2000)], 422, "field_invalid", "'samples'"),
    Bad("file too large", [CLIENT, LABEL, ("samples", "big.png", b"x" * 17_000)], 413, "file_too_large", "'big.png'"),
    Bad("too many files", [CLIENT, *[LABEL, SAMPLE] * 9], 400, "too_many_parts", "8 files"),
    Bad("too many fields", [CLIENT, SAMPLE, *[LABEL] * 40], 400, "too_many_parts", "40 text fields"),
    Bad("archive and samples", [CLIENT, SAMPLE, ("archive", "a.zip", b"PK")], 422, "fields_conflict", "'archive'"),
    Bad("archive and labels", [CLIENT, LABEL, ("archive", "a.zip", b"PK")], 422, "fields_conflict", "'archive'"),
    Bad("two archives", [CLIENT, *[("archive", "a.zip", b"PK")] * 2], 422, "field_duplicate", "'archive'"),
    Bad("archive that is none", [CLIENT, ("archive", "a.zip", b"no zip")], 422, "archive_invalid", "'a.zip'"),
]

PREDICT = [
    Bad("no client", [("images", "a.png", PNG)], 422, "field_missing", "'client'"),
    Bad("no images", [CLIENT], 422, "field_missing", "'images'"),
    Bad("samples instead of images", [CLIENT, SAMPLE], 422, "field_unknown", "'samples'"),
    Bad("image as text", [CLIENT, ("images", None, b"a.png")], 422, "field_invalid", "'images'"),
    Bad("long image as text", [CLIENT, ("images", None, PNG * 2000)], 422, "field_invalid", "'images'"),
    Bad(
        "version and alias",
        [CLIENT, ("images", "a.png", PNG), ("version", None, b"1"), ("alias", None, b"live")],
        422,
        "fields_conflict",
        "'version' and 'alias'",
    ),
    Bad("version zero", [CLIENT, ("images", "a.png", PNG), ("version", None, b"0")], 422, "field_invalid", "'version'"),
    Bad(
        "version a word", [CLIENT, ("images", "a.png", PNG), ("version", None, b"live")], 422, "field_invalid", "'live'"
    ),
    Bad("alias a number", [CLIENT, ("images", "a.png", PNG), ("alias", None, b"7")], 422, "invalid_name", "'7'"),
    Bad("file too large", [CLIENT, ("images", "b.png", b"x" * 17_000)], 413, "file_too_large", "'b.png'"),
]


def send(web: Web, path: str, bad: Bad) -> Any:
    files = [(name, (file_name, content)) for name, file_name, content in bad.parts]
    return web("POST", path, files=files)


@pytest.mark.parametrize("bad", ADAPT, ids=[bad.why for bad in ADAPT])
def test_an_invalid_form_to_adapt_is_rejected_with_the_name_of_the_part(web: Web, bad: Bad) -> None:
    response = send(web, "/adapt", bad)
    assert (response.status_code, response.json()["code"]) == (bad.status, bad.code), response.text
    assert bad.named in response.json()["detail"]
    assert web.services.adaptation.commands == []


@pytest.mark.parametrize("bad", PREDICT, ids=[bad.why for bad in PREDICT])
def test_an_invalid_form_to_predict_is_rejected_with_the_name_of_the_part(web: Web, bad: Bad) -> None:
    response = send(web, "/predict", bad)
    assert (response.status_code, response.json()["code"]) == (bad.status, bad.code), response.text
    assert bad.named in response.json()["detail"]
    assert web.services.prediction.calls == []


@pytest.mark.parametrize(
    ("path", "headers", "named"),
    [
        ("/adapt", {}, "no Content-Type"),
        ("/adapt", {"Content-Type": "application/json"}, "multipart/form-data"),
        ("/adapt", {"Content-Type": "application/x-www-form-urlencoded"}, "multipart/form-data"),
        ("/adapt", {"Content-Type": "image/png"}, "multipart/form-data"),
        ("/adapt", {"Content-Type": "multipart/form-data-x; boundary=x"}, "multipart/form-data"),
        ("/predict", {"Content-Type": "text/plain"}, "image/"),
        ("/adapt", {"Content-Type": "multipart/form-data; boundary=x", "Content-Encoding": "gzip"}, "gzip"),
    ],
)
def test_another_media_type_is_rejected_unread(web: Web, path: str, headers: dict[str, str], named: str) -> None:
    response = web("POST", path, content=b"{}", headers=headers)
    assert (response.status_code, response.json()["code"]) == (415, "media_type_unsupported")
    assert named in response.json()["detail"]


@pytest.mark.parametrize(
    "content_type", ["multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=x"]
)
def test_a_form_that_cannot_be_parsed_is_rejected(web: Web, content_type: str) -> None:
    response = web("POST", "/adapt", content=b"--y\r\nnonsense", headers={"Content-Type": content_type})
    assert (response.status_code, response.json()["code"]) == (400, "form_malformed")


@pytest.mark.parametrize(
    "charset", ["undefined", "punycode", "unicode_escape", "raw_unicode_escape", "utf-16", "latin-1", "unknown"]
)
def test_a_form_in_another_charset_than_utf_8_is_rejected(web: Web, charset: str) -> None:
    headers = {"Content-Type": f"multipart/form-data; boundary=x; charset={charset}"}
    body = b'--x\r\nContent-Disposition: form-data; name="client"\r\n\r\nline\r\n--x--\r\n'
    response = web("POST", "/adapt", content=body, headers=headers)
    assert (response.status_code, response.json()["code"]) == (400, "form_malformed")
    assert charset in response.json()["detail"]


@pytest.mark.parametrize("charset", ["utf-8", "UTF-8", '"utf8"'])
def test_a_form_may_name_the_charset_utf_8(web: Web, charset: str) -> None:
    headers = {"Content-Type": f"multipart/form-data; boundary=x; charset={charset}"}
    body = b'--x\r\nContent-Disposition: form-data; name="client"\r\n\r\nline\r\n--x--\r\n'
    assert web("POST", "/adapt", content=body, headers=headers).json()["code"] == "no_samples"


def test_fields_in_the_query_of_a_form_are_rejected(two_versions: Web) -> None:
    response = two_versions("POST", "/predict?version=1", data={"client": "line"}, files=[("images", ("a.png", PNG))])
    assert (response.status_code, response.json()["code"]) == (422, "field_unknown")
    assert "version" in response.json()["detail"]


def test_an_unknown_name_in_the_query_of_a_raw_image_is_rejected(two_versions: Web) -> None:
    headers = {"Content-Type": "image/png"}
    response = two_versions("POST", "/predict?client=line&verison=1", content=PNG, headers=headers)
    assert (response.status_code, response.json()["code"]) == (422, "field_unknown")


def zipped(*names: str, content: bytes = PNG, stored: bool = False) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, content)
    return held.getvalue()


def send_archive(web: Web, content: bytes) -> Any:
    return web("POST", "/adapt", data={"client": "line"}, files=[("archive", ("parts.zip", content))])


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["good/1.png", "bad/1.png"], ("good", "bad")),
        (["parts/good/1.png", "parts/bad/1.png"], ("good", "bad")),
        (["./good/1.png", "./bad/1.png"], ("good", "bad")),
        (["./parts/good/1.png", "parts/./bad/1.png"], ("good", "bad")),
        (["good/1.png", "__MACOSX/good/1.png", "good/.DS_Store", "bad/Thumbs.db", "bad/1.png"], ("good", "bad")),
    ],
)
def test_folders_of_an_archive_become_labels(web: Web, names: list[str], labels: tuple[str, ...]) -> None:
    response = send_archive(web, zipped(*names))
    assert response.status_code == 201, response.text
    assert web.services.adaptation.commands[0].labels == labels


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (zipped(), 422, "no_samples"),
        (zipped("../../etc/1.png", "../../bin/1.png"), 422, "archive_invalid"),
        (zipped("1.png", "2.png"), 422, "archive_invalid"),
        (zipped("good/1.png", "parts/bad/1.png"), 422, "archive_invalid"),
        (zipped("a/good/1.png", "b/bad/1.png"), 422, "archive_invalid"),
        (zipped("a/b/good/1.png", "a/b/bad/1.png"), 422, "archive_invalid"),
        (zipped("good/1.png", "bad/1.png")[:-30], 422, "archive_invalid"),
        (zipped("good/1.png", "bad/1.png")[13:], 422, "archive_invalid"),
        (zipped("good/1.png", "bad/1.png", stored=True).replace(PNG, b"\x89PNH", 1), 422, "archive_invalid"),
        (zipped(*[f"good/{index}.png" for index in range(9)]), 413, "archive_too_large"),
        (zipped("good/1.png", content=b"\0" * 17_000), 413, "file_too_large"),
        (zipped("good/1.png", "bad/1.png").replace(b"good/", b"\0ood/"), 422, "archive_invalid"),
    ],
    ids=[
        "empty",
        "out of the folder",
        "flat",
        "mixed depths",
        "two wrappers",
        "too deep",
        "cut off",
        "start missing",
        "flipped",
        "many",
        "large file",
        "an entry without a name",
    ],
)
def test_an_invalid_archive_is_rejected(web: Web, content: bytes, status: int, code: str) -> None:
    response = send_archive(web, content)
    assert (response.status_code, response.json()["code"]) == (status, code), response.text
    assert web.services.adaptation.commands == []


def test_an_archive_with_a_path_to_a_parent_folder_is_rejected_with_the_name_of_the_entry(web: Web) -> None:
    response = send_archive(web, zipped("good/1.png", "good/../bad/2.png"))
    assert (response.status_code, response.json()["code"]) == (422, "archive_invalid")
    assert "'good/../bad/2.png'" in response.json()["detail"]


def test_an_archive_with_too_many_entries_is_rejected_before_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    content = zipped(*[f"a/{index}" for index in range(4097)], content=b"")
    monkeypatch.setattr(zipfile, "ZipFile", None)
    with pytest.raises(ArchiveTooLarge, match="4096 entries"):
        unpack(Upload("parts.zip", content), load_settings())
