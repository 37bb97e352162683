"""Errors that only HTTP can have: bodies, media types, forms, preconditions. Statuses are in ``problems.py``."""

from __future__ import annotations

from models.errors import AnoleError


class RequestRefused(AnoleError, ValueError):
    """A request that was refused before any use case saw it."""


class BodyTooLarge(RequestRefused):
    """More bytes in the body than this route takes."""


class FileTooLarge(RequestRefused):
    """One uploaded file with more bytes than allowed."""


class HeadAmbiguous(RequestRefused):
    """Headers that two readers may read differently."""


class OriginRefused(RequestRefused):
    """A request that a page of another site sent through a browser on this machine."""


class MediaTypeUnsupported(RequestRefused):
    """A body of a media type, or with a content encoding, that this route does not take."""


class FormMalformed(RequestRefused):
    """A body that is not a well-formed multipart form."""


class TooManyParts(FormMalformed):
    """More files or fields in a form, or a longer field, than allowed."""


class FieldMissing(RequestRefused):
    """A form or query without a field that is needed."""


class FieldUnknown(RequestRefused):
    """A form or query with a field that does not exist here."""


class FieldDuplicate(RequestRefused):
    """A field given twice that takes one value."""


class FieldInvalid(RequestRefused):
    """A field with a value outside its range or of the wrong kind."""


class FieldsConflict(RequestRefused):
    """Fields that exclude each other."""


class ArchiveInvalid(RequestRefused):
    """An archive that is not a readable zip of one folder a class."""


class ArchiveTooLarge(RequestRefused):
    """An archive with more entries, or more bytes once unpacked, than allowed."""


class PreconditionInvalid(RequestRefused):
    """An If-Match or If-None-Match header that cannot be understood."""
