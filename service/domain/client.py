"""A client: its settings, and how it appears in a list."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any, Final

from service.domain.version import AliasMove
from service.errors import InvalidRequest, StoreIncompatible

MAX_KEEP_LAST: Final = 100_000


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """The settings of one client. A client that never set any has the defaults.

    Attributes:
        retain_samples: False stores no images. A version is then made from the samples of one request and cannot be
            extended.
        keep_last: number of newest versions that a collection keeps, besides those with an alias; None keeps all.
        floor: estimated accuracy, 0 to 1, that a version must reach to go live; None is half way from guessing to 1.
        tolerance: share of the kept samples of a class, 0 to 1, that a new version may lose and still go live; None is
            a quarter, and always one sample.

    Raises:
        InvalidRequest: a value is outside its range.
    """

    retain_samples: bool = True
    keep_last: int | None = None
    floor: float | None = None
    tolerance: float | None = None

    def __post_init__(self) -> None:
        if self.keep_last is not None and not 1 <= self.keep_last <= MAX_KEEP_LAST:
            raise InvalidRequest(f"keep_last is {self.keep_last}; use 1 to {MAX_KEEP_LAST}, or null to keep all")
        for name in ("floor", "tolerance"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise InvalidRequest(f"{name} is {value}; use a number from 0 to 1, or null for the default")

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ClientSettings:
        """Read what `to_json` returned; settings that are missing get their defaults.

        Raises:
            StoreIncompatible: there is a setting that this release does not have, and must not ignore.
        """
        unknown = sorted(data.keys() - {field.name for field in fields(cls)})
        if unknown:
            raise StoreIncompatible(
                f"a client has the setting {', '.join(unknown)}, which this release does not have; a newer release "
                "wrote it: install that release"
            )
        return cls(**data)


@dataclass(frozen=True, slots=True)
class ClientSummary:
    """A client as an entry of a list.

    Attributes:
        name: client name.
        created_at: UTC.
        versions: number of versions, without deleted ones.
        latest: highest version number ever assigned, 0 if none.
        aliases: alias name -> its latest move.
    """

    name: str
    created_at: datetime
    versions: int
    latest: int
    aliases: Mapping[str, AliasMove]
