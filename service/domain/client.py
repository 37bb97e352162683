"""What a client chooses for itself. A frozen value; knows no store, no HTTP and not what follows from it."""

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
    """The settings of one client; a client that never chose has the defaults.

    Attributes:
        retain_samples: False keeps no image: versions are made of what one request brings, and cannot be extended.
        keep_last: how many of the newest versions a collection keeps, those that an alias points at apart; None: all.
        floor: estimated accuracy, 0 to 1, that a version must reach to go live; None: half way from guessing to 1.
        tolerance: share of an earlier class's kept samples, 0 to 1, that a version may get wrong where the one before
            got them right, and still go live; None: a quarter, and always one sample.

    Raises:
        InvalidRequest: a value outside its range.
    """

    retain_samples: bool = True
    keep_last: int | None = None
    floor: float | None = None
    tolerance: float | None = None

    def __post_init__(self) -> None:
        if self.keep_last is not None and not 1 <= self.keep_last <= MAX_KEEP_LAST:
            raise InvalidRequest(f"keep_last is {self.keep_last}; allowed: 1 to {MAX_KEEP_LAST}, or null to keep all")
        for name in ("floor", "tolerance"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise InvalidRequest(f"{name} is {value}; allowed: a share from 0 to 1, or null for the default")

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ClientSettings:
        """From JSON data as `to_json` gave it; a setting that was not there yet has its default.

        Raises:
            StoreIncompatible: a setting that this release does not know, and must not ignore.
        """
        unknown = sorted(data.keys() - {field.name for field in fields(cls)})
        if unknown:
            raise StoreIncompatible(
                f"a client has the setting {', '.join(unknown)}, which this release does not know; a newer one wrote "
                "it: install that release again"
            )
        return cls(**data)


@dataclass(frozen=True, slots=True)
class ClientSummary:
    """A client as a listing shows it.

    Attributes:
        name: client name.
        created_at: UTC.
        versions: how many versions it has (deleted ones not counted).
        latest: highest version number ever given, 0 if none.
        aliases: alias name -> its latest move.
    """

    name: str
    created_at: datetime
    versions: int
    latest: int
    aliases: Mapping[str, AliasMove]
