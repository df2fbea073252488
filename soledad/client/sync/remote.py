"""What a store with a server has besides: who asks it, and who carries blobs there and back; put together."""

from __future__ import annotations

from collections.abc import Callable
from random import random
from typing import Any, Protocol

from attrs import define, field, frozen

from soledad.client.blob import Keyring
from soledad.client.interfaces import IBlobQueue, ILocalBlobs, IRemoteBlobs, IRemoteStream, IRemoteUploads
from soledad.client.operations import Operations
from soledad.client.sync.carrying import Carrying
from soledad.client.sync.changes import Changes
from soledad.client.sync.deleting import Deleting
from soledad.client.sync.engine import Engine
from soledad.client.sync.fetching import Fetching
from soledad.client.sync.sending import Sending
from soledad.client.throttle import Rate
from soledad.deferreds import Worker
from soledad.model.ids import UserId
from soledad.streams import Budget


class Asked(Protocol):
    """A server, as far as blobs are concerned."""

    blobs: IRemoteBlobs
    uploads: IRemoteUploads
    stream: IRemoteStream


@frozen
class Here:
    """What a store has on this device."""

    reactor: Any
    operations: Operations
    user: UserId
    local: ILocalBlobs
    queue: IBlobQueue
    keyring: Keyring = field(repr=False)
    #: For files, and for what streams read and bring.
    worker: Worker
    reader: Worker
    budget: Budget
    #: From 0 to 1: what pauses are left to.
    chance: Callable[[], float] = random


@define(eq=False)
class Remote:
    """The parts of a store that deal with the server's blobs."""

    user: UserId
    blobs: IRemoteBlobs
    engine: Engine
    changes: Changes

    @classmethod
    def over(cls, here: Here, server: Asked) -> Remote:
        """Put them together."""
        blobs, up, down = server.blobs, Rate(here.reactor), Rate(here.reactor)
        sending = Sending(
            here.local, here.queue, blobs, server.uploads, server.stream, here.worker, here.reader, here.budget, up
        )
        fetching = Fetching(
            here.local, here.queue, blobs, server.stream, here.keyring, here.worker, here.reader, here.budget, down
        )
        deleting = Deleting(here.queue, blobs, here.keyring)
        carrying = Carrying(here.reactor, here.local, here.queue, sending, fetching, deleting, here.chance)
        engine = Engine(here.operations, here.reactor, here.worker, here.queue, carrying, here.chance)
        changes = Changes(here.user, here.queue, blobs, here.keyring, here.worker, deleting)
        return cls(here.user, blobs, engine, changes)
