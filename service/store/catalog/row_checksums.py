"""Seals: a digest that every row carries over what it says, so that a changed bit in it is found and never believed.

A seal covers the table's name, the client's name (so that no row passes for another client's) and every column that
says something; the numbers that only tie rows together are covered by what they lead to. It guards against decay, not
against somebody who can write to the database. Knows no query and no connection.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import RowMapping, Table

from service.domain.version import SampleRef
from service.errors import VersionCorrupt

Values = Mapping[str, Any] | RowMapping
"""What a row says, by column."""

SEAL: Final = "seal"
"""The column that holds a row's seal."""

_SEAL_BYTES: Final = 16
_TIES: Final = frozenset({"id", "client_id", "version_id", SEAL})


def sealed(table: Table, owner: str, values: Values) -> dict[str, Any]:
    """The values of a row with its seal among them; every column of the table that says something must be there."""
    return {**dict(values), SEAL: row_seal(table, owner, values)}


def verify(table: Table, owner: str, row: Values, what: str) -> None:
    """Hold a row that was read to its seal.

    Raises:
        VersionCorrupt: it does not say what was written.
    """
    if row[SEAL] != row_seal(table, owner, row):
        raise VersionCorrupt(f"the row of {what} is damaged: it does not match its seal; restore a backup")


def row_seal(table: Table, owner: str, values: Values) -> str:
    """The seal of a row of that table; `owner` is the client's name, or empty."""
    said = [values[column.name] for column in table.columns if column.name not in _TIES]
    return _digest([table.name, owner, *said])


def samples_seal(samples: Sequence[SampleRef]) -> str:
    """The seal of a version's samples in their order; the version's own row holds it."""
    return _digest([[sample.digest, sample.label, sample.name] for sample in samples])


def _digest(values: Sequence[Any]) -> str:
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":"), default=_told)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_SEAL_BYTES).hexdigest()


def _told(value: Any) -> str:
    """A moment; or what a damaged row holds in place of what JSON has, such as bytes, which no seal was made over."""
    return value.astimezone(UTC).isoformat() if isinstance(value, datetime) else repr(value)
