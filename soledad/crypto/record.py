"""
The record of a document: its name on the server, its inside, its seal.

A record has every version that a store has of a document; there is one encoding of it, and nothing else is read.
Source: docs/spec/documents-sync.rst, "Names" and "Records".
"""

from __future__ import annotations

from collections.abc import Mapping

from attrs import define, field

from soledad.crypto.cipher import Context, KeyMaterial, Keys
from soledad.crypto.container import open_, seal
from soledad.crypto.kdf import Mac
from soledad.crypto.slots import Fields
from soledad.errors import DocumentTooBig, MalformedRecord, UsageError
from soledad.model import content as contents
from soledad.model import ids
from soledad.model.attachment import Pointer
from soledad.model.conflict import Versions
from soledad.model.document import Stored
from soledad.model.ids import DocId, RecordName
from soledad.wire.changes import SealedRecord
from soledad.wire.container import COMMITMENT_SIZE, Purpose

VERSION = 1
_VERSION = bytes((VERSION,))
#: Bytes of a record's inside, at most.
MAX_RECORD = 4 * 1024 * 1024
_PURPOSE = Purpose.RECORD
_TOMBSTONE, _DOCUMENT = b"\0", b"\1"
#: Lengths of attachments are below this, as every database can hold them.
_MAX_LENGTH = 1 << 63


@define(eq=False)
class RecordNames:
    """What the records of documents are called on the server."""

    _mac: Mac = field(repr=False)

    @classmethod
    def under(cls, names_key: bytes) -> RecordNames:
        """Return the names that a key makes."""
        return cls(Mac(names_key))

    def of(self, doc_id: DocId) -> RecordName:
        """Return the name of a document's record."""
        return RecordName(self._mac.of(doc_id.encode("ascii")).hex())


def record_name(names_key: bytes, doc_id: DocId) -> RecordName:
    """Return what the record of a document is called on the server; for many see `RecordNames`."""
    return RecordNames.under(names_key).of(doc_id)


def seal_record(material: KeyMaterial, name: RecordName, salt: bytes, versions: Versions) -> SealedRecord:
    """
    Return the record of a document, under its name.  ``salt``: 24 random bytes, never used before.

    :raise DocumentTooBig: it has more bytes than a record may have.
    """
    return SealedRecord(name, seal(material, _context(name), salt, encode(versions)))


@define(eq=False)
class RecordOpener:
    """Opens the records of an account."""

    _keys: Keys = field(repr=False)
    _names: RecordNames = field(repr=False)

    def open(self, record: SealedRecord) -> Versions:
        """
        Return what a record holds.

        :raise UnknownKey: it is sealed under a key that is not there.
        :raise CryptoError: it is not a record of this account under this name.
        """
        versions = parse(open_(self._keys, _context(record.name), record.data))
        if self._names.of(versions.doc_id) != record.name:
            raise MalformedRecord("another document's")
        return versions


def _context(name: RecordName) -> Context:
    """Return where a record belongs."""
    return Context(_PURPOSE, "", name)


# --- values to bytes ------------------------------------------------------------------------------------------------


def encode(versions: Versions) -> bytes:
    """Return the inside of a record. :raise DocumentTooBig: it has more bytes than a record may have."""
    others = sorted([(one.rev, _version(one)) for one in versions.alternatives])
    try:
        count = (len(others) + 1).to_bytes(2, "big")
        parts = [_VERSION, _text16(versions.doc_id), count, _version(versions.current)]
        encoded = b"".join(parts + [one for _, one in others])
    except OverflowError:
        # A name or a number of things that is too large to be written down.
        raise DocumentTooBig(MAX_RECORD + 1, MAX_RECORD) from None
    if len(encoded) > MAX_RECORD:
        raise DocumentTooBig(len(encoded), MAX_RECORD)
    return encoded


def _version(version: Stored) -> bytes:
    content = _TOMBSTONE if version.content is None else _DOCUMENT + _text32(version.content)
    attachments = sorted([(name.encode(), pointer) for name, pointer in version.attachments.items()])
    count = len(attachments).to_bytes(2, "big")
    return b"".join([_text32(version.rev), content, count] + [_attachment(*one) for one in attachments])


def _attachment(name: bytes, pointer: Pointer) -> bytes:
    has_type = b"\0" if pointer.content_type is None else b"\1" + _text16(pointer.content_type)
    length = pointer.length.to_bytes(8, "big")
    return b"".join((_sized16(name), _text16(pointer.blob_id), length, has_type, pointer.commitment))


def _text16(text: str) -> bytes:
    return _sized16(text.encode())


def _sized16(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def _text32(text: str) -> bytes:
    data = text.encode()
    return len(data).to_bytes(4, "big") + data


# --- bytes to values ------------------------------------------------------------------------------------------------


def parse(data: bytes) -> Versions:
    """Read the inside of a record. :raise MalformedRecord: it is none, or is not encoded as it should be."""
    fields = Fields(data, error=MalformedRecord)
    if len(data) > MAX_RECORD:
        raise MalformedRecord("too long")
    try:
        if fields.number(1) != VERSION:
            raise MalformedRecord("version")
        doc_id = ids.doc_id(_text(fields, 2))
        count = fields.number(2)
        start = fields.position
        first = _parsed(fields, doc_id)
        # Most have one version.
        others = [] if count == 1 else _others(fields, data, doc_id, count - 1, data[start : fields.position])
        versions = Versions(first, others)
    except UsageError as error:
        # The error's own text may quote the document.
        raise MalformedRecord(type(error).__name__) from None
    if fields.position != len(data):
        raise MalformedRecord("bytes behind the end")
    if versions.revs != tuple([one.rev for one in (first, *others)]):
        raise MalformedRecord("revisions are not written as they should be")
    return versions


def _others(fields: Fields, data: bytes, doc_id: DocId, count: int, current: bytes) -> list[Stored]:
    """Read the alternatives, which must be in order, and not ``current``; they are told apart by their bytes."""
    if count < 0:
        raise MalformedRecord("no version")
    others: list[Stored] = []
    last = ("", b"")
    for _ in range(count):
        start = fields.position
        others.append(_parsed(fields, doc_id))
        this = others[-1].rev, data[start : fields.position]
        if this <= last or this[1] == current:
            raise MalformedRecord("alternatives are not in order")
        last = this
    return others


def _parsed(fields: Fields, doc_id: DocId) -> Stored:
    """Read a version."""
    rev = _text(fields, 4)
    kind = fields.take(1)
    if kind not in (_TOMBSTONE, _DOCUMENT):
        raise MalformedRecord("kind")
    content = None
    if kind == _DOCUMENT:
        content = _text(fields, 4)
        contents.check(content)
    count = fields.number(2)
    attachments = _attachments(fields, count) if count else {}
    if attachments and content is None:
        raise MalformedRecord("a tombstone with attachments")
    return Stored(doc_id, rev, content, attachments)


def _attachments(fields: Fields, count: int) -> Mapping[str, Pointer]:
    attachments: dict[str, Pointer] = {}
    last = b""
    for _ in range(count):
        name = fields.sized(2)
        if name <= last:
            raise MalformedRecord("attachments are not in order")
        last = name
        attachments[ids.attachment_name(_decoded(name))] = _pointer(fields)
    return attachments


def _pointer(fields: Fields) -> Pointer:
    blob_id = ids.blob_id(_text(fields, 2))
    length = fields.number(8)
    has_type = fields.number(1)
    if length >= _MAX_LENGTH or has_type > 1:
        raise MalformedRecord("attachment")
    content_type = _text(fields, 2) if has_type else None
    return Pointer(blob_id, length, content_type, fields.take(COMMITMENT_SIZE))


def _text(fields: Fields, size: int) -> str:
    """Read a text that stands behind its length, which has ``size`` bytes."""
    return _decoded(fields.sized(size))


def _decoded(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise MalformedRecord("not UTF-8") from None
