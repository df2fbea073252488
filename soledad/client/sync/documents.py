"""
Documents between this device and the server: pull, settle, push, and look whether the server tells the truth.

An `Exchange` is one sync of the documents.  What is to be done is planned in `soledad.client.sync.plan`, what is wrong
judged in `soledad.client.sync.watch`; it is carried out here.  Wherever this is stopped, the next one goes on from what
the journal has.  Source: docs/spec/documents-sync.rst.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from hashlib import sha256
from os import urandom
from typing import Protocol

from attrs import define, evolve, field, frozen
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from soledad.client.documents import Documents
from soledad.client.interfaces import IJournal, IRemoteDocuments
from soledad.client.sync.committing import Committing, abandoned
from soledad.client.sync.plan import PagePlan, PushPlan, plan_comparison, plan_page, plan_push
from soledad.client.sync.watch import Verdict, as_error, found_in, is_given_up, judge
from soledad.crypto import checkpoint as checkpoints
from soledad.crypto.checkpoint import Checkpoint, Commit, KeyringMark, open_checkpoint, seal_checkpoint
from soledad.crypto.keyring import Keyring, OpenKeyring
from soledad.crypto.record import RecordNames, RecordOpener, record_name, seal_record
from soledad.deferreds import Worker, deferred
from soledad.errors import (
    CryptoError,
    PreconditionFailed,
    QuotaExceeded,
    StaleToken,
    TooManyDevices,
    UnexpectedAnswer,
    UnknownKey,
)
from soledad.model.conflict import Versions
from soledad.model.ids import DocId, RecordName, UserId
from soledad.model.syncing import Following, Look, Outgoing, Pending, Pulled, Standing
from soledad.model.tampering import FOUND, Incident, IncidentKind, Problem, Reason, TamperPolicy
from soledad.streams import Progress
from soledad.wire.changes import (
    CHECKPOINT_LIMIT,
    CHOSEN_LIMIT,
    PUSH_LIMIT,
    RECORDS_LIMIT,
    Idle,
    Push,
    SealedRecord,
    SyncHead,
    SyncPage,
    encode_push,
)
from soledad.wire.container import SALT_SIZE

_log = Logger()

#: How often another device may be quicker before a sync fails.
ATTEMPTS = 12
#: Seconds to wait, at most, before the first further attempt; each further one waits up to twice as long, and so on.
PAUSE, LONGEST_PAUSE = 0.1, 5.0
#: Bytes of text that go into one push, about.
BATCH = 3 * 1024 * 1024
#: Records that differ, above which everything is pulled anew instead of asking for each.
MANY = 2000
#: Names in a list, and records that are set aside, at most: who sends more wants to fill the memory, or the disk.
LISTED_LIMIT, ASIDE_LIMIT = 1 << 21, 10_000
#: The latest time that can be written down.
LATEST = (1 << 63) - 1
#: How often the head may be another one while its list of names is read.
LISTINGS = 5


class KeyringHolder(Protocol):
    """Who has the keyring, which may become a newer one."""

    keyring: OpenKeyring


@frozen
class Parts:
    """What a sync of the documents is made of."""

    journal: IJournal
    remote: IRemoteDocuments
    documents: Documents
    keys: KeyringHolder
    #: For sealing and opening.
    worker: Worker
    clock: IReactorTime
    #: Seconds since 1970.
    time: Callable[[], float]
    user: UserId
    #: The server's URL.
    server: str
    #: Brings this device's keyring and the server's in step, and fires with `False` if the server's was put back; is
    #: given whether a person said that the server was restored.
    settle_keyring: Callable[[bool], Deferred[bool]] | None = None

    def now(self) -> int:
        """Return the time as checkpoints and the database can hold it, whatever the clock says."""
        return int(max(0, min(self.time(), LATEST)))


@frozen
class Found:
    """A head, opened as far as it can be."""

    sealed: SyncHead
    #: `None`: there is none.
    checkpoint: Checkpoint | None
    #: Whether there is one that does not open.
    is_forged: bool = False


@define(eq=False)
class Exchange:
    """One sync of the documents."""

    _parts: Parts
    _progress: Progress
    _look: Look = field(init=False)
    _standing: Standing = field(init=False)
    _replica: str = field(init=False)
    _pending: Pending | None = field(init=False)
    _known: Checkpoint | None = field(init=False)
    _history: str | None = field(init=False)
    _problems: dict[RecordName, Problem] = field(init=False)
    #: Which of them there were before.
    _before: frozenset[RecordName] = field(init=False)
    _untold: bool = field(init=False)
    #: Whether somebody said that the server was restored: what is older there is no offence.
    _lenient: bool = field(default=False, init=False)
    _stopped: bool = field(default=False, init=False)
    #: Names and hashes beside which nothing is to be taken, and the tag of their head.
    _listed: tuple[dict[RecordName, bytes], str | None] | None = field(default=None, init=False)
    #: Whether the server's keyring was looked at, and whether it is older than it was.
    _settled: bool = field(default=False, init=False)
    _is_keyring_back: bool = field(default=False, init=False)
    _committing: Committing = field(factory=Committing, init=False)
    #: The push behind the one that is pending.
    _planning: Deferred[PushPlan | None] = field(factory=lambda: succeed(None), init=False)
    #: The names of the page that was planned last: what is known of them may be about to be committed.
    _planned: frozenset[RecordName] = field(default=frozenset(), init=False)
    #: The change number of the blobs that the server has told last.
    blobs: str = field(default="", init=False)

    async def run(self) -> int:
        """
        Pull, settle and push, until the server has what is here and this device what is there.

        :return: the store's generation before it.
        :raise TamperingDetected: the server does not tell the truth, and the policy is not to go on with it.
        :raise UnknownKey: the checkpoint is sealed under a key that only a newer keyring has.
        :raise PreconditionFailed: other devices were quicker each time.
        :raise TooManyDevices: what the others have is here; what is here cannot be sent.
        """
        generation = None
        for attempt in range(ATTEMPTS):
            await self._begin()
            generation = self._look.generation if generation is None else generation
            try:
                await self._pull()
                await self._push()
            except PreconditionFailed:
                if attempt == ATTEMPTS - 1:
                    raise
                await self._pause(attempt)
            else:
                break
            finally:
                await abandoned(self._planning)
                await self._committing.give_up()
        assert generation is not None
        return generation

    async def _begin(self) -> None:
        look = await self._parts.journal.look()
        if (look.standing.server, look.standing.account) != (self._parts.server, self._account):
            await self._parts.journal.enter(self._parts.server, self._account)
            look = evolve(await self._parts.journal.look(), generation=look.generation)
        self._look = look
        self._standing, self._replica, self._pending = look.standing, look.replica, look.pending
        self._known = _decoded(look.standing.checkpoint)
        self._history = None if self._known else await self._parts.journal.history(self._parts.server)
        self._problems = {problem.name: problem for problem in look.problems}
        self._before = frozenset(self._problems)
        self._untold = bool(look.untold)
        self._lenient = look.standing.restarting
        self._listed = None

    async def _pause(self, attempt: int) -> None:
        longest = min(LONGEST_PAUSE, PAUSE * 2**attempt)
        await deferLater(self._parts.clock, longest * int.from_bytes(urandom(2), "big") / 0xFFFF)

    # --- pull -----------------------------------------------------------------------------------------

    async def _pull(self) -> None:
        """Take all there is, up to a head that is accepted."""
        compared = self._look.policy is TamperPolicy.REFUSE
        if compared:
            # Nothing is taken before all of it is known to be true.
            if await self._is_idle():
                return
            await self._compare()
        while True:
            try:
                head = await self._pull_pages()
            except StaleToken:
                # The server was put back, or says so.  Once is enough to see which.
                if compared:
                    raise
                compared = True
                await self._compare()
                continue
            if head is None:
                return
            await self._retry()
            verdict = self._judge(head, self._standing.digest)
            suspicious = verdict.found | found_in(self._problems.values(), self._is_stated(head))
            if not compared and (suspicious or verdict.has_restarted or self._standing.restarting):
                compared = True
                await self._compare()
                continue
            await self._detect(suspicious, head)
            await self._accept(head, verdict)
            return

    async def _is_idle(self) -> bool:
        """Ask whether the head is the one that was accepted last."""
        if not self._is_well:
            return False
        try:
            answer = await self._parts.remote.pull(self._standing.cursor, self._standing.head, 0)
        except StaleToken:
            return False
        self._go_on()
        if isinstance(answer, Idle):
            self.blobs = answer.blobs
            return True
        self.blobs = answer.head.blobs
        # There never was a push.
        return self._known is None and answer.head.checkpoint is None

    async def _pull_pages(self) -> Found | None:
        """Take what changed; return the head, or `None` if it is the one that was accepted last."""
        following = self._parts.remote.pull(self._standing.cursor, self._standing.head if self._is_well else None)
        came, most = 0, MANY
        while True:
            page = await following
            self._go_on()
            if isinstance(page, Idle):
                self.blobs = page.blobs
                return None
            self.blobs = page.head.blobs
            await self._check(page)
            head = await self._open(page.head)
            await self._look_for_copy(head)
            if not page.more:
                await self._take(page.records, page.head.cursor)
                return head
            came += len(page.records)
            most = await self._most(came, most)
            # While one page is opened, the next one comes; while one is committed, the next one is opened.
            following = self._parts.remote.pull(page.head.cursor)
            try:
                await self._begin_taking(page.records, page.head.cursor)
            except BaseException:
                await abandoned(following)
                raise

    async def _most(self, came: int, most: int) -> int:
        """
        Return how many records one pull may bring: each comes once, unless it is changed meanwhile.

        :raise UnexpectedAnswer: more have come.
        """
        if came > most:
            await self._committing.end()
            most = 2 * len(await self._parts.journal.hashes()) + MANY
            if came > most:
                raise UnexpectedAnswer("pages that do not end")
        return most

    @property
    def _is_well(self) -> bool:
        """Whether there is nothing to be looked at again if the head is the one that was accepted last."""
        aside = any(one.reason is not Reason.TOO_BIG and not is_given_up(one) for one in self._problems.values())
        return not aside and not self._standing.restarting and self._claimed == self._standing.digest

    @property
    def _claimed(self) -> int:
        """
        What the records are together by the checkpoint that was accepted.

        After an incident that may be something else than what was shown here.  What is pushed goes on from it: else a
        device from which something is withheld would state that there is no such thing.
        """
        return self._standing.digest if self._known is None else self._known.digest

    def _is_stated(self, head: Found) -> bool:
        """Tell whether the records, whatever they are, are those that a checkpoint speaks of."""
        return head.checkpoint is not None and head.checkpoint.digest == self._standing.digest

    async def _take(self, records: Sequence[SealedRecord], cursor: str) -> None:
        """Take records, and go on behind them."""
        await self._begin_taking(records, cursor)
        await self._committing.end()
        self._go_on()

    async def _begin_taking(self, records: Sequence[SealedRecord], cursor: str) -> None:
        """Do as `_take`, but for the end of the commit."""
        plan = await self._plan(records)
        if plan.is_copy:
            await self._become_another()
            plan = await self._plan(records)
        aside = {one.name for one in plan.arrivals if one.problem is not None}
        if len(aside | self._problems.keys()) > ASIDE_LIMIT:
            raise UnexpectedAnswer("hardly a record that opens")
        now = evolve(self._standing, cursor=cursor, digest=plan.digest)
        if plan.arrivals or now != self._standing:
            await self._committing.begin(lambda written: self._apply(plan.arrivals, now, written))
            self._standing = now
            if aside or self._problems:
                self._problems = {one.name: one for one in await self._parts.journal.problems()}
        self._progress.add(sum(len(record.data) for record in records))
        self._go_on()

    @deferred
    async def _apply(self, arrivals: Sequence[Pulled], now: Standing, written: Callable[[], None]) -> None:
        await self._parts.documents.apply_by(lambda: self._parts.journal.take(arrivals, now, written))

    async def _plan(self, records: Sequence[SealedRecord]) -> PagePlan:
        before, self._planned = self._planned, frozenset(record.name for record in records)
        if not before.isdisjoint(self._planned):
            # What is known of them is changed by the page before.
            await self._committing.end()
        known = await self._parts.journal.known_and_sent([record.name for record in records])
        keyring = self._keyring
        opener = RecordOpener(keyring.roots, RecordNames.under(keyring.names_key)).open
        digest, aside = self._standing.digest, set(self._problems)
        return await self._parts.worker.run(
            plan_page, records, known, self._replica, digest, keyring.digest_key, opener, aside, self._lenient
        )

    async def _retry(self) -> None:
        """Look once more at what was set aside before: the server may have mended it, or the keyring may be newer."""
        before, self._before = self._before, frozenset()
        if any(one.reason is Reason.UNKNOWN_KEY for one in self._problems.values()):
            await self._settle_keyring()
        names = [
            name
            for name, one in self._problems.items()
            if one.reason is not Reason.TOO_BIG and (name in before or one.reason is Reason.UNKNOWN_KEY)
        ]
        await self._fetch(names[:CHOSEN_LIMIT])

    async def _fetch(self, names: Sequence[RecordName]) -> None:
        """Take records by their names."""
        left = sorted(names)
        while left:
            some = left[:CHOSEN_LIMIT]
            page = await self._parts.remote.fetch(some)
            self._go_on()
            await self._check(page)
            await self._take(page.records, self._standing.cursor)
            left = [name for name in left if name > page.records[-1].name] if page.more else left[len(some) :]

    # --- is it the truth? -----------------------------------------------------------------------------

    async def _check(self, page: SyncPage) -> None:
        """
        See, if nothing else is to be taken, that records are those of the list that was found to be true.

        :raise PreconditionFailed: another device was quicker.
        :raise TamperingDetected: they are not.
        """
        if self._listed is None or all(self._listed[0].get(one.name) == one.hash for one in page.records):
            return
        if page.head.tag != self._listed[1]:
            raise PreconditionFailed()
        await self._detect({IncidentKind.STATE_DIFFERS}, Found(page.head, None))
        # Not even of a server that was restored.
        raise as_error({IncidentKind.STATE_DIFFERS})

    async def _open(self, sealed: SyncHead) -> Found:
        """Open a checkpoint; with a newer keyring, if it takes one or speaks of one."""
        try:
            found = self._opened(sealed)
            if found.checkpoint is None or found.checkpoint.keyring.generation <= self._keyring.generation:
                return found
        except UnknownKey:
            if self._settled or self._parts.settle_keyring is None:
                raise
        await self._settle_keyring()
        return self._opened(sealed)

    def _opened(self, sealed: SyncHead) -> Found:
        if sealed.checkpoint is None:
            return Found(sealed, None)
        try:
            opened = open_checkpoint(self._keyring.roots, self._parts.user, sealed.checkpoint)
        except UnknownKey:
            if not (self._standing.restarting and (self._settled or self._parts.settle_keyring is None)):
                raise
            # The key is lost, and somebody said that the server is to be filled again.
            return Found(sealed, None, is_forged=True)
        except CryptoError:
            return Found(sealed, None, is_forged=True)
        return Found(sealed, opened)

    async def _settle_keyring(self) -> None:
        """Look for a newer keyring, once."""
        if self._settled or self._parts.settle_keyring is None:
            return
        self._settled = True
        if not await self._parts.settle_keyring(self._standing.restarting):
            self._is_keyring_back = True
        self._go_on()

    def _judge(self, head: Found, digest: int) -> Verdict:
        if head.checkpoint is None:
            is_wrong = not self._standing.restarting and (head.is_forged or self._known is not None)
            return Verdict(frozenset({IncidentKind.CHECKPOINT_FORGED} if is_wrong else ()))
        verdict = judge(self._known, head.checkpoint, self._replica, self._commit, digest, self._history)
        if self._standing.restarting:
            # All else is what a backup looks like.
            verdict = evolve(verdict, found=verdict.found & {IncidentKind.STATE_DIFFERS})
        if self._is_keyring_back:
            verdict = evolve(verdict, found=verdict.found | {IncidentKind.KEYRING_BACK})
        return verdict

    async def _look_for_copy(self, head: Found) -> None:
        """See, before anything is taken, whether another copy of this store has made commits in its name."""
        if head.checkpoint is not None and self._judge(head, 0).is_copy:
            await self._become_another()

    async def _become_another(self) -> None:
        written = await self._parts.journal.become()
        self._parts.documents.observers.changed(written)
        self._replica = (await self._parts.journal.look()).replica
        self._pending = None
        _log.warn(
            "This store is a copy, or was restored from one: it is replica {replica} from now on; {number}"
            " documents that were not sent yet have new revisions",
            replica=self._replica,
            number=len(written),
        )
        self._go_on()

    async def _compare(self) -> None:
        """Ask for the full list of names and hashes, and for the records that differ."""
        listed, head = await self._list()
        digest = await self._parts.worker.run(checkpoints.digest_of, self._keyring.digest_key, listed)
        await self._look_for_copy(head)
        verdict = self._judge(head, digest)
        self._lenient = self._standing.restarting or verdict.has_restarted
        if self._look.policy is TamperPolicy.REFUSE:
            await self._detect(verdict.found, head)
            self._listed = listed, head.sealed.tag
        mine = await self._parts.journal.hashes()
        plan = await self._parts.worker.run(
            plan_comparison, mine, listed, set(self._problems), self._standing.digest, self._keyring.digest_key
        )
        is_many = len(plan.differing) > MANY
        self._standing = evolve(
            self._standing, cursor="" if is_many else head.sealed.cursor, head=None, digest=plan.digest
        )
        await self._parts.journal.missing(plan.gone, self._standing)
        for name in plan.gone:
            self._problems.pop(name, None)
        if not is_many:
            await self._fetch(plan.differing)
        if self._lenient:
            await self._replace()

    async def _replace(self) -> None:
        """Let what is here of documents go out in the place of records that nothing can be made of."""
        reasons = self._replaceable
        names = [name for name, one in self._problems.items() if one.reason in reasons]
        for name in await self._parts.journal.replace(names) if names else ():
            del self._problems[name]

    @property
    def _replaceable(self) -> frozenset[Reason]:
        """Why records are set aside in whose place a document that is here may go out."""
        if self._standing.restarting:
            return frozenset((Reason.FORGED, Reason.UNKNOWN_KEY))
        # Who was only told of the restart may yet be given a key.
        is_stated = self._known is not None and self._known.digest == self._standing.digest
        return frozenset((Reason.FORGED,) if self._lenient or is_stated else ())

    async def _list(self) -> tuple[dict[RecordName, bytes], Found]:
        """Return the names and hashes of all records, and the head that they are of."""
        for _ in range(LISTINGS):
            try:
                listed, head = await self._list_once()
            except PreconditionFailed:
                continue
            return listed, await self._open(head)
        raise PreconditionFailed()

    async def _list_once(self) -> tuple[dict[RecordName, bytes], SyncHead]:
        page = await self._parts.remote.names()
        self._go_on()
        listed = {entry.name: entry.hash for entry in page.names}
        while page.more:
            page = await self._parts.remote.names(page.names[-1].name, page.head.tag)
            listed.update((entry.name, entry.hash) for entry in page.names)
            self._go_on()
            if len(listed) > LISTED_LIMIT:
                raise UnexpectedAnswer("a list that does not end")
        return listed, page.head

    async def _detect(self, found: Iterable[IncidentKind], head: Found) -> None:
        """
        Note what was found.

        :raise TamperingDetected: the policy is not to go on, and nobody said that the server was restored.
        """
        kinds = set(found)
        if not kinds:
            return
        await self._committing.end()
        now = self._parts.now()
        of_records = [one for one in await self._parts.journal.problems() if FOUND.get(one.reason) in kinds]
        # However many records somebody invents: those of documents that are here are told of first.
        of_records = sorted(of_records, key=lambda one: one.doc_id is None)[: checkpoints.MAX_INCIDENTS]
        incidents = [
            (Incident(FOUND[one.reason], now, self._replica, one.name, one.doc_id), f"{one.name}/{one.hash.hex()}")
            for one in of_records
        ]
        of_state = kinds - {incident.kind for incident, _ in incidents}
        tag, digest = head.sealed.tag or "", 0 if head.checkpoint is None else head.checkpoint.digest
        # As long as the same is missing, it is the same.
        difference = f"{(digest - self._standing.digest) % (1 << 256):x}"
        incidents += [
            (Incident(kind, now, self._replica), difference if kind is IncidentKind.STATE_DIFFERS else tag)
            for kind in sorted(of_state)
        ]
        new = await self._parts.journal.note(incidents)
        self._untold = self._untold or bool(new)
        for incident in new:
            _log.critical("The server does not tell the truth: {kind}", kind=incident.kind.name, name=incident.name)
        if self._look.policy is not TamperPolicy.WARN and not self._standing.restarting:
            raise as_error(kinds)

    async def _accept(self, head: Found, verdict: Verdict) -> None:
        """Take a head for what the server has: what comes next is compared with it."""
        pending = self._pending
        is_over = pending is not None and (
            verdict.has_arrived or self._standing.restarting or head.sealed.tag != pending.follows
        )
        count = self._standing.count
        if verdict.has_arrived and pending is not None:
            count = max(count, pending.count)
        if self._standing.restarting:
            self._known = _restarted(self._known, head.checkpoint)
        elif head.checkpoint is not None:
            self._known = head.checkpoint
        if self._known is not None and (self._standing.restarting or head.checkpoint is None):
            self._known = evolve(self._known, digest=self._standing.digest)
        now = evolve(
            self._standing,
            head=head.sealed.tag,
            cursor=head.sealed.cursor,
            checkpoint=b"" if self._known is None else checkpoints.encode(self._known),
            count=count,
        )
        history = None if self._known is None else self._known.history
        others = [] if head.checkpoint is None else self._told_by(head.checkpoint)
        new = await self._parts.journal.accept(now, history, verdict.has_arrived, is_over, others)
        self._standing = now
        if is_over:
            self._pending = None
        for incident in new:
            _log.critical("Device {device} reports: {kind}", device=incident.device, kind=incident.kind.name)
        if verdict.has_restarted and head.checkpoint is not None:
            restarted = Incident(IncidentKind.RESTARTED, self._parts.now(), self._replica)
            await self._parts.journal.note([(restarted, str(head.checkpoint.restarts))], True)
        self._go_on()

    def _told_by(self, head: Checkpoint) -> list[Incident]:
        return [
            Incident(one.kind, min(one.time, LATEST), one.device)
            for one in head.incidents
            if one.device != self._replica
        ]

    # --- push -----------------------------------------------------------------------------------------

    async def _push(self) -> None:
        """Send what the server has not got, a batch after the other."""
        if self._pending is None:
            await self._prepare(None)
        while self._pending is not None:
            pending = self._pending
            plan = await self._send(pending)
            self._pending = None
            if plan is None or not plan.is_all_sent or self._has_to_tell:
                await self._parts.journal.settle(self._standing)
                await self._prepare(plan)
            else:
                await self._go_on_with(plan)
            self._progress.add(len(pending.push))
            self._go_on()

    async def _send(self, pending: Pending) -> PushPlan | None:
        """Send a push; return what the next one is to be, which was planned meanwhile."""
        sending = self._parts.remote.push(pending.push, pending.tag, pending.follows)
        # Taken, as what was awaited once, and ended, must not be awaited again.
        planning, self._planning = self._planning, succeed(None)
        try:
            plan = await planning
        except BaseException:
            await abandoned(sending)
            raise
        try:
            cursor = await sending
        except QuotaExceeded:
            # It was refused for good, and what is sent next time may be less.
            await self._parts.journal.forget()
            raise
        self._known = _decoded(pending.checkpoint)
        self._standing = evolve(
            self._standing,
            cursor=cursor,
            head=pending.tag,
            digest=pending.digest,
            checkpoint=pending.checkpoint,
            count=pending.count,
            restarting=False,
        )
        return plan

    async def _go_on_with(self, plan: PushPlan) -> None:
        """Settle the push that arrived, and keep the next one; what comes behind that is planned from the commit on."""
        pending, sent = await self._seal(plan)
        journal, now = self._parts.journal, self._standing
        await self._committing.begin(lambda written: journal.go_on(now, (pending, sent), written))
        self._planning = self._plan_behind(plan)
        await self._committing.end()
        self._pending = pending

    @deferred
    async def _plan_behind(self, plan: PushPlan) -> PushPlan | None:
        """Plan what comes behind another plan.  What was changed meanwhile has its turn when there is nothing left."""
        if plan.last is None:
            return None
        outgoing = await self._parts.journal.outgoing_behind(RECORDS_LIMIT, BATCH, plan.last)
        return await self._plan_push(outgoing, plan.digest) if outgoing else None

    async def _prepare(self, plan: PushPlan | None) -> None:
        """
        Make the next push ready, and keep it, if there is something to send.

        :param plan: what was planned while the one before it was on its way.
        """
        while True:
            if plan is None:
                outgoing = await self._parts.journal.outgoing(RECORDS_LIMIT, BATCH)
                if not outgoing and not self._has_to_tell:
                    return
                plan = await self._plan_push(outgoing, self._standing.digest)
            if plan.held_back or plan.same:
                await self._parts.journal.hold_back(plan.held_back, plan.same)
            if plan.sent or self._has_to_tell:
                pending, sent = await self._seal(plan)
                await self._parts.journal.keep(pending, sent)
                self._pending, self._planning = pending, self._plan_behind(plan)
                return
            plan = None

    @property
    def _has_to_tell(self) -> bool:
        """Whether there is something that the other devices have to know even if no document goes out."""
        is_keyring_untold = checkpoints.is_keyring_untold(self._known, self._keyring) and self._has_room
        return self._untold or self._standing.restarting or is_keyring_untold

    @property
    def _has_room(self) -> bool:
        """Whether the checkpoint has an entry of this device, or can have one more."""
        devices = self._known.devices if self._known else {}
        return self._replica in devices or len(devices) < checkpoints.MAX_DEVICES

    async def _plan_push(self, outgoing: Sequence[Outgoing], digest: int) -> PushPlan:
        keyring = self._keyring
        named = await self._parts.worker.run(_named, keyring, outgoing)
        known = await self._parts.journal.known([name for name, _ in named])
        in_no_way = self._replaceable | {Reason.TOO_BIG}
        return await self._parts.worker.run(
            plan_push,
            named,
            known,
            self._replica,
            digest,
            keyring.digest_key,
            partial(_sealed, keyring),
            PUSH_LIMIT - CHECKPOINT_LIMIT - 64,
            [one for one in self._problems.values() if one.reason not in in_no_way],
        )

    async def _seal(self, plan: PushPlan) -> Following:
        if self._account != self._standing.account:
            # The keyring was joined with another one meanwhile: begin anew.
            raise PreconditionFailed()
        untold = (await self._parts.journal.look()).untold if self._untold else ()
        now = self._parts.now()
        commit = Commit(self._standing.count + 1, urandom(16).hex(), now)
        before = self._known or checkpoints.begun(urandom(16).hex())
        if not self._has_room:
            raise TooManyDevices(checkpoints.MAX_DEVICES)
        mark = KeyringMark.of(self._parts.keys.keyring)
        if mark.generation < before.keyring.generation:
            mark = before.keyring
        found = tuple(checkpoints.Incident(one.time, one.device, one.kind) for one in untold)
        digest = (self._claimed + plan.digest - self._standing.digest) % (1 << 256)
        after = checkpoints.committed(before, self._replica, commit, digest, mark, found)
        sealed = seal_checkpoint(self._keyring.current, self._parts.user, urandom(SALT_SIZE), after)
        pending = Pending(
            commit.count,
            commit.commit_id,
            self._standing.head,
            sha256(sealed).hexdigest(),
            plan.digest,
            checkpoints.encode(after),
            encode_push(Push(plan.records, sealed)),
        )
        self._untold = False
        return pending, plan.sent

    # --- what came of it ------------------------------------------------------------------------------

    @property
    def head(self) -> str | None:
        """The tag of the head that was accepted last."""
        return self._standing.head

    @property
    def keyring_mark(self) -> KeyringMark | None:
        """Which keyring the device had that made the last checkpoint."""
        return None if self._known is None else self._known.keyring

    # --- what it stands on ----------------------------------------------------------------------------

    @property
    def _keyring(self) -> Keyring:
        return self._parts.keys.keyring.keyring

    @property
    def _account(self) -> bytes:
        """Which keys names are made with: what they make of no document."""
        return bytes.fromhex(record_name(self._keyring.names_key, DocId("")))

    @property
    def _commit(self) -> Commit | None:
        """This device's own entry in the pending push."""
        pending = self._pending
        return None if pending is None else Commit(pending.count, pending.commit, 0)

    def stop(self) -> None:
        """End soon, wherever this is; whatever it waits for is cancelled by who calls this."""
        self._stopped = True

    def _go_on(self) -> None:
        """:raise CancelledError: it was asked to stop while it did something that could not be."""
        if self._stopped:
            raise CancelledError()


def _decoded(encoded: bytes) -> Checkpoint | None:
    return checkpoints.parse(encoded) if encoded else None


def _restarted(known: Checkpoint | None, head: Checkpoint | None) -> Checkpoint | None:
    one, other = known or head, head or known
    return None if one is None or other is None else checkpoints.restarted(one, other)


def _named(keyring: Keyring, outgoing: Iterable[Outgoing]) -> list[tuple[RecordName, Outgoing]]:
    names = RecordNames.under(keyring.names_key)
    return [(names.of(one.versions.doc_id), one) for one in outgoing]


def _sealed(keyring: Keyring, name: RecordName, versions: Versions) -> SealedRecord:
    return seal_record(keyring.current, name, urandom(SALT_SIZE), versions)
