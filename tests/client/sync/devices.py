"""What tests of the sync share: a person's devices, which have one keyring, and a server in memory."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from os import urandom
from pathlib import Path
from typing import Any, TypeVar

from attrs import define, evolve, field
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from soledad import Document, Soledad
from soledad.testing import MemoryServer, make_store

T = TypeVar("T")


def second_device(store: Soledad, folder: Path) -> Path:
    """Let ``folder`` have what another device of a person begins with: the keyring, and a device key of its own."""
    folder.mkdir(mode=0o700)
    keyring = evolve(store._local.keyring, device_key=urandom(32))
    path = folder / f"{store.uuid}.keyring"
    path.write_bytes(keyring.seal(urandom))
    path.chmod(0o600)
    return folder


@define(eq=False)
class Between:
    """
    Stands between a device and its server, as an `IRemoteDocuments`: does something before or after a request.

    What ``before`` and ``after`` are given is the name of the method, and how many requests there were before it; what
    ``after`` returns is the answer.
    """

    remote: Any
    before: Callable[[str, int], object] = lambda name, number: None
    after: Callable[[str, int, Any], Any] = lambda name, number, answer: answer
    calls: list[str] = field(factory=list)

    def __getattr__(self, name: str) -> Any:
        """Return a method."""
        method = getattr(self.remote, name)

        async def call(*args: Any, **options: Any) -> Any:
            number = len(self.calls)
            self.calls.append(name)
            self.before(name, number)
            return self.after(name, number, await method(*args, **options))

        return lambda *args, **options: Deferred.fromCoroutine(call(*args, **options))


def put_between(store: Soledad, **what: Any) -> Between:
    """Let something stand between a device and its server, in the place of what stood there."""
    assert store._syncing is not None
    parts = store._syncing.parts
    remote: Any = parts.remote
    between = Between(remote.remote if isinstance(remote, Between) else remote, **what)
    remote = between
    store._syncing.parts = evolve(parts, remote=remote)
    return between


class DevicesTestCase(SynchronousTestCase):
    """A server, and a first device."""

    def setUp(self) -> None:
        """Make them."""
        self.server = self.make_server()
        self.folders: dict[Soledad, Path] = {}
        self.one = self.open(Path(self.mktemp()))

    def make_server(self) -> MemoryServer:
        """Make the server."""
        return MemoryServer()

    def open(self, folder: Path, server: Any = None) -> Soledad:
        """Open a device's folder."""
        store = make_store(self, self.server if server is None else server, data_dir=folder)
        self.folders[store] = folder
        return store

    def another(self) -> Soledad:
        """Open another device of the same person."""
        return self.open(second_device(self.one, Path(self.mktemp())))

    def reopen(self, store: Soledad) -> Soledad:
        """Close a device and open it again."""
        self.now(store.close())
        return self.open(self.folders.pop(store))

    def copy(self, store: Soledad) -> Path:
        """Copy a device's folder, as it is while the store is closed for that."""
        target = Path(self.mktemp())
        shutil.copytree(self.folders[store], target)
        return target

    def now(self, work: Deferred[T]) -> T:
        """Return a result that is there already."""
        return self.successResultOf(work)

    def fails(self, work: Deferred[Any], *errors: type[BaseException]) -> BaseException:
        """Return the error that a call has failed with already."""
        error: BaseException = self.failureResultOf(work, *errors).value
        return error

    def sync(self, *stores: Soledad) -> None:
        """Sync devices, one after the other."""
        for store in stores:
            self.now(store.sync())

    def put(self, store: Soledad, doc_id: str, content: dict[str, Any] | None) -> Document:
        """Create a document, change it, or (`None`) delete it."""
        doc = self.now(store.get_doc(doc_id, include_deleted=True))
        if content is None:
            assert doc is not None
            self.now(store.delete_doc(doc))
        elif doc is None:
            doc = self.now(store.create_doc(content, doc_id))
        else:
            doc.content = content
            self.now(store.put_doc(doc))
        return doc

    def content(self, store: Soledad, doc_id: str) -> Any:
        """Return what a device has of a document; `None`: nothing, or a tombstone."""
        doc = self.now(store.get_doc(doc_id))
        return None if doc is None else doc.content
