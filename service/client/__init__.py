"""The Python client of an Anole service, blocking and async. It needs neither torch nor the server's packages."""

from service.client.client import AsyncClient, Client
from service.client.errors import ClientError, InvalidInput, ServiceProblem, ServiceUnreachable
from service.client.files import LabelledFile, read_samples, with_parts
from service.client.requests import AdaptOptions
from service.http.schemas.reports import VersionDiff
from service.http.schemas.resources import (
    AdaptResponse,
    Alias,
    ClientInfo,
    History,
    Job,
    PredictResponse,
    UpgradeResponse,
    VersionInfo,
)

__all__ = [
    "AdaptOptions",
    "AdaptResponse",
    "Alias",
    "AsyncClient",
    "Client",
    "ClientError",
    "ClientInfo",
    "History",
    "InvalidInput",
    "Job",
    "LabelledFile",
    "PredictResponse",
    "ServiceProblem",
    "ServiceUnreachable",
    "UpgradeResponse",
    "VersionDiff",
    "VersionInfo",
    "read_samples",
    "with_parts",
]
