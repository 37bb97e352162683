"""Starlette's multipart parser, grown stricter: a form ends where it says, and no file passes its size on its way in.

It knows parts and bytes, not which fields a route takes.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass

from starlette.datastructures import FormData, Headers
from starlette.formparsers import MultiPartException, MultiPartParser

from service.http.errors import FileTooLarge


@dataclass(frozen=True, slots=True)
class PartLimits:
    """What a form may bring.

    Attributes:
        max_files: parts with a file name.
        max_fields: parts without.
        field_bytes: one of those.
        file_bytes: one file, whatever field it is in.
    """

    max_files: int
    max_fields: int
    field_bytes: int
    file_bytes: int


class StrictParser(MultiPartParser):
    """One form, read once."""

    def __init__(self, headers: Headers, stream: AsyncGenerator[bytes, None], limits: PartLimits) -> None:
        super().__init__(
            headers,
            stream,
            max_files=limits.max_files,
            max_fields=limits.max_fields,
            max_part_size=limits.field_bytes,
        )
        self._file_bytes = limits.file_bytes
        self._received = 0
        self._ended = False

    def on_part_begin(self) -> None:
        """The next part; counting begins anew."""
        super().on_part_begin()
        self._received = 0

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        """Count what comes of a file, before it is kept.

        Raises:
            FileTooLarge: at the first byte too many.
        """
        self._received += end - start
        file = self._current_part.file
        if file is not None and self._received > self._file_bytes:
            shown = (file.filename or "")[:80]
            raise FileTooLarge(f"file {shown!r} has more than {self._file_bytes} bytes, which is what is allowed")
        super().on_part_data(data, start, end)

    def on_end(self) -> None:
        """The closing boundary."""
        self._ended = True
        super().on_end()

    async def parse(self) -> FormData:
        """The form's parts; what was kept of them is closed with it.

        Raises:
            MultiPartException: it is not well formed, has too many parts, or stops before its end.
            FileTooLarge: a file is too large.
        """
        form = await super().parse()
        if not self._ended:
            for file in self._files_to_close_on_error:
                file.close()
            raise MultiPartException("The closing boundary is missing.")
        return form
