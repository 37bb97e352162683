"""Malicious forms: endless parts, paths as names, malformed boundaries."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.in_process import PNG, Web

HOSTILE_NAMES = ["../../etc/passwd", "..\\..\\x", "/etc/shadow", "a\\x00b.png", "x" * 2000, "'; DROP TABLE clients; --"]


def part(head: str, content: bytes = b"") -> bytes:
    return b"--x\r\nContent-Disposition: " + head.encode() + b"\r\n\r\n" + content + b"\r\n"


def post(web: Web, *parts: bytes, boundary: str = "x", path: str = "/adapt") -> tuple[int, str, str]:
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    response = web("POST", path, content=b"".join(parts) + b"--x--\r\n", headers=headers)
    if response.status_code < 300:
        return response.status_code, "", ""
    return response.status_code, response.json()["code"], response.json()["detail"]


CLIENT = part("form-data; name=client", b"line")
LABELLED = part("form-data; name=labels", b"good") + part("form-data; name=samples; filename=a.png", PNG)
OTHER = part("form-data; name=labels", b"bad") + part("form-data; name=samples; filename=b.png", PNG)


def test_ten_thousand_parts_are_rejected_at_the_first_beyond_the_limit(web: Web) -> None:
    for one in ("form-data; name=labels", "form-data; name=samples; filename=a"):
        status, code, _ = post(web, CLIENT, *[part(one)] * 10_000)
        assert (status, code) in {(400, "too_many_parts"), (413, "body_too_large")}
    assert web.services.adaptation.commands == []


def test_a_field_beyond_the_size_limit_is_rejected(web: Web) -> None:
    assert post(web, part("form-data; name=client", b"a" * 5000))[:2] == (400, "too_many_parts")
    assert post(web, part(f"form-data; name={'n' * 5000}", b"x"))[0] in {400, 422}


@pytest.mark.parametrize("boundary", ["x" * 10_000, "", '"', "y", "x; charset=\xff"])
def test_a_malformed_boundary_is_rejected(web: Web, boundary: str) -> None:
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}".encode("latin-1")}
    response = web("POST", "/adapt", content=CLIENT + LABELLED, headers=headers)
    assert response.status_code in {400, 422}
    assert web.services.adaptation.commands == []


@pytest.mark.parametrize(
    "head",
    [
        "form-data",
        "form-data; name=",
        "attachment; name=client",
        "form-data; filename=a.png",
        "form-data; name*=utf-8''client",
        "form-data; name=client; name=other",
    ],
)
def test_a_part_without_a_known_field_name_is_rejected(web: Web, head: str) -> None:
    status, _, _ = post(web, CLIENT, LABELLED, OTHER, part(head, b"x"))
    assert status in {400, 422}
    assert web.services.adaptation.commands == []


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_file_name_is_text_and_never_a_path(web: Web, name: str) -> None:
    sample = part(f'form-data; name=samples; filename="{name}"', PNG)
    status, code, detail = post(web, CLIENT, part("form-data; name=labels", b"good"), sample, OTHER)
    if status == 201:
        assert any(name.endswith(upload.name) for upload in web.services.adaptation.commands[0].uploads)
    else:
        assert (status, code) == (400, "form_malformed"), detail


def test_an_extended_file_name_is_not_decoded(web: Web) -> None:
    sample = part("form-data; name=samples; filename*=utf-8''%2e%2e%2fetc", PNG)
    status, code, detail = post(web, CLIENT, part("form-data; name=labels", b"good"), sample, OTHER)
    assert (status, code) == (422, "field_invalid")
    assert "'samples'" in detail


def test_an_incomplete_form_is_rejected(web: Web) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    for content in (CLIENT + LABELLED + OTHER, CLIENT + LABELLED + OTHER[:-4], CLIENT[:20], b""):
        response = web("POST", "/adapt", content=content, headers=headers)
        assert (response.status_code, response.json()["code"]) == (400, "form_malformed")
    assert web.services.adaptation.commands == []


def test_a_file_that_is_too_large_is_rejected_at_the_first_byte_beyond_the_limit(web: Web) -> None:
    sent: list[int] = []

    async def endless() -> AsyncIterator[bytes]:
        yield part("form-data; name=client", b"line")
        yield b"--x\r\nContent-Disposition: form-data; name=images; filename=big.png\r\n\r\n"
        while True:
            sent.append(4096)
            yield bytes(4096)

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    response = web("POST", "/predict", content=endless(), headers=headers)
    assert (response.status_code, response.json()["code"]) == (413, "file_too_large")
    assert "'big.png'" in response.json()["detail"]
    assert sum(sent) <= 16 * 1024 + 2 * 4096


@pytest.mark.parametrize(
    "client", ["..", ".", "%2e%2e", "a/b", "a%2fb", "a#b", "a\x00b", "a\n", "A", "ä", "a" * 10_000, " a", "*", "-a"]
)
def test_an_invalid_client_name_is_rejected_in_forms_and_paths(web: Web, client: str) -> None:
    status, code, _ = post(web, part("form-data; name=client", client.encode()), LABELLED, OTHER)
    assert (status, code) in {(422, "invalid_name"), (400, "too_many_parts")}
    assert web.services.adaptation.commands == []
    quoted = "".join(f"%{byte:02x}" for byte in client.encode())
    assert web("GET", f"/clients/{quoted}").status_code in {404, 422}
