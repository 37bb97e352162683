"""Texts and names of forms in other charsets than UTF-8: read as declared, or rejected."""

from __future__ import annotations

import pytest

from tests.in_process import PNG, Web
from tests.unit.service.http.test_hostile_forms import CLIENT, OTHER, part, post


def sample(name: bytes = b"a.png") -> bytes:
    head = b'--x\r\nContent-Disposition: form-data; name=samples; filename="' + name + b'"\r\n\r\n'
    return head + PNG + b"\r\n"


def label(content: bytes, content_type: str | None = None) -> bytes:
    declared = "" if content_type is None else f"\r\nContent-Type: {content_type}"
    return part(f"form-data; name=labels{declared}", content)


@pytest.mark.parametrize(
    ("text", "charset"),
    [
        ("划痕", "GBK"),
        ("划痕", "gb2312"),
        ("刮痕", "Big5"),
        ("表面キズ", "Shift_JIS"),
        ("表面キズ", "EUC-JP"),
        ("царапина", "cp866"),
        ("царапина", "windows-1251"),
        ("царапина", "KOI8-R"),
        ("für", "iso-8859-1"),
        ("für", "utf-8"),
        ("긁힘", "euc-kr"),
    ],
)
def test_a_text_is_read_in_the_charset_of_its_part(web: Web, text: str, charset: str) -> None:
    for content_type in (f"text/plain; charset={charset}", f'text/plain;charset="{charset}"'):
        status, code, detail = post(web, CLIENT, label(text.encode(charset), content_type), sample(), OTHER)
        assert status == 201, (code, detail)
        assert web.services.adaptation.commands[-1].labels == (text, "bad")


@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        ("划痕".encode("gbk"), None),
        ("キズ".encode("shift_jis"), None),
        ("царапина".encode("cp866"), "text/plain"),
        ("für".encode("latin-1"), None),
        ("划痕".encode("gbk"), "text/plain; charset=utf-8"),
        ("划痕".encode("gbk"), "text/plain; charset=us-ascii"),
        ("划痕".encode("gbk")[:-1], "text/plain; charset=gbk"),
        (b"dent", "text/plain; charset=unicode_escape"),
        (b"dent", "text/plain; charset=utf-7"),
        (b"dent", "text/plain; charset=rot13"),
        (b"dent", "text/plain; charset=nonsense"),
    ],
)
def test_a_text_that_cannot_be_read_is_rejected(web: Web, content: bytes, content_type: str | None) -> None:
    status, code, detail = post(web, CLIENT, label(content, content_type), sample(), OTHER)
    assert (status, code) == (422, "field_invalid")
    assert "'labels'" in detail
    assert "UTF-8" in detail
    assert web.services.adaptation.commands == []


def test_a_file_name_that_is_not_utf_8_is_rejected(web: Web) -> None:
    status, code, detail = post(web, CLIENT, label(b"good"), sample("划痕.png".encode("gbk")), OTHER)
    assert (status, code) == (422, "field_invalid")
    assert "the name of a file" in detail
    assert web.services.adaptation.commands == []


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("划痕.png", "划痕.png"),
        ("a\0b.png", "a\ufffdb.png"),
        ("a\x1b[2Jb.png", "a\ufffd[2Jb.png"),
        ("\u202egnp.exe", "\ufffdgnp.exe"),
        ("x" * 300 + ".png", "x" * 251 + ".png"),
        ("痕" * 100 + ".png", "痕" * 83 + ".png"),
    ],
)
def test_file_names_are_cleaned(web: Web, sent: str, kept: str) -> None:
    status, code, _ = post(web, CLIENT, label(b"good"), sample(sent.encode()), OTHER)
    if status == 400:  # the parser of forms rejects the character
        assert code == "form_malformed"
    else:
        assert status == 201
        assert web.services.adaptation.commands[0].uploads[0].name == kept


def test_an_image_without_a_file_name_is_rejected_with_the_way_to_send_it(web: Web) -> None:
    for content in (PNG, PNG * 2000):
        for head in ("form-data; name=images", "form-data; name=images\r\nContent-Type: image/png"):
            status, code, detail = post(web, CLIENT, part(head, content), path="/predict")
            assert (status, code) == (422, "field_invalid")
            assert "-F images=@part.png" in detail
