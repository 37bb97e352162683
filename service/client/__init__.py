"""The Python client of an Anole service, blocking and async. It needs neither torch nor the server's packages."""

from service.client.async_client import AsyncClient
from service.client.client import Client
from service.client.errors import ClientError, InvalidInput, ServiceProblem, ServiceUnreachable
from service.client.files import LabelledFile, read_samples, with_parts
from service.client.requests import AdaptOptions
from service.http.schemas.reports import VersionDiff
from service.http.schemas.resources import (
    AdaptResponse,
    Alias,
    ClientInfo,
    ClientSettings,
    History,
    Job,
    Liveness,
    MetaModel,
    PredictResponse,
    Readiness,
    ServiceInfo,
    UpgradeResponse,
    VersionDetails,
    VersionInfo,
)
from service.http.schemas.samples import StoredSample

__all__ = [
    "AdaptOptions",
    "AdaptResponse",
    "Alias",
    "AsyncClient",
    "Client",
    "ClientError",
    "ClientInfo",
    "ClientSettings",
    "History",
    "InvalidInput",
    "Job",
    "LabelledFile",
    "Liveness",
    "MetaModel",
    "PredictResponse",
    "Readiness",
    "ServiceInfo",
    "ServiceProblem",
    "ServiceUnreachable",
    "StoredSample",
    "UpgradeResponse",
    "VersionDetails",
    "VersionDiff",
    "VersionInfo",
    "read_samples",
    "with_parts",
]
