"""
One tree of errors, for both ends.

A branch tells the caller what to do; a class what happened; its fields, the particulars.  No secret is
ever a field, and neither are the contents of documents or blobs: an error may be logged as it is.

::

    SoledadError
    ├── UsageError      the caller's mistake: mend the call
    ├── StorageError    a plain no: the thing is missing, taken, full
    ├── KeyringError    a person must act
    ├── CryptoError     not retried as it is: the bytes are not what they should be
    └── TransferError   the exchange failed; `RetriableTransferError` is worth another try
"""

from __future__ import annotations

from attrs import fields, frozen, has


class SoledadError(Exception):
    """Something went wrong."""

    @classmethod
    def summary(cls) -> str:
        """Return what happened, without the particulars: the first line of the class's docstring."""
        # What marks code in documentation is noise in a message.
        return (cls.__doc__ or cls.__name__).strip().splitlines()[0].rstrip(".").replace("``", "")

    def __str__(self) -> str:
        """Return the summary, and the fields that are not empty."""
        text = self.summary()
        cls = type(self)
        if not has(cls):
            return text
        named = ((a.name, getattr(self, a.name)) for a in fields(cls) if a.repr)
        told = ", ".join(f"{name}={value!r}" for name, value in named if value not in (None, ""))
        return f"{text} ({told})" if told else text


# --- the caller's mistake -----------------------------------------------------------------------------


class UsageError(SoledadError):
    """The call cannot be carried out as it was made."""


@frozen(str=False)
class InvalidIdentifier(UsageError):
    """An identifier is not of the allowed form."""

    kind: str
    value: str


@frozen(str=False)
class InvalidDocId(UsageError):
    """A document id has characters other than ASCII letters, digits and ``. % _ -``, or none at all."""

    value: str


@frozen(str=False)
class InvalidPassphrase(UsageError):
    """The passphrase is empty, or is no text."""


@frozen(str=False)
class InvalidRecoveryCode(UsageError):
    """The recovery code is not one, or is mistyped."""


@frozen(str=False)
class InvalidJSON(UsageError):
    """The text is not a JSON object."""

    reason: str = ""


@frozen(str=False)
class InvalidContent(UsageError):
    """The value cannot be the content of a document: it must be a JSON object."""

    reason: str = ""


@frozen(str=False)
class InvalidRange(UsageError):
    """The range does not lie within the data."""

    start: int
    length: int | None
    available: int


@frozen(str=False)
class DocumentTooBig(UsageError):
    """The document is larger than the store's limit allows (bytes)."""

    size: int
    limit: int


@frozen(str=False)
class RevisionConflict(UsageError):
    """The document's revision is not the stored one: read it again and repeat the change."""

    doc_id: str
    given: str | None = None
    stored: str | None = None


@frozen(str=False)
class ConflictedDoc(UsageError):
    """The document is in conflict: resolve it before it is written again."""

    doc_id: str


@frozen(str=False)
class DocumentDoesNotExist(UsageError):
    """There is no such document."""

    doc_id: str


@frozen(str=False)
class DocumentAlreadyDeleted(UsageError):
    """The document is deleted already."""

    doc_id: str


@frozen(str=False)
class IndexDefinitionParseError(UsageError):
    """The expression of an index cannot be understood."""

    expression: str
    reason: str = ""


@frozen(str=False)
class IndexNameTakenError(UsageError):
    """There is another index of that name."""

    name: str


@frozen(str=False)
class IndexDoesNotExist(UsageError):
    """There is no index of that name."""

    name: str


@frozen(str=False)
class InvalidValueForIndex(UsageError):
    """The values do not fit the index: one for each column, each a text, ``Exact``, ``Prefix`` or ``ANY``."""

    reason: str = ""


@frozen(str=False)
class InvalidGlobbing(UsageError):
    """Something else than ``*`` stands behind a wildcard."""


@frozen(str=False)
class InvalidLimit(UsageError):
    """A limit or an offset is not a whole number, or is too small."""

    name: str
    least: int = 0


@frozen(str=False)
class InvalidArgument(UsageError):
    """The argument is none of the values that it may be."""

    name: str
    value: str


@frozen(str=False)
class InvalidSearch(UsageError):
    """The query for a full text search cannot be understood."""

    reason: str


@frozen(str=False)
class TooManyKeys(UsageError):
    """The document would have more keys in an index than are allowed."""

    number: int
    limit: int
    index: str = ""
    doc_id: str = ""


@frozen(str=False)
class NoAttachment(UsageError):
    """The document has no attachment of that name."""

    doc_id: str
    name: str


@frozen(str=False)
class DetachedDocument(UsageError):
    """The document object does not belong to this store, or to none: get it from the store, or save it first."""

    doc_id: str | None = None


@frozen(str=False)
class InvalidSource(UsageError):
    """What was given to read from is no open binary file, bytes or producer."""

    reason: str


@frozen(str=False)
class WrongLength(UsageError):
    """The source gave another number of bytes than it had announced."""

    announced: int
    given: int


@frozen(str=False)
class StoreClosed(UsageError):
    """The store is closed."""


@frozen(str=False)
class NoServer(UsageError):
    """The store was opened without a server: give ``server_url`` and ``auth_token``."""


@frozen(str=False)
class InvalidServerURL(UsageError):
    """The server's URL, token or certificate file is not usable."""

    reason: str


@frozen(str=False)
class BadRequest(UsageError):
    """The server cannot make sense of the request."""

    reason: str = ""


@frozen(str=False)
class PathNotFound(UsageError):
    """The server has nothing under that path."""


@frozen(str=False)
class NotAllowed(UsageError):
    """The server does not offer this method here."""

    method: str = ""


@frozen(str=False)
class UnsupportedMediaType(UsageError):
    """The body is not of the type that is taken here."""

    expected: str = ""


@frozen(str=False)
class InvalidFlags(UsageError):
    """The list of flags is none, or names a flag that does not exist."""

    reason: str = ""


# --- a plain no ---------------------------------------------------------------------------------------


class StorageError(SoledadError):
    """The store cannot do that now."""


@frozen(str=False)
class BlobNotFound(StorageError):
    """There is no such blob."""

    blob_id: str
    namespace: str


@frozen(str=False)
class BlobExists(StorageError):
    """The id is taken: blobs are written once."""

    blob_id: str
    namespace: str


@frozen(str=False)
class BlobBusy(StorageError):
    """Somebody else is writing or using this blob at the moment."""

    blob_id: str
    namespace: str


@frozen(str=False)
class UploadNotFound(StorageError):
    """There is no such upload: it has ended, was abandoned, or has expired."""

    upload: str


@frozen(str=False)
class WrongOffset(StorageError):
    """The upload has another number of bytes than the caller believes."""

    #: Bytes that it has.
    offset: int | None = None


@frozen(str=False)
class AttachmentNotAvailable(StorageError):
    """The attachment's bytes are not here and not on the server yet: try again later."""

    doc_id: str
    name: str


@frozen(str=False)
class NotEvictable(StorageError):
    """The bytes have to stay on this device: they are pinned, or are not known to be safe elsewhere."""

    blob_id: str
    namespace: str
    reason: str = ""


@frozen(str=False)
class QuotaExceeded(StorageError):
    """The user's quota does not allow that many bytes."""

    asked: int | None = None
    available: int | None = None


@frozen(str=False)
class StorageFull(StorageError):
    """The disk is full: nothing of this was stored."""

    where: str = ""


@frozen(str=False)
class StorageFailed(StorageError):
    """The operating system could not read or write the data: nothing of this was stored."""

    reason: str = ""


@frozen(str=False)
class StoreInUse(StorageError):
    """Another opener, in this process or another, has the store open."""

    path: str


@frozen(str=False)
class ForeignStore(StorageError):
    """The folder holds the store of another user."""

    path: str
    found: str = ""


@frozen(str=False)
class NotADatabase(StorageError):
    """The file is not a database of this store: not encrypted, not SQLCipher's, damaged, or under another key."""

    path: str


@frozen(str=False)
class NewerSchema(StorageError):
    """The database was written by a newer version of soledad."""

    path: str
    found: int
    known: int


@frozen(str=False)
class NoDataFolder(StorageError):
    """There is no such folder: ``soledad-server user add`` makes it."""

    path: str


@frozen(str=False)
class ForeignFolder(StorageError):
    """The folder has something else in it than a server's data."""

    path: str
    found: str = ""


@frozen(str=False)
class UserExists(StorageError):
    """The user exists already."""

    user: str


@frozen(str=False)
class NoSuchUser(StorageError):
    """There is no such user."""

    user: str


@frozen(str=False)
class KeyringNotFound(StorageError):
    """The server has no keyring of this user."""


@frozen(str=False)
class TooManyDevices(StorageError):
    """More devices have written than a history can tell apart: this one can only read."""

    limit: int


@frozen(str=False)
class StaleToken(StorageError):
    """The list's token is from before a restore or a repair: compare in full."""


# --- a person must act --------------------------------------------------------------------------------


class KeyringError(SoledadError):
    """The keys of the store cannot be had."""


@frozen(str=False)
class WrongPassphrase(KeyringError):
    """The passphrase is wrong: it opens no slot of the keyring."""


@frozen(str=False)
class NotEnoughMemory(KeyringError):
    """This machine has not the memory (bytes) that trying the passphrase takes."""

    needed: int


@frozen(str=False)
class MalformedKeyring(KeyringError):
    """The keyring is damaged, or is none."""

    reason: str


@frozen(str=False)
class KeyringMissing(KeyringError):
    """There is a database but no keyring for it: put the keyring file back."""

    path: str


@frozen(str=False)
class KeyringExists(KeyringError):
    """A keyring is there already: it is never overwritten."""

    path: str


@frozen(str=False)
class KeyringChanged(KeyringError):
    """The server has another keyring of this user: ``adopt_keyring`` with its passphrase goes on with that."""


@frozen(str=False)
class KeyringRolledBack(KeyringError):
    """The server's keyring is older than it was, or was replaced by another as old; it was not taken."""

    #: Generations.
    found: int
    known: int


# --- the bytes are not what they should be ------------------------------------------------------------


class CryptoError(SoledadError):
    """Sealed bytes cannot be opened."""


@frozen(str=False)
class MalformedContainer(CryptoError):
    """The bytes are not a container: wrong magic, version, suite, flags, size or padding."""

    reason: str


@frozen(str=False)
class MalformedRecord(CryptoError):
    """A record opened, and what is inside is not a document under that name."""

    reason: str


@frozen(str=False)
class MalformedCheckpoint(CryptoError):
    """A checkpoint opened, and what is inside is none."""

    reason: str


@frozen(str=False)
class UnknownKey(CryptoError):
    """The container is sealed under a key that this keyring does not have."""

    key_id: str


@frozen(str=False)
class AuthenticationFailed(CryptoError):
    """The bytes are not what was sealed: altered, cut, or for another account, namespace or id."""

    chunk: int | None = None


@frozen(str=False)
class TamperingDetected(CryptoError):
    """The server was found not to tell the truth, and the store's policy is not to go on with it."""

    #: What was found: names of `soledad.IncidentKind`.
    kinds: tuple[str, ...]


@frozen(str=False)
class ServerRolledBack(TamperingDetected):
    """The server shows an older state than before: restored from a backup, which somebody may say, or an attack."""


# --- the exchange failed ------------------------------------------------------------------------------


class TransferError(SoledadError):
    """The exchange with the server failed."""


@frozen(str=False)
class Unauthorized(TransferError):
    """The server does not know the token: it is wrong or was revoked."""


@frozen(str=False)
class Forbidden(TransferError):
    """The token is another user's."""


@frozen(str=False)
class PreconditionFailed(TransferError):
    """The thing on the server is not in the state that the request named."""


@frozen(str=False)
class LengthRequired(TransferError):
    """The server wants to know the length of the body first."""


@frozen(str=False)
class ChecksumMismatch(TransferError):
    """The bytes that arrived are not those of the checksum: none of them was taken."""


@frozen(str=False)
class TooLarge(TransferError):
    """The body is larger than the server takes (bytes)."""

    limit: int | None = None


@frozen(str=False)
class MalformedStream(TransferError):
    """A body that holds many blobs is not well-formed, or is cut off."""

    reason: str = ""


@frozen(str=False)
class UnsatisfiableRange(TransferError):
    """The range lies outside of the blob on the server."""

    size: int | None = None


@frozen(str=False)
class UnexpectedAnswer(TransferError):
    """The server's answer is not of the protocol."""

    reason: str = ""
    status: int | None = None


@frozen(str=False)
class InsecureServer(TransferError):
    """The server's certificate is not to be trusted."""

    reason: str = ""


class RetriableTransferError(TransferError):
    """The exchange failed this time and is worth another try."""


@frozen(str=False)
class ConnectionFailed(RetriableTransferError):
    """The server cannot be reached, or the connection broke."""

    reason: str = ""


@frozen(str=False)
class UploadBusy(RetriableTransferError):
    """Another connection is at this upload."""

    upload: str


@frozen(str=False)
class TransferTimeout(RetriableTransferError):
    """Nothing moved for too long (seconds)."""

    seconds: float | None = None


@frozen(str=False)
class ServerFailed(RetriableTransferError):
    """The server failed or is too busy."""

    status: int | None = None
