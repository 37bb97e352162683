"""Converts the messages of the Open Inference Protocol over gRPC from and to what the JSON form uses."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeVar

from fastapi.exceptions import RequestValidationError
from google.protobuf.message import DecodeError, Message
from pydantic import ValidationError

from service.http.dependencies import MAX_VERSION
from service.http.grpc import open_inference_pb2 as pb
from service.http.inference_protocol import INPUT, MAX_JSON_VALUES, OUTPUTS, check_memory
from service.http.problems import InvalidField, TooManyParts
from service.http.schemas.inference_protocol import InferRequest, Scalar
from service.http.uploads import shown
from service.usecases.predict import PredictOutcome

MAX_STRUCTURE_BYTES: Final = 64 * 1024
"""Bytes of an inference request without its images: names, shapes, parameters and what separates the fields."""

MAX_NUMBER_BYTES: Final = 2 * MAX_JSON_VALUES
"""Bytes of pixels that are sent as numbers (`uint_contents`), of which each takes one or two."""

_RAW, _BYTES, _NUMBERS = (7,), (5, 5, 8), (5, 5, 4)
_NESTED: Final = frozenset({(5,), (5, 5)})
"""Numbers of the fields of ModelInferRequest: raw_input_contents, and contents of inputs."""

_VARINT_BYTES: Final = 10

M = TypeVar("M", bound=Message)


def parse(kind: type[M], body: bytes) -> M:
    """Parse a message. Raises InvalidField."""
    try:
        message: M = kind.FromString(body)
    except DecodeError as error:
        raise _malformed(kind.DESCRIPTOR.name) from error
    return message


def parse_version(text: str) -> int | None:
    """Return the version that a message names, or None for the live one. Raises InvalidField."""
    if not text:
        return None
    if text.isascii() and text.isdigit() and len(text) <= len(str(MAX_VERSION)) and 1 <= int(text) <= MAX_VERSION:
        return int(text)
    raise InvalidField(f"the version is {shown(text)}; allowed: a number from 1, or nothing for the live version")


def check_structure(body: bytes) -> None:
    """Check how much of an inference request is no image, before it is parsed.

    An empty tensor or parameter takes a few bytes of a message and some hundred in memory. Without this limit, a
    message of the allowed size could take gigabytes.

    Raises:
        TooManyParts: there is too much.
        InvalidField: the message is malformed.
    """
    structure = numbers = 0
    parts: list[tuple[memoryview, tuple[int, ...]]] = [(memoryview(body), ())]
    while parts:
        part, path = parts.pop()
        for number, overhead, content in _fields(part):
            field = (*path, number)
            structure += overhead
            if field in _NESTED:
                parts.append((content, field))
            elif field == _NUMBERS:
                numbers += len(content)
            elif field not in (_RAW, _BYTES):
                structure += len(content)
            if structure > MAX_STRUCTURE_BYTES or numbers > MAX_NUMBER_BYTES:
                raise TooManyParts(
                    f"the request has more than {MAX_STRUCTURE_BYTES} bytes beside its images, or more than "
                    f"{MAX_JSON_VALUES} numbers; send pixels in raw_input_contents, or image files (BYTES)"
                )


def read_request(message: pb.ModelInferRequest) -> tuple[InferRequest, bytes]:
    """Return a request, and its images as binary data of the HTTP form.

    Raises:
        UnknownField: an input is in shared memory.
        InvalidField: an input has no content or two, or there are fewer or more contents than inputs.
        TooManyParts: there are too many numbers.
        RequestValidationError: a value is out of range.
    """
    inputs: list[dict[str, Any]] = []
    binary = b""
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise InvalidField(
            f"the request has {len(message.inputs)} inputs and {len(raw)} raw_input_contents; send one for each input"
        )
    for tensor in message.inputs:
        fields = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        if raw and tensor.HasField("contents"):
            raise InvalidField(
                f"input {shown(tensor.name)} has contents, and the request has raw_input_contents; send one of them"
            )
        if tensor.name == INPUT:
            check_memory(f"input {INPUT!r}", _parameters(tensor.parameters))
            data, binary = (None, raw[0]) if raw else _contents(tensor)
            fields |= {"data": data} if data is not None else {"parameters": {"binary_data_size": len(binary)}}
        inputs.append(fields)
    outputs = [{"name": each.name, "parameters": _parameters(each.parameters)} for each in message.outputs]
    try:
        request = InferRequest.model_validate({"id": message.id, "inputs": inputs, "outputs": outputs})
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from error
    return request, binary


def response(outcome: PredictOutcome, request: InferRequest) -> pb.ModelInferResponse:
    """Return the response. Its outputs are in `raw_output_contents`."""
    message = pb.ModelInferResponse(model_name=outcome.client, model_version=str(outcome.version), id=request.id)
    message.parameters["weights_digest"].string_param = outcome.weights_digest
    for name in dict.fromkeys(each.name for each in request.outputs) or OUTPUTS:  # each once, however often requested
        output = OUTPUTS[name]
        shape = output.shape(len(outcome.predictions), len(outcome.served.classes))
        message.outputs.add(name=name, datatype=output.datatype, shape=shape)
        message.raw_output_contents.append(output.binary(outcome))
    return message


def _contents(tensor: pb.ModelInferRequest.InferInputTensor) -> tuple[list[int] | None, bytes]:
    """Return the numbers of an input, or None and its files as binary data."""
    contents = tensor.contents
    if tensor.datatype == "UINT8" and contents.uint_contents:
        if len(contents.uint_contents) > MAX_JSON_VALUES:
            raise TooManyParts(
                f"input {INPUT!r} has {len(contents.uint_contents)} numbers; allowed: at most {MAX_JSON_VALUES}. Send "
                "pixels in raw_input_contents"
            )
        return list(contents.uint_contents), b""
    if tensor.datatype == "BYTES" and contents.bytes_contents:
        return None, b"".join(struct.pack("<I", len(file)) + file for file in contents.bytes_contents)
    raise InvalidField(
        f"input {INPUT!r} has the datatype {shown(tensor.datatype)} and no content for it; send image files (BYTES) in "
        "raw_input_contents or bytes_contents, or pixels (UINT8) in raw_input_contents or uint_contents"
    )


def _parameters(parameters: Mapping[str, pb.InferParameter]) -> dict[str, Scalar]:
    chosen = {name: value.WhichOneof("parameter_choice") for name, value in parameters.items()}
    return {name: getattr(parameters[name], choice) for name, choice in chosen.items() if choice is not None}


def _fields(part: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """Yield the fields of an encoded message: number, bytes of tag, length and fixed values, and content.

    Raises InvalidField if the message is malformed. Source: https://protobuf.dev/programming-guides/encoding.
    """
    position = 0
    while position < len(part):
        start = position
        tag, position = _varint(part, position)
        length = 0
        match tag & 7:
            case 0:  # a number of variable length
                _, position = _varint(part, position)
            case 1:  # eight bytes
                position += 8
            case 2:  # a length and the content
                length, position = _varint(part, position)
            case 5:  # four bytes
                position += 4
            case _:
                raise _malformed()
        if position + length > len(part):
            raise _malformed()
        yield tag >> 3, position - start, part[position : position + length]
        position += length


def _varint(part: memoryview, position: int) -> tuple[int, int]:
    """Return the number at a position, and the position after it."""
    value = 0
    for index, byte in enumerate(part[position : position + _VARINT_BYTES]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, position + index + 1
    raise _malformed()


def _malformed(kind: str = "ModelInferRequest") -> InvalidField:
    return InvalidField(f"the message is not a {kind} of the Open Inference Protocol; send one without compression")
