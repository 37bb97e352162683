"""OPC UA: a client reads the latest result, and activates a version."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from asyncua import ua
from asyncua.client.client import Client
from asyncua.crypto.security_policies import SecurityPolicyBasic256Sha256
from asyncua.ua.uaerrors import UaError
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from service.bridge.config import OpcUaSink
from service.bridge.sinks.opcua import APPLICATION, NAMESPACE, OpcUa, Recipes
from service.client import ServiceUnreachable
from tests.free_port import free_port
from tests.unit.service.bridge.conftest import GOOD, run, verdict


class Versions:
    """The versions of a client, and those that were activated."""

    def __init__(self) -> None:
        self.numbers = [1, 2]
        self.activated: list[int] = []
        self.away = False

    async def list(self) -> list[int]:
        if self.away:
            raise ServiceUnreachable("Anole is away")
        return self.numbers

    async def activate(self, version: int) -> None:
        if version not in self.numbers:
            raise ServiceUnreachable(f"no version {version}")
        self.activated.append(version)


def write_certificate(folder: Path, name: str, uri: str) -> dict[str, Path]:
    """Write a key and a certificate signed by itself."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    certificate, private_key = folder / f"{name}.der", folder / f"{name}.pem"
    certificate.write_bytes(made.public_bytes(Encoding.DER))
    private_key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return {"certificate": certificate, "private_key": private_key}


@dataclass(frozen=True)
class Served:
    """A sink that serves, in the event loop of `portal`."""

    portal: BlockingPortal
    sink: OpcUa
    url: str
    versions: Versions
    client_files: dict[str, Path]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("opcua")
    password = folder / "password"
    password.write_text("hunter2\n", encoding="utf-8")
    versions, port = Versions(), free_port()
    access: dict[str, Any] = {"username": "plc", "password_file": password, "activate": True}
    config = OpcUaSink(type="opcua", port=port, **access, **write_certificate(folder, "bridge", APPLICATION))
    sink = OpcUa(config, Recipes(versions.list, versions.activate))
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(sink.connected()):
        files = write_certificate(folder, "plc", "urn:plc")
        yield Served(portal, sink, f"opc.tcp://127.0.0.1:{port}/anole", versions, files)


async def client_of(served: Served, user: str = "plc", password: str = "hunter2") -> Client:
    """Return a client whose connection is signed and encrypted."""
    client = Client(served.url)
    client.application_uri = "urn:plc"
    files = served.client_files
    await client.set_security(SecurityPolicyBasic256Sha256, files["certificate"], files["private_key"])
    if user:
        client.set_user(user)
        client.set_password(password)
    return client


async def value(client: Client, *path: str) -> Any:
    index = await client.get_namespace_index(NAMESPACE)
    node = await client.nodes.objects.get_child([f"{index}:{name}" for name in ("VisionSystem", *path)])
    return await node.read_value()


class Changes:
    """Receives what a subscription sends."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Any] = asyncio.Queue()

    def datachange_notification(self, node: Any, val: Any, data: Any) -> None:
        self.queue.put_nowait(val)


def test_a_client_reads_and_subscribes_to_the_latest_result(served: Served) -> None:
    async def main() -> None:
        async with await client_of(served) as client:
            index = await client.get_namespace_index(NAMESPACE)
            path = [f"{index}:{name}" for name in ("VisionSystem", "ResultManagement", "Counter")]
            counter = await client.nodes.objects.get_child(path)
            changes = Changes()
            await (await client.create_subscription(10, changes)).subscribe_data_change(counter)
            assert await changes.queue.get() == 0
            await served.sink.send(verdict(GOOD))
            assert await changes.queue.get() == 1
            for name, expected in (("Result", "pass"), ("Class", "good"), ("Confidence", 0.9), ("RecipeId", 3)):
                assert await value(client, "ResultManagement", name) == expected
            assert await value(client, "RecipeManagement", "Recipes") == [1, 2]
            assert await value(client, "RecipeManagement", "ActiveRecipe") == 3
            with pytest.raises(UaError):
                await counter.write_value(7, ua.VariantType.UInt32)

    served.portal.call(main)


def test_a_user_activates_a_version(served: Served) -> None:
    async def main() -> None:
        async with await client_of(served) as client:
            index = await client.get_namespace_index(NAMESPACE)
            names = [f"{index}:VisionSystem", f"{index}:RecipeManagement"]
            management = await client.nodes.objects.get_child(names)
            await management.call_method(f"{index}:ActivateRecipe", ua.Variant(2, ua.VariantType.UInt32))
            assert await value(client, "RecipeManagement", "ActiveRecipe") == 2
            with pytest.raises(UaError, match="BadInvalidArgument"):
                await management.call_method(f"{index}:ActivateRecipe", ua.Variant(9, ua.VariantType.UInt32))

    served.portal.call(main)
    assert served.versions.activated == [2]


def test_clients_stay_connected_while_anole_is_away_and_get_the_versions_later(tmp_path: Path) -> None:
    versions, port = Versions(), free_port()
    versions.away = True
    sink = OpcUa(OpcUaSink(type="opcua", port=port), Recipes(versions.list, versions.activate))

    async def main() -> None:
        async with sink.connected(), Client(f"opc.tcp://127.0.0.1:{port}/anole") as client:
            await sink.send(verdict(GOOD))
            await sink.check()
            assert await value(client, "ResultManagement", "Counter") == 1
            assert await value(client, "RecipeManagement", "ActiveRecipe") == 3
            assert await value(client, "RecipeManagement", "Recipes") == [0]
            versions.away = False
            await sink.check()
            assert await value(client, "RecipeManagement", "Recipes") == [1, 2]

    run(main())


@pytest.mark.parametrize(("user", "password"), [("", ""), ("other", "hunter2"), ("plc", "wrong")])
def test_other_users_are_rejected(served: Served, user: str, password: str) -> None:
    async def main() -> None:
        await (await client_of(served, user, password)).connect()

    with pytest.raises(UaError):
        served.portal.call(main)


def test_a_connection_in_clear_text_is_rejected_if_there_is_a_certificate(served: Served) -> None:
    client = Client(served.url)
    with pytest.raises(UaError, match="No matching endpoints"):
        served.portal.call(client.connect)
