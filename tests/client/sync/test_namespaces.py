"""Namespaces that only another device has used: the server tells of them, and is not believed blindly."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from attrs import define, evolve
from twisted.internet.defer import Deferred

from soledad import Soledad, SyncStatus
from soledad.client.follow import GATHER
from soledad.client.sync import changes
from soledad.errors import ConnectionFailed, UnexpectedAnswer
from soledad.model.ids import DEFAULT, Namespace
from soledad.server import blobs
from soledad.testing import MemoryServer
from soledad.wire.listing import Namespaces
from soledad.wire.routes import NAMESPACES_LIMIT
from tests.client.sync.devices import DevicesTestCase
from tests.client.sync.test_with_blobs import Counted

MAILS = "mails"


@define(eq=False)
class Naming:
    """A server's blobs, with namespaces of its own."""

    _blobs: Any
    names: Callable[[Namespaces], Namespaces]

    def __getattr__(self, name: str) -> Any:
        """Do anything else as it is."""
        return getattr(self._blobs, name)

    def list_namespaces(self) -> Deferred[Namespaces]:
        """See `IRemoteBlobs`."""
        told: Deferred[Namespaces] = self._blobs.list_namespaces()
        return told.addCallback(self.names)


class NamespacesCase(DevicesTestCase):
    """Two devices, of which the second has heard of all but of a namespace that the first begins then."""

    server: Counted

    def make_server(self) -> MemoryServer:
        """Let the server count."""
        return Counted()

    def setUp(self) -> None:
        """Sync both, then put something into a new namespace, and send it."""
        super().setUp()
        self.two = self.another()
        self.now(self.one.blobs.put("known", b"known"))
        self.sync(self.one, self.two, self.one)
        self.now(self.one.blobs.put("m", b"a mail", MAILS))
        self.now(self.one.blobs.send_missing())

    def assertHere(self, store: Soledad, data: bytes | None = b"a mail") -> None:
        """A device has the mail, as it says without being asked for it; or (`None`) knows of none."""
        statuses = [blob.status for blob in self.now(store.blobs.list(MAILS))]
        self.assertEqual(statuses, [] if data is None else [SyncStatus.SYNCED])
        if data is not None:
            self.assertEqual(self.now(store.blobs.get("m", MAILS)).read(), data)

    def asked(self, work: Callable[[], Deferred[Any]]) -> list[str]:
        """Return what something asks of the server."""
        self.server.asked.clear()
        self.now(work())
        return self.server.asked.copy()

    def intervene(self, names: Callable[[Namespaces], Namespaces]) -> None:
        """Let the second device be told other names."""
        asking: Any = self.two.blobs._server().changes
        asking._blobs = Naming(getattr(asking._blobs, "_blobs", asking._blobs), names)


class NewNamespaceTests(NamespacesCase):
    """A namespace of which a device never heard."""

    def test_sync(self) -> None:
        """A store's sync brings what is in it."""
        self.sync(self.two)
        self.assertHere(self.two)

    def test_sync_blobs(self) -> None:
        """The blobs' own sync does."""
        self.now(self.two.blobs.sync())
        self.assertHere(self.two)

    def test_fetch(self) -> None:
        """Fetching all does; syncing another namespace does not."""
        self.now(self.two.blobs.sync(DEFAULT))
        self.assertHere(self.two, None)
        self.now(self.two.blobs.fetch_missing())
        self.assertHere(self.two)

    def test_follow(self) -> None:
        """A store that follows has it at once."""
        following = self.two.follow()
        self.pass_time()
        self.assertHere(self.two)
        self.now(self.one.blobs.put("p", b"a picture", "pictures"))
        self.now(self.one.blobs.send_missing())
        self.pass_time()
        self.assertEqual(self.now(self.two.blobs.sync_progress("pictures")), {SyncStatus.SYNCED: 1})
        self.assertIsNone(following.problem)
        stopping = following.stop()
        self.server.flush()
        self.now(stopping)

    def pass_time(self) -> None:
        """Let changes gather and be sent."""
        self.server.flush()
        self.two._reactor.advance(GATHER)
        self.server.flush()

    def test_fresh(self) -> None:
        """A device that has heard of nothing yet gets everything."""
        three = self.another()
        self.sync(three)
        self.assertHere(three)
        self.assertEqual(self.now(three.blobs.get("known")).read(), b"known")

    def test_deleted(self) -> None:
        """A deletion reaches the device that was told of the namespace; and what comes there later, too."""
        self.sync(self.two)
        self.now(self.one.blobs.delete("m", MAILS))
        self.sync(self.one, self.two)
        self.assertHere(self.two, None)
        self.now(self.one.blobs.put("m", b"another", MAILS))
        self.sync(self.one, self.two)
        self.assertHere(self.two, b"another")

    def test_deleted_before(self) -> None:
        """Of a namespace in which everything was deleted by then nothing comes."""
        self.now(self.one.blobs.delete("m", MAILS))
        self.sync(self.one, self.two)
        self.assertHere(self.two, None)
        self.assertIn(MAILS, self.now(self.two.blobs._queue.namespaces()))

    def test_interrupted(self) -> None:
        """What breaks off after the names were told goes on from there."""
        self.intervene(lambda told: self.server.disconnect() or told)  # type: ignore[func-returns-value]
        self.fails(self.two.blobs.sync(), ConnectionFailed)
        self.server.heal()
        self.intervene(lambda told: told)
        self.sync(self.two)
        self.assertHere(self.two)

    def test_requests(self) -> None:
        """The names are asked for when something has changed, and are all that is asked when nothing has."""
        one, two = self.one, self.two
        self.assertEqual(self.asked(lambda: two.blobs.sync(DEFAULT)), ["GET blobs"])
        # The names; what changed where that was not heard yet; all, and all deleted, of the new namespace; its mail.
        self.assertEqual(self.asked(two.sync), ["GET sync", *["GET blobs"] * 5])
        self.assertEqual(self.asked(two.sync), ["GET sync"])
        self.assertEqual(self.asked(two.blobs.sync), ["GET blobs"])
        self.sync(one)
        self.assertEqual(self.asked(one.sync), ["GET sync"])
        self.assertEqual(self.asked(one.blobs.sync), ["GET blobs"])


class HostileNamesTests(NamespacesCase):
    """A server that names what it likes."""

    def known(self) -> list[Namespace]:
        """Return the namespaces that the second device knows."""
        return self.now(self.two.blobs._queue.namespaces())

    def test_bad_names(self) -> None:
        """An answer that has anything wrong fails the call before anything of it is asked for, or kept."""
        before = self.known()
        many = [f"{number:05}" for number in range(NAMESPACES_LIMIT + 1)]
        for names in (["../keys", "aa"], ["mails", "mails"], ["mails", "aa"], ["mails", None], many, "mails"):
            body = json.dumps({"namespaces": names, "head": "x"}).encode()
            with self.subTest(repr(names)[:40]):
                self.patch(blobs, "encode_namespaces", lambda told, body=body: body)
                self.server.asked.clear()
                self.fails(self.two.blobs.sync(), UnexpectedAnswer)
                self.assertEqual(self.server.asked, ["GET blobs"])
                self.fails(self.two.sync(), UnexpectedAnswer)
                self.assertEqual(self.known(), before)

    def test_made_up(self) -> None:
        """Of a namespace that there is not nothing comes, and it holds up no other."""
        self.intervene(lambda told: evolve(told, names=(*told.names, Namespace("zzz"))))
        self.sync(self.two)
        self.assertHere(self.two)
        self.assertEqual(self.now(self.two.blobs.list("zzz")), [])

    def test_hidden(self) -> None:
        """What this device knows is looked at whether it is named or not, and not missed."""
        self.sync(self.two)
        self.intervene(lambda told: evolve(told, names=()))
        self.now(self.one.blobs.put("n", b"more", MAILS))
        self.sync(self.one, self.two)
        self.assertEqual(self.now(self.two.blobs.get("m", MAILS)).read(), b"a mail")
        self.assertEqual(self.now(self.two.blobs.get("n", MAILS)).read(), b"more")

    def test_ever_more(self) -> None:
        """A server with other names each time makes a device know, and ask for, no more than so many."""
        number = NAMESPACES_LIMIT
        self.intervene(lambda told: evolve(told, names=tuple(Namespace(f"{number + n:06}") for n in range(5))))
        self.patch(changes, "NAMESPACES_LIMIT", 10)
        requests = []
        for _ in range(4):
            self.now(self.one.blobs.put(None, b"news"))
            self.now(self.one.blobs.send_missing())
            requests.append(self.asked(self.two.blobs.sync).count("GET blobs"))
            number += 5
        self.assertEqual(len(self.known()), 10)
        self.assertLessEqual(max(requests), 1 + 2 * 10)
        # Those that the application names are known all the same.
        self.now(self.two.blobs.sync(MAILS))
        self.assertHere(self.two)
        self.assertEqual(len(self.known()), 11)
