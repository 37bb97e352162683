"""Requests over gRPC that are malformed, or large beside their images."""

from __future__ import annotations

import contextlib
from concurrent.futures import Future
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.version import LIVE, ServedVersion
from service.http.grpc import open_inference_pb2 as pb
from service.http.grpc.messages import (
    MAX_STRUCTURE_BYTES,
    check_structure,
    parse,
    parse_version,
    read_request,
    response,
)
from service.http.problems import InvalidField, TooManyParts, UnknownField
from service.http.schemas.inference_protocol import InferRequest, OutputRequest
from service.usecases.predict import PredictCommand, PredictOutcome

COMMAND = PredictCommand("line", (), LIVE, Future())
FILE = b"a" * (2 * MAX_STRUCTURE_BYTES)


def request(**fields: Any) -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(model_name="line", **fields)
    message.inputs.add(name="image", datatype="BYTES", shape=[1])
    return message


@given(st.binary(max_size=64) | st.binary(max_size=8).map(lambda end: request(id="7").SerializeToString() + end))
def test_any_bytes_are_a_request_or_rejected(body: bytes) -> None:
    with contextlib.suppress(InvalidField):
        check_structure(body)
        read_request(parse(pb.ModelInferRequest, body))


def test_images_do_not_count_as_structure() -> None:
    check_structure(request(raw_input_contents=[FILE]).SerializeToString())
    nested = pb.ModelInferRequest()
    nested.inputs.add(name="image").contents.bytes_contents.append(FILE)
    check_structure(nested.SerializeToString())


def many_numbers() -> pb.ModelInferRequest:
    message = pb.ModelInferRequest()
    message.inputs.add(name="image").contents.uint_contents.extend([255] * 1_000_001)
    return message


@pytest.mark.parametrize(
    "body",
    [
        request(id="a" * MAX_STRUCTURE_BYTES).SerializeToString(),
        b"\x2a\x00" * MAX_STRUCTURE_BYTES,  # empty inputs
        b"\x2a\x04\x2a\x02\x42\x00" * MAX_STRUCTURE_BYTES,  # inputs, each with one empty file
        many_numbers().SerializeToString(),
    ],
    ids=["a long id", "inputs", "files", "numbers"],
)
def test_what_takes_much_more_memory_than_bytes_is_limited(body: bytes) -> None:
    with pytest.raises(TooManyParts, match="beside its images"):
        check_structure(body)


@pytest.mark.parametrize("end", range(1, 40, 3))
def test_a_message_that_was_cut_off_is_malformed(end: int) -> None:
    body = request(raw_input_contents=[b"file of a picture"]).SerializeToString()
    with pytest.raises(InvalidField, match="without compression"):
        check_structure(body[:-end] + b"\x3a\x7f")


def test_each_input_needs_its_content() -> None:
    with pytest.raises(InvalidField, match="1 inputs and 2 raw_input_contents"):
        read_request(request(raw_input_contents=[b"1", b"2"]))
    with pytest.raises(InvalidField, match="no content for it"):
        read_request(request())


def test_content_in_two_places_or_in_shared_memory_is_rejected() -> None:
    both = request(raw_input_contents=[b"1"])
    both.inputs[0].contents.bytes_contents.append(b"2")
    with pytest.raises(InvalidField, match="send one of them"):
        read_request(both)
    shared = request()
    shared.inputs[0].parameters["shared_memory_region"].string_param = "images"
    with pytest.raises(UnknownField, match="'shared_memory_region', which is not supported"):
        read_request(shared)


def test_an_output_that_is_requested_many_times_comes_once() -> None:
    outcome = PredictOutcome(ServedVersion("line", 1, ("a",), "tiny", "d", "w", None), (), 0.0, COMMAND)
    message = response(outcome, InferRequest(inputs=[], outputs=[OutputRequest(name="label")] * 3))
    assert [each.name for each in message.outputs] == ["label"]
    assert len(message.raw_output_contents) == 1


@pytest.mark.parametrize("text", ["0", "live", "-1", "1.0", "\u0661", "9" * 30, str(2**31)])
def test_a_version_that_is_no_number_is_rejected(text: str) -> None:
    with pytest.raises(InvalidField, match="allowed: a number from 1"):
        parse_version(text)


def test_without_a_version_the_live_one_is_meant() -> None:
    assert (parse_version(""), parse_version("7")) == (None, 7)
