"""Latency of predicting one image by the Open Inference Protocol: over gRPC, over HTTP, and by POST /predict.

    python benchmarks/grpc_latency.py [--data-root FOLDER] [--requests 300]

All three are sent to one service over one kept connection each, in turn, with prepared messages and one in flight. The
driver runs in another process than the service. Without a data root, the images are generated.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final

import grpc
import httpx
import numpy as np

from benchmarks.figures import Parser, machine_line, markdown, milliseconds, percentile, script
from benchmarks.fixtures import N_SHOT, N_WAY, draw, steel_or_generated
from benchmarks.http_load import CLIENT, as_body, connect, exchange, publish_version, wire_bytes
from benchmarks.running_service import RunningService, add_options, chosen_options, serving
from models.errors import AnoleError
from service.http.grpc import open_inference_pb2 as pb
from service.http.inference_protocol import HEADER_LENGTH
from service.http.middleware.limits import GRPC_INFER
from tests.free_port import free_port

WARM_UP: Final = 32
Call = Callable[[int], Awaitable[None]]


class RequestFailed(AnoleError):
    """The service answered with another status than 200."""


@script
def main() -> None:
    """Serve a version, send the three kinds alternately, and print the table."""
    arguments = parse_arguments()
    port = free_port()
    options = chosen_options(arguments)
    options = replace(options, environment={**options.environment, "ANOLE_GRPC_PORT": str(port)})
    machine, images = options.machine(), steel_or_generated(arguments.data_root)
    task = draw(images, np.random.default_rng(arguments.seed), N_WAY, N_SHOT, max_queries=10)
    with serving(options) as service:
        publish_version(service.url, task.support)
        seconds = asyncio.run(measure(service, port, task.query_images(), arguments))
    print(f"{machine_line(machine)}; {images.name}, {arguments.requests} requests of each kind")
    by_http = percentile(seconds["HTTP"], 0.5)
    rows = [
        [name, milliseconds(each), milliseconds(each, 0.99), f"{percentile(each, 0.5) / by_http:.2f}"]
        for name, each in seconds.items()
    ]
    print(markdown(["", "p50 ms", "p99 ms", "p50 / HTTP"], rows))


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    parser.data_root()
    parser.option("--requests", 300, "requests of each kind")
    parser.option("--seed", 0, "seed for the choice of images")
    add_options(parser)
    return parser.parse_args()


async def measure(
    service: RunningService, port: int, images: Sequence[bytes], arguments: argparse.Namespace
) -> dict[str, list[float]]:
    """Return the seconds of each request, by kind."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        calls = {
            "gRPC": over_grpc(channel, images),
            "HTTP": await over_http(service.url, [as_infer(service.url, image) for image in images]),
            "POST /predict": await over_http(service.url, [as_body(service.url, image) for image in images]),
        }
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        for number, (name, call) in itertools.product(range(WARM_UP + arguments.requests), calls.items()):
            began = time.perf_counter()
            await call(number)
            seconds[name].append(time.perf_counter() - began)
    return {name: each[WARM_UP:] for name, each in seconds.items()}


def over_grpc(channel: grpc.aio.Channel, images: Sequence[bytes]) -> Call:
    """Return what sends one of the images over gRPC."""
    messages = []
    for image in images:
        message = pb.ModelInferRequest(model_name=CLIENT, raw_input_contents=[with_length(image)])
        message.inputs.add(name="image", datatype="BYTES", shape=[1])
        messages.append(message.SerializeToString())
    infer = channel.unary_unary(GRPC_INFER[1])

    async def call(number: int) -> None:
        await infer(messages[number % len(messages)])

    return call


async def over_http(url: str, requests: Sequence[bytes]) -> Call:
    """Return what sends one of the requests over HTTP."""
    connection = await connect(url)

    async def call(number: int) -> None:
        status, body = await exchange(connection, requests[number % len(requests)])
        if status != httpx.codes.OK:
            raise RequestFailed(f"the service answered {status}: {body.decode(errors='replace')}")

    return call


def as_infer(url: str, image: bytes) -> bytes:
    """Return a request of the Open Inference Protocol over HTTP with binary data both ways."""
    content = with_length(image)
    size = {"binary_data_size": len(content)}
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": size}
    header = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    headers = {HEADER_LENGTH: str(len(header))}
    return wire_bytes(
        httpx.Request("POST", f"{url}/v2/models/{CLIENT}/infer", content=header + content, headers=headers)
    )


def with_length(image: bytes) -> bytes:
    """Return an element of a BYTES tensor."""
    return len(image).to_bytes(4, "little") + image


if __name__ == "__main__":
    main()
