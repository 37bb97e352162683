"""Ed25519 keys of a repository's roles, in a folder that is never delivered."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from securesystemslib.signer import CryptoSigner

from models.atomic_files import sync
from service.errors import InvalidRequest

ROLES: Final = ("root", "targets", "snapshot", "timestamp")
_SUFFIX: Final = ".pem"
_ENCRYPTED: Final = b"-----BEGIN ENCRYPTED PRIVATE KEY-----"


@dataclass(frozen=True, slots=True)
class Threshold:
    """How many of a role's keys must sign, and how many there are."""

    signatures: int = 1
    keys: int = 1

    @classmethod
    def parse(cls, text: str) -> tuple[str, Threshold]:
        """Parse ``ROLE=SIGNATURES/KEYS``, for example ``root=2/3``.

        Raises:
            InvalidRequest: it is not of this form.
        """
        role, _, numbers = text.partition("=")
        signatures, _, keys = numbers.partition("/")
        if role not in ROLES or not signatures.isdigit() or not keys.isdigit() or not 1 <= int(signatures) <= int(keys):
            raise InvalidRequest(
                f"the threshold {text!r} is not valid; allowed is ROLE=SIGNATURES/KEYS, for example root=2/3, with a "
                f"role of {', '.join(ROLES)} and at least as many keys as signatures"
            )
        return role, cls(int(signatures), int(keys))


class KeyFolder:
    """A folder with one PEM file for each key, named ``ROLE-KEYID.pem`` and readable by its owner alone.

    The keys of root can be taken away to a safe place, and are needed again only to rotate keys.

    Args:
        folder: of the keys.
        passphrase: encrypts new keys, and opens those that are encrypted; None encrypts none.
    """

    def __init__(self, folder: Path, passphrase: str | None = None) -> None:
        self.folder = folder
        self._passphrase = None if passphrase is None else passphrase.encode()

    def create(self, role: str) -> CryptoSigner:
        """Make a key for a role. It is durable when this returns."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = Ed25519PrivateKey.generate()
        signer = CryptoSigner(key)
        encryption = NoEncryption() if self._passphrase is None else BestAvailableEncryption(self._passphrase)
        path = self.folder / f"{role}-{signer.public_key.keyid[:16]}{_SUFFIX}"
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
            file.flush()
            os.fsync(file.fileno())
        sync(self.folder)
        return signer

    def signers(self, role: str, keyids: Sequence[str], threshold: int) -> list[CryptoSigner]:
        """Load the keys of a role that are here and that the root metadata name.

        Raises:
            InvalidRequest: there are fewer than the threshold.
        """
        found = [signer for signer in map(self._load, self._paths(role)) if signer.public_key.keyid in keyids]
        if len(found) < threshold:
            raise InvalidRequest(
                f"{self.folder} has {len(found)} of the {threshold} keys of {role!r} that must sign; name the folder "
                "with --keys, and copy the missing keys there"
            )
        return found

    def _paths(self, role: str) -> list[Path]:
        return sorted(self.folder.glob(f"{role}-*{_SUFFIX}"))

    def _load(self, path: Path) -> CryptoSigner:
        content = path.read_bytes()
        encrypted = content.startswith(_ENCRYPTED)
        if encrypted and self._passphrase is None:
            raise InvalidRequest(f"the key {path} is encrypted; set ANOLE_SIGNING_PASSPHRASE to its passphrase")
        try:
            key = load_pem_private_key(content, self._passphrase if encrypted else None)
        except ValueError as error:
            what = (
                "cannot be opened with ANOLE_SIGNING_PASSPHRASE" if encrypted else "is not a private key in PEM format"
            )
            raise InvalidRequest(f"{path} {what}: {error}") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise InvalidRequest(f"{path} is not an Ed25519 key; create keys with `anole release keys create`")
        return CryptoSigner(key)
