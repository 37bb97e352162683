"""Reads uploads: multipart forms, streamed and bounded while they arrive, their fields, and zip archives in them.

Names of files and archive entries are kept to show them in messages. They are never used as paths. Files are not
checked to be images; the decoder rejects them if they are not.
"""

from __future__ import annotations

import io
import math
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from models.errors import AnoleError
from service.errors import NoSamples
from service.http.problems import (
    ArchiveTooLarge,
    ConflictingFields,
    DuplicateField,
    FileTooLarge,
    InvalidArchive,
    InvalidField,
    MalformedForm,
    MissingField,
    TooManyParts,
    UnknownField,
    of_setting,
)
from service.runtime.decoder import Upload
from service.settings import Settings

FIELD_BYTES: Final = 4 * 1024
"""Largest text field of a form."""

MAX_NUMBER: Final = 1e6
"""Largest number in a field: far above any useful learning rate, and far below the overflow of float32."""

ARCHIVE_GROWTH: Final = 2
"""How many times as many bytes as the body of a request the files of an archive may have after decompression."""

_EXTRA_FIELDS: Final = 16

_LAYOUT: Final = "an archive has one folder per class, with the images of the class in it"
_IGNORED: Final = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini"})
_COMPRESSIONS: Final = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
_ENCRYPTED: Final = 0x1
_UNREADABLE: Final = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OverflowError, RuntimeError, ValueError)
"""What zipfile raises for invalid offsets, sizes and names."""
_CENTRAL_DIRECTORY_ENTRIES: Final = 4096
"""Maximum number of entries, including ignored ones."""
_ENTRY_SIGNATURE: Final = b"PK\x01\x02"
"""Begins each entry of the central directory."""

_TOO_LONG: Final = ("Part exceeded", "Field exceeded")
"""How Starlette's messages about a text field that is too long begin."""


@dataclass(frozen=True, slots=True)
class FormShape:
    """The fields that a form may have.

    Attributes:
        single: text fields that may be given once.
        repeated: text fields that may be given many times.
        files: file fields.
    """

    single: frozenset[str]
    repeated: frozenset[str]
    files: frozenset[str]

    @property
    def names(self) -> list[str]:
        """All fields, sorted."""
        return sorted(self.single | self.repeated | self.files)


@dataclass(frozen=True, slots=True)
class Fields:
    """Text fields of a form or a query: name -> values, in the order in which they were sent."""

    texts: Mapping[str, tuple[str, ...]]

    def all(self, name: str) -> tuple[str, ...]:
        """Return all values of a field."""
        return self.texts.get(name, ())

    def text(self, name: str) -> str | None:
        """Return the value of a field, or None if it is missing.

        Raises:
            DuplicateField: it was given more than once.
        """
        values = self.all(name)
        if len(values) > 1:
            raise DuplicateField(f"field {name!r} was given {len(values)} times; give it once")
        return values[0] if values else None

    def required(self, name: str) -> str:
        """Return the value of a field.

        Raises:
            MissingField: it is missing.
        """
        value = self.text(name)
        if value is None:
            raise MissingField(f"field {name!r} is missing; give it once")
        return value

    def integer(self, name: str, lowest: int, highest: int, setting: str = "") -> int | None:
        """Return an integer field, or None if it is missing. `setting` is the variable that sets `highest`, if any.

        Raises:
            InvalidField: not an integer, or out of range.
        """
        text = self.text(name)
        if text is None:
            return None
        digits = text.removeprefix("-")
        if not (digits.isascii() and digits.isdigit() and len(digits) <= 20 and lowest <= int(text) <= highest):
            raise InvalidField(
                f"field {name!r} is {_shown(text)}; allowed: an integer from {lowest} to {highest}{of_setting(setting)}"
            )
        return int(text)

    def positive(self, name: str) -> float | None:
        """Return a field with a positive number, or None if it is missing.

        Raises:
            InvalidField: not a number, not positive, or above `MAX_NUMBER`.
        """
        text = self.text(name)
        if text is None:
            return None
        try:
            number = float(text) if text.isascii() and "_" not in text else math.nan  # float() accepts 1_0 as 10
        except ValueError:
            number = math.nan
        if not 0 < number <= MAX_NUMBER:
            raise InvalidField(
                f"field {name!r} is {_shown(text)}; allowed: a number above 0 and at most {MAX_NUMBER:g}"
            )
        return number

    def choice(self, name: str, allowed: Collection[str], default: str) -> str:
        """Return a field with one of the allowed values.

        Raises:
            InvalidField: another value.
        """
        text = self.text(name)
        if text is not None and text not in allowed:
            raise InvalidField(f"field {name!r} is {_shown(text)}; allowed: {' or '.join(sorted(allowed))}")
        return default if text is None else text


@dataclass(frozen=True, slots=True)
class Form:
    """A form: its text fields, and its files by field."""

    fields: Fields
    files: Mapping[str, tuple[Upload, ...]]


async def read_form(request: Request, shape: FormShape, settings: Settings) -> Form:
    """Read a multipart form. `LimitsMiddleware` bounds the size of the body.

    Empty text in a single field and a file field without a file count as missing, because browsers send them so.

    Raises:
        MalformedForm, TooManyParts, UnknownField, DuplicateField, InvalidField, FileTooLarge: each names the part.
    """
    in_query = [name for name, value in request.query_params.multi_items() if value]
    if in_query:
        raise UnknownField(f"the query has {', '.join(in_query)}; put all fields into the form")
    _require_utf8(request.headers["content-type"])
    parser = _BoundedParser(request, shape, settings)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise _rejected(error.message, settings.max_files, parser.max_fields) from error
    try:
        return await _checked(form, shape, settings)
    finally:
        await form.close()


def read_query(request: Request, allowed: Collection[str]) -> Fields:
    """Read the query. Empty values count as missing.

    Raises:
        UnknownField: a name that is not allowed.
    """
    texts: dict[str, tuple[str, ...]] = {}
    for name, value in request.query_params.multi_items():
        if name not in allowed:
            raise UnknownField(f"the query has {_shown(name)}; allowed: {', '.join(sorted(allowed))}")
        if value:
            texts[name] = (*texts.get(name, ()), value)
    return Fields(texts)


def check_size(upload: Upload, settings: Settings) -> Upload:
    """Return `upload`.

    Raises:
        FileTooLarge: it has too many bytes.
    """
    if len(upload.content) > settings.file_bytes:
        raise FileTooLarge(
            f"file {_shown(upload.name)} has {len(upload.content)} bytes; allowed: at most {settings.file_bytes} "
            "(ANOLE_FILE_BYTES)"
        )
    return upload


class _BoundedParser(MultiPartParser):
    """Starlette's parser, which also bounds each file while it arrives and requires the closing boundary.

    Files stay in memory, which `LimitsMiddleware` has taken for them, so that a full disk rejects no upload.
    """

    spool_max_size = sys.maxsize

    def __init__(self, request: Request, shape: FormShape, settings: Settings) -> None:
        super().__init__(
            request.headers,
            request.stream(),
            max_files=settings.max_files,
            max_fields=settings.max_files * max(1, len(shape.repeated)) + _EXTRA_FIELDS,
            max_part_size=FIELD_BYTES,
        )
        archives = "archive" in shape.files
        self._file_fields = shape.files
        self._max_file_bytes = max(settings.file_bytes, settings.adapt_body_bytes if archives else 0)
        self._file_setting = "ANOLE_ADAPT_BODY_BYTES" if archives else "ANOLE_FILE_BYTES"
        self._part_bytes = 0
        self._complete = False

    def on_part_begin(self) -> None:
        super().on_part_begin()
        self._part_bytes = 0

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._part_bytes += end - start
        file = self._current_part.file
        if file is None and self._part_bytes > FIELD_BYTES and self._current_part.field_name in self._file_fields:
            raise _sent_as_text(self._current_part.field_name)
        if file is not None and self._part_bytes > self._max_file_bytes:
            raise FileTooLarge(
                f"file {_shown(file.filename or '')} has more than {self._max_file_bytes} bytes, which is the limit "
                f"({self._file_setting})"
            )
        super().on_part_data(data, start, end)

    def on_end(self) -> None:
        self._complete = True
        super().on_end()

    async def parse(self) -> FormData:
        form = await super().parse()
        if not self._complete:
            for file in self._files_to_close_on_error:
                file.close()
            raise MultiPartException("The closing boundary is missing.")
        return form


async def _checked(form: FormData, shape: FormShape, settings: Settings) -> Form:
    texts: dict[str, tuple[str, ...]] = {}
    files: dict[str, tuple[Upload, ...]] = {}
    for name, value in form.multi_items():
        if name not in shape.names:
            raise UnknownField(f"the form has a field {_shown(name)}; allowed: {', '.join(shape.names)}")
        if isinstance(value, UploadFile):
            if name not in shape.files:
                raise InvalidField(f"field {name!r} was sent as a file; send it as text")
            content = await value.read()
            if content or value.filename:
                upload = Upload(value.filename or f"{name}[{len(files.get(name, ()))}]", content)
                files[name] = (*files.get(name, ()), upload if name == "archive" else check_size(upload, settings))
        elif value and name in shape.files:
            raise _sent_as_text(name)
        elif value or name in shape.repeated:
            texts[name] = (*texts.get(name, ()), value)
    fields = Fields(texts)
    for name in shape.single:
        fields.text(name)
    return Form(fields, files)


def _sent_as_text(name: str) -> InvalidField:
    return InvalidField(f"field {name!r} was sent as text; send it as a file (with curl: -F {name}=@part.png)")


def _require_utf8(content_type: str) -> None:
    """Check the charset of a form. Starlette decodes with any codec of Python, and some of them fail on any text.

    Raises:
        MalformedForm: another charset than UTF-8.
    """
    charset = parse_options_header(content_type)[1].get(b"charset", b"utf-8").decode("latin-1")
    if charset.lower() not in {"utf-8", "utf8"}:
        raise MalformedForm(f"the form has the charset {_shown(charset)}; allowed: utf-8, or no charset")


def _rejected(message: str, max_files: int, max_fields: int | float) -> MalformedForm:
    if message.startswith("Too many files"):
        return TooManyParts(
            f"the form has more than {max_files} files, which is the limit (ANOLE_MAX_FILES); send the other files in "
            "further requests"
        )
    if message.startswith("Too many fields"):
        return TooManyParts(
            f"the form has more than {max_fields} text fields, which is the limit for {max_files} files "
            "(ANOLE_MAX_FILES); send one label for each file, and the other files in further requests"
        )
    if message.startswith(_TOO_LONG):
        return TooManyParts(f"a text field of the form has more than {FIELD_BYTES} bytes, which is the limit")
    message = message.rstrip(".")
    return MalformedForm(f"the form cannot be parsed: {message}; send multipart/form-data with a boundary")


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:80] + "…")


def reject_together(fields: Fields, names: Sequence[str]) -> None:
    """Check that at most one of the fields was given.

    Raises:
        ConflictingFields: more than one was given.
    """
    given = [name for name in names if fields.all(name)]
    if len(given) > 1:
        raise ConflictingFields(f"fields {' and '.join(map(repr, given))} cannot be combined; give one of them")


def unpack(
    archive: Upload, settings: Settings, take_memory: Callable[[int], None] = lambda _size_bytes: None
) -> tuple[tuple[Upload, ...], tuple[str, ...]]:
    """Return the images of a zip archive with one folder per class, and as their labels the names of their folders.

    Sizes are limited and nothing is written. One folder around the class folders is allowed. Hidden files and files of
    operating systems are ignored.

    Args:
        archive: the zip file.
        settings: the limits.
        take_memory: is called with the size of all files before the first one is unpacked, and may raise.

    Raises:
        InvalidArchive: not a zip file, encrypted, damaged, without class folders, or with ".." in a path.
        ArchiveTooLarge: too many entries, or too many bytes after decompression.
        FileTooLarge: an entry is too large.
        NoSamples: it has no files.
    """
    if archive.content.count(_ENTRY_SIGNATURE) > _CENTRAL_DIRECTORY_ENTRIES:  # zipfile would read all entries first
        raise ArchiveTooLarge(f"the archive has more than {_CENTRAL_DIRECTORY_ENTRIES} entries, which is the limit")
    try:
        with zipfile.ZipFile(io.BytesIO(archive.content)) as opened:
            entries = _entries(opened, settings)
            labels = _folders_of([entry.filename for entry in entries])
            take_memory(sum(entry.file_size for entry in entries))  # zipfile reads no more than that
            uploads = tuple(check_size(_read_entry(opened, entry, settings), settings) for entry in entries)
    except AnoleError:
        raise  # our own errors are more precise than those of zipfile
    except _UNREADABLE as error:
        raise InvalidArchive(f"archive {archive.name!r} is not a readable zip file: {error}") from error
    return uploads, labels


def _entries(opened: zipfile.ZipFile, settings: Settings) -> list[zipfile.ZipInfo]:
    listed = opened.infolist()
    if not all(entry.filename for entry in listed):  # zipfile cuts names at a NUL
        raise InvalidArchive(f"an entry of the archive has no name; {_LAYOUT}")
    entries = [entry for entry in listed if not entry.is_dir() and not _ignored(entry.filename)]
    if len(entries) > settings.max_files:
        raise ArchiveTooLarge(
            f"the archive has {len(entries)} files; allowed: at most {settings.max_files} (ANOLE_MAX_FILES); send the "
            "other files in further requests, which extend the version"
        )
    if not entries:
        raise NoSamples(f"the archive has no files; {_LAYOUT}")
    unpacked_bytes = sum(entry.file_size for entry in entries)
    max_bytes = ARCHIVE_GROWTH * settings.adapt_body_bytes
    if unpacked_bytes > max_bytes:
        raise ArchiveTooLarge(
            f"the archive has {unpacked_bytes} bytes after decompression; allowed: at most {max_bytes}, which is "
            f"{ARCHIVE_GROWTH} times ANOLE_ADAPT_BODY_BYTES"
        )
    for entry in entries:
        if entry.flag_bits & _ENCRYPTED or entry.compress_type not in _COMPRESSIONS:
            raise InvalidArchive(f"entry {entry.filename!r} is encrypted, or compressed by another method than deflate")
    return entries


def _read_entry(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, settings: Settings) -> Upload:
    """Read an entry, but only one byte more than allowed, because the size in its header may be wrong."""
    with opened.open(entry) as stream:
        return Upload(entry.filename, stream.read(settings.file_bytes + 1))


def _folders_of(names: list[str]) -> tuple[str, ...]:
    """Return the folder of each entry. All must have the same depth, with at most one folder around them."""
    parts = [_steps(name) for name in names]
    depths = {len(steps) for steps in parts}
    if len(depths) != 1 or not depths <= {2, 3} or (depths == {3} and len({steps[0] for steps in parts}) > 1):
        odd = next((name for name, steps in zip(names, parts, strict=True) if len(steps) not in {2, 3}), names[-1])
        raise InvalidArchive(f"entry {odd!r} does not fit: {_LAYOUT}, and at most one folder around them")
    return tuple(steps[-2] for steps in parts)


def _ignored(name: str) -> bool:
    steps = _steps(name)
    if ".." in steps:
        raise InvalidArchive(f"entry {_shown(name)} has '..' in its path; {_LAYOUT}")
    return any(step.startswith(".") or step in _IGNORED for step in steps)


def _steps(name: str) -> list[str]:
    """Return the folders and the file of a path, without "." steps."""
    return [step for step in name.split("/") if step != "."]
