"""Zip archives with one folder per class: names in other character sets, layouts, files that are no samples."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib

import pytest

from service.errors import NoSamples
from service.http.archives import unpack
from service.http.problems import InvalidArchive
from service.runtime.decoder import Upload
from service.settings import load_settings
from tests.in_process import PNG

UTF_8_FLAG = 0x800
WINDOWS, UNIX, MACOS = 0, 3, 19


def zip_of(
    *names: str, charset: str = "ascii", system: int = UNIX, flags: int = 0, unicode_path: str = "", empty: str = ""
) -> bytes:
    """Return an archive whose names are stored in a charset, as another program would.

    zipfile writes only ASCII and UTF-8 with its flag, so each name is written as X's and replaced afterwards.
    """
    held, replacements = io.BytesIO(), {}
    with zipfile.ZipFile(held, "w") as archive:
        for index, name in enumerate([*names, *([empty] if empty else [])]):
            raw = name.encode(charset)
            placeholder = f"{index:X<3}".ljust(len(raw), "X")[: len(raw)] if not raw.isascii() else name
            info = zipfile.ZipInfo(placeholder)
            info.create_system = system
            if unicode_path:
                checked = struct.pack("<BL", 1, zlib.crc32(raw)) + name.encode(unicode_path)
                info.extra = struct.pack("<HH", 0x7075, len(checked)) + checked
            archive.writestr(info, PNG if name != empty else b"")
            if placeholder != name:
                replacements[placeholder.encode()] = raw
    content = held.getvalue()
    for placeholder_bytes, raw in replacements.items():
        content = content.replace(placeholder_bytes, raw)
    if flags:
        flag, host = struct.pack("<H", flags), bytes([system])
        content = content.replace(b"PK\x03\x04\x14\0\0\0", b"PK\x03\x04\x14\0" + flag)
        content = content.replace(b"PK\x01\x02\x14" + host + b"\x14\0\0\0", b"PK\x01\x02\x14" + host + b"\x14\0" + flag)
    return content


def labels(content: bytes) -> tuple[str, ...]:
    return unpack(Upload("parts.zip", content), load_settings())[1]


CHINESE = ("良品/0.png", "划痕/0.png")
JAPANESE = ("良品/0.png", "表面キズ/0.png")
RUSSIAN = ("годен/0.png", "царапина/0.png")
GERMAN = ("für gut/0.png", "Öl/0.png")


TRADITIONAL = ("良品/0.png", "刮痕/0.png")
VALID_IN_UTF_8_TOO = ("тип/0.png", "сап/0.png")


@pytest.mark.parametrize(
    ("names", "charset"),
    [
        (CHINESE, "gbk"),
        (TRADITIONAL, "big5"),
        (JAPANESE, "shift_jis"),
        (RUSSIAN, "cp866"),
        (RUSSIAN, "cp1251"),
        (VALID_IN_UTF_8_TOO, "cp866"),
        (GERMAN, "cp437"),
        (GERMAN, "cp1252"),
    ],
)
def test_names_in_an_undeclared_charset_are_rejected(names: tuple[str, ...], charset: str) -> None:
    with pytest.raises(InvalidArchive, match=r"does not declare.*UTF-8"):
        labels(zip_of(*names, charset=charset, system=WINDOWS))


@pytest.mark.parametrize("name", ["Lies mich, Prüfer.txt", "$RECYCLE.BIN/für.png", "ok/.für mich"])
def test_the_charset_of_names_that_are_ignored_does_not_matter(name: str) -> None:
    content = zip_of("ok/0.png", name, "scratch/0.png", charset="cp850", system=WINDOWS)
    assert set(labels(content)) == {"ok", "scratch"}


def test_names_that_are_marked_as_utf_8_and_are_not_are_rejected_with_the_way_out() -> None:
    content = zip_of("für gut/0.png", "Öl/0.png", charset="cp850", system=WINDOWS, flags=UTF_8_FLAG)
    with pytest.raises(InvalidArchive, match=r"'f\\\\x81r gut/0.png'.*does not declare.*UTF-8") as raised:
        labels(content)
    assert "codec" not in str(raised.value)


@pytest.mark.parametrize("names", [CHINESE, JAPANESE, RUSSIAN, GERMAN])
def test_names_in_utf_8_are_read(names: tuple[str, ...]) -> None:
    expected = tuple(name.split("/")[0] for name in names)
    assert labels(zip_of(*names, charset="utf-8", system=UNIX)) == expected
    assert labels(zip_of(*names, charset="utf-8", system=MACOS)) == expected
    assert labels(zip_of(*names, charset="utf-8", system=WINDOWS, flags=UTF_8_FLAG)) == expected


@pytest.mark.parametrize(("names", "charset"), [(CHINESE, "gbk"), (JAPANESE, "shift_jis"), (RUSSIAN, "cp866")])
def test_the_field_for_unicode_paths_is_obeyed(names: tuple[str, ...], charset: str) -> None:
    expected = tuple(name.split("/")[0] for name in names)
    content = zip_of(*names, charset=charset, system=WINDOWS, unicode_path="utf-8")
    assert labels(content) == expected


def test_a_field_for_the_unicode_path_of_another_name_is_not_obeyed() -> None:
    content = zip_of(*CHINESE, charset="gbk", system=WINDOWS, unicode_path="utf-8")
    renamed = content.replace("良品".encode("gbk"), "次品".encode("gbk"))
    with pytest.raises(InvalidArchive, match="does not declare"):
        labels(renamed)


@pytest.mark.parametrize(
    "names",
    [
        ("ok\\0.png", "scratch\\0.png"),
        ("parts\\ok\\0.png", "parts\\scratch\\0.png"),
        (".\\ok\\0.png", ".\\scratch\\0.png"),
        ("./ok/0.png", "./scratch/0.png"),
        ("/ok/0.png", "ok//1.png", "scratch/0.png"),
        ("parts/README.txt", "parts/ok/0.png", "parts/scratch/0.png"),
        ("README", "LICENSE.md", "ok/0.png", "scratch/0.png"),
        ("notes.csv", "parts/labels.json", "parts/ok/0.png", "parts/scratch/0.png"),
        ("Desktop.ini", "ok/DESKTOP.INI", "ok/Thumbs.db", "ok/ehthumbs.db", "ok/0.png", "scratch/0.png"),
        ("$RECYCLE.BIN/1.png", "System Volume Information/x", "@eaDir/ok/0.png", "ok/0.png", "scratch/0.png"),
        ("__MACOSX/ok/._0.png", "ok/.DS_Store", ".hidden/0.png", "ok/0.png", "scratch/0.png"),
    ],
)
def test_classes_are_found_in_archives_of_other_programs(names: tuple[str, ...]) -> None:
    assert set(labels(zip_of(*names))) == {"ok", "scratch"}


@pytest.mark.parametrize(
    ("names", "named"),
    [
        (("overview.png", "ok/0.png", "scratch/0.png"), "overview.png"),
        (("parts/overview.JPG", "parts/ok/0.png", "parts/scratch/0.png"), "parts/overview.JPG"),
        (("ok/lot2/0.png", "ok/1.png", "scratch/0.png"), "ok/lot2/0.png"),
        (("ok/0.png", "ok/1.png", "scratch/lot/a/0.png", "scratch/1.png"), "scratch/lot/a/0.png"),
        (("ok/notes/x.txt", "ok/0.png", "scratch/0.png"), "ok/notes/x.txt"),
        (("a/ok/0.png", "parts/ok/0.png", "parts/scratch/0.png"), "a/ok/0.png"),
        (("0.png", "1.png"), "0.png"),
        (("a/b/ok/0.png", "a/b/scratch/0.png"), "a/b/ok/0.png"),
        (("other/README.txt", "parts/ok/0.png", "parts/scratch/0.png"), "other/README.txt"),
        (("ok\\..\\..\\0.png", "scratch\\0.png"), "ok/../../0.png"),
    ],
)
def test_an_entry_that_does_not_fit_is_named(names: tuple[str, ...], named: str) -> None:
    with pytest.raises(InvalidArchive) as raised:
        labels(zip_of(*names))
    assert repr(named) in str(raised.value)


@pytest.mark.parametrize("empty", ["dent/", "parts/dent/", "dent\\"])
def test_an_empty_class_folder_is_named(empty: str) -> None:
    wrapper = empty[:-5]
    with pytest.raises(InvalidArchive, match="'dent' has no images"):
        labels(zip_of(f"{wrapper}ok/0.png", f"{wrapper}scratch/0.png", empty=empty))


def test_a_class_folder_with_only_files_of_the_system_is_named() -> None:
    with pytest.raises(InvalidArchive, match="'dent' has no images"):
        labels(zip_of("ok/0.png", "scratch/0.png", "dent/Thumbs.db"))


def test_an_archive_of_texts_has_no_samples() -> None:
    with pytest.raises(NoSamples):
        labels(zip_of(".DS_Store", "Thumbs.db"))


def test_the_names_of_entries_are_cleaned() -> None:
    uploads, _ = unpack(
        Upload("parts.zip", zip_of("ok/a\x1b[2Jb.png", "scratch/" + "x" * 300 + ".png")), load_settings()
    )
    assert uploads[0].name == "ok/a\ufffd[2Jb.png"
    assert len(uploads[1].name.encode()) == 255
    assert uploads[1].name.endswith("x.png")
