"""
What is to be done with records that came, and what goes out: plain functions of what is known.

`plan_page` and `plan_push` take as long as opening and sealing do: callers use a thread.
Source: docs/spec/documents-sync.rst, "What a device does".
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence, Set

from attrs import evolve, frozen

from soledad.crypto.checkpoint import digest_of, replaced
from soledad.crypto.kdf import Mac
from soledad.errors import CryptoError, DocumentTooBig, UnknownKey
from soledad.model import revision
from soledad.model.conflict import Versions
from soledad.model.ids import DocId, RecordName
from soledad.model.syncing import Known, KnownRecord, Outgoing, Pulled, Sent
from soledad.model.tampering import Problem, Reason
from soledad.wire.changes import SealedRecord

#: Opens a record, or raises a `CryptoError`; seals the versions of a document under a name.
Opener = Callable[[SealedRecord], Versions]
Sealer = Callable[[RecordName, Versions], SealedRecord]

_NOTHING = KnownRecord(None)


@frozen
class PagePlan:
    """What becomes of a page of records."""

    #: Those that are not just what was here already.
    arrivals: tuple[Pulled, ...]
    #: What the records of the server are together, after it.
    digest: int
    #: Whether a record has counts of this replica that this store never sent: another copy of it did.
    is_copy: bool


def plan_page(
    records: Iterable[SealedRecord],
    known: Known,
    replica: str,
    digest: int,
    digest_key: bytes,
    opener: Opener,
    aside: Container[RecordName] = (),
    lenient: bool = False,
) -> PagePlan:
    """
    Judge records in the order in which they came.

    :param digest: what the records of the server are together, before it.
    :param aside: records that are set aside: they are looked at even if they are the same.
    :param lenient: whether the server may have what is older: somebody said that it was restored.
    """
    arrivals: list[Pulled] = []
    taken: dict[RecordName, tuple[KnownRecord, Pulled]] = {}
    is_copy = False
    mac = Mac(digest_key)
    for record in records:
        name, hashed = record.name, record.hash
        before = _known_after(*taken[name]) if name in taken else known.records.get(name, _NOTHING)
        if before.hash == hashed and name not in aside:
            continue
        digest = replaced(digest, mac, name, before.hash, hashed)
        arrival = _judge(record, hashed, before, replica, opener, lenient)
        arrivals.append(arrival)
        is_copy = is_copy or arrival.own > max(before.own, known.sent.get(name, 0))
        taken[name] = before, arrival
    return PagePlan(tuple(arrivals), digest, is_copy)


def _judge(
    record: SealedRecord, hashed: bytes, before: KnownRecord, replica: str, opener: Opener, lenient: bool
) -> Pulled:
    try:
        versions = opener(record)
    except UnknownKey:
        return _aside(record, hashed, Reason.UNKNOWN_KEY)
    except CryptoError:
        return _aside(record, hashed, Reason.FORGED)
    own = _own(versions, replica)
    if not lenient and before.hash is not None and not _goes_on(before.revs, versions):
        return evolve(_aside(record, hashed, Reason.OLDER), own=own)
    return Pulled(record.name, hashed, versions, own=own)


def _aside(record: SealedRecord, hashed: bytes, reason: Reason) -> Pulled:
    return Pulled(record.name, hashed, problem=Problem(reason, record.name, hash=hashed))


def _known_after(before: KnownRecord, arrival: Pulled) -> KnownRecord:
    revs = before.revs if arrival.versions is None else " ".join(arrival.versions.revs)
    return KnownRecord(arrival.hash, revs, max(before.own, arrival.own))


def _goes_on(before: str, versions: Versions) -> bool:
    """Tell whether each revision that a record had is in the next one, or a newer one."""
    revs = versions.revs
    return all(rev in revs or any(revision.is_newer(one, rev) for one in revs) for rev in before.split())


def _own(versions: Versions, replica: str) -> int:
    """Return the greatest count of a replica in a record."""
    if not versions.alternatives:
        return revision.counted(versions.current.rev, replica)
    return max([revision.counted(rev, replica) for rev in versions.revs])


@frozen
class Comparison:
    """What a full list of names and hashes comes to."""

    #: Records that have to be looked at, ascending.
    differing: tuple[RecordName, ...]
    #: Records that the server has not got any more, ascending.
    gone: tuple[RecordName, ...]
    #: What the records of the server are together without those.
    digest: int


def plan_comparison(
    mine: Mapping[RecordName, bytes],
    listed: Mapping[RecordName, bytes],
    aside: Set[RecordName],
    digest: int,
    digest_key: bytes,
) -> Comparison:
    """
    Compare what the server has with what is known of it.

    :param aside: records that are set aside: they are looked at even if they are the same.
    :param digest: what the records are together, as far as is known.
    """
    gone = tuple(sorted(mine.keys() - listed.keys()))
    differing = {name for name, hashed in listed.items() if mine.get(name) != hashed} | (aside & listed.keys())
    lost = digest_of(digest_key, {name: mine[name] for name in gone})
    return Comparison(tuple(sorted(differing)), gone, (digest - lost) % (1 << 256))


@frozen
class PushPlan:
    """What goes out, and what does not."""

    #: Ascending by name.
    records: tuple[SealedRecord, ...]
    sent: tuple[Sent, ...]
    #: What the records of the server are together, after it.
    digest: int
    #: Documents that cannot go out.
    held_back: tuple[tuple[Problem, DocId], ...]
    #: Documents that the server has just so, with the number of the change that this holds for.
    same: tuple[tuple[DocId, int], ...]
    #: The last document that goes out, in the order in which they wait.
    last: DocId | None

    @property
    def is_all_sent(self) -> bool:
        """Whether something goes out, and nothing does not."""
        return bool(self.sent) and not self.held_back and not self.same


def plan_push(
    outgoing: Sequence[tuple[RecordName, Outgoing]],
    known: Mapping[RecordName, KnownRecord],
    replica: str,
    digest: int,
    digest_key: bytes,
    sealer: Sealer,
    room: int,
    problems: Iterable[Problem] = (),
) -> PushPlan:
    """
    Seal what goes out, as much as there is room for.

    :param room: bytes for records, frames included; there is always room for one.
    :param problems: what is set aside: nothing goes out under these names.
    """
    aside = {problem.name: problem for problem in problems}
    pairs: list[tuple[SealedRecord, Sent]] = []
    held_back: list[tuple[Problem, DocId]] = []
    same: list[tuple[DocId, int]] = []
    mac = Mac(digest_key)
    for name, one in outgoing:
        before = known.get(name, _NOTHING)
        doc_id = one.versions.doc_id
        if name in aside:
            held_back.append((aside[name], doc_id))
        elif _has(before, one.versions):
            same.append((doc_id, one.generation))
        else:
            try:
                record = sealer(name, one.versions)
            except DocumentTooBig:
                held_back.append((Problem(Reason.TOO_BIG, name), doc_id))
                continue
            room -= len(record.data) + _FRAME
            if room < 0 and pairs:
                break
            pairs.append((record, _sent(record, one, replica)))
            digest = replaced(digest, mac, name, before.hash, pairs[-1][1].hash)
    last = pairs[-1][1].doc_id if pairs else None
    pairs.sort(key=lambda pair: pair[0].name)
    records, sent = tuple(record for record, _ in pairs), tuple(note for _, note in pairs)
    return PushPlan(records, sent, digest, tuple(held_back), tuple(same), last)


#: Bytes of a record's frame in a push.
_FRAME = 36


def _has(before: KnownRecord, versions: Versions) -> bool:
    """Tell whether the server has just these; one revision with two contents tells too little to say so."""
    revs = versions.revs
    return before.hash is not None and tuple(before.revs.split()) == revs and len(set(revs)) == len(revs)


def _sent(record: SealedRecord, one: Outgoing, replica: str) -> Sent:
    own = _own(one.versions, replica)
    revs = " ".join(one.versions.revs)
    return Sent(record.name, record.hash, one.versions.doc_id, revs, one.generation, own)
