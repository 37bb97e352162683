"""Reads uploads: multipart forms, streamed and bounded while they arrive, and their fields.

Names of files are kept to show them in messages. They are never used as paths. Files are not checked to be images; the
decoder rejects them if they are not.
"""

from __future__ import annotations

import codecs
import math
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from service.domain.modality import read_given
from service.domain.version import clean_file_name
from service.http.problems import (
    ConflictingFields,
    DuplicateField,
    FileTooLarge,
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

GIVEN: Final = frozenset({"texts", "vectors"})
"""Repeated fields for what comes with images."""

OnClient = Callable[[str], Awaitable[object]]
"""Is called with the name of a client."""

_EXTRA_FIELDS: Final = 16

_CHARSETS: Final = frozenset(
    [
        *("utf-8", "ascii", "gb2312", "gbk", "gb18030", "big5", "big5hkscs", "shift_jis", "cp932", "euc_jp"),
        *("euc_kr", "cp949", "koi8-r", "koi8-u", "cp437", "cp850", "cp852", "cp866", "cp874", "tis-620", "mac-roman"),
        *(f"cp{number}" for number in range(1250, 1259)),
        *(f"iso8859-{number}" for number in range(1, 17)),
    ]
)
"""Charsets that a text field may name, as Python names them. Some other codecs of Python fail on any text."""

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
    def fields_per_file(self) -> int:
        """Repeated text fields that a form has for each file; at least 1. Texts and vectors exclude each other."""
        return max(1, len(self.repeated) - len(GIVEN & self.repeated) // 2)

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
                f"field {name!r} is {shown(text)}; allowed: an integer from {lowest} to {highest}{of_setting(setting)}"
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
            raise InvalidField(f"field {name!r} is {shown(text)}; allowed: a number above 0 and at most {MAX_NUMBER:g}")
        return number

    def choice(self, name: str, allowed: Collection[str], default: str) -> str:
        """Return a field with one of the allowed values.

        Raises:
            InvalidField: another value.
        """
        text = self.text(name)
        if text is not None and text not in allowed:
            raise InvalidField(f"field {name!r} is {shown(text)}; allowed: {' or '.join(sorted(allowed))}")
        return default if text is None else text


@dataclass(frozen=True, slots=True)
class Form:
    """A form: its text fields, and its files by field."""

    fields: Fields
    files: Mapping[str, tuple[Upload, ...]]


async def read_form(request: Request, shape: FormShape, settings: Settings, on_client: OnClient | None = None) -> Form:
    """Read a multipart form. `LimitsMiddleware` bounds the size of the body.

    Empty text in a single field and a file field without a file count as missing, because browsers send them so.

    Args:
        request: its body has not been read.
        shape: the fields that the form may have.
        settings: the limits.
        on_client: is called with the field `client` as soon as it has been read, while the rest is still on its way.

    Raises:
        The errors of `on_client`.
        MalformedForm, TooManyParts, UnknownField, DuplicateField, InvalidField, FileTooLarge: each names the part.
    """
    in_query = [name for name, value in request.query_params.multi_items() if value]
    if in_query:
        raise UnknownField(f"the query has {', '.join(in_query)}; put all fields into the form")
    _require_utf8(request.headers["content-type"])
    parser = _BoundedParser(request, shape, settings, on_client)
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
            raise UnknownField(f"the query has {shown(name)}; allowed: {', '.join(sorted(allowed))}")
        if value:
            texts[name] = (*texts.get(name, ()), value)
    return Fields(texts)


def check_query(request: Request, allowed: Collection[str]) -> None:
    """Check the names of the query.

    Raises:
        UnknownField: a name that is not allowed.
        DuplicateField: a name that was given more than once.
    """
    fields = read_query(request, allowed)
    for name in fields.texts:
        fields.text(name)


def check_size(upload: Upload, settings: Settings) -> Upload:
    """Return `upload`.

    Raises:
        FileTooLarge: it has too many bytes.
    """
    if len(upload.content) > settings.file_bytes:
        raise FileTooLarge(
            f"file {shown(upload.name)} has {len(upload.content)} bytes; allowed: at most {settings.file_bytes} "
            "(ANOLE_FILE_BYTES)"
        )
    return upload


GIVEN_FORM: Final[dict[str, Any]] = {
    "texts": {
        "type": "array",
        "items": {"type": "string", "examples": [""]},
        "description": "optional, one per image, in the same order, empty for an image without: a note or a code, such "
        "as `drive side, shift 2`, for models that take texts (`takes` of GET /models)",
    },
    "vectors": {
        "type": "array",
        "items": {"type": "string", "examples": [""]},
        "description": "optional, the same with JSON arrays of numbers, such as readings `[21.5, 0.03]`, for "
        "models that take vectors",
    },
}


def with_given(fields: Fields, uploads: Sequence[Upload]) -> tuple[Upload, ...]:
    """Return the uploads, each with its text or its numbers.

    Raises:
        ModalityCountMismatch, InvalidRequest: see `read_given`.
    """
    given = read_given(fields.all("texts"), fields.all("vectors"), len(uploads))
    return tuple(replace(upload, second=one) for upload, one in zip(uploads, given, strict=True))


class _BoundedParser(MultiPartParser):
    """Starlette's parser, which also bounds each file while it arrives and requires the closing boundary.

    Files stay in memory, which `LimitsMiddleware` has taken for them, so that a full disk rejects no upload.
    """

    spool_max_size = sys.maxsize

    def __init__(self, request: Request, shape: FormShape, settings: Settings, on_client: OnClient | None) -> None:
        super().__init__(
            request.headers,
            self._chunks(request.stream()),
            max_files=settings.max_files,
            max_fields=settings.max_files * shape.fields_per_file + _EXTRA_FIELDS,
            max_part_size=FIELD_BYTES,
        )
        archives = "archive" in shape.files
        self._file_fields = shape.files
        self._max_file_bytes = max(settings.file_bytes, settings.adapt_body_bytes if archives else 0)
        self._file_setting = "ANOLE_ADAPT_BODY_BYTES" if archives else "ANOLE_FILE_BYTES"
        self._part_bytes = 0
        self._complete = False
        self._client = ""
        self._on_client = on_client

    async def _chunks(self, stream: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        """Pass the chunks of the body on. The parser has parsed one when it asks for the next."""
        async for chunk in stream:
            yield chunk
            if self._client and self._on_client is not None:
                await self._on_client(self._client)
                self._client = ""

    def on_part_begin(self) -> None:
        super().on_part_begin()
        self._part_bytes = 0

    def on_headers_finished(self) -> None:
        """Starlette reads names that are not in UTF-8 as Latin-1."""
        options = parse_options_header(self._current_part.content_disposition)[1]
        for option, what in ((b"name", "field"), (b"filename", "file")):
            _decoded(options.get(option, b""), "utf-8", f"the name of a {what}")
        super().on_headers_finished()

    def on_part_end(self) -> None:
        """Starlette reads texts that are not in UTF-8 as Latin-1, and ignores the charset of a part."""
        part = self._current_part
        if part.file is None:
            if part.data and part.field_name in self._file_fields:
                raise _sent_as_text(part.field_name)
            charset = parse_options_header(dict(part.item_headers).get(b"content-type"))[1].get(b"charset", b"utf-8")
            text = _decoded(bytes(part.data), charset.decode("latin-1"), f"field {part.field_name!r}")
            self.items.append((part.field_name, text))
            if part.field_name == "client":
                self._client = text
        else:
            super().on_part_end()

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._part_bytes += end - start
        file = self._current_part.file
        if file is None and self._part_bytes > FIELD_BYTES and self._current_part.field_name in self._file_fields:
            raise _sent_as_text(self._current_part.field_name)
        if file is not None and self._part_bytes > self._max_file_bytes:
            raise FileTooLarge(
                f"file {shown(file.filename or '')} has more than {self._max_file_bytes} bytes, which is the limit "
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
            raise UnknownField(f"the form has a field {shown(name)}; allowed: {', '.join(shape.names)}")
        if isinstance(value, UploadFile):
            if name not in shape.files:
                raise InvalidField(f"field {name!r} was sent as a file; send it as text")
            content = await value.read()
            if content or value.filename:
                file_name = clean_file_name(value.filename or "") or f"{name}[{len(files.get(name, ()))}]"
                upload = Upload(file_name, content)
                files[name] = (*files.get(name, ()), upload if name == "archive" else check_size(upload, settings))
        elif value or name in shape.repeated:
            texts[name] = (*texts.get(name, ()), value)
    fields = Fields(texts)
    for name in shape.single:
        fields.text(name)
    return Form(fields, files)


def _sent_as_text(name: str) -> InvalidField:
    return InvalidField(f"field {name!r} was sent as text; send it as a file (with curl: -F {name}=@part.png)")


def _decoded(content: bytes, charset: str, what: str) -> str:
    """Decode a text of a form. Raises InvalidField if it is not in its charset."""
    try:
        if codecs.lookup(charset).name in _CHARSETS:
            return content.decode(charset)
        reason = f"has the charset {shown(charset)}, which is not supported"
    except (LookupError, UnicodeDecodeError):
        reason = f"is not in the charset {shown(charset)}"
    raise InvalidField(f"{what} {reason}; send text in UTF-8, or name its charset in the Content-Type of the part")


def _require_utf8(content_type: str) -> None:
    """Check the charset of a form. Starlette decodes with any codec of Python, and some of them fail on any text.

    Raises:
        MalformedForm: another charset than UTF-8.
    """
    charset = parse_options_header(content_type)[1].get(b"charset", b"utf-8").decode("latin-1")
    if charset.lower() not in {"utf-8", "utf8"}:
        raise MalformedForm(f"the form has the charset {shown(charset)}; allowed: utf-8, or no charset")


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


def shown(text: str) -> str:
    """Return a text that a sender chose as it appears in a message: quoted and shortened."""
    return repr(text if len(text) <= 80 else text[:80] + "…")


def reject_together(fields: Fields, names: Sequence[str]) -> None:
    """Check that at most one of the fields was given.

    Raises:
        ConflictingFields: more than one was given.
    """
    given = [name for name in names if fields.all(name)]
    if len(given) > 1:
        raise ConflictingFields(f"fields {' and '.join(map(repr, given))} cannot be combined; give one of them")
