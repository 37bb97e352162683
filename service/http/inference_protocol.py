"""Reads requests of the Open Inference Protocol V2 and writes its responses, as JSON and with binary data.

The one input is `image`: encoded images (BYTES) or RGB pixels (UINT8). Pixels are packed into a PNG file without
compression, so that they take the same way through the decoder as every other image.
"""

from __future__ import annotations

import base64
import itertools
import math
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from service.http.problems import InvalidField, MissingField, TooManyParts, UnknownField, UnsupportedMediaType
from service.http.schemas.inference_protocol import (
    InferRequest,
    InferResponse,
    InputTensor,
    OutputTensor,
    Scalar,
    TensorMetadata,
)
from service.http.uploads import shown
from service.runtime.decoder import Upload
from service.usecases.predict import PredictOutcome

HEADER_LENGTH: Final = "Inference-Header-Content-Length"
"""The header with the number of bytes of the JSON, if binary data follows it."""

INPUT: Final = "image"

MAX_JSON_VALUES: Final = 1_000_000
"""Values in the JSON of a request, which bounds its memory: the pixels of one image of 577 x 577, or any files."""

_CHANNELS: Final = 3
_MAX_DIMENSIONS: Final = 8
"""Dimensions of an input that are multiplied and shown. Images have one or four."""

_SHARED_MEMORY: Final = "shared_memory_region"
_JSON_SEPARATORS: Final = (b",", b"[", b":")


@dataclass(frozen=True, slots=True)
class _Output:
    """An output: its type, its shape for so many images and classes, and its values from an outcome, flat."""

    datatype: str
    shape: Callable[[int, int], list[int]]
    values: Callable[[PredictOutcome], list[Any]]

    def binary(self, outcome: PredictOutcome) -> bytes:
        """Return the values in little-endian order; texts in UTF-8 with their length in front."""
        values = self.values(outcome)
        if self.datatype == "FP32":
            return struct.pack(f"<{len(values)}f", *values)
        texts = [value.encode() for value in values]
        return b"".join(struct.pack("<I", len(text)) + text for text in texts)


OUTPUTS: Final[Mapping[str, _Output]] = {
    "label": _Output("BYTES", lambda n, _: [n], lambda outcome: [each.label for each in outcome.predictions]),
    "confidence": _Output("FP32", lambda n, _: [n], lambda outcome: [each.confidence for each in outcome.predictions]),
    "scores": _Output(
        "FP32",
        lambda n, classes: [n, classes],
        lambda outcome: [each.scores[name] for each in outcome.predictions for name in outcome.served.classes],
    ),
    "verdict": _Output("BYTES", lambda n, _: [n], lambda outcome: [each.verdict for each in outcome.predictions]),
    "classes": _Output("BYTES", lambda _, classes: [classes], lambda outcome: list(outcome.served.classes)),
}
"""Name -> output. `classes` names the columns of `scores`."""


def tensors(classes: int) -> tuple[list[TensorMetadata], list[TensorMetadata]]:
    """Return the descriptions of the inputs and outputs of a version with so many classes."""
    outputs = [
        TensorMetadata(name=name, datatype=output.datatype, shape=output.shape(-1, classes))
        for name, output in OUTPUTS.items()
    ]
    return [TensorMetadata(name=INPUT, datatype="BYTES", shape=[-1])], outputs


def read_request(body: bytes, headers: Mapping[str, str]) -> tuple[InferRequest, bytes]:
    """Return the JSON of a request, and the binary data that follows it.

    Raises:
        UnsupportedMediaType: the body is compressed.
        InvalidField: the header with the length of the JSON is wrong.
        TooManyParts: the JSON has too many values.
        RequestValidationError: the JSON is malformed, or not a request of the protocol.
    """
    encoding = headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise UnsupportedMediaType(f"the body has Content-Encoding {shown(encoding)}; send it without an encoding")
    text = headers.get(HEADER_LENGTH.lower(), str(len(body)))
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= len(body)):
        raise InvalidField(
            f"the header {HEADER_LENGTH} is {shown(text)}; allowed: the number of bytes of the JSON, at most that of "
            f"the body, {len(body)}"
        )
    json_bytes, binary = body[: int(text)], body[int(text) :]
    values = sum(map(json_bytes.count, _JSON_SEPARATORS))
    if values > MAX_JSON_VALUES:
        raise TooManyParts(
            f"the JSON has about {values} values; allowed: at most {MAX_JSON_VALUES}. Send pixels as binary data "
            f"({HEADER_LENGTH}), or image files (BYTES)"
        )
    try:
        request = InferRequest.model_validate_json(json_bytes)
    except ValidationError as error:
        raise RequestValidationError([{**item, "loc": ("body", *item["loc"])} for item in error.errors()]) from error
    return request, binary


def read_images(request: InferRequest, binary: bytes, max_images: int) -> list[Upload]:
    """Return the images of a request as files.

    Raises:
        MissingField, UnknownField, InvalidField, TooManyParts: each names the input or output.
    """
    _check_outputs(request)
    other = [each.name for each in request.inputs if each.name != INPUT]
    if other:
        raise UnknownField(f"the request has the input {shown(other[0])}; allowed: {INPUT}")
    if len(request.inputs) > 1:
        raise InvalidField(
            f"the request has {len(request.inputs)} inputs {INPUT!r}; send one, which may have several images"
        )
    if not request.inputs or not request.inputs[0].shape or request.inputs[0].shape[0] == 0:
        raise MissingField(f"the request has no images; send one input {INPUT!r} with one or more images")
    tensor = request.inputs[0]
    check_memory(f"input {INPUT!r}", tensor.parameters)
    if tensor.shape[0] > max_images:
        raise TooManyParts(
            f"input {INPUT!r} has {tensor.shape[0]} images; allowed: at most {max_images} (ANOLE_MAX_FILES)"
        )
    content = _binary_data(tensor, binary)
    if tensor.datatype == "BYTES":
        files = _files(tensor, content)
    elif tensor.datatype == "UINT8":
        files = _pixel_files(tensor, content)
    else:
        raise InvalidField(
            f"input {INPUT!r} has the datatype {shown(tensor.datatype)}; allowed: BYTES for image files, UINT8 for "
            "pixels"
        )
    return [Upload(f"{INPUT}[{index}]", file) for index, file in enumerate(files)]


def write_response(outcome: PredictOutcome, request: InferRequest) -> tuple[bytes, dict[str, str]]:
    """Return the body of a response and its headers."""
    as_binary = request.parameters.get("binary_data_output", False)
    wanted: dict[str, Scalar] = (
        {each.name: each.parameters.get("binary_data", as_binary) for each in request.outputs}
        if request.outputs
        else dict.fromkeys(OUTPUTS, as_binary)
    )
    sections: list[bytes] = []
    outputs: list[OutputTensor] = []
    for name, is_binary in wanted.items():
        output = OUTPUTS[name]
        shape = output.shape(len(outcome.predictions), len(outcome.served.classes))
        tensor = OutputTensor(name=name, shape=shape, datatype=output.datatype)
        if is_binary:
            sections.append(output.binary(outcome))
            tensor = tensor.model_copy(update={"parameters": {"binary_data_size": len(sections[-1])}})
        else:
            tensor = tensor.model_copy(update={"data": output.values(outcome)})
        outputs.append(tensor)
    response = InferResponse(
        model_name=outcome.client,
        model_version=str(outcome.version),
        id=request.id or None,
        parameters={"weights_digest": outcome.weights_digest},
        outputs=outputs,
    )
    header = response.model_dump_json(exclude_none=True).encode()
    if not sections:
        return header, {"Content-Type": "application/json"}
    body = b"".join((header, *sections))
    return body, {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(header))}


def _check_outputs(request: InferRequest) -> None:
    _check_flag(request.parameters, "binary_data_output")
    for output in request.outputs:
        _check_flag(output.parameters, "binary_data")
        if output.name not in OUTPUTS:
            raise UnknownField(f"the request wants the output {shown(output.name)}; allowed: {', '.join(OUTPUTS)}")
        check_memory(f"output {output.name!r}", output.parameters)
        if "classification" in output.parameters:
            raise UnknownField(
                f"output {output.name!r} has the parameter 'classification', which is not supported; the output "
                "'classes' names the columns of 'scores'"
            )


def _check_flag(parameters: Mapping[str, Scalar], name: str) -> None:
    if not isinstance(parameters.get(name, False), bool):
        raise InvalidField(f"the parameter {name!r} is {shown(str(parameters[name]))}; allowed: true, false")


def check_memory(tensor: str, parameters: Mapping[str, Scalar]) -> None:
    """Reject shared memory: a client that reads its outputs there would find what was there before."""
    if _SHARED_MEMORY in parameters:
        raise UnknownField(
            f"{tensor} has the parameter {_SHARED_MEMORY!r}, which is not supported; send images in the request, and "
            "read outputs from the response"
        )


def _binary_data(tensor: InputTensor, binary: bytes) -> bytes | None:
    """Return the binary data of the input, or None if it is in the JSON."""
    size = tensor.parameters.get("binary_data_size")
    if (size is None) == (tensor.data is None):
        raise InvalidField(f"input {INPUT!r} needs its content either in 'data' or as binary data, and not in both")
    if (size or 0) != len(binary):
        raise InvalidField(f"{len(binary)} bytes follow the JSON; input {INPUT!r} has binary_data_size {size or 0}")
    return None if size is None else binary


def _files(tensor: InputTensor, content: bytes | None) -> list[bytes]:
    """Return the image files of a BYTES input."""
    files = (
        [_decoded(text) for text in _flat(tensor.data or [])] if content is None else _split(content, tensor.shape[0])
    )
    if len(tensor.shape) > _MAX_DIMENSIONS or not tensor.shape[0] == math.prod(tensor.shape) == len(files):
        raise InvalidField(
            f"input {INPUT!r} has the shape {_shown_shape(tensor)} and {len(files)} elements; make them agree: [images]"
        )
    return files


def _shown_shape(tensor: InputTensor) -> str:
    """Return the shape as it appears in a message: a sender may have chosen a million dimensions."""
    return str(tensor.shape) if len(tensor.shape) <= _MAX_DIMENSIONS else f"of {len(tensor.shape)} dimensions"


def _split(content: bytes, count: int) -> list[bytes]:
    """Split binary BYTES: four bytes with the length of an element, little-endian, then the element.

    Stops after `count` elements: a body of zeros would be millions of empty ones.
    """
    files: list[bytes] = []
    start = 0
    while start < len(content):
        if len(files) == count:
            raise InvalidField(
                f"the binary data of input {INPUT!r} has more elements than its shape says, {count}; make them agree"
            )
        length = int.from_bytes(content[start : start + 4], "little")
        start += 4
        if start + length > len(content):
            raise InvalidField(
                f"the binary data of input {INPUT!r} ends inside element {len(files)}; each element is its length in "
                "four bytes, little-endian, and its content"
            )
        files.append(content[start : start + length])
        start += length
    return files


def _decoded(text: object) -> bytes:
    try:
        return base64.b64decode(text if isinstance(text, str) else "?", validate=True)
    except ValueError as error:
        raise InvalidField(
            f"input {INPUT!r} has an element that is not Base64; send image files in Base64, or as binary data"
        ) from error


def _pixel_files(tensor: InputTensor, content: bytes | None) -> list[bytes]:
    """Return the images of a UINT8 input as PNG files."""
    if len(tensor.shape) != 4 or tensor.shape[3] != _CHANNELS or 0 in tensor.shape:
        raise InvalidField(
            f"input {INPUT!r} has the shape {_shown_shape(tensor)}; allowed with UINT8: [images, height, width, 3], RGB"
        )
    pixels = _unsigned(_flat(tensor.data or [])) if content is None else content
    if len(pixels) != math.prod(tensor.shape):
        raise InvalidField(f"input {INPUT!r} has the shape {tensor.shape} and {len(pixels)} values; make them agree")
    _, height, width, _ = tensor.shape
    size = height * width * _CHANNELS
    return [png(pixels[start : start + size], height, width) for start in range(0, len(pixels), size)]


def _flat(values: Sequence[Any]) -> Sequence[Any]:
    """Return nested lists as one list."""
    while values and all(isinstance(value, list) for value in values):
        values = list(itertools.chain.from_iterable(values))
    return values


def _unsigned(values: Sequence[Any]) -> bytes:
    try:
        return bytes(values)
    except (TypeError, ValueError) as error:
        raise InvalidField(f"input {INPUT!r} has a value that is not an integer from 0 to 255") from error


def png(pixels: bytes, height: int, width: int) -> bytes:
    """Return a PNG file without compression.

    Args:
        pixels: RGB, row by row, height * width * 3 bytes.
        height: rows.
        width: columns.
    """
    row = width * _CHANNELS
    rows = bytearray(height * (1 + row))  # a byte in front of each row says that it is unfiltered
    if height < row:
        for y in range(height):
            rows[y * (1 + row) + 1 : (y + 1) * (1 + row)] = pixels[y * row : (y + 1) * row]
    else:  # an image of millions of rows has a few columns
        for x in range(row):
            rows[1 + x :: 1 + row] = pixels[x::row]
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits, RGB
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 0)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )
