"""
One container's key: where it comes from, and the seal of single chunks under it.

Source: docs/spec/container.rst, "Keys" and "The stream".
"""

from __future__ import annotations

from collections.abc import Mapping
from hmac import compare_digest
from typing import TypeAlias

from attrs import field, frozen
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from soledad.crypto.kdf import KEY_SIZE, hkdf, info_list, key_id
from soledad.errors import AuthenticationFailed, UnknownKey
from soledad.wire.container import COMMITMENT_SIZE, Header, Purpose

Buffer: TypeAlias = bytes | bytearray | memoryview

_NONCE_SIZE = 12


@frozen
class KeyMaterial:
    """What containers are sealed under: a root, with the account id it was made under, or a keyring's key."""

    secret: bytes = field(repr=False)
    #: Random bytes, or none for a keyring's key.
    account_id: bytes = field(default=b"", repr=False)
    #: Its public name, which containers bear.
    key_id: bytes = field(init=False)

    def __attrs_post_init__(self) -> None:
        """Derive the key id."""
        object.__setattr__(self, "key_id", key_id(self.secret))


#: Key material by key id.
Keys: TypeAlias = Mapping[bytes, KeyMaterial]


@frozen
class Context:
    """What a container is and where it belongs; it opens nowhere else.  The account comes with the key material."""

    purpose: Purpose
    #: Of a blob or its tombstone, else empty.
    namespace: str
    id: str


def derived(material: KeyMaterial, context: Context, prefix: bytes, salt: bytes) -> tuple[AESGCM, bytes, bytes]:
    """Return what a container is sealed with: key, base nonce (that of the first chunk) and commitment."""
    info = info_list(context.purpose.label, prefix, material.account_id, context.namespace, context.id)
    okm = hkdf(material.secret, KEY_SIZE + _NONCE_SIZE + COMMITMENT_SIZE, info, salt)
    return AESGCM(okm[:KEY_SIZE]), okm[KEY_SIZE:-COMMITMENT_SIZE], okm[-COMMITMENT_SIZE:]


def derived_behind(
    header: Header, keys: Keys, context: Context, expected_commitment: bytes | None
) -> tuple[AESGCM, bytes]:
    """Return what opens the chunks behind ``header``: key and base nonce; errors as `Cipher.behind`."""
    if expected_commitment is not None and not compare_digest(expected_commitment, header.commitment):
        raise AuthenticationFailed()
    material = keys.get(header.key_id)
    if material is None:
        raise UnknownKey(header.key_id.hex())
    aead, nonce, commitment = derived(material, context, header.prefix, header.salt)
    if not compare_digest(commitment, header.commitment):
        raise AuthenticationFailed()
    return aead, nonce


@frozen
class Cipher:
    """Seals and opens single chunks under one header's key."""

    _aead: AESGCM = field(repr=False)
    _base_nonce: int = field(repr=False)
    commitment: bytes

    @classmethod
    def derive(cls, material: KeyMaterial, context: Context, prefix: bytes, salt: bytes) -> Cipher:
        """Derive key, nonces and commitment."""
        aead, nonce, commitment = derived(material, context, prefix, salt)
        return cls(aead, int.from_bytes(nonce, "big"), commitment)

    @classmethod
    def behind(cls, header: Header, keys: Keys, context: Context, expected_commitment: bytes | None) -> Cipher:
        """
        Return what opens the chunks behind ``header``.

        :raise UnknownKey: ``keys`` has not the key it names.
        :raise AuthenticationFailed: the header is not of this context and key, or not the expected one.
        """
        aead, nonce = derived_behind(header, keys, context, expected_commitment)
        return cls(aead, int.from_bytes(nonce, "big"), header.commitment)

    def seal_into(self, index: int, piece: Buffer, out: memoryview) -> None:
        """Seal ``piece`` as chunk ``index`` into ``out``, which has just the room."""
        nonce = (self._base_nonce ^ index).to_bytes(_NONCE_SIZE, "big")
        self._aead.encrypt_into(nonce, piece, None, out)

    def open_into(self, index: int, sealed: Buffer, out: memoryview) -> None:
        """
        Open chunk ``index`` into ``out``, which has just the room.

        :raise AuthenticationFailed: it is not what was sealed; ``out`` holds zeros.
        """
        nonce = (self._base_nonce ^ index).to_bytes(_NONCE_SIZE, "big")
        try:
            self._aead.decrypt_into(nonce, sealed, None, out)
        except InvalidTag:
            # The cipher has written what it decrypted before it knew the tag to be wrong.
            out[:] = bytes(len(out))
            raise AuthenticationFailed(index) from None
