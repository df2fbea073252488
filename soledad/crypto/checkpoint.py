"""
The statement of what the server's whole state is: the digest over all records, and the sealed checkpoint.

What a commit and a restart make of one is in `committed` and `restarted`, what a device concludes from another one in
`contradictions` and `standing`.
Source: docs/spec/documents-sync.rst, "The digest", "Checkpoints" and "What a device does".
"""

from __future__ import annotations

from base64 import b32encode
from collections.abc import Mapping
from enum import Enum
from hashlib import sha256

from attrs import evolve, frozen

from soledad.crypto.cipher import Context, KeyMaterial, Keys
from soledad.crypto.container import open_, seal
from soledad.crypto.kdf import Mac, info_list
from soledad.crypto.keyring import Keyring, OpenKeyring, SharedPart
from soledad.crypto.slots import Fields
from soledad.errors import MalformedCheckpoint
from soledad.model.ids import RecordName, UserId
from soledad.model.tampering import IncidentKind as IncidentKind
from soledad.wire.container import Purpose

VERSION = 1
#: Bytes of ids, and of what is hashed.
_ID_SIZE, _HASH_SIZE = 16, 32
#: How many digests there are.
_DIGESTS = 1 << 256
MAX_DEVICES = 1024
#: How many entries a restart keeps when there is no room for another one.
KEPT_DEVICES = 512
MAX_INCIDENTS = 64
_CODE_BYTES, _GROUP = 10, 4


@frozen
class Incident:
    """What a device found, and when."""

    #: Unix time, seconds, by the device's own clock.
    time: int
    #: The replica's id: 32 hex digits; here and below.
    device: str
    kind: IncidentKind


@frozen
class Commit:
    """The last commit of a device."""

    #: How many it has made.
    count: int
    #: Random: 32 hex digits.
    commit_id: str
    #: Unix time, seconds, by the device's own clock.
    time: int


@frozen
class KeyringMark:
    """Which keyring a device has."""

    generation: int
    #: SHA-256 of the body's plaintext.
    hash: bytes

    @classmethod
    def of(cls, keyring: OpenKeyring) -> KeyringMark:
        """Return the mark of an open keyring."""
        slots_hash = SharedPart(keyring.slots, b"").slots_hash
        body = keyring.keyring.encode(slots_hash)
        return cls(keyring.keyring.generation, sha256(body).digest())


@frozen
class Checkpoint:
    """What all records are after a commit."""

    #: Random, of the first commit: 32 hex digits.
    history: str
    #: Of the commit, in all of the history.
    number: int
    digest: int
    keyring: KeyringMark
    restarts: int
    #: By replica id.
    devices: Mapping[str, Commit]
    #: In the order in which they were added.
    incidents: tuple[Incident, ...] = ()


# --- the digest -----------------------------------------------------------------------------------------------------


def term(mac: Mac, name: RecordName, record_hash: bytes) -> int:
    """
    Return what a record adds to the digest.

    :param mac: under the digest key.
    :param record_hash: the SHA-256 of the container.
    """
    return int.from_bytes(mac.of(bytes.fromhex(name) + record_hash), "big")


def replaced(digest: int, mac: Mac, name: RecordName, old: bytes | None, new: bytes | None) -> int:
    """Return the digest after a record took the place of another: by their hashes, `None` for none; see `term`."""
    if old is not None:
        digest -= term(mac, name, old)
    if new is not None:
        digest += term(mac, name, new)
    return digest % _DIGESTS


def digest_of(digest_key: bytes, hashes: Mapping[RecordName, bytes]) -> int:
    """Return the digest of records, by their hashes."""
    mac = Mac(digest_key)
    return sum(term(mac, name, record_hash) for name, record_hash in hashes.items()) % _DIGESTS


# --- what follows from checkpoints ----------------------------------------------------------------------------------


def begun(history: str) -> Checkpoint:
    """Return what the first commit of a history follows; it is not a checkpoint that anybody sends."""
    return Checkpoint(history, 0, 0, KeyringMark(0, bytes(_HASH_SIZE)), 0, {})


def committed(
    head: Checkpoint, device: str, commit: Commit, digest: int, keyring: KeyringMark, found: tuple[Incident, ...] = ()
) -> Checkpoint:
    """
    Return the checkpoint of the next commit.

    :param commit: of ``device``, which makes it: one more than its last.
    :param found: incidents to tell the other devices of.
    """
    return evolve(
        head,
        number=head.number + 1,
        digest=digest,
        keyring=keyring,
        devices={**head.devices, device: commit},
        incidents=(*head.incidents, *found)[-MAX_INCIDENTS:],
    )


def restarted(known: Checkpoint, head: Checkpoint) -> Checkpoint:
    """
    Return what the next commit follows when a person says that the server was restored from a backup.

    This alone may drop entries of devices, those that were silent the longest: it excuses whatever went back.

    :param known: the last checkpoint that this device accepted.
    :param head: the one that the server has now.
    """
    devices = dict(head.devices)
    for device, commit in known.devices.items():
        if device not in devices or devices[device].count < commit.count:
            devices[device] = commit
    if len(devices) >= MAX_DEVICES:
        latest = sorted(devices.items(), key=lambda entry: (-entry[1].time, entry[0]))
        devices = dict(latest[:KEPT_DEVICES])
    return evolve(
        head,
        number=max(known.number, head.number),
        restarts=max(known.restarts, head.restarts) + 1,
        devices=devices,
    )


def contradictions(known: Checkpoint, head: Checkpoint) -> frozenset[IncidentKind]:
    """
    Return what is wrong with a head for a device that accepted another checkpoint before.

    More restarts than before excuse what went back; that they are more is told.  They do not excuse another history.
    """
    found: set[IncidentKind] = set()
    if head.restarts > known.restarts:
        found.add(IncidentKind.RESTARTED)
    if head.history != known.history:
        return frozenset({*found, IncidentKind.HISTORY_SPLIT})
    if head.restarts < known.restarts:
        found.add(IncidentKind.STATE_BACK)
    elif not found:
        found |= _of_commits(known, head)
    if is_keyring_back(known.keyring, head.keyring):
        found.add(IncidentKind.KEYRING_BACK)
    return frozenset(found)


class Standing(Enum):
    """How a device's own entry in a head stands to what the device knows."""

    #: It is its last commit.
    LAST = "last"
    #: It is the commit that it had sent without hearing of it.
    PENDING = "pending"
    #: It is an older one, or another one: the device's own commits are missing.
    MISSING = "missing"
    #: It is a later one: this store is a copy, or was put back to an older state.
    AHEAD = "ahead"


def standing(head: Checkpoint, device: str, last: Commit | None, pending: Commit | None) -> Standing:
    """Return how the entry of ``device`` stands to its last acknowledged commit, and to the one that is under way."""
    entry = head.devices.get(device)
    if entry is not None and pending is not None and entry.commit_id == pending.commit_id:
        return Standing.PENDING
    count, known = (0 if one is None else one.count for one in (entry, last))
    if count > known:
        return Standing.AHEAD
    is_last = entry is last or (entry is not None and last is not None and entry.commit_id == last.commit_id)
    return Standing.LAST if count == known and is_last else Standing.MISSING


def is_keyring_back(expected: KeyringMark, found: KeyringMark) -> bool:
    """Tell whether a keyring is older than one that is known, or another one of the same generation."""
    return found.generation < expected.generation or (
        found.generation == expected.generation and found.hash != expected.hash
    )


def is_keyring_untold(head: Checkpoint | None, keyring: Keyring) -> bool:
    """Tell whether a keyring is newer than the head names: than the first one, where there is none yet."""
    return keyring.generation > (1 if head is None else head.keyring.generation)


def _of_commits(known: Checkpoint, head: Checkpoint) -> set[IncidentKind]:
    found: set[IncidentKind] = set()
    if head.number < known.number:
        found.add(IncidentKind.STATE_BACK)
    if head.number == known.number and head != known:
        found.add(IncidentKind.HISTORY_SPLIT)
    for device, commit in known.devices.items():
        now = head.devices.get(device)
        if now is None or now.count < commit.count:
            found.add(IncidentKind.STATE_BACK)
        elif now.count == commit.count and now.commit_id != commit.commit_id:
            found.add(IncidentKind.HISTORY_SPLIT)
    return found


def checkpoint_code(checkpoint: Checkpoint) -> str:
    """Return what people compare to see that their devices were told the same: ``ABCD-EFGH-IJKL-MNOP``."""
    hashed = sha256(info_list("soledad/checkpoint-code", encode(checkpoint))).digest()
    code = b32encode(hashed[:_CODE_BYTES]).decode("ascii")
    return "-".join(code[at : at + _GROUP] for at in range(0, len(code), _GROUP))


# --- the seal -------------------------------------------------------------------------------------------------------


def seal_checkpoint(material: KeyMaterial, user: UserId, salt: bytes, checkpoint: Checkpoint) -> bytes:
    """
    Return the sealed checkpoint.  ``salt``: 24 random bytes, never used before.

    :raise MalformedCheckpoint: it has too many devices.
    """
    return seal(material, _context(user), salt, encode(checkpoint))


def open_checkpoint(keys: Keys, user: UserId, container: bytes) -> Checkpoint:
    """
    Return what a sealed checkpoint states.

    :raise UnknownKey: it is sealed under a key that is not there.
    :raise CryptoError: it is not a checkpoint of this user.
    """
    return parse(open_(keys, _context(user), container))


def _context(user: UserId) -> Context:
    """Return where a checkpoint belongs."""
    return Context(Purpose.CHECKPOINT, "", user)


def encode(checkpoint: Checkpoint) -> bytes:
    """Return the inside of a checkpoint. :raise MalformedCheckpoint: it has too many devices."""
    if len(checkpoint.devices) > MAX_DEVICES:
        raise MalformedCheckpoint("too many devices")
    return b"".join(
        (
            bytes((VERSION,)),
            bytes.fromhex(checkpoint.history),
            checkpoint.number.to_bytes(8, "big"),
            checkpoint.digest.to_bytes(_HASH_SIZE, "big"),
            checkpoint.keyring.generation.to_bytes(8, "big"),
            checkpoint.keyring.hash,
            checkpoint.restarts.to_bytes(4, "big"),
            len(checkpoint.devices).to_bytes(2, "big"),
            *(_encode_device(device, commit) for device, commit in sorted(checkpoint.devices.items())),
            len(checkpoint.incidents).to_bytes(2, "big"),
            *map(_encode_incident, checkpoint.incidents),
        )
    )


def parse(data: bytes) -> Checkpoint:
    """Read the inside of a checkpoint. :raise MalformedCheckpoint: it is none, or is not encoded as it should be."""
    fields = Fields(data, error=MalformedCheckpoint)
    if fields.number(1) != VERSION:
        raise MalformedCheckpoint("version")
    checkpoint = Checkpoint(
        history=_id(fields),
        number=fields.number(8),
        digest=fields.number(_HASH_SIZE),
        keyring=KeyringMark(fields.number(8), fields.take(_HASH_SIZE)),
        restarts=fields.number(4),
        devices=_devices(fields, fields.number(2)),
        incidents=_incidents(fields, fields.number(2)),
    )
    if fields.rest():
        raise MalformedCheckpoint("bytes behind the end")
    if not (checkpoint.number and checkpoint.devices):
        raise MalformedCheckpoint("no commit")
    return checkpoint


def _encode_device(device: str, commit: Commit) -> bytes:
    ids = bytes.fromhex(device), bytes.fromhex(commit.commit_id)
    return b"".join((ids[0], commit.count.to_bytes(8, "big"), ids[1], commit.time.to_bytes(8, "big")))


def _encode_incident(incident: Incident) -> bytes:
    return b"".join((incident.time.to_bytes(8, "big"), bytes.fromhex(incident.device), bytes((incident.kind,))))


def _devices(fields: Fields, number: int) -> Mapping[str, Commit]:
    if number > MAX_DEVICES:
        raise MalformedCheckpoint("too many devices")
    devices: dict[str, Commit] = {}
    last = ""
    for _ in range(number):
        device, count = _id(fields), fields.number(8)
        if device <= last or not count:
            raise MalformedCheckpoint("devices")
        last = device
        devices[device] = Commit(count, _id(fields), fields.number(8))
    return devices


def _incidents(fields: Fields, number: int) -> tuple[Incident, ...]:
    if number > MAX_INCIDENTS:
        raise MalformedCheckpoint("too many incidents")
    return tuple(Incident(fields.number(8), _id(fields), _kind(fields.number(1))) for _ in range(number))


def _kind(number: int) -> IncidentKind:
    try:
        return IncidentKind(number)
    except ValueError:
        raise MalformedCheckpoint("kind of incident") from None


def _id(fields: Fields) -> str:
    return fields.take(_ID_SIZE).hex()
