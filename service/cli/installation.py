"""What the client's own distribution does not have: `pip install ./deploy/client` installs no torch and no server."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

from typer.core import TyperCommand

from service.client import InvalidInput
from service.domain.audit import CLI_ID, Actor, acting_as


def require_full_installation(what: str) -> None:
    """Check that the modules of the server are installed.

    Args:
        what: the command or option that needs them.

    Raises:
        InvalidInput: only the client is installed.
    """
    if find_spec("..bootstrap", __package__) is None:  # relative: the client has these modules in the package `anole`
        # not `pip install anole`: on PyPI, that is another project
        raise InvalidInput(f"{what} needs the full installation: pip install . in a checkout of Anole")


def require_agent() -> None:
    """Check that what `anole edge` needs is installed.

    Raises:
        InvalidInput: it is not.
    """
    missing = [
        name for name in ("onnxruntime", "starlette", "uvicorn", "tuf", "cryptography") if find_spec(name) is None
    ]
    if missing:
        raise InvalidInput(
            f"anole edge needs {', '.join(missing)}: in a checkout of Anole, pip install './deploy/client[edge]', or "
            "'.[fleet]' beside the whole installation"
        )


class ServerCommand(TyperCommand):
    """A command of a group that needs the server. Its --help does not. It acts as `cli` in the audit log."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command. Raises InvalidInput if only the client is installed."""
        require_full_installation(f"anole {ctx.parent.info_name if ctx.parent else ''} {ctx.info_name}")
        with acting_as(Actor(CLI_ID, f"user {os.getuid()}")):
            return super().invoke(ctx)
