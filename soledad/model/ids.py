"""
Identifiers: what they may look like, and how random ones are made.

Each is checked once, where it enters, and is a plain `str` after that.  All are ASCII and matched whole.
Source: docs/spec/identifiers.rst.
"""

from __future__ import annotations

import re
from typing import NewType

from soledad.errors import InvalidDocId, InvalidIdentifier

UserId = NewType("UserId", str)
DocId = NewType("DocId", str)
BlobId = NewType("BlobId", str)
Namespace = NewType("Namespace", str)
#: What a document's record is called on the server: 64 hex digits.
RecordName = NewType("RecordName", str)

#: Where a blob goes when nobody says.
DEFAULT = Namespace("default")
#: Where the attachments of documents are; applications cannot write it by themselves.
ATTACHMENTS = Namespace("attachments")

_USER_ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_BLOB_ID = re.compile(r"[A-Za-z0-9_-]{1,128}", re.ASCII)
_NAMESPACE = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}", re.ASCII)
_RECORD_NAME = re.compile(r"[0-9a-f]{64}", re.ASCII)
_DOC_ID = re.compile(r"[A-Za-z0-9.%_-]+", re.ASCII)
#: The name of an attachment is the application's own text; it only has to be some, and of a sane length.
_NAME_LENGTH = 255


def user_id(text: object) -> UserId:
    """Check a user's id. :raise InvalidIdentifier: not 1 to 64 of ``[A-Za-z0-9_-]``."""
    return UserId(_matched(_USER_ID, "user id", text))


def blob_id(text: object) -> BlobId:
    """Check a blob's id. :raise InvalidIdentifier: not 1 to 128 of ``[A-Za-z0-9_-]``."""
    return BlobId(_matched(_BLOB_ID, "blob id", text))


def namespace(text: object) -> Namespace:
    """Check a namespace. :raise InvalidIdentifier: not ``[a-z0-9][a-z0-9_-]{0,63}``."""
    return Namespace(_matched(_NAMESPACE, "namespace", text))


def record_name(text: object) -> RecordName:
    """Check a record's name. :raise InvalidIdentifier: not 64 hex digits."""
    return RecordName(_matched(_RECORD_NAME, "record name", text))


def doc_id(text: object) -> DocId:
    """Check a document's id. :raise InvalidDocId: not one or more of ``[A-Za-z0-9.%_-]``."""
    if not isinstance(text, str) or not _DOC_ID.fullmatch(text):
        raise InvalidDocId(_shown(text))
    return DocId(text)


def attachment_name(text: object) -> str:
    """Check the name of an attachment. :raise InvalidIdentifier: not 1 to 255 characters that are text."""
    if not isinstance(text, str) or not 0 < len(text) <= _NAME_LENGTH or not _encodable(text):
        raise InvalidIdentifier("attachment name", _shown(text))
    return text


def index_name(text: object) -> str:
    """Check the name of an index. :raise InvalidIdentifier: it is not text."""
    if not isinstance(text, str) or not _encodable(text):
        raise InvalidIdentifier("index name", _shown(text))
    return text


def random_doc_id(entropy: bytes) -> DocId:
    """Make a document's id from 16 random bytes."""
    return DocId("D-" + _hex(entropy))


def random_transaction_id(entropy: bytes) -> str:
    """Make the id of a change from 16 random bytes."""
    return "T-" + _hex(entropy)


def random_blob_id(entropy: bytes) -> BlobId:
    """Make a blob's id from 16 random bytes."""
    return BlobId(_hex(entropy))


def random_replica_id(entropy: bytes) -> str:
    """Make the name of a replica in revisions from 16 random bytes."""
    return _hex(entropy)


def _hex(entropy: bytes) -> str:
    if len(entropy) != 16:
        raise ValueError("16 random bytes are needed")
    return entropy.hex()


def _matched(pattern: re.Pattern[str], kind: str, text: object) -> str:
    if not isinstance(text, str) or not pattern.fullmatch(text):
        raise InvalidIdentifier(kind, _shown(text))
    return text


def _encodable(text: str) -> bool:
    """Tell whether the text has no lone surrogates: those have no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(value: object) -> str:
    """Return what an error may show of a bad identifier: some of it, if it is text at all."""
    return value[:80] if isinstance(value, str) else type(value).__name__
