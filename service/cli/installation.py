"""What the client's own distribution does not have: `pip install ./deploy/client` installs no torch and no server."""

from __future__ import annotations

from importlib.util import find_spec

from service.client import InvalidInput


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
