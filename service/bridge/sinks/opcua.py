"""Verdicts as variables of an OPC UA server.

The names follow OPC 40100-1 (machine vision) where its ideas fit: a version is a recipe, a verdict is a result.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from asyncua import ua
from asyncua.common.node import Node
from asyncua.crypto.permission_rules import User, UserRole
from asyncua.server.server import Server
from asyncua.server.user_managers import UserManager
from asyncua.ua.status_codes import StatusCodes
from asyncua.ua.uaerrors import UaError

from service.bridge.config import OpcUaSink, read_secret
from service.bridge.sinks.base import Sink
from service.bridge.verdict import Verdict
from service.client import ClientError

LOG: Final = logging.getLogger("anole.bridge")
NAMESPACE: Final = "urn:anole:bridge"
APPLICATION: Final = "urn:anole:bridge:server"
"""The URI that the server's certificate must have among its alternative names."""

_RESULT: Final[dict[str, tuple[str, ua.VariantType]]] = {
    "ResultId": ("id", ua.VariantType.String),
    "Counter": ("number", ua.VariantType.UInt32),
    "CreationTime": ("time", ua.VariantType.String),
    "Source": ("source", ua.VariantType.String),
    "Name": ("name", ua.VariantType.String),
    "Result": ("result", ua.VariantType.String),
    "State": ("state", ua.VariantType.String),
    "Class": ("label", ua.VariantType.String),
    "ClassNumber": ("class_number", ua.VariantType.UInt16),
    "Confidence": ("confidence", ua.VariantType.Double),
    "Known": ("known", ua.VariantType.Boolean),
    "RecipeId": ("version", ua.VariantType.UInt32),
    "Error": ("error", ua.VariantType.String),
}
"""Variable -> field of the verdict and type."""

_LAST: Final = "Counter"
"""The variable that is written last, so that a subscriber of it finds the others up to date."""


@dataclass(frozen=True, slots=True)
class Recipes:
    """What the server needs to know of Anole.

    Attributes:
        versions: returns the versions of the client.
        activate: makes a version live.
    """

    versions: Callable[[], Awaitable[list[int]]]
    activate: Callable[[int], Awaitable[object]]


class _Users(UserManager):
    """Admits one user, or everyone if there is no name. No user may write variables.

    Args:
        username: name of the user.
        password: its password.
    """

    def __init__(self, username: str | None, password: str | None) -> None:
        self._username = username
        self._password = password

    def get_user(
        self, iserver: Any, username: str | None = None, password: str | None = None, certificate: Any = None
    ) -> User | None:
        if self._username is not None:
            given = (username or "", password or "")
            matches = [
                hmac.compare_digest(one.encode(), other.encode())
                for one, other in zip(given, (self._username, self._password or ""), strict=True)
            ]
            if not all(matches):
                return None
        return User(role=UserRole.User, name=username)


class OpcUa(Sink):
    """The latest result under `Objects/VisionSystem/ResultManagement`, and the versions under `RecipeManagement`.

    Args:
        config: address, access and whether clients may activate versions.
        recipes: the versions of Anole.
    """

    connection_errors = (OSError, UaError)

    def __init__(self, config: OpcUaSink, recipes: Recipes) -> None:
        super().__init__(config.name)
        self._config = config
        self._recipes = recipes
        self._variables: dict[str, Node] = {}
        self._known: list[int] = []
        self._out_of_date = False

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Serve inside the block."""
        server = Server(user_manager=_Users(self._config.username, read_secret(self._config.password_file)))
        await server.init()
        await self._secure(server)
        server.set_endpoint(f"opc.tcp://{self._config.host}:{self._config.port}/anole")
        server.set_server_name("Anole bridge")
        await server.set_application_uri(APPLICATION)
        index = await server.register_namespace(NAMESPACE)
        await self._add_nodes(server, index)
        self._known = []
        await self._refresh(None)
        async with server:
            yield

    async def check(self) -> None:
        """Read the list of versions if Anole did not respond before."""
        if not self._known:
            await self._refresh(None)

    async def send(self, verdict: Verdict) -> None:
        """Write the variables."""
        fields = verdict.fields()
        for name in (*(name for name in _RESULT if name != _LAST), _LAST):
            field, kind = _RESULT[name]
            await self._variables[name].write_value(fields[field], kind)
        if verdict.version:
            await self._refresh(verdict.version)

    async def _secure(self, server: Server) -> None:
        if self._config.certificate is None or self._config.private_key is None:
            server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
            return
        server.set_security_policy([ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt])
        await server.load_certificate(str(self._config.certificate))
        await server.load_private_key(str(self._config.private_key))

    async def _add_nodes(self, server: Server, index: int) -> None:
        system = await server.nodes.objects.add_object(index, "VisionSystem")
        results = await system.add_object(index, "ResultManagement")
        for name, (_, kind) in _RESULT.items():
            empty: Any = {ua.VariantType.String: "", ua.VariantType.Boolean: False, ua.VariantType.Double: 0.0}
            self._variables[name] = await results.add_variable(index, name, empty.get(kind, 0), kind)
        recipes = await system.add_object(index, "RecipeManagement")
        for name, value in (("Recipes", [0]), ("ActiveRecipe", 0)):
            self._variables[name] = await recipes.add_variable(index, name, value, ua.VariantType.UInt32)
        if self._config.activate:
            await recipes.add_method(index, "ActivateRecipe", self._activate, [ua.VariantType.UInt32], [])

    async def _activate(self, parent: ua.NodeId, recipe: ua.Variant) -> list[ua.Variant] | ua.StatusCode:
        """Make a version live, and return when it is."""
        version = recipe.Value
        if not isinstance(version, int):
            return ua.StatusCode(ua.UInt32(StatusCodes.BadInvalidArgument))
        try:
            await self._recipes.activate(version)
            await self._refresh(version)
        except ClientError as error:
            LOG.warning("recipe %s cannot be activated: %s", version, error)
            return ua.StatusCode(ua.UInt32(StatusCodes.BadInvalidArgument))
        return []

    async def _refresh(self, active: int | None) -> None:
        """Show the active version. The list of versions is read when there is one that it does not have.

        If Anole does not respond, the clients stay connected, and the list is read again later.
        """
        if active is None or active not in self._known:
            try:
                self._known = await self._recipes.versions()
            except ClientError as error:
                LOG.log(
                    logging.DEBUG if self._out_of_date else logging.WARNING,
                    "sink %s: the list of recipes is out of date: %s",
                    self.name,
                    error,
                )
                self._out_of_date = True
            else:
                self._out_of_date = False
                await self._variables["Recipes"].write_value(self._known, ua.VariantType.UInt32)
        if active is not None:
            await self._variables["ActiveRecipe"].write_value(active, ua.VariantType.UInt32)
