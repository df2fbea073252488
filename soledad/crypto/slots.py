"""
Slots: the ways to a keyring's key, and the secrets that open them.

Deriving a key from a passphrase takes long and much memory: callers run it in a thread.
Source: docs/spec/keyring.rst, "A slot".
"""

from __future__ import annotations

import binascii
from abc import ABC, abstractmethod
from base64 import b32decode, b32encode
from collections.abc import Callable, Sequence
from enum import IntEnum
from hashlib import sha256
from hmac import compare_digest
from typing import ClassVar, Protocol, TypeAlias
from unicodedata import normalize

from attrs import define, field, frozen
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from soledad.crypto.cipher import KeyMaterial
from soledad.crypto.kdf import KEY_SIZE, Argon2Parameters, effective_salt, hkdf, info_list
from soledad.errors import (
    InvalidPassphrase,
    InvalidRecoveryCode,
    KeyringError,
    MalformedKeyring,
    NotEnoughMemory,
    SoledadError,
    WrongPassphrase,
)
from soledad.model.ids import UserId

#: Gives that many random bytes, e.g. `os.urandom`.
Entropy: TypeAlias = Callable[[int], bytes]

#: What a new passphrase slot takes unless told otherwise.
ARGON2 = Argon2Parameters()

SLOT_ID_SIZE = 16
_SALT_SIZE = 16
_NONCE_SIZE = 12
_WRAPPED_SIZE = KEY_SIZE + 16
_CODE_SIZE = 16
_CHECKSUM_SIZE = 4


class SlotType(IntEnum):
    """What kind of secret opens a slot."""

    PASSPHRASE = 1
    RECOVERY = 2


@define(eq=False)
class Fields:
    """Reads fields from bytes, one after the other."""

    _data: bytes = field(repr=False)
    #: Where the next field begins.
    position: int = 0
    #: What is raised when there are not as many bytes as asked for.
    error: Callable[[str], SoledadError] = MalformedKeyring

    def take(self, size: int) -> bytes:
        """Return the next ``size`` bytes. :raise MalformedKeyring: there are not as many."""
        start, self.position = self.position, self.position + size
        if self.position > len(self._data):
            raise self.error("short")
        return self._data[start : self.position]

    def number(self, size: int) -> int:
        """Return the integer in the next ``size`` bytes."""
        # As `take` does, without calling it: a record has many.
        start, self.position = self.position, self.position + size
        if self.position > len(self._data):
            raise self.error("short")
        return int.from_bytes(self._data[start : self.position], "big")

    def sized(self, size: int) -> bytes:
        """Return the bytes that stand behind their length, which has ``size`` bytes."""
        # At once, as there are many, too.
        start = self.position + size
        stop = start + int.from_bytes(self._data[self.position : start], "big")
        if stop > len(self._data):
            raise self.error("short")
        self.position = stop
        return self._data[start:stop]

    def rest(self) -> bytes:
        """Return all that is left."""
        return self.take(len(self._data) - self.position)


@frozen
class Slot:
    """The keyring key, wrapped for one secret."""

    type: SlotType
    slot_id: bytes
    #: What deriving the slot's key takes beside secret and salt, encoded by type.
    parameters: bytes
    salt: bytes = field(repr=False)
    nonce: bytes = field(repr=False)
    wrapped: bytes = field(repr=False)

    @classmethod
    def parse(cls, fields: Fields) -> Slot:
        """Read one slot. :raise MalformedKeyring: it is none."""
        try:
            slot_type = SlotType(fields.number(1))
        except ValueError:
            raise MalformedKeyring("slot type") from None
        slot = cls(
            type=slot_type,
            slot_id=fields.take(SLOT_ID_SIZE),
            parameters=fields.take(fields.number(1)),
            salt=fields.take(_SALT_SIZE),
            nonce=fields.take(_NONCE_SIZE),
            wrapped=fields.take(_WRAPPED_SIZE),
        )
        if slot_type is SlotType.PASSPHRASE:
            parse_argon2(slot.parameters)
        elif slot.parameters:
            raise MalformedKeyring("slot parameters")
        return slot

    @property
    def before_wrapped(self) -> bytes:
        """All fields before the wrapped key: its additional data."""
        head = bytes((self.type,)) + self.slot_id + bytes((len(self.parameters),))
        return head + self.parameters + self.salt + self.nonce

    def encode(self) -> bytes:
        """Return the slot's bytes."""
        return self.before_wrapped + self.wrapped


def encode_argon2(parameters: Argon2Parameters) -> bytes:
    """Return the parameters of a passphrase's slot."""
    return parameters.memory.to_bytes(4, "big") + bytes((parameters.passes, parameters.lanes))


def parse_argon2(data: bytes) -> Argon2Parameters:
    """Read the parameters of a passphrase's slot. :raise MalformedKeyring: not in the accepted ranges."""
    if len(data) != 6:
        raise MalformedKeyring("slot parameters")
    return Argon2Parameters(memory=int.from_bytes(data[:4], "big"), passes=data[4], lanes=data[5])


class Credential(Protocol):
    """What a person (or a test) opens a keyring with."""

    def new_key(self, uuid: UserId, entropy: Entropy) -> tuple[KeyMaterial, tuple[Slot, ...]]:
        """Make the key of a new keyring, and the slots for this credential."""

    def find_key(self, uuid: UserId, slots: Sequence[Slot], body_key_id: bytes) -> tuple[KeyMaterial, bytes | None]:
        """
        Return the keyring key, and the id of the slot that had it.

        :raise WrongPassphrase: this opens no slot.
        """


@frozen
class HandedInKey:
    """A keyring key that needs no slot: for tests, which have no time for a passphrase."""

    secret: bytes = field(repr=False)

    def new_key(self, uuid: UserId, entropy: Entropy) -> tuple[KeyMaterial, tuple[Slot, ...]]:
        """Return the key, and no slots."""
        return KeyMaterial(self.secret), ()

    def find_key(self, uuid: UserId, slots: Sequence[Slot], body_key_id: bytes) -> tuple[KeyMaterial, bytes | None]:
        """Return the key. :raise WrongPassphrase: the body is sealed under another."""
        key = KeyMaterial(self.secret)
        if key.key_id != body_key_id:
            raise WrongPassphrase()
        return key, None


class SlotCredential(ABC):
    """A secret that opens slots of its type."""

    slot_type: ClassVar[SlotType]

    @abstractmethod
    def slot_parameters(self) -> bytes:
        """Return the parameters for a new slot, encoded."""

    @abstractmethod
    def slot_key(self, parameters: bytes, salt: bytes) -> bytes:
        """Derive a slot's key with the slot's parameters and effective salt."""

    def wrap(self, uuid: UserId, key: KeyMaterial, entropy: Entropy) -> Slot:
        """Make a slot for the keyring key."""
        slot = Slot(
            type=self.slot_type,
            slot_id=entropy(SLOT_ID_SIZE),
            parameters=self.slot_parameters(),
            salt=entropy(_SALT_SIZE),
            nonce=entropy(_NONCE_SIZE),
            wrapped=b"",
        )
        wrapped = self._cipher(uuid, slot).encrypt(slot.nonce, key.secret, slot.before_wrapped)
        return Slot(slot.type, slot.slot_id, slot.parameters, slot.salt, slot.nonce, wrapped)

    def new_key(self, uuid: UserId, entropy: Entropy) -> tuple[KeyMaterial, tuple[Slot, ...]]:
        """Make a random keyring key, and the slot for it."""
        key = KeyMaterial(entropy(KEY_SIZE))
        return key, (self.wrap(uuid, key, entropy),)

    def find_key(self, uuid: UserId, slots: Sequence[Slot], body_key_id: bytes) -> tuple[KeyMaterial, bytes | None]:
        """
        Try each slot of this type.

        :raise WrongPassphrase: none opens.
        :raise NotEnoughMemory: none opens of those that there is memory for.
        """
        refusal: KeyringError = WrongPassphrase()
        for slot in slots:
            if slot.type is self.slot_type:
                try:
                    secret = self._cipher(uuid, slot).decrypt(slot.nonce, slot.wrapped, slot.before_wrapped)
                except InvalidTag:
                    continue
                except NotEnoughMemory as error:
                    refusal = error
                    continue
                return KeyMaterial(secret), slot.slot_id
        raise refusal

    def _cipher(self, uuid: UserId, slot: Slot) -> AESGCM:
        """Return the cipher of a slot."""
        return AESGCM(self.slot_key(slot.parameters, effective_salt(uuid, slot.type, slot.salt)))


@frozen
class Passphrase(SlotCredential):
    """
    What a person types.

    :raise InvalidPassphrase: it is empty, or not text.
    """

    slot_type = SlotType.PASSPHRASE
    text: str = field(repr=False)
    #: What a new slot takes; slots that are there have their own.
    parameters: Argon2Parameters = ARGON2
    _encoded: bytes = field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        """Encode the text: the same for all ways of typing it."""
        if not isinstance(self.text, str) or not self.text:
            raise InvalidPassphrase()
        try:
            object.__setattr__(self, "_encoded", normalize("NFC", self.text).encode())
        except UnicodeEncodeError:
            # The original error has the passphrase in it.
            raise InvalidPassphrase() from None

    def slot_parameters(self) -> bytes:
        """Return the Argon2 parameters, encoded."""
        return encode_argon2(self.parameters)

    def slot_key(self, parameters: bytes, salt: bytes) -> bytes:
        """Run Argon2id."""
        return parse_argon2(parameters).derive(self._encoded, salt)


@frozen
class RecoveryCode(SlotCredential):
    """128 random bits on paper."""

    slot_type = SlotType.RECOVERY
    secret: bytes = field(repr=False)

    @classmethod
    def random(cls, entropy: Entropy) -> RecoveryCode:
        """Make a new one."""
        return cls(entropy(_CODE_SIZE))

    @classmethod
    def parse(cls, text: str) -> RecoveryCode:
        """Read what a person copied. :raise InvalidRecoveryCode: not a code, or mistyped."""
        letters = "".join(text.split()).replace("-", "")
        try:
            data = b32decode(letters, casefold=True, map01="L")
        except (binascii.Error, ValueError):
            raise InvalidRecoveryCode() from None
        code, checksum = data[:_CODE_SIZE], data[_CODE_SIZE:]
        if len(code) != _CODE_SIZE or not compare_digest(checksum, _checksum(code)):
            raise InvalidRecoveryCode()
        return cls(code)

    def as_text(self) -> str:
        """Return what a person copies: eight groups of four characters."""
        letters = b32encode(self.secret + _checksum(self.secret)).decode()
        return "-".join(letters[at : at + 4] for at in range(0, len(letters), 4))

    def slot_parameters(self) -> bytes:
        """Return nothing: there are none."""
        return b""

    def slot_key(self, parameters: bytes, salt: bytes) -> bytes:
        """Derive the key; 128 random bits need no Argon2."""
        return hkdf(self.secret, KEY_SIZE, info_list("soledad/recovery"), salt)


def _checksum(code: bytes) -> bytes:
    """Return what tells a mistyped code."""
    return sha256(info_list("soledad/recovery-checksum", code)).digest()[:_CHECKSUM_SIZE]
