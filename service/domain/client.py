"""A client: its name and the names of its aliases, its settings, and how it appears in a list."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any, Final, Literal

from service.domain.version import LIVE, AliasMove
from service.errors import InvalidName, InvalidRequest, StoreIncompatible

MAX_KEEP_LAST: Final = 100_000
MAX_UNKNOWN_RATE: Final = 0.5
BIT_DEPTHS: Final = (8, 10, 12, 14, 16)
UNCERTAINTIES: Final = ("point", "bayes")

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """The settings of one client. A client that never set any has the defaults.

    Attributes:
        retain_samples: False stores no images. A version is then made from the samples of one request and cannot be
            extended.
        keep_last: number of newest versions that a collection keeps, besides those with an alias; None keeps all.
        floor: estimated accuracy, 0 to 1, that a version must reach to go live; None is half way from guessing to 1.
        lower_bound: accuracy, 0 to 1, that the lower end of the estimate's interval must reach; None is guessing, or
            the floor if that is lower.
        tolerance: share of the kept samples of a class, 0 to 1, that a new version may lose and still go live; None is
            a quarter, and more if a paired test cannot tell the loss from chance.
        unknown_rate: share of images of known classes, 0 to 0.5, that the next versions may call unknown; None is 0.05.
        bit_depth: bits that images of 16 bits per sample use if their files do not declare it; None is that of the
            client's earlier images, or the smallest that holds the values.
        model: name of the checkpoint that the client's versions are adapted from; None is the service's default.
        uncertainty: "point"; or "bayes", predictions of the next versions are averaged over what the samples leave open
            about the classes, and say how uncertain they are. None is what the checkpoint's recipe says.
        log_predictions: whether predictions are kept in the prediction log; None is not.

    Raises:
        InvalidRequest: a value is outside its range.
    """

    retain_samples: bool = True
    keep_last: int | None = None
    floor: float | None = None
    lower_bound: float | None = None
    tolerance: float | None = None
    unknown_rate: float | None = None
    bit_depth: int | None = None
    model: str | None = None
    uncertainty: Literal["point", "bayes"] | None = None
    log_predictions: bool | None = None

    def __post_init__(self) -> None:
        if self.keep_last is not None and not 1 <= self.keep_last <= MAX_KEEP_LAST:
            raise InvalidRequest(f"keep_last is {self.keep_last}; use 1 to {MAX_KEEP_LAST}, or null to keep all")
        if self.bit_depth is not None and self.bit_depth not in BIT_DEPTHS:
            raise InvalidRequest(f"bit_depth is {self.bit_depth}; use 8, 10, 12, 14 or 16, or null for the default")
        if self.uncertainty is not None and self.uncertainty not in UNCERTAINTIES:
            raise InvalidRequest(f"uncertainty is {self.uncertainty!r}; use point or bayes, or null for the default")
        for name, largest in (("floor", 1), ("lower_bound", 1), ("tolerance", 1), ("unknown_rate", MAX_UNKNOWN_RATE)):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= largest:
                raise InvalidRequest(f"{name} is {value}; use a number from 0 to {largest}, or null for the default")

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON data, without those that are None, so that earlier releases can read them."""
        return {name: value for name, value in asdict(self).items() if value is not None}

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

    @property
    def live(self) -> int | None:
        """The live version."""
        move = self.aliases.get(LIVE)
        return move.version if move else None


def validate_client_name(text: str) -> str:
    """Return `text` if it is a valid client name.

    Raises:
        InvalidName: it is not.
    """
    return _validate_name("client", text)


def validate_alias_name(text: str) -> str:
    """Return `text` if it is a valid alias name: like a client name, but not a number.

    Raises:
        InvalidName: it is not.
    """
    name = _validate_name("alias", text)
    if name.isdigit():
        raise InvalidName(f"the alias name {name!r} looks like a version number; use a name that contains a letter")
    return name


def _validate_name(kind: str, text: str) -> str:
    if not _NAME.fullmatch(text):
        shown = text if len(text) <= 80 else text[:80] + "…"
        raise InvalidName(
            f"the {kind} name {shown!r} is not valid; use 1 to 64 of a-z, 0-9, '.', '_' and '-', "
            "starting with a letter or a digit"
        )
    return text
