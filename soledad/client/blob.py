"""What a blob is sealed for, and what opens it: from a pointer, or from what a row says."""

from __future__ import annotations

from typing import Protocol

from attrs import frozen

from soledad.crypto.container import Chunks, Context, KeyMaterial, Keys, Opener
from soledad.model.blob import BlobKey, Sealed
from soledad.model.transfer import Queued
from soledad.wire.container import Layout, Purpose


class Keyring(Protocol):
    """The keys that blobs are sealed under."""

    @property
    def current(self) -> KeyMaterial:
        """What new containers are sealed under."""

    @property
    def roots(self) -> Keys:
        """All that older ones may be sealed under."""


@frozen
class Blob:
    """A blob as a pointer describes it."""

    key: BlobKey
    length: int
    commitment: bytes

    @classmethod
    def of(cls, row: Queued) -> Blob:
        """Return the blob of a row that says what it is."""
        return cls(row.key, row.sealed.length, row.sealed.commitment)

    @property
    def context(self) -> Context:
        """What its container is sealed for."""
        return context_of(self.key)

    def opener(self, keys: Keys) -> Opener:
        """Return what verifies the whole container."""
        return Opener(keys, self.context, self.length, self.commitment)

    def chunks(self, keys: Keys, header: bytes) -> Chunks:
        """Return what opens single chunks behind ``header``."""
        return Chunks.of_length(keys, self.context, header, self.length, self.commitment)

    def sealed(self, header: bytes | None) -> Sealed:
        """Return what a local row says of it."""
        size = Layout.of_data(self.length, Purpose.BLOB.floor).size
        return Sealed(self.length, size, header, self.commitment)


def context_of(key: BlobKey) -> Context:
    """Return what the container of a blob is sealed for."""
    return Context(Purpose.BLOB, key.namespace, key.blob_id)
