"""The Python client of an Anole service: `anole.Client` blocks, `anole.AsyncClient` awaits."""

from service.client import *  # noqa: F403
from service.client import __all__ as __all__
