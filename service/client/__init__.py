"""The Python client of an Anole service, blocking and async."""

from service.client.client import AsyncClient, Client

__all__ = ["AsyncClient", "Client"]
