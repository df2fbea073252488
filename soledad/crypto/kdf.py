"""
Where keys come from: one from another by HKDF, one from a passphrase by Argon2id.

Source: docs/spec/container.rst ("Info lists") and docs/spec/keyring.rst.
"""

from __future__ import annotations

import hmac
from enum import Enum
from hashlib import sha256

from attrs import frozen
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from soledad.errors import MalformedKeyring, NotEnoughMemory
from soledad.model.ids import UserId

#: Bytes of every key, and of what keys are derived from.
KEY_SIZE = 32
_SHA256 = SHA256()


class Database(Enum):
    """A database of the store; each has its own key."""

    DOCUMENTS = "documents"
    BLOBS = "blobs"


def info_list(*fields: str | bytes) -> bytes:
    """Return the fields, text as UTF-8, each after its length in two bytes: no two lists are the same."""
    # A loop, as this is a good part of what opening a small container costs.
    parts: list[bytes] = []
    for field in fields:
        encoded = field.encode() if isinstance(field, str) else field
        parts += (len(encoded).to_bytes(2, "big"), encoded)
    return b"".join(parts)


class Mac:
    """HMAC-SHA256 of many messages under one key: what is made of the key alone is made once."""

    def __init__(self, key: bytes) -> None:
        """Begin."""
        self._begun = hmac.new(key, digestmod="sha256")

    def of(self, message: bytes) -> bytes:
        """Return the 32 bytes for a message."""
        mac = self._begun.copy()
        mac.update(message)
        return mac.digest()


def hkdf(secret: bytes, length: int, info: bytes, salt: bytes = b"") -> bytes:
    """Derive ``length`` bytes from ``secret`` with HKDF-SHA256."""
    return HKDF(algorithm=_SHA256, length=length, salt=salt, info=info).derive(secret)


def key_id(secret: bytes) -> bytes:
    """Return the public name of key material: 8 bytes."""
    return hkdf(secret, KEY_SIZE, info_list("soledad/key-id"))[:8]


def database_key(device_key: bytes, database: Database) -> bytes:
    """Return the raw SQLCipher key of one database: 32 bytes."""
    return hkdf(device_key, KEY_SIZE, info_list("soledad/database", database.value))


def effective_salt(uuid: UserId, slot_type: int, salt: bytes) -> bytes:
    """Return the salt that is really used: bound to the user, so that a server cannot give two users one."""
    return sha256(info_list("soledad/slot-salt", uuid, bytes((slot_type,)), salt)).digest()


@frozen
class Argon2Parameters:
    """
    What a try at a passphrase costs.

    :raise MalformedKeyring: outside of what every reader accepts.
    """

    #: KiB.
    memory: int = 128 * 1024
    passes: int = 3
    lanes: int = 1

    def __attrs_post_init__(self) -> None:
        """Refuse what is too weak, and what a forged keyring could keep a device busy with."""
        if not (64 * 1024 <= self.memory <= 1024 * 1024 and 3 <= self.passes <= 10 and 1 <= self.lanes <= 4):
            raise MalformedKeyring("Argon2 parameters")

    def derive(self, passphrase: bytes, salt: bytes) -> bytes:
        """
        Return the key of a passphrase: 32 bytes.  Takes a good part of a second, and the memory.

        :raise NotEnoughMemory: which is not there.
        """
        argon2 = Argon2id(salt=salt, length=KEY_SIZE, iterations=self.passes, lanes=self.lanes, memory_cost=self.memory)
        try:
            return argon2.derive(passphrase)
        except MemoryError:
            raise NotEnoughMemory(self.memory * 1024) from None
