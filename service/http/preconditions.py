"""Conditional requests (RFC 9110 §13): an alias's revision as its ETag, and what If-Match and If-None-Match ask for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from service.domain.version import AliasMove
from service.errors import AliasConflict, UnknownAlias
from service.http.errors import PreconditionInvalid
from service.http.ports import LifecyclePort

_ETAG: Final = re.compile(r'"(\d{1,18})"')


@dataclass(frozen=True, slots=True)
class Precondition:
    """What must hold for an alias before it is moved.

    Attributes:
        revision: its latest revision; 0: it must not exist yet; None: any.
        must_exist: it must exist, whatever its revision.
    """

    revision: int | None = None
    must_exist: bool = False


def etag(move: AliasMove) -> str:
    """The ETag of an alias: its revision in double quotes."""
    return f'"{move.revision}"'


def precondition(if_match: str | None, if_none_match: str | None) -> Precondition:
    """Read the two headers: If-Match with an ETag or ``*``, or If-None-Match with ``*``.

    Raises:
        PreconditionInvalid: both are there, or one holds anything else.
    """
    if if_match is not None and if_none_match is not None:
        raise PreconditionInvalid("If-Match and If-None-Match are both there; give one of them")
    if if_none_match is not None:
        if if_none_match.strip() != "*":
            raise PreconditionInvalid("If-None-Match takes * alone: move the alias only if it does not exist yet")
        return Precondition(revision=0)
    if if_match is None:
        return Precondition()
    if if_match.strip() == "*":
        return Precondition(must_exist=True)
    matched = _ETAG.fullmatch(if_match.strip())
    if not matched:
        raise PreconditionInvalid(f'If-Match is {if_match[:80]!r}; allowed is one ETag such as "3", in quotes, or *')
    return Precondition(revision=int(matched[1]))


def move(lifecycle: LifecyclePort, client: str, alias: str, version: int, wanted: Precondition) -> AliasMove:
    """Move the alias if the precondition holds.

    Raises:
        AliasConflict: it does not hold.
    """
    if wanted.must_exist:
        try:
            lifecycle.alias(client, alias)
        except UnknownAlias as error:
            raise AliasConflict(f"If-Match is *, but client {client!r} has no alias {alias!r}") from error
    return lifecycle.move_alias(client, alias, version, wanted.revision)
