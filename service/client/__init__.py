"""The Python client of an Anole service, blocking and async. It needs neither torch nor the server's packages."""

from service.client.async_client import AsyncClient
from service.client.client import Client
from service.client.datasets import DatasetKind, read_dataset
from service.client.errors import ClientError, InvalidInput, ServiceProblem, ServiceUnreachable
from service.client.exports import ExportOptions
from service.client.files import Image, Images, ImageSource, LabelledFile, with_parts
from service.client.folders import SampleSet, SkippedFile, read_class_folders
from service.client.requests import AdaptOptions
from service.client.samples import Samples, read_samples
from service.http.schemas.audit import AuditEntry
from service.http.schemas.predictions import DriftReport, LoggedPrediction, ShadowReport
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
from service.http.schemas.session import SessionInfo

__all__ = [
    "AdaptOptions",
    "AdaptResponse",
    "Alias",
    "AsyncClient",
    "AuditEntry",
    "Client",
    "ClientError",
    "ClientInfo",
    "ClientSettings",
    "DatasetKind",
    "DriftReport",
    "ExportOptions",
    "History",
    "Image",
    "ImageSource",
    "Images",
    "InvalidInput",
    "Job",
    "LabelledFile",
    "Liveness",
    "LoggedPrediction",
    "MetaModel",
    "PredictResponse",
    "Readiness",
    "SampleSet",
    "Samples",
    "ServiceInfo",
    "ServiceProblem",
    "ServiceUnreachable",
    "SessionInfo",
    "ShadowReport",
    "SkippedFile",
    "StoredSample",
    "UpgradeResponse",
    "VersionDetails",
    "VersionDiff",
    "VersionInfo",
    "read_class_folders",
    "read_dataset",
    "read_samples",
    "with_parts",
]
