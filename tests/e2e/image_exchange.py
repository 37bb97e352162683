"""Adapt and predict over HTTP with the standard library only. `.ci/image-test` runs it against a container.

    python3 image_exchange.py URL adapt      adapt a client to five generated images of each of two classes
    python3 image_exchange.py URL predict    predict a new image of each class; print the response, fail if it is wrong

It reads the key from the environment variable KEY and uses only the HTTP contract.
"""

from __future__ import annotations

import json
import os
import struct
import sys
import urllib.error
import urllib.request
import zlib
from typing import Any

CLIENT = "image-test"
SIDE = 64
SHOTS = 5
CLASSES = ("stripes", "spots")


def pixel(kind: str, seed: int, row: int, column: int) -> int:
    """Return a grey value of noisy stripes or spots. The seed varies the period."""
    noise = zlib.crc32(b"%d %d %d" % (seed, row, column)) % 40
    period = 8 + seed % 3
    on = (row + seed) % period < period // 2
    if kind == "spots":
        on = on and (column + 3 * seed) % period < period // 2
    return 60 + noise + (120 if on else 0)


def png(kind: str, seed: int) -> bytes:
    """Return an 8-bit greyscale PNG of SIDE x SIDE pixels."""
    rows = b"".join(b"\0" + bytes(pixel(kind, seed, y, x) for x in range(SIDE)) for y in range(SIDE))
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    body = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def form(fields: list[tuple[str, str]], files: list[tuple[str, str, bytes]]) -> tuple[bytes, str]:
    """Encode text fields and (field, file name, PNG) files as multipart. Return the body and its content type."""
    boundary = "----anole-image-test"
    parts = [f'--{boundary}\r\nContent-Disposition: form-data; name="{n}"\r\n\r\n{v}\r\n'.encode() for n, v in fields]
    for name, file_name, content in files:
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{file_name}"\r\n'
        parts.append(head.encode() + b"Content-Type: image/png\r\n\r\n" + content + b"\r\n")
    return b"".join(parts) + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def post(url: str, body: bytes, content_type: str) -> Any:
    """POST and return the JSON response. Exit with the message of the service if it responds with an error."""
    headers = {"Content-Type": content_type, "X-API-Key": os.environ.get("KEY", "")}
    request = urllib.request.Request(url, data=body, headers=headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            return json.load(response)
    except urllib.error.HTTPError as refusal:
        sys.exit(f"{url} responded with {refusal.code}: {refusal.read().decode(errors='replace')}")


def adapt(url: str) -> None:
    """Adapt a client to SHOTS images of each class. Exit with a message if the version does not go live."""
    labelled = [(kind, seed) for kind in CLASSES for seed in range(SHOTS)]
    fields = [("client", CLIENT), *(("labels", kind) for kind, _ in labelled)]
    files = [("samples", f"{kind}-{seed}.png", png(kind, seed)) for kind, seed in labelled]
    response = post(f"{url}/adapt", *form(fields, files))
    if sorted(response["classes"]) != sorted(CLASSES) or not response["published"]:
        sys.exit(f"unexpected response of /adapt: {response}")
    kept, seconds = response["weights"]["bytes"], response["report"]["seconds"]["total"]
    sys.stdout.write(f"version {response['version']} with {kept} bytes of weights in {seconds:.2f} s\n")


def predict(url: str) -> None:
    """Predict a new image of each class. Exit with a message if a label is wrong."""
    files = [("images", f"{kind}.png", png(kind, 100)) for kind in CLASSES]
    response = post(f"{url}/predict", *form([("client", CLIENT)], files))
    found = {item["name"].removesuffix(".png"): item["label"] for item in response["predictions"]}
    if found != {kind: kind for kind in CLASSES}:
        sys.exit(f"wrong predictions: {response}")
    scores = [item["scores"] for item in response["predictions"]]
    shown = {"version": response["version"], "weights": response["weights_digest"], "scores": scores}
    sys.stdout.write(json.dumps(shown, sort_keys=True) + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[2] not in ("adapt", "predict"):
        sys.exit(__doc__)
    {"adapt": adapt, "predict": predict}[sys.argv[2]](sys.argv[1].rstrip("/"))
