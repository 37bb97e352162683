"""Exported files that are zips: finds and reads what is in them. Nothing is decompressed, so nothing grows."""

from __future__ import annotations

import io
import json
import zipfile
from typing import Final

from models.errors import ExportInvalid
from models.inference.exports.file import Description

ZIP: Final = b"PK\x03\x04"
"""How a zip begins."""

DESCRIPTION: Final = "anole.json"


def description_name(content: bytes) -> str:
    """Return the name of the description in a zip: `anole.json`, with or without folders.

    Raises:
        ExportInvalid: there is none.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = [name for name in archive.namelist() if name.rpartition("/")[2] == DESCRIPTION]
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError) as error:
        raise _damaged(error) from error
    if len(names) != 1:
        raise ExportInvalid(f"the zip has {len(names)} files {DESCRIPTION}; give a file from `anole export`")
    return names[0]


def read_description(content: bytes) -> Description:
    """Read what an exported zip says about itself.

    Raises:
        ExportInvalid: it is not an exported version.
    """
    try:
        texts = json.loads(read_member(content, description_name(content)))
    except (ValueError, RecursionError) as error:
        raise ExportInvalid(f"{DESCRIPTION} in the zip is damaged ({error}); export it again") from error
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise ExportInvalid(f"{DESCRIPTION} in the zip is not a JSON object of texts; export it again")
    return Description.from_texts(texts)


def read_member(content: bytes, name: str) -> bytes:
    """Return a file of a zip. Only stored files are read, so that none is larger than the zip. Raises ExportInvalid."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
                raise ExportInvalid(f"{name} in the zip is compressed; give the file from `anole export` as it was")
            return archive.read(name)
    except (zipfile.BadZipFile, KeyError, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise _damaged(error) from error


def _damaged(error: Exception) -> ExportInvalid:
    return ExportInvalid(f"the zip is damaged or not an exported version ({error}); export it again")
