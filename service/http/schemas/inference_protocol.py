"""The JSON objects of the Open Inference Protocol V2, with the names that it gives them.

Source: https://github.com/open-inference/open-inference-protocol and, for binary data,
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from service.http.schemas.base import Answer

Scalar = bool | int | float | str
Parameters = dict[str, Scalar]
Length = Annotated[int, Field(ge=0, le=2**31 - 1)]

_MODEL: Final = ["demo"]


class ServerMetadata(Answer):
    """Name and version of the server, and the extensions of the protocol that it has."""

    name: str = Field(examples=["anole"])
    version: str = Field(examples=["0.1.0"])
    extensions: list[str] = Field(examples=[["binary_tensor_data"]])


class Live(Answer):
    """The process responds."""

    live: bool = True


class Ready(Answer):
    """Whether the server can predict."""

    ready: bool


class ModelReady(Answer):
    """The model can predict."""

    name: str = Field(examples=_MODEL)
    ready: bool = True


class TensorMetadata(Answer):
    """An input or output of a model; -1 in `shape` is a dimension of any size."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(Answer):
    """A client as the protocol describes a model."""

    name: str = Field(description="the client", examples=_MODEL)
    versions: list[str] = Field(description="the live version, or the requested one", examples=[["2"]])
    platform: str = Field(examples=["anole"])
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class Message(BaseModel):
    """Base of what clients send. Unknown fields are ignored, because the protocol allows extensions."""

    model_config = ConfigDict(frozen=True)


class InputTensor(Message):
    """The images, either in `data` or as binary data after the JSON."""

    name: str = Field(examples=["image"])
    shape: list[Length] = Field(description="[n], or [n, height, width, 3] for pixels", examples=[[1]])
    datatype: str = Field(description="BYTES for image files, UINT8 for RGB pixels", examples=["BYTES"])
    parameters: Parameters = Field({}, description="`binary_data_size`: bytes of this input after the JSON")
    data: list[Any] | None = Field(
        None,
        description="BYTES: image files in Base64; UINT8: numbers, flat or nested",
        examples=[["iVBORw0KGgo…"]],
    )


class OutputRequest(Message):
    """An output that the response is to have."""

    name: str = Field(examples=["label"])
    parameters: Parameters = Field({}, description="`binary_data`: whether it comes as binary data after the JSON")


class InferRequest(Message):
    """A request for predictions."""

    id: str = Field("", description="comes back in the response")
    parameters: Parameters = Field({}, description="`binary_data_output`: whether outputs come as binary data")
    inputs: list[InputTensor]
    outputs: list[OutputRequest] = Field([], description="default: all outputs")


class OutputTensor(Answer):
    """An output, either in `data` or as binary data after the JSON."""

    name: str = Field(examples=["label"])
    shape: list[int] = Field(examples=[[1]])
    datatype: str = Field(examples=["BYTES"])
    parameters: Parameters | None = None
    data: list[Any] | None = Field(None, examples=[["good"]])


class InferResponse(Answer):
    """The predictions: one row of each output per image, and the names of the classes."""

    model_name: str = Field(description="the client", examples=_MODEL)
    model_version: str = Field(description="the version that predicted", examples=["2"])
    id: str | None = None
    parameters: Parameters = Field(examples=[{"weights_digest": "9f86d081…"}])
    outputs: list[OutputTensor]
