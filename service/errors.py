"""The errors of the service, one class for each problem. `service.http.problems` maps the classes to HTTP statuses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from models.errors import AnoleError

RETRY_STOPPING_S: Final = 1
"""Retry-After while this worker stops: another one takes the request."""

RETRY_BUSY_S: Final = 2
"""Retry-After for a full queue or a time limit that has passed."""

RETRY_UNAVAILABLE_S: Final = 5
"""Retry-After if the store, memory, files or processes are not available."""


class ServiceError(AnoleError):
    """Base class of the service's errors."""


class InvalidName(ServiceError, ValueError):
    """The name of a client, alias or class is not valid."""


class InvalidRequest(ServiceError, ValueError):
    """The parts of a request do not fit together."""


class NoSamples(InvalidRequest):
    """The request has no samples."""


class TooManySamples(InvalidRequest):
    """The version would have more samples than allowed, stored ones included."""


class LabelCountMismatch(InvalidRequest):
    """The number of labels differs from the number of samples."""


class PartCountMismatch(InvalidRequest):
    """The number of parts differs from the number of samples."""


class ModalityCountMismatch(InvalidRequest):
    """The number of texts or vectors differs from the number of images."""


class ModalityUnsupported(InvalidRequest):
    """The model does not take the texts or vectors that came with the images."""


class ConflictingLabels(InvalidRequest):
    """One picture has two labels in the same request."""


class TooFewClasses(InvalidRequest):
    """The version would have fewer than two classes."""


class TooManyClasses(InvalidRequest):
    """The version would have more classes than allowed."""


class SamplesNotKept(InvalidRequest):
    """The version cannot be extended, because its samples are not stored."""


class InvalidSettings(ServiceError, ValueError):
    """A setting is outside its range, or does not exist."""


class InvalidKey(ServiceError, ValueError):
    """A key, or its name, scopes or clients, are not valid."""


class UnknownKey(ServiceError, LookupError):
    """There is no key with that prefix."""


class KeyMissing(ServiceError):
    """The request has no key, and one is needed."""


class KeyRefused(ServiceError):
    """The key is unknown, wrong or revoked."""


class ScopeMissing(ServiceError):
    """The key does not have the scope that the request needs."""


class UnknownClient(ServiceError, LookupError):
    """No client of that name, or none that the caller's key can access: both get the same message."""

    def __init__(self, client: str) -> None:
        super().__init__(f"there is no client {client!r}; it is created when it is adapted for the first time")


class ClientDeleted(ServiceError):
    """The client was deleted while an adaptation of it was running."""


def client_deleted(client: str) -> ClientDeleted:
    """Return the error for an adaptation of a client that was deleted in the meantime."""
    return ClientDeleted(
        f"client {client!r} was deleted while the request was waiting or running; nothing of it is stored; send it "
        "again to create the client anew"
    )


class ClientExists(ServiceError):
    """The client exists, and the request was to create it."""


def client_exists(client: str) -> ClientExists:
    """Return the error for a request that was to create a client of a name that is taken."""
    return ClientExists(
        f"client {client!r} exists already, and If-None-Match: * allows only a new one; nothing of the request is "
        "stored; choose another name, or leave out the header (--new, new_client) to add to that client"
    )


class UnknownVersion(ServiceError, LookupError):
    """The client has no version with that number, or it was deleted."""


class UnknownSample(ServiceError, LookupError):
    """The client has no stored sample with that digest."""


class UnknownAlias(ServiceError, LookupError):
    """The client has no alias of that name."""


class UnknownCheckpoint(ServiceError, LookupError):
    """There is no checkpoint with that name or path."""


def unknown_checkpoint(name: str, offered: Iterable[str]) -> UnknownCheckpoint:
    """Return the error about a model that the service does not offer."""
    return UnknownCheckpoint(
        f"there is no model {name!r}; the available models are {', '.join(offered)}; `anole serve --model NAME`, given "
        "several times, offers others"
    )


class ModelMismatch(ServiceError):
    """The imported version belongs to another model than the one that the client uses."""


class UnknownJob(ServiceError, LookupError):
    """There is no job with that id, or it was removed."""


class WorkerLost(ServiceError):
    """The process that ran the job is dead, or was cut off from the store."""


def worker_lost(job_id: str) -> WorkerLost:
    """Return the error of a job that its worker has not renewed in time."""
    return WorkerLost(
        f"the worker that ran job {job_id} ended, or lost its connection to the store, and the job made no version; "
        "send the request again, with the same Idempotency-Key if it had one"
    )


class JobCancelled(ServiceError):
    """The adaptation was cancelled and made no version."""


class NothingLive(ServiceError):
    """The client has versions, but none of them is live."""


class NothingToRollBackTo(ServiceError):
    """The alias has no earlier version."""


class NothingToUpgrade(ServiceError):
    """The client has no version, or its version was adapted with the client's current model and uncertainty already."""


class NothingToCorrect(InvalidRequest):
    """The corrections change nothing."""


class AliasConflict(ServiceError):
    """The alias was moved since the caller read it."""


class VersionInUse(ServiceError):
    """The version cannot be deleted, because an alias points at it."""


class VersionCorrupt(ServiceError):
    """Stored content does not match its digest."""


class ParentSuperseded(ServiceError):
    """Another version was published while an extension was being made from the one before."""


class IdempotencyMismatch(ServiceError):
    """The idempotency key was used before with another request body."""


class IdempotencyInFlight(ServiceError):
    """An earlier request with the same idempotency key is still running."""


class Overloaded(ServiceError):
    """The service cannot accept the request now.

    Attributes:
        retry_after_s: seconds after which to try again.
    """

    def __init__(self, message: str, retry_after_s: int) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class DeadlinePassed(Overloaded):
    """The time limit of the request has passed."""


class RateExceeded(Overloaded):
    """The caller sends too many requests, or has too many running at the same time."""


class DecoderUnavailable(Overloaded):
    """No decoder process is available; the image was not decoded."""


class StoreUnavailable(ServiceError):
    """The disk or the catalog failed; the change was not made."""


class StoreFull(StoreUnavailable):
    """There is no space left for a new version; reads still work."""


class StoreIncompatible(StoreUnavailable):
    """The catalog was written by a newer release, or is not a catalog of this project."""
