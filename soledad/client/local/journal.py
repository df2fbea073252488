"""
What this device knows of the documents on the server, and what it has still to send there.

Functions of a cursor, run as jobs of the documents' `Database`: what is noted of a record, and what the record does
to the documents, is one transaction.  What all of it means, `soledad.client.sync.documents` says.
Tables: docs/spec/store.rst, "The journal".
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Sequence
from os import urandom
from typing import Any, TypeVar

from attrs import asdict, define, evolve
from twisted.internet.defer import Deferred
from zope.interface import implementer

from soledad.client.interfaces import IJournal
from soledad.client.local import bulk, documents
from soledad.client.local.database import Cursor
from soledad.client.local.documents import LocalDocuments
from soledad.client.local.rows import COLUMNS, from_row
from soledad.model import revision
from soledad.model.conflict import Applied, Versions
from soledad.model.document import Written
from soledad.model.ids import DocId, RecordName, random_replica_id
from soledad.model.syncing import Following, Known, KnownRecord, Look, Outgoing, Pending, Pulled, Sent, Standing
from soledad.model.tampering import Incident, IncidentKind, Problem, Reason, TamperPolicy

T = TypeVar("T")

#: SQLite takes this many parameters in a statement, at the very least.
_PARAMETERS = 900
_DIGEST_SIZE = 32


# --- where this device stands -------------------------------------------------------------------------


def look(cursor: Cursor) -> Look:
    """Return what there is to know before a sync begins."""
    generation, _ = documents.generation(cursor)
    (waiting,) = cursor.execute("SELECT EXISTS (SELECT 1 FROM sync_outgoing)").fetchone()
    is_changed = bool(waiting) or generation > _number(cursor, "scanned")
    return Look(
        standing=standing(cursor),
        policy=policy(cursor),
        replica=documents.replica(cursor),
        generation=generation,
        is_changed=is_changed,
        pending=pending(cursor),
        problems=tuple(problems(cursor)),
        untold=tuple(incidents(cursor, "WHERE NOT told")),
    )


def standing(cursor: Cursor) -> Standing:
    """Return how far this device is with the server."""
    query = "SELECT server, account, cursor, head, digest, checkpoint, count, restarting FROM sync_standing"
    row = cursor.execute(query).fetchone()
    if row is None:
        return Standing()
    server, account, position, head, digest, checkpoint, count, restarting = row
    return Standing(server, account, position, head, int.from_bytes(digest, "big"), checkpoint, count, bool(restarting))


def stand(cursor: Cursor, now: Standing) -> None:
    """Note how far this device is."""
    values = {**asdict(now), "digest": now.digest.to_bytes(_DIGEST_SIZE, "big")}
    query = """
        INSERT OR REPLACE INTO sync_standing (id, server, account, cursor, head, digest, checkpoint, count, restarting)
        VALUES (1, :server, :account, :cursor, :head, :digest, :checkpoint, :count, :restarting)
    """
    cursor.execute(query, values)


def enter(cursor: Cursor, server: str, account: bytes, new_replica: str) -> None:
    """
    Begin with a server, or with the keys of an account.

    When they are others than before, nothing is known of what the server has; everything is to be sent.  What this
    replica has counted may be there, and what it goes on to count not yet: it takes a new name.
    """
    before = standing(cursor)
    if (before.server, before.account) == (server, account):
        return
    if before.server:
        for table in ("sync_record", "sync_outgoing", "sync_problem", "sync_push", "sync_sent"):
            cursor.execute(f"DELETE FROM {table}")
        _set(cursor, "scanned", 0)
        _set(cursor, "replica", new_replica)
    stand(cursor, Standing(server, account))


def history(cursor: Cursor, server: str) -> str | None:
    """Return the history that a server had when it was met; `None`: it never was."""
    row = cursor.execute("SELECT history FROM sync_history WHERE server = ?", (server,)).fetchone()
    return None if row is None else str(row[0])


def policy(cursor: Cursor) -> TamperPolicy:
    """Return what is to be done when the server is found not to tell the truth."""
    text = _get(cursor, "tamper_policy")
    return TamperPolicy.WARN if text is None else TamperPolicy(text)


def set_policy(cursor: Cursor, wanted: TamperPolicy) -> None:
    """Do something else from now on."""
    _set(cursor, "tamper_policy", wanted.value)


# --- records ------------------------------------------------------------------------------------------


def known(cursor: Cursor, names: Sequence[RecordName]) -> dict[RecordName, KnownRecord]:
    """Return what is known of records."""
    found: dict[RecordName, KnownRecord] = {}
    for start in range(0, len(names), _PARAMETERS):
        some = [bytes.fromhex(name) for name in names[start : start + _PARAMETERS]]
        query = f"SELECT name, hash, revs, own FROM sync_record WHERE name IN ({','.join('?' * len(some))})"
        for name, hashed, revs, own in cursor.execute(query, some):
            found[RecordName(name.hex())] = KnownRecord(hashed, revs, own)
    return found


def _known_and_sent(cursor: Cursor, names: Sequence[RecordName]) -> Known:
    return Known(known(cursor, names), own_sent(cursor))


def hashes(cursor: Cursor) -> dict[RecordName, bytes]:
    """Return the names and hashes of all records that the server has, as far as is known."""
    query = "SELECT name, hash FROM sync_record WHERE hash IS NOT NULL"
    return {RecordName(name.hex()): hashed for name, hashed in cursor.execute(query)}


def take(cursor: Cursor, replica: str, arrivals: Sequence[Pulled], now: Standing) -> list[Applied]:
    """
    Take records that came, and note them, and how far that is.

    :return: what became of those that have versions.
    """
    scan(cursor)
    good = [one for one in arrivals if one.versions is not None]
    applied = documents.apply_all(cursor, replica, [one.versions for one in good if one.versions is not None])
    _note_good(cursor, good)
    _set_aside(cursor, [one for one in arrivals if one.problem is not None])
    generation, _ = documents.generation(cursor)
    out = [(one.versions.doc_id, generation) for one in applied if one.goes_out]
    # One statement each: with one for each document the others would be waited for as often.
    settled = json.dumps([one.versions.doc_id for one in applied if not one.goes_out])
    cursor.execute("DELETE FROM sync_outgoing WHERE doc_id IN (SELECT value FROM json_each(?))", (settled,))
    bulk.insert(cursor, "INSERT OR REPLACE INTO sync_outgoing", out)
    _set(cursor, "scanned", generation)
    stand(cursor, now)
    return applied


def _note_good(cursor: Cursor, arrivals: Iterable[Pulled]) -> None:
    rows = [
        (bytes.fromhex(one.name), one.hash, one.versions.doc_id, " ".join(one.versions.revs), one.own)
        for one in arrivals
        if one.versions is not None
    ]
    bulk.insert(cursor, _NOTE, rows, _NOTED_BEFORE)
    if cursor.execute("SELECT 1 FROM sync_problem LIMIT 1").fetchone() is not None:
        cursor.executemany("DELETE FROM sync_problem WHERE name = ?", [row[:1] for row in rows])


#: Notes what a record is now, whether there was one of its name before or not.
_NOTE = "INSERT INTO sync_record (name, hash, doc_id, revs, own)"
_NOTED_BEFORE = """
    ON CONFLICT (name) DO UPDATE
    SET hash = excluded.hash, doc_id = excluded.doc_id, revs = excluded.revs, own = max(own, excluded.own)
"""


def _set_aside(cursor: Cursor, arrivals: Iterable[Pulled]) -> None:
    for one in arrivals:
        assert one.problem is not None
        name = bytes.fromhex(one.name)
        query = """
            INSERT INTO sync_record (name, hash) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET hash = excluded.hash
        """
        cursor.execute(query, (name, one.hash))
        (doc_id,) = cursor.execute("SELECT doc_id FROM sync_record WHERE name = ?", (name,)).fetchone()
        put_problem(cursor, one.problem, doc_id)


def missing(cursor: Cursor, names: Collection[RecordName], now: Standing) -> None:
    """Note that the server has not got these records, though it had; what is here of them is to be sent again."""
    scan(cursor)
    generation, _ = documents.generation(cursor)
    for name in names:
        key = bytes.fromhex(name)
        (doc_id,) = cursor.execute("SELECT doc_id FROM sync_record WHERE name = ?", (key,)).fetchone()
        # Of what was never good there is nothing to remember.
        forgotten = "DELETE FROM sync_record" if doc_id is None else "UPDATE sync_record SET hash = NULL"
        cursor.execute(f"{forgotten} WHERE name = ?", (key,))
        cursor.execute("DELETE FROM sync_problem WHERE name = ?", (key,))
        if doc_id is not None and documents.get_rev(cursor, doc_id) is not None:
            cursor.execute("INSERT OR REPLACE INTO sync_outgoing VALUES (?, ?)", (doc_id, generation))
    stand(cursor, now)


def replace(cursor: Cursor, names: Collection[RecordName]) -> list[RecordName]:
    """Let what is here of documents be sent in the place of records that are set aside; return which that are."""
    generation, _ = documents.generation(cursor)
    replaced = []
    for name in names:
        key = bytes.fromhex(name)
        (doc_id,) = cursor.execute("SELECT doc_id FROM sync_record WHERE name = ?", (key,)).fetchone()
        if doc_id is not None and documents.get_rev(cursor, doc_id) is not None:
            cursor.execute("UPDATE sync_record SET revs = '' WHERE name = ?", (key,))
            cursor.execute("DELETE FROM sync_problem WHERE name = ?", (key,))
            cursor.execute("INSERT OR REPLACE INTO sync_outgoing VALUES (?, ?)", (doc_id, generation))
            replaced.append(name)
    return replaced


def put_problem(cursor: Cursor, problem: Problem, doc_id: DocId | None) -> None:
    """Note that a document takes no part."""
    row = (bytes.fromhex(problem.name), problem.reason.value, doc_id, problem.hash)
    cursor.execute("INSERT OR REPLACE INTO sync_problem VALUES (?, ?, ?, ?)", row)


def problems(cursor: Cursor) -> list[Problem]:
    """Return what takes no part."""
    rows = cursor.execute("SELECT name, reason, doc_id, hash FROM sync_problem ORDER BY name")
    return [
        Problem(Reason(reason), RecordName(name.hex()), None if doc_id is None else DocId(doc_id), hashed)
        for name, reason, doc_id, hashed in rows
    ]


# --- what goes out ------------------------------------------------------------------------------------


def scan(cursor: Cursor) -> None:
    """Let what was changed since the last look wait to be sent."""
    scanned = _number(cursor, "scanned")
    generation, _ = documents.generation(cursor)
    if generation == scanned:
        return
    changed = "SELECT doc_id FROM transaction_log WHERE generation > ?"
    # What was too large may have become smaller.
    query = f"DELETE FROM sync_problem WHERE reason = ? AND doc_id IN ({changed})"
    cursor.execute(query, (Reason.TOO_BIG.value, scanned))
    query = """
        INSERT INTO sync_outgoing SELECT doc_id, max(generation) FROM transaction_log
        WHERE generation > ? GROUP BY doc_id
        ON CONFLICT (doc_id) DO UPDATE SET generation = excluded.generation
    """
    cursor.execute(query, (scanned,))
    _set(cursor, "scanned", generation)


def outgoing(cursor: Cursor, records: int, size: int) -> list[Outgoing]:
    """
    Return documents that are to be sent, ordered by their ids, and none whose record is set aside.

    :param records: how many at most.
    :param size: bytes of text after which no more are added.
    """
    scan(cursor)
    return outgoing_behind(cursor, records, size, None)


def outgoing_behind(cursor: Cursor, records: int, size: int, last: DocId | None) -> list[Outgoing]:
    """Do as `outgoing` with those behind a document, without a look at what was changed since; changes nothing."""
    # CROSS: what waits is gone through, and not all documents, however few of either there are.
    query = f"""
        SELECT {COLUMNS}, sync_outgoing.generation FROM sync_outgoing CROSS JOIN document USING (doc_id)
        WHERE doc_id NOT IN (SELECT doc_id FROM sync_problem WHERE doc_id IS NOT NULL)
        {"" if last is None else "AND sync_outgoing.doc_id > ?"} ORDER BY sync_outgoing.doc_id LIMIT ?
    """
    found: list[Outgoing] = []
    for row in cursor.execute(query, (records,) if last is None else (last, records)).fetchall():
        stored = from_row(row[:-1])
        versions = documents.get_versions(cursor, stored.doc_id) if stored.has_conflicts else Versions(stored)
        assert versions is not None
        found.append(Outgoing(versions, row[-1]))
        size -= len(stored.content or "") + sum(len(one.content or "") for one in versions.alternatives)
        if size <= 0:
            break
    return found


def hold_back(cursor: Cursor, found: Sequence[tuple[Problem, DocId]], same: Sequence[tuple[DocId, int]]) -> None:
    """
    Let documents not go out.

    :param found: those that cannot.
    :param same: those that the server has just so, with the number of the change that this holds for.
    """
    for problem, doc_id in found:
        put_problem(cursor, problem, doc_id)
    cursor.executemany("DELETE FROM sync_outgoing WHERE doc_id = ? AND generation <= ?", same)


def keep(cursor: Cursor, push: Pending, sent: Sequence[Sent]) -> None:
    """Keep a push, to the byte, before it is sent."""
    cursor.execute("DELETE FROM sync_push")
    cursor.execute("DELETE FROM sync_sent")
    row = (push.count, push.commit, push.follows, push.tag, push.digest.to_bytes(_DIGEST_SIZE, "big"))
    query = """
        INSERT INTO sync_push VALUES (1, ?, ?, ?, ?, ?, ?, ?, (SELECT coalesce(max(id), 0) FROM sync_incident))
    """
    cursor.execute(query, (*row, push.checkpoint, push.push))
    rows = [(bytes.fromhex(one.name), one.hash, one.doc_id, one.revs, one.generation, one.own) for one in sent]
    bulk.insert(cursor, "INSERT INTO sync_sent", rows)


def pending(cursor: Cursor) -> Pending | None:
    """Return the push of which is not known whether it arrived."""
    query = "SELECT count, commit_id, follows, tag, digest, checkpoint, push FROM sync_push"
    row = cursor.execute(query).fetchone()
    if row is None:
        return None
    count, commit, follows, tag, digest, checkpoint, push = row
    return Pending(count, commit, follows, tag, int.from_bytes(digest, "big"), checkpoint, push)


def own_sent(cursor: Cursor) -> dict[RecordName, int]:
    """Return the counts of this replica in the push of which is not known whether it arrived."""
    return {RecordName(name.hex()): own for name, own in cursor.execute("SELECT name, own FROM sync_sent")}


def settle(cursor: Cursor, now: Standing, following: Following | None = None) -> None:
    """
    The push arrived, and nothing was pushed since: note its records as the server's, and how far that is.

    :param following: the next one, which is kept in its place.
    """
    cursor.execute(f"{_NOTE} SELECT name, hash, doc_id, revs, own FROM sync_sent WHERE true {_NOTED_BEFORE}")
    cursor.execute(_SENT)
    cursor.execute("DELETE FROM sync_problem WHERE name IN (SELECT name FROM sync_sent)")
    _tell(cursor)
    forget(cursor)
    stand(cursor, now)
    if following is not None:
        keep(cursor, *following)


#: What was sent waits no more, unless it was changed since.  CROSS: what was sent is gone through, not what waits.
_SENT = """
    DELETE FROM sync_outgoing WHERE doc_id IN (
        SELECT waiting.doc_id FROM sync_sent CROSS JOIN sync_outgoing AS waiting
        ON waiting.doc_id = sync_sent.doc_id AND waiting.generation <= sync_sent.generation
    )
"""


def forget(cursor: Cursor) -> None:
    """There is no push any more of which is not known whether it arrived."""
    cursor.execute("DELETE FROM sync_push")
    cursor.execute("DELETE FROM sync_sent")


# --- heads, and what was found ------------------------------------------------------------------------


def accept(
    cursor: Cursor, now: Standing, found: str | None, arrived: bool, is_over: bool, others: Iterable[Incident]
) -> list[Incident]:
    """
    Accept a head.

    :param found: its history.
    :param arrived: whether the pending push is in it.
    :param is_over: whether it is clear what became of that push: it arrived, or never will.
    :param others: what other devices have found.
    :return: what of it was not known before.
    """
    if found is not None:
        cursor.execute("INSERT OR REPLACE INTO sync_history VALUES (?, ?)", (now.server, found))
    if arrived:
        _tell(cursor)
    if is_over:
        forget(cursor)
    stand(cursor, now)
    return note(cursor, [(one, str(one.time)) for one in others], told=True)


def note(cursor: Cursor, found: Iterable[tuple[Incident, str]], told: bool = False) -> list[Incident]:
    """
    Note what was found, each with the evidence; return what was not known before.

    The same, found once more by the same evidence, is nothing new.
    """
    new = []
    for one, evidence in found:
        name = None if one.name is None else bytes.fromhex(one.name)
        row = (int(one.kind), one.time, one.device, evidence, name, one.doc_id, told)
        query = """
            INSERT OR IGNORE INTO sync_incident (kind, time, device, evidence, name, doc_id, told)
            VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING id
        """
        if cursor.execute(query, row).fetchall():
            new.append(one)
    return new


def _tell(cursor: Cursor) -> None:
    """What was found before the push was made stands in its checkpoint, which the server has."""
    cursor.execute("UPDATE sync_incident SET told = 1 WHERE id <= (SELECT incident FROM sync_push)")


def incidents(cursor: Cursor, condition: str = "") -> list[Incident]:
    """Return what was found, here and by other devices."""
    query = f"SELECT kind, time, device, name, doc_id FROM sync_incident {condition} ORDER BY id"
    return [
        Incident(
            IncidentKind(kind), time, device, None if name is None else RecordName(name.hex()), doc_id and DocId(doc_id)
        )
        for kind, time, device, name, doc_id in cursor.execute(query)
    ]


# --- a store that was copied --------------------------------------------------------------------------


def become(cursor: Cursor, old: str, new: str) -> list[tuple[DocId, Written]]:
    """
    Take a new name, and count under it whatever the old one counted that the server has not got.

    Another copy of this store counts under the old one, too, and each would seem to know what the other has written.

    :return: what was written.
    """
    scan(cursor)
    servers = {row[0]: (row[1], row[2]) for row in cursor.execute("SELECT doc_id, revs, own FROM sync_record")}
    written = []
    for (doc_id,) in cursor.execute("SELECT doc_id FROM sync_outgoing").fetchall():
        before = documents.get_versions(cursor, doc_id)
        revs, own = servers.get(doc_id, ("", 0))
        if before is not None:
            after = reissued(before, old, new, revs.split(), own)
            if after != before:
                written.append((DocId(doc_id), documents.replace(cursor, after)))
    _set(cursor, "replica", new)
    cursor.execute("UPDATE sync_record SET own = 0")
    forget(cursor)
    return written


def reissued(versions: Versions, old: str, new: str, servers: Iterable[str], own: int) -> Versions:
    """
    Return versions in which what ``old`` counted is counted under ``new``, as far as the server has not got it.

    :param servers: revisions that the server has.
    :param own: the greatest count of ``old`` that it ever had.
    """
    known = dict(revision.parse(revision.maximum(*servers)))
    known[old] = max(own, known.get(old, 0))
    renamed = []
    for number, version in enumerate(versions):
        name = f"{new}-{number}" if number else new
        renamed.append(evolve(version, rev=revision.reissued(version.rev, old, known, name)))
    return Versions(renamed[0], renamed[1:])


def _get(cursor: Cursor, key: str) -> Any:
    row = cursor.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return None if row is None else row[0]


def _number(cursor: Cursor, key: str) -> int:
    return int(_get(cursor, key) or 0)


def _set(cursor: Cursor, key: str, value: object) -> None:
    cursor.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))


@implementer(IJournal)
@define(eq=False)
class LocalJournal:
    """The journal, in the documents' database."""

    _documents: LocalDocuments

    def look(self) -> Deferred[Look]:
        """See `IJournal`."""
        return self._read(look)

    def enter(self, server: str, account: bytes) -> Deferred[None]:
        """See `IJournal`."""
        return self._write(self._enter, server, account)

    def _enter(self, cursor: Cursor, server: str, account: bytes) -> None:
        enter(cursor, server, account, random_replica_id(urandom(16)))
        # Whatever becomes of the transaction: what was counted under a new name, nobody else has counted.
        self._documents.replica = documents.replica(cursor)

    def history(self, server: str) -> Deferred[str | None]:
        """See `IJournal`."""
        return self._read(history, server)

    def policy(self) -> Deferred[TamperPolicy]:
        """See `IJournal`."""
        return self._read(policy)

    def set_policy(self, wanted: TamperPolicy) -> Deferred[None]:
        """See `IJournal`."""
        return self._write(set_policy, wanted)

    def known(self, names: Sequence[RecordName]) -> Deferred[dict[RecordName, KnownRecord]]:
        """See `IJournal`."""
        return self._read(known, names)

    def known_and_sent(self, names: Sequence[RecordName]) -> Deferred[Known]:
        """See `IJournal`."""
        return self._read(_known_and_sent, names)

    def hashes(self) -> Deferred[dict[RecordName, bytes]]:
        """See `IJournal`."""
        return self._read(hashes)

    def take(self, arrivals: Sequence[Pulled], now: Standing, written: Callable[[], object]) -> Deferred[list[Applied]]:
        """See `IJournal`."""
        return self._write_telling(written, lambda cursor: take(cursor, self._documents.replica, arrivals, now))

    def missing(self, names: Collection[RecordName], now: Standing) -> Deferred[None]:
        """See `IJournal`."""
        return self._write(missing, names, now)

    def outgoing(self, records: int, size: int) -> Deferred[list[Outgoing]]:
        """See `IJournal`."""
        return self._write(outgoing, records, size)

    def outgoing_behind(self, records: int, size: int, last: DocId) -> Deferred[list[Outgoing]]:
        """See `IJournal`."""
        return self._read(outgoing_behind, records, size, last)

    def hold_back(self, found: Sequence[tuple[Problem, DocId]], same: Sequence[tuple[DocId, int]]) -> Deferred[None]:
        """See `IJournal`."""
        return self._write(hold_back, found, same)

    def keep(self, push: Pending, sent: Sequence[Sent]) -> Deferred[None]:
        """See `IJournal`."""
        return self._write(keep, push, sent)

    def settle(self, now: Standing) -> Deferred[None]:
        """See `IJournal`."""
        return self._write(settle, now)

    def go_on(self, now: Standing, following: Following, written: Callable[[], object]) -> Deferred[None]:
        """See `IJournal`."""
        return self._write_telling(written, lambda cursor: settle(cursor, now, following))

    def replace(self, names: Collection[RecordName]) -> Deferred[list[RecordName]]:
        """See `IJournal`."""
        return self._write(replace, names)

    def forget(self) -> Deferred[None]:
        """See `IJournal`."""
        return self._write(forget)

    def accept(
        self, now: Standing, found: str | None, arrived: bool, is_over: bool, others: Sequence[Incident]
    ) -> Deferred[list[Incident]]:
        """See `IJournal`."""
        return self._write(accept, now, found, arrived, is_over, others)

    def note(self, found: Sequence[tuple[Incident, str]], told: bool = False) -> Deferred[list[Incident]]:
        """See `IJournal`."""
        return self._write(note, found, told)

    def stand(self, now: Standing) -> Deferred[None]:
        """See `IJournal`."""
        return self._write(stand, now)

    def become(self) -> Deferred[list[tuple[DocId, Written]]]:
        """See `IJournal`."""
        return self._write(self._become)

    def _become(self, cursor: Cursor) -> list[tuple[DocId, Written]]:
        new = random_replica_id(urandom(16))
        written = become(cursor, self._documents.replica, new)
        self._documents.replica = new
        return written

    def problems(self) -> Deferred[list[Problem]]:
        """See `IJournal`."""
        return self._read(problems)

    def incidents(self) -> Deferred[list[Incident]]:
        """See `IJournal`."""
        return self._read(incidents)

    def _read(self, job: Callable[..., T], *args: Any) -> Deferred[T]:
        return self._documents.database.read(job, *args)

    def _write(self, job: Callable[..., T], *args: Any) -> Deferred[T]:
        return self._documents.database.write(job, *args)

    def _write_telling(self, written: Callable[[], object], job: Callable[[Cursor], T]) -> Deferred[T]:
        """Do as `_write`, and call ``written()``, on the reactor, when only the commit is left."""

        def telling(cursor: Cursor) -> T:
            result = job(cursor)
            self._documents.database.report(written)
            return result

        return self._documents.database.write(telling)
