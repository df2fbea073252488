"""
For trial suites of applications that use soledad: real stores without waiting, and servers without sockets.

`make_store` opens a real store, with SQLCipher and sealed files, whose calls have ended when they return, so that
`successResultOf` works.
"""

from __future__ import annotations

from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from soledad.client.api import Soledad, open_store
from soledad.client.local.store import Workers
from soledad.client.remote.connect import Server
from soledad.crypto.slots import HandedInKey
from soledad.deferreds import InPlace
from soledad.model.ids import user_id

__all__ = ["make_store"]

#: What stores of tests are locked with, instead of a passphrase that would take its time.
TEST_KEY = bytes(range(32))


def make_store(
    test: SynchronousTestCase,
    server: Server | None = None,
    *,
    uuid: str = "user",
    data_dir: str | Path | None = None,
    key: bytes = TEST_KEY,
) -> Soledad:
    """
    Open a store for one test; it is closed when the test ends.

    Everything is real but for threads and passphrase: calls run in place, so their Deferreds have fired when they
    return, and the keyring's key is handed in.

    :param data_dir: the store's folder; by default a new one.  Closing a store and opening its folder again works.
    """
    folder = Path(test.mktemp() if data_dir is None else data_dir)
    workers = Workers.start(lambda threads, name: InPlace())
    opening = open_store(Clock(), workers, user_id(uuid), HandedInKey(key), folder, server)
    soledad: Soledad = test.successResultOf(Deferred.fromCoroutine(opening))
    test.addCleanup(lambda: test.successResultOf(soledad.close()))
    return soledad
