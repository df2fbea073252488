"""So many bytes a second, for all transfers of one direction together; back-pressure is passed on."""

from __future__ import annotations

from collections import deque
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IConsumer, IDelayedCall, IPushProducer, IReactorTime
from twisted.web.iweb import IBodyProducer
from zope.interface import implementer

from soledad.deferreds import deferred
from soledad.errors import InvalidLimit

#: Seconds worth of bytes that go at a time, and bytes of which these are at least.
AT_A_TIME, LEAST = 0.25, 1024


def check_limit(limit: int | None) -> None:
    """:raise InvalidLimit: nothing can go at this rate."""
    if limit is not None and (type(limit) is not int or limit < LEAST):
        raise InvalidLimit("bytes a second", LEAST)


@define(eq=False)
class Rate:
    """How many bytes a second may go one way."""

    _clock: IReactorTime
    _limit: int | None = field(default=None, init=False)
    #: Seconds that the bytes which went by `_counted` ought to have taken longer than they did.
    _owed: float = field(default=0.0, init=False)
    _counted: float = field(default=0.0, init=False)
    #: Who waits for more to go.
    _waiting: list[IDelayedCall] = field(factory=list, init=False)

    @property
    def limit(self) -> int | None:
        """Bytes a second; `None`: any number.  It may be changed at any time: who waits does so as the new one says."""
        return self._limit

    @limit.setter
    def limit(self, limit: int | None) -> None:
        check_limit(limit)
        factor = 0.0 if limit is None or self._limit is None else self._limit / limit
        self._count()
        self._limit, self._owed = limit, self._owed * factor
        for call in self._waiting:
            if call.active():
                call.reset(max(0.0, call.getTime() - self._counted) * factor)

    @property
    def piece(self) -> int | None:
        """How many bytes may go at a time; `None`: any number."""
        return None if self._limit is None else max(LEAST, int(self._limit * AT_A_TIME))

    def spend(self, size: int) -> float:
        """Count bytes that go; return the seconds until more may go."""
        if self._limit is None:
            return 0.0
        self._count()
        self._owed += size / self._limit
        return self._owed

    @deferred
    async def wait(self, size: int) -> None:
        """Count bytes that go, and wait as long as they may take: piece by piece, as the others do that wait."""
        while size > 0 and (piece := self.piece) is not None:
            await self._pause(self.spend(min(piece, size)))
            size -= piece

    def later(self, seconds: float, call: Any) -> IDelayedCall:
        """Call something after a pause."""
        self._waiting = [waiting for waiting in self._waiting if waiting.active()]
        self._waiting.append(self._clock.callLater(seconds, call))
        return self._waiting[-1]

    def _count(self) -> None:
        """Let the time count that has passed; where a clock went back, none did."""
        now = self._clock.seconds()
        self._owed = max(0.0, self._owed - max(0.0, now - self._counted))
        self._counted = now

    async def _pause(self, seconds: float) -> None:
        over: Deferred[None] = Deferred(lambda over: call.cancel())
        call = self.later(seconds, lambda: over.callback(None))
        await over


@implementer(IConsumer, IPushProducer)
@define(eq=False)
class Valve:
    """Passes on what a producer writes, as fast as the rate and the consumer allow."""

    _consumer: Any
    _rate: Rate
    _producer: Any = field(default=None, init=False)
    _held: deque[memoryview] = field(factory=deque, init=False, repr=False)
    _timer: IDelayedCall | None = field(default=None, init=False)
    #: The consumer wants nothing; the producer was told so, or that we want nothing.
    _shut: bool = field(default=False, init=False)
    _told: bool = field(default=False, init=False)
    _going: bool = field(default=False, init=False)
    _emptied: Deferred[None] | None = field(default=None, init=False)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """See `IConsumer`."""
        self._producer = producer
        self._consumer.registerProducer(self, streaming)

    def unregisterProducer(self) -> None:
        """See `IConsumer`: what is held goes on as before, until it is `emptied`."""
        self._producer, self._shut = None, False
        self._consumer.unregisterProducer()
        self._go_on()

    def drive(self, producer: Any) -> None:
        """Pause this producer, which need not register."""
        self._producer = producer

    def write(self, data: bytes) -> None:
        """See `IConsumer`."""
        if self._rate.limit is None and not self._held and self._timer is None:
            self._consumer.write(data)
            return
        self._held.append(memoryview(data))
        self._go_on()

    def pauseProducing(self) -> None:
        """See `IPushProducer`."""
        self._shut = True
        self._tell()

    def resumeProducing(self) -> None:
        """See `IPushProducer`."""
        self._shut = False
        self._go_on()

    def stopProducing(self) -> None:
        """See `IProducer`: what is held is dropped."""
        self.drop()
        if self._producer is not None:
            self._producer.stopProducing()

    def drop(self) -> None:
        """Pass on nothing any more."""
        self._cancel()
        self._held.clear()

    def emptied(self) -> Deferred[None]:
        """Fire when nothing is held any more."""
        self._emptied = Deferred(lambda done: self.drop())
        emptied = self._emptied
        self._go_on()
        return emptied

    def _go_on(self) -> None:
        # A consumer may pause, or resume, while it is written to.
        if self._going:
            return
        self._going = True
        try:
            while self._held and not self._shut and self._timer is None:
                self._pass_one()
        finally:
            self._going = False
        self._tell()
        if not self._held and self._emptied is not None:
            # What the last piece still owes, the next one that goes pays.
            self._cancel()
            emptied, self._emptied = self._emptied, None
            emptied.callback(None)

    def _pass_one(self) -> None:
        data = self._held.popleft()
        size = self._rate.piece
        if size is not None and len(data) > size:
            self._held.appendleft(data[size:])
            data = data[:size]
        self._consumer.write(bytes(data))
        pause = self._rate.spend(len(data))
        if pause > 0:
            self._timer = self._rate.later(pause, self._due)

    def _due(self) -> None:
        self._timer = None
        self._go_on()

    def _cancel(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _tell(self) -> None:
        """Tell the producer what it has not been told."""
        wants_none = self._shut or bool(self._held) or self._timer is not None
        if self._producer is not None and wants_none is not self._told:
            self._told = wants_none
            self._producer.pauseProducing() if wants_none else self._producer.resumeProducing()


@implementer(IBodyProducer)
@define(eq=False)
class ThrottledBody:
    """A body that goes as fast as a rate allows."""

    _body: IBodyProducer
    _rate: Rate
    length: Any = field(init=False)
    _valve: Valve | None = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        """Announce what the body announces."""
        self.length = self._body.length

    @deferred
    async def startProducing(self, consumer: Any) -> None:
        """See `IBodyProducer`."""
        self._valve = Valve(consumer, self._rate)
        self._valve.drive(self._body)
        await maybeDeferred(self._body.startProducing, self._valve)
        await self._valve.emptied()

    def pauseProducing(self) -> None:
        """See `IPushProducer`."""
        if self._valve is not None:
            self._valve.pauseProducing()

    def resumeProducing(self) -> None:
        """See `IPushProducer`."""
        if self._valve is not None:
            self._valve.resumeProducing()

    def stopProducing(self) -> None:
        """See `IProducer`."""
        if self._valve is not None:
            self._valve.stopProducing()
        else:
            self._body.stopProducing()
