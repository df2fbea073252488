"""
The sealed tombstone of a blob: the statement, by who has the keys, that a certain blob is to go.

Its container is bound to namespace and id; inside are the commitments of what was deleted under that id.
Source: docs/spec/tombstone.rst.
"""

from __future__ import annotations

from collections.abc import Iterable

from soledad.crypto.cipher import Buffer, Context, KeyMaterial, Keys
from soledad.crypto.container import open_, seal
from soledad.errors import CryptoError, MalformedContainer
from soledad.model.blob import BlobKey
from soledad.wire.container import COMMITMENT_SIZE, Purpose

#: The most commitments in one.
MOST = 64


def tombstone_context(key: BlobKey) -> Context:
    """Return what the tombstone of a blob is sealed for."""
    return Context(Purpose.TOMBSTONE, key.namespace, key.blob_id)


def seal_tombstone(material: KeyMaterial, key: BlobKey, salt: bytes, deleted: Iterable[bytes]) -> bytes:
    """
    Return the tombstone of a blob.

    :param deleted: the commitments of what is deleted: of the blob, and of others before it under the same id.
    """
    named = list(dict.fromkeys(deleted))
    if not 0 < len(named) <= MOST or any(len(commitment) != COMMITMENT_SIZE for commitment in named):
        raise ValueError("1 to 64 commitments")
    return seal(material, tombstone_context(key), salt, b"".join(named))


def open_tombstone(keys: Keys, key: BlobKey, sealed: Buffer) -> frozenset[bytes]:
    """
    Return the commitments of what was deleted.

    :raise CryptoError: it is not a tombstone of this blob that who has the keys has sealed.
    """
    data = open_(keys, tombstone_context(key), sealed)
    count, rest = divmod(len(data), COMMITMENT_SIZE)
    if rest or not 0 < count <= MOST:
        raise MalformedContainer("not a tombstone")
    return frozenset(data[at : at + COMMITMENT_SIZE] for at in range(0, len(data), COMMITMENT_SIZE))


def deleted_by(keys: Keys, key: BlobKey, sealed: Buffer | None) -> frozenset[bytes]:
    """Return the commitments that a tombstone names; none, if there is no tombstone, or keys do not open it."""
    if sealed is None:
        return frozenset()
    try:
        return open_tombstone(keys, key, sealed)
    except CryptoError:
        return frozenset()
