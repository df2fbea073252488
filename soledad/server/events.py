"""
The resource of events: ``/events/{uuid}``, and who tells it that something has changed.

What happens in this process is told at once; what others do with the same data is looked for, for all users who
listen in one statement.  A stream holds nothing but the last state: a client that reads slowly misses states, never
the last.  Source: docs/spec/events-http.rst.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from functools import partial

from attrs import define, field
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IConsumer, IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from soledad.deferreds import completed, deferred
from soledad.errors import BadRequest, ConnectionFailed, PathNotFound, Unauthorized
from soledad.model.ids import UserId
from soledad.server.auth import Authenticator
from soledad.server.http import Answer, Call, IArea, check_owner, method_refused
from soledad.server.interfaces import IHeadsBackend
from soledad.streams import Gate
from soledad.wire.events import EVENT_STREAM, HEARTBEAT, HEARTBEAT_SECONDS, Heads

#: Seconds between two looks at what other processes did.
POLL_SECONDS = 0.5
#: Streams that a user may have at a time; one more ends the oldest.
STREAMS = 16

_log = Logger()


@define(eq=False)
class _Stream:
    """One client that listens."""

    #: What it is to be told next; none: the user is gone, or another stream took its place.
    heads: Heads | None
    ended: bool = False
    _waiting: Deferred[None] | None = field(default=None, init=False)

    def tell(self, heads: Heads | None) -> None:
        """Let it have the newest state."""
        if self.ended or heads == self.heads:
            return
        self.heads, self.ended = heads, heads is None
        self.wake()

    def wake(self) -> None:
        """Go on."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(None)

    def change(self, clock: IReactorTime, seconds: float) -> Deferred[None]:
        """Fire when there is something to tell, or so many seconds later."""
        waiting: Deferred[None] = Deferred(self._forget)
        self._waiting = waiting
        timer = clock.callLater(seconds, self.wake)
        return waiting.addBoth(_stop_timer, timer)

    def _forget(self, waiting: Deferred[None]) -> None:
        self._waiting = None


def _stop_timer(result: Failure | None, timer: IDelayedCall) -> Failure | None:
    if timer.active():
        timer.cancel()
    return result


@implementer(IArea)
@define(eq=False)
class EventsArea:
    """Everything under ``/events``."""

    _backend: IHeadsBackend
    _authenticator: Authenticator
    _clock: IReactorTime
    #: Of each user the streams, the oldest first.
    _streams: dict[UserId, list[_Stream]] = field(factory=dict, init=False)
    _timer: IDelayedCall | None = field(default=None, init=False)
    #: Whose state is to be looked at.
    _wanted: set[UserId] = field(factory=set, init=False)
    _looks: bool = field(default=False, init=False)
    _looking: Deferred[None] = field(factory=lambda: succeed(None), init=False)

    async def answer(self, user: UserId, call: Call) -> Answer:
        """See `IArea`."""
        if len(call.segments) != 1:
            raise PathNotFound()
        check_owner(user, call)
        if call.method != "GET":
            return method_refused(call, "GET")
        if call.query:
            raise BadRequest("unknown arguments")
        headers = {"content-type": EVENT_STREAM, "cache-control": "no-store"}
        return Answer(200, headers, chunked=True, stream=partial(self._stream, user, call.header("authorization")))

    def changed(self, user: UserId) -> None:
        """Something of the user's may have changed just now."""
        if user in self._streams:
            self._look({user})

    @deferred
    async def _stream(self, user: UserId, authorization: str | None, consumer: IConsumer) -> None:
        """Tell one client, until it goes, or its token is good no more."""
        heads = (await self._backend.read_heads({user})).get(user)
        stream = _Stream(heads)
        self._enter(user, stream)
        gate = Gate()
        try:
            consumer.registerProducer(gate, True)
            try:
                await self._tell(stream, authorization, consumer, gate)
            except (ConnectionFailed, Unauthorized):
                # There is nobody to be told any more, or nobody who may be.
                return
            finally:
                consumer.unregisterProducer()
        finally:
            await self._leave(user, stream)

    async def _tell(self, stream: _Stream, authorization: str | None, consumer: IConsumer, gate: Gate) -> None:
        told: Heads | None = None
        while not stream.ended and stream.heads is not None:
            consumer.write(HEARTBEAT if stream.heads == told else stream.heads.encode())
            told = stream.heads
            await gate.passed()
            if stream.heads == told and not stream.ended:
                await gate.during(stream.change(self._clock, HEARTBEAT_SECONDS))
            await self._authenticator.user(authorization)

    # --- who listens ----------------------------------------------------------------------------------

    def _enter(self, user: UserId, stream: _Stream) -> None:
        streams = self._streams.setdefault(user, [])
        streams.append(stream)
        if len(streams) > STREAMS:
            streams[0].tell(None)
        if self._timer is None:
            self._timer = self._clock.callLater(POLL_SECONDS, self._poll)

    async def _leave(self, user: UserId, stream: _Stream) -> None:
        streams = self._streams[user]
        streams.remove(stream)
        if not streams:
            del self._streams[user]
        if self._streams:
            return
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        # A server that ends waits for its requests, and closes the database then.
        self._wanted.clear()
        await completed(self._looking)

    # --- what has changed -----------------------------------------------------------------------------

    def _poll(self) -> None:
        self._timer = self._clock.callLater(POLL_SECONDS, self._poll)
        self._look(self._streams)

    def _look(self, users: Iterable[UserId]) -> None:
        """Look at the state of some users: soon, if that is being done already."""
        self._wanted.update(users)
        if not self._looks:
            self._looks = True
            self._looking = self._work()

    @deferred
    async def _work(self) -> None:
        # One look at a time: what comes meanwhile waits for the next, and an older state is never told after a newer.
        try:
            while self._wanted:
                users, self._wanted = self._wanted, set()
                await self._tell_all(users)
        finally:
            self._looks = False

    async def _tell_all(self, users: Collection[UserId]) -> None:
        try:
            found = await self._backend.read_heads(users)
        except Exception:
            _log.failure("What has changed could not be looked up; it is tried again")
            return
        for user in users:
            for stream in list(self._streams.get(user, ())):
                stream.tell(found.get(user))


@implementer(IArea)
@define(eq=False)
class Telling:
    """An area that tells of every call that may have changed something."""

    _area: IArea
    _changed: Callable[[UserId], object]

    async def answer(self, user: UserId, call: Call) -> Answer:
        """See `IArea`."""
        answer = await self._area.answer(user, call)
        if call.method not in ("GET", "HEAD"):
            self._changed(user)
        return answer
