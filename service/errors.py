"""The error tree of the serving half; one class a problem, no HTTP here (``api/problems.py`` maps classes to statuses).

::

    AnoleError (models.errors)
    └── ServiceError
        ├── InvalidName             a client, alias or label that breaks its rule
        ├── InvalidRequest          a request whose parts do not fit together; the subclasses name the common cases
        │   ├── NoSamples
        │   ├── TooManySamples
        │   ├── LabelCountMismatch  not one label a sample
        │   ├── TooFewClasses       fewer than two, once joined with the samples kept before
        │   ├── TooManyClasses
        │   └── SamplesNotKept      an extension or a repetition of a version whose samples were not kept
        ├── InvalidSettings         a setting outside its range
        ├── InvalidKey              a key, or what it is to be good for, that breaks its rule
        ├── UnknownKey              no key of that prefix
        ├── KeyMissing / KeyRefused a request without the key that it needs, or with one that is not valid
        ├── ScopeMissing            a key that may do other things than this
        ├── UnknownClient / UnknownVersion / UnknownAlias / UnknownCheckpoint
        ├── NothingLive             the client exists, but its alias points at no version
        ├── NothingToRollBackTo     no earlier version in the alias log
        ├── AliasConflict           If-Match did not match: somebody moved the alias first
        ├── VersionInUse            a version that an alias points at cannot be deleted
        ├── VersionCorrupt          stored content does not match its digest
        ├── ParentSuperseded        another version went live while an extension was being made from the one before
        ├── UnknownJob              no such job in this process: it ended with its process, or is long over
        ├── JobCancelled            an adaptation that was ended on request; there is no version
        ├── IdempotencyMismatch     the Idempotency-Key was used before, with another body
        ├── Overloaded              a queue is full; carries retry_after_s
        │   ├── DeadlinePassed      the time for the work is over
        │   ├── RateExceeded        one caller sends more, or has more in work, than its share
        │   └── DecoderUnavailable  no process to decode an image in; nothing was found out about the image
        └── StoreUnavailable        the disk or the catalog failed; nothing was acknowledged
            ├── StoreFull           no space left; reads go on
            └── StoreIncompatible   a catalog that this release cannot read: newer, or not one of ours
"""

from __future__ import annotations

from models.errors import AnoleError


class ServiceError(AnoleError):
    """Root of the serving half's errors."""


class InvalidName(ServiceError, ValueError):
    """A client, alias or class name outside its rule."""


class InvalidRequest(ServiceError, ValueError):
    """A request whose parts do not fit together."""


class NoSamples(InvalidRequest):
    """A request to adapt that brings no sample."""


class TooManySamples(InvalidRequest):
    """More samples in one version than the limits allow, kept ones included."""


class LabelCountMismatch(InvalidRequest):
    """The number of labels is not the number of samples."""


class TooFewClasses(InvalidRequest):
    """Fewer than two classes, once the new samples are joined with those kept before."""


class TooManyClasses(InvalidRequest):
    """More classes than the limits allow."""


class SamplesNotKept(InvalidRequest):
    """A version cannot be extended or repeated, because the client keeps no samples."""


class InvalidSettings(ServiceError, ValueError):
    """A setting outside its range, or one that does not exist."""


class InvalidKey(ServiceError, ValueError):
    """A key, or a name, scope or client of one, outside its rule."""


class UnknownKey(ServiceError, LookupError):
    """No key of that prefix."""


class KeyMissing(ServiceError):
    """A request without a key, where one is needed."""


class KeyRefused(ServiceError):
    """A request with a key that is unknown, wrong or revoked."""


class ScopeMissing(ServiceError):
    """A request that its key is not for."""


class UnknownClient(ServiceError, LookupError):
    """No client of that name, or none that the caller's key can access: both get the same message."""

    def __init__(self, client: str) -> None:
        super().__init__(f"there is no client {client!r}; it is created when it is adapted for the first time")


class UnknownVersion(ServiceError, LookupError):
    """The client has no version of that number (or it was deleted)."""


class UnknownAlias(ServiceError, LookupError):
    """The client has no alias of that name."""


class UnknownCheckpoint(ServiceError, LookupError):
    """No checkpoint of that name or path."""


class UnknownJob(ServiceError, LookupError):
    """This process has no job of that number, or has forgotten it."""


class JobCancelled(ServiceError):
    """The adaptation was ended on request, and made no version."""


class NothingLive(ServiceError):
    """The client has versions, but none of them is live."""


class NothingToRollBackTo(ServiceError):
    """The alias has no earlier version to go back to."""


class AliasConflict(ServiceError):
    """The alias was moved by somebody else since the caller read it."""


class VersionInUse(ServiceError):
    """The version is the target of an alias and can therefore not be deleted."""


class VersionCorrupt(ServiceError):
    """Stored weights or samples that do not match the digest they are named by."""


class ParentSuperseded(ServiceError):
    """The version that an extension builds on is no longer the one to build on; make it again from the new one."""


class IdempotencyMismatch(ServiceError):
    """The client has used that idempotency key before, with another request body."""


class IdempotencyInFlight(ServiceError):
    """An earlier request with the same idempotency key is still being worked on."""


class Overloaded(ServiceError):
    """The queue for this kind of work is full.

    Attributes:
        retry_after_s: when to try again, in seconds.
    """

    def __init__(self, message: str, retry_after_s: int) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class DeadlinePassed(Overloaded):
    """The time for the work was over before there was an answer."""


class RateExceeded(Overloaded):
    """One caller sends more requests, or has more of them in work, than its share."""


class DecoderUnavailable(Overloaded):
    """No process to decode an image in could be had; nothing was found out about the image."""


class StoreUnavailable(ServiceError):
    """The disk or the catalog failed; nothing that was not acknowledged has happened."""


class StoreFull(StoreUnavailable):
    """No space is left for a new version; reading goes on."""


class StoreIncompatible(StoreUnavailable):
    """The catalog was written by a newer release, or the file is not a catalog of this project."""
