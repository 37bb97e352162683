"""Multipart forms to plain values: text fields and files, each checked against what the route takes.

It knows fields and sizes, not what an image or a class is. File names are kept for messages and are never paths.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import Request

from service.http.errors import (
    FieldDuplicate,
    FieldInvalid,
    FieldMissing,
    FieldsConflict,
    FieldUnknown,
    FileTooLarge,
    FormMalformed,
    TooManyParts,
)
from service.http.multipart import PartLimits, StrictParser
from service.http.plain_forms import LARGEST_BYTES, FilePart, Part, plain_parts
from service.settings import Settings
from service.usecases.uploads import Upload

_LARGEST: Final = 1e6
"""Of a number in a form; far above any rate that leads anywhere, and far below what single precision overflows at."""
_EXTRA_FIELDS: Final = 16

FIELD_BYTES: Final = 4 * 1024
"""One text field of a form."""

_TOO_MANY: Final = ("Too many", "Part exceeded", "Field exceeded")
"""How the parser's messages about too many or too long parts begin; a test holds them against the installed parser."""


@dataclass(frozen=True, slots=True)
class FormShape:
    """Which fields a form may have.

    Attributes:
        single: text fields that come at most once.
        repeated: text fields that may come many times.
        files: fields that hold files.
    """

    single: frozenset[str]
    repeated: frozenset[str]
    files: frozenset[str]

    @property
    def names(self) -> list[str]:
        """Every field, sorted."""
        return sorted(self.single | self.repeated | self.files)


@dataclass(frozen=True, slots=True)
class Fields:
    """Text fields of a form or a query, by name, in the order they came; the readers check kind and range."""

    texts: Mapping[str, tuple[str, ...]]

    def all(self, name: str) -> tuple[str, ...]:
        """Every value of a repeated field."""
        return self.texts.get(name, ())

    def text(self, name: str) -> str | None:
        """The value of a single field, or None.

        Raises:
            FieldDuplicate: it came more than once.
        """
        values = self.all(name)
        if len(values) > 1:
            raise FieldDuplicate(f"field {name!r} is given {len(values)} times; give it once")
        return values[0] if values else None

    def required(self, name: str) -> str:
        """The value of a single field that must be there.

        Raises:
            FieldMissing: it is not.
        """
        value = self.text(name)
        if value is None:
            raise FieldMissing(f"field {name!r} is missing; give it once")
        return value

    def integer(self, name: str, lowest: int, highest: int) -> int | None:
        """A whole number within bounds, or None when the field is absent.

        Raises:
            FieldInvalid: not a whole number, or out of bounds.
        """
        text = self.text(name)
        if text is None:
            return None
        digits = text.removeprefix("-")
        if not (digits.isascii() and digits.isdigit() and len(digits) <= 20 and lowest <= int(text) <= highest):
            raise FieldInvalid(f"field {name!r} is {_shown(text)}; allowed is a whole number {lowest} to {highest}")
        return int(text)

    def positive(self, name: str) -> float | None:
        """A number above zero and not beyond reason, or None when the field is absent.

        Raises:
            FieldInvalid: anything else.
        """
        text = self.text(name)
        if text is None:
            return None
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not 0 < number <= _LARGEST:
            raise FieldInvalid(f"field {name!r} is {_shown(text)}; allowed is a number above 0, at most {_LARGEST:g}")
        return number

    def choice(self, name: str, allowed: Collection[str], default: str) -> str:
        """One of the allowed words.

        Raises:
            FieldInvalid: another word.
        """
        text = self.text(name)
        if text is not None and text not in allowed:
            raise FieldInvalid(f"field {name!r} is {_shown(text)}; allowed is {' or '.join(sorted(allowed))}")
        return default if text is None else text

    def only_one_of(self, *names: str) -> None:
        """Raises FieldsConflict when more than one of these fields is there."""
        there = [name for name in names if self.all(name)]
        if len(there) > 1:
            raise FieldsConflict(f"fields {' and '.join(map(repr, there))} exclude each other; give one of them")


@dataclass(frozen=True, slots=True)
class Form:
    """A form that was read: its text fields, and its files by field."""

    fields: Fields
    files: Mapping[str, tuple[Upload, ...]]


async def read_form(request: Request, shape: FormShape, settings: Settings) -> Form:
    """Read a multipart body whose size has been bounded before.

    A single field with empty text, and a file field with nothing chosen, count as absent: so do browsers send them.

    Raises:
        FormMalformed, TooManyParts, FieldUnknown, FieldInvalid, FileTooLarge: each names the part.
    """
    if request.query_params:
        names = ", ".join(request.query_params.keys())
        raise FieldUnknown(f"the query has {names}; with a form every field belongs into the form")
    max_fields = settings.max_files + _EXTRA_FIELDS
    largest = max(settings.file_bytes, settings.adapt_body_bytes if "archive" in shape.files else 0)
    limits = PartLimits(settings.max_files, max_fields, FIELD_BYTES, largest)
    try:
        return _sort(await _parts(request, limits), shape, settings)
    except MultiPartException as error:
        raise _unreadable(error.message, settings, max_fields) from error


def read_query(request: Request, allowed: Collection[str]) -> Fields:
    """Read the query.

    Raises:
        FieldUnknown: a name that does not exist.
    """
    texts: dict[str, tuple[str, ...]] = {}
    for name, value in request.query_params.multi_items():
        if name not in allowed:
            raise FieldUnknown(f"the query has {_shown(name)}; allowed are {', '.join(sorted(allowed))}")
        texts[name] = (*texts.get(name, ()), value)
    return Fields(texts)


def check_size(upload: Upload, settings: Settings) -> Upload:
    """Return `upload` unless it is too large.

    Raises:
        FileTooLarge: names the file and the limit.
    """
    if len(upload.content) > settings.file_bytes:
        raise FileTooLarge(
            f"file {_shown(upload.name)} has {len(upload.content)} bytes; at most {settings.file_bytes} are allowed"
        )
    return upload


async def _parts(request: Request, limits: PartLimits) -> list[Part]:
    """The form's parts, small and plain ones in one sweep.

    Raises:
        MultiPartException, FileTooLarge.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) <= LARGEST_BYTES:
        parts = plain_parts(request.headers["content-type"], await request.body(), limits)
        if parts is not None:
            return parts
    form = await StrictParser(request.headers, request.stream(), limits).parse()
    try:
        return [(name, await _read(value)) for name, value in form.multi_items()]
    finally:
        await form.close()


async def _read(value: UploadFile | str) -> FilePart | str:
    return value if isinstance(value, str) else FilePart(value.filename or "", await value.read())


def _sort(parts: Sequence[Part], shape: FormShape, settings: Settings) -> Form:
    texts: dict[str, tuple[str, ...]] = {}
    files: dict[str, tuple[Upload, ...]] = {}
    for name, value in parts:
        if name not in shape.names:
            raise FieldUnknown(f"the form has a field {_shown(name)}; allowed are {', '.join(shape.names)}")
        if _left_empty(name, value, shape):
            continue
        if isinstance(value, FilePart):
            if name not in shape.files:
                raise FieldInvalid(f"field {name!r} came as a file; give it as text")
            upload = Upload(value.file_name or f"{name}[{len(files.get(name, ()))}]", value.content)
            files[name] = (*files.get(name, ()), upload if name == "archive" else check_size(upload, settings))
        elif name in shape.files:
            raise FieldInvalid(f"field {name!r} came as text; give it as a file (with curl: -F {name}=@part.png)")
        else:
            texts[name] = (*texts.get(name, ()), value)
    for name in shape.single:
        Fields(texts).text(name)
    return Form(Fields(texts), files)


def _left_empty(name: str, value: FilePart | str, shape: FormShape) -> bool:
    if isinstance(value, FilePart):
        return name in shape.files and not value.file_name and not value.content
    return name not in shape.repeated and not value


def _unreadable(message: str, settings: Settings, max_fields: int) -> FormMalformed:
    if message.startswith(_TOO_MANY):
        return TooManyParts(
            f"{message.rstrip('.')}; a form takes {settings.max_files} files and {max_fields} text fields "
            f"of {FIELD_BYTES} bytes each"
        )
    return FormMalformed(f"the form cannot be read: {message.rstrip('.')}; send multipart/form-data with a boundary")


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:80] + "…")
