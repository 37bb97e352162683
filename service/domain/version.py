"""The records of a version: its samples, the version itself, its aliases and the request that made it.

Also the rules for labels, parts and idempotency keys.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from service.errors import InvalidName, InvalidRequest

MAX_LABEL_CODE_POINTS: Final = 64
"""Longest label, and longest name of a part."""

MAX_IDEMPOTENCY_KEY_CHARACTERS: Final = 255

SCORE_DIGITS: Final = 6
"""Scores are rounded: precise enough to compare, too coarse to recover weights from."""

MAX_FILE_NAME_BYTES: Final = 255

_UNSAFE_IN_FILE_NAMES: Final = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u2028-\\u202e\\u2066-\\u2069\\ud800-\\udfff]")
"""Control characters, line separators, characters that change the direction of text, and half characters."""

_JOINERS: Final = "\u200c\u200d"
"""Zero-width non-joiner and joiner: Persian and Indian words, and joined emoji, need them."""
_NEVER_JOINED: Final = ("LATIN", "GREEK", "CYRILLIC", "DIGIT")
_EMOJI: Final = range(0x1F000, 0x1FB00)
"""Blocks to which new emoji are added; the Unicode version of Python does not know all."""

_FORBIDDEN_CATEGORIES: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})

LIVE: Final = "live"
"""The alias that ``/predict`` uses by default."""

CANDIDATE: Final = "candidate"
"""The alias of a version that judges the requests to the live version too, in the background."""

HELD_OUT: Final = "held_out"
"""Key in a report of the predictions on held-out samples. They are recorded with a version, and in no answer."""


@dataclass(frozen=True, slots=True)
class SampleRef:
    """A labelled image that a version was adapted on.

    Attributes:
        digest: SHA-256 (hex) of the stored canonical image.
        label: name of its class.
        name: file name that the sender gave it; only displayed, never used as a path.
        part: name of the physical part that it shows, or None if the sender did not say.
        second: the text or the numbers that came with it, or None.
    """

    digest: str
    label: str
    name: str
    part: str | None = None
    second: str | tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class VersionDraft:
    """Everything a version records, except the number and the time that the catalog assigns.

    Attributes:
        client: client name.
        parent: version whose samples it extends, or None.
        classes: class names, in the order of the rows of the head.
        samples: what it was adapted on; their order is part of the version.
        meta_model: name of the meta-trained checkpoint.
        meta_model_digest: SHA-256 (hex) of the weights and settings of the checkpoint.
        recipe: settings of the inner loop as JSON data.
        seed: of the random draws of the inner loop.
        weights_digest: SHA-256 (hex) and address of the stored weights.
        weights_bytes: size of the stored weights in bytes.
        device: where it was adapted, for example "cpu".
        batched_with: number of other inner loops in the same batch. With 0, adapting again gives the same bits.
        report: report of POST /adapt as JSON data.
        samples_kept: whether the images are stored. Without them, the version cannot be extended.
    """

    client: str
    parent: int | None
    classes: tuple[str, ...]
    samples: tuple[SampleRef, ...]
    meta_model: str
    meta_model_digest: str
    recipe: Mapping[str, Any]
    seed: int
    weights_digest: str
    weights_bytes: int
    device: str
    batched_with: int
    report: Mapping[str, Any] = field(default_factory=dict)
    samples_kept: bool = True

    @property
    def required_blobs(self) -> frozenset[str]:
        """The digests of the blobs that serving or extending the version needs."""
        samples = (sample.digest for sample in self.samples) if self.samples_kept else ()
        return frozenset({self.weights_digest, *samples})


@dataclass(frozen=True, slots=True)
class ServedVersion:
    """The part of a version that a prediction needs.

    Attributes:
        client: client name.
        number: version number.
        classes: class names, in the order of the rows of the head.
        meta_model: name of the meta-trained checkpoint.
        meta_model_digest: SHA-256 (hex) of the checkpoint.
        weights_digest: SHA-256 (hex) and address of the stored weights.
        unknown_threshold: `unknown_score` above which an image is unknown; None if no image can be.
        temperature: divisor of the logits; None is 1.
        bit_depth: of images of 16 bits per sample that do not declare it; None if the version has no such samples.
        modalities: what it was taught with, "image" first; None for a model that takes images alone.
        client_created_at: when the client was created, UTC; see `Lineage`.
        logged: whether the client logs predictions.
        candidate: number of the version that judges in the background what this one answers, or None.
    """

    client: str
    number: int
    classes: tuple[str, ...]
    meta_model: str
    meta_model_digest: str
    weights_digest: str
    unknown_threshold: float | None
    temperature: float | None = None
    bit_depth: int | None = None
    modalities: tuple[str, ...] | None = None
    client_created_at: datetime | None = None
    logged: bool = False
    candidate: int | None = None

    @property
    def identity(self) -> str:
        """Name of the version for caches: another version has another one, also one of a later client of that name."""
        parts = (self.client, self.client_created_at, self.number, self.meta_model_digest, self.weights_digest)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Version:
    """An immutable version.

    Attributes:
        number: 1, 2, 3 … without gaps within a client.
        created_at: UTC.
        draft: what it records.
        deleted_at: when its samples and weights were deleted, or None. The number is not assigned again.
    """

    number: int
    created_at: datetime
    draft: VersionDraft
    deleted_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class VersionSummary:
    """A version as an entry of a list: its samples are only counted. See `Version` and `VersionDraft`."""

    client: str
    number: int
    created_at: datetime
    parent: int | None
    classes: tuple[str, ...]
    samples: int
    meta_model: str
    weights_digest: str
    weights_bytes: int
    report: Mapping[str, Any]

    @classmethod
    def of(cls, version: Version) -> VersionSummary:
        """Summarise a version."""
        draft = version.draft
        return cls(
            client=draft.client,
            number=version.number,
            created_at=version.created_at,
            parent=draft.parent,
            classes=draft.classes,
            samples=len(draft.samples),
            meta_model=draft.meta_model,
            weights_digest=draft.weights_digest,
            weights_bytes=draft.weights_bytes,
            report=draft.report,
        )


@dataclass(frozen=True, slots=True)
class Lineage:
    """The versions of a client that matter to a new one; None where there is none.

    Attributes:
        live: the one that the alias `live` points at.
        base: the one that an extension builds on: the newest that extends the live version, directly or through others
            that were never live. So the samples of a version that the gate held back are not lost, and those of one
            that was rolled back are left out. Without a live version, it is the newest.
        newest: the newest that is not deleted.
        client_created_at: when the client was created, UTC. With its name it tells the client from one that was deleted
            and had the same name.
    """

    live: Version | None = None
    base: Version | None = None
    newest: Version | None = None
    client_created_at: datetime | None = None

    @property
    def compared(self) -> Version | None:
        """The version that a new one is compared with before it goes live."""
        return self.live or self.newest


@dataclass(frozen=True, slots=True)
class AliasMove:
    """A row of the append-only alias log.

    Attributes:
        client: client name.
        alias: alias name.
        revision: 1, 2, 3 … within client and alias; `If-Match` compares it.
        version: version that the alias points at from now on.
        previous: version that it pointed at before, or None.
        moved_at: UTC.
        reason: "adapt", "set", "rollback" or "promote".
        restores: for a rollback, the revision that it brought back; otherwise None.
        client_created_at: when the client was created, UTC; see `Lineage`.
        actor: `Actor.id` of who moved it; None for moves of earlier releases.
        actor_name: `Actor.name`.
    """

    client: str
    alias: str
    revision: int
    version: int
    previous: int | None
    moved_at: datetime
    reason: str
    restores: int | None = None
    client_created_at: datetime | None = None
    actor: str | None = None
    actor_name: str | None = None

    @property
    def tag(self) -> str:
        """Identifies this move among those of the alias, also of deleted clients of the same name."""
        if self.client_created_at is None:
            return str(self.revision)
        created_at = self.client_created_at.isoformat().encode()
        return f"{hashlib.blake2b(created_at, digest_size=4).hexdigest()}-{self.revision}"


@dataclass(frozen=True, slots=True)
class Idempotency:
    """Identifies a repeated request.

    Attributes:
        key: the Idempotency-Key of the sender, unique within a client.
        body_digest: SHA-256 (hex) of everything that the request contains.
    """

    key: str
    body_digest: str


@dataclass(frozen=True, slots=True)
class Publication:
    """Result of publishing a version. A repeated request gets the same one, with `replayed` set.

    Attributes:
        version: the new version. A repeated request gets it even after it was deleted, then without samples.
        moves: the alias moves that were made with it; empty if it was held.
        live: the version that the alias `live` pointed at right after, or None.
        replayed: whether an earlier request with the same idempotency key had published it.
    """

    version: Version
    moves: tuple[AliasMove, ...]
    live: int | None
    replayed: bool = False


def unknown_score(familiarity: float | None) -> float | None:
    """Return 1 - familiarity. Scores and thresholds are rounded alike, so a verdict follows from the two numbers."""
    return None if familiarity is None else round(1 - round(familiarity, SCORE_DIGITS), SCORE_DIGITS)


ExpectedRevision = int | str | None
"""The revision or the tag that the latest move of an alias must have. 0: there must be no move; None: anything."""


def validate_label(text: str) -> str:
    """Return a class label in Unicode NFC, without surrounding blanks.

    Raises:
        InvalidName: it is empty, longer than 64 code points, or has control, bidirectional or unassigned characters.
    """
    return _validate_text("label", text, "give every sample the name of its class")


def validate_part(text: str) -> str:
    """Return the name of a part in Unicode NFC, without surrounding blanks. The rules are those for labels.

    Raises:
        InvalidName: see `validate_label`.
    """
    return _validate_text("part", text, "give every sample the name of the part that it shows, or send no parts")


def validate_station(text: str) -> str:
    """Return the name of a station, such as a camera; otherwise as `validate_part`."""
    return _validate_text("station", text, "send the name of the camera or the line, or no station")


def _validate_text(kind: str, text: str, if_empty: str) -> str:
    name = unicodedata.normalize("NFC", text).strip()
    if not name:
        raise InvalidName(f"a {kind} is empty; {if_empty}")
    if len(name) > MAX_LABEL_CODE_POINTS:
        raise InvalidName(f"a {kind} has {len(name)} characters; at most {MAX_LABEL_CODE_POINTS} are allowed")
    if not all(_is_allowed(name, position) for position in range(len(name))):
        raise InvalidName(f"the {kind} {name!r} contains a control, formatting or unassigned character; use plain text")
    return name


def _is_allowed(name: str, position: int) -> bool:
    character = name[position]
    if character in _JOINERS:
        return all(
            _can_join(neighbour) for neighbour in (name[position - 1 : position], name[position + 1 : position + 2])
        )
    return unicodedata.category(character) not in _FORBIDDEN_CATEGORIES or ord(character) in _EMOJI


def _can_join(neighbour: str) -> bool:
    """Whether a joiner beside this character can have an effect, so that it is not there to mislead."""
    without_effect = neighbour.isascii() or neighbour in _JOINERS
    return not (without_effect or unicodedata.name(neighbour, "").startswith(_NEVER_JOINED))


def comparable_label(label: str) -> str:
    """Return a label without what is easily overlooked: case, width, blanks and invisible characters."""
    visible = "".join(character for character in label if unicodedata.category(character) not in ("Cf", "Zs"))
    return unicodedata.normalize("NFKC", visible.replace("\ufe0f", "")).casefold()


def clean_file_name(text: str) -> str:
    """Return a file name as it is kept to be shown: without control characters, and its last 255 bytes of UTF-8."""
    cleaned = _UNSAFE_IN_FILE_NAMES.sub("\ufffd", text).encode("utf-8")
    return cleaned[-MAX_FILE_NAME_BYTES:].decode("utf-8", "ignore")


def validate_idempotency_key(text: str) -> str:
    """Return `text` if it is a valid idempotency key: 1 to 255 visible ASCII characters.

    Raises:
        InvalidRequest: it is not.
    """
    visible = text.isascii() and text.isprintable() and " " not in text
    if not visible or not 1 <= len(text) <= MAX_IDEMPOTENCY_KEY_CHARACTERS:
        raise InvalidRequest(
            f"the Idempotency-Key of {len(text)} characters is not valid; use 1 to {MAX_IDEMPOTENCY_KEY_CHARACTERS} "
            "visible ASCII characters without blanks, such as a UUID"
        )
    return text
