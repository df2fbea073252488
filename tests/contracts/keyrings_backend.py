"""What every provider of `IKeyringsBackend` keeps to."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from zope.interface.verify import verifyObject

from soledad.errors import KeyringNotFound, NoSuchUser, PreconditionFailed
from soledad.model.ids import UserId
from soledad.server.accounts import Accounts
from soledad.server.interfaces import IKeyringsBackend

if TYPE_CHECKING:
    from twisted.trial.unittest import SynchronousTestCase as _Case
else:
    # A mixin: alone it is not to be run.
    _Case = object

ALICE, BOB = UserId("alice"), UserId("bob")


def tag(data: bytes) -> str:
    """Return the tag of a keyring."""
    return sha256(data).hexdigest()


class KeyringsBackendContract(_Case):
    """Make a backend with two users in `make_backend`; every test begins with an empty one."""

    keyrings: Any
    accounts: Accounts

    def make_backend(self) -> None:
        """Set ``keyrings`` and ``accounts``."""
        raise NotImplementedError

    def setUp(self) -> None:
        """Make the backend."""
        self.make_backend()
        for user in (ALICE, BOB):
            self.now(self.accounts.add_user(user))

    def now(self, work: Deferred[Any]) -> Any:
        """Return a result."""
        return self.successResultOf(work)

    def test_provides(self) -> None:
        """It is what it says it is."""
        verifyObject(IKeyringsBackend, self.keyrings)

    def test_missing(self) -> None:
        """At first there is none, and none to be replaced."""
        self.failureResultOf(self.keyrings.read_keyring(ALICE), KeyringNotFound)
        self.failureResultOf(self.keyrings.write_keyring(ALICE, b"new", tag(b"old")), PreconditionFailed)
        self.failureResultOf(self.keyrings.read_keyring(ALICE), KeyringNotFound)

    def test_round_trip(self) -> None:
        """The bytes come back as they went, with their tag; another user has none."""
        data = bytes(range(256)) * 4096
        self.assertEqual(self.now(self.keyrings.write_keyring(ALICE, data, None)), tag(data))
        self.assertEqual(self.now(self.keyrings.read_keyring(ALICE)), (data, tag(data)))
        self.failureResultOf(self.keyrings.read_keyring(BOB), KeyringNotFound)

    def test_create_once(self) -> None:
        """What is there is not created again."""
        self.now(self.keyrings.write_keyring(ALICE, b"first", None))
        self.failureResultOf(self.keyrings.write_keyring(ALICE, b"second", None), PreconditionFailed)
        self.assertEqual(self.now(self.keyrings.read_keyring(ALICE))[0], b"first")

    def test_swap(self) -> None:
        """It is replaced by who knows what it is, and by nobody else."""
        self.now(self.keyrings.write_keyring(ALICE, b"first", None))
        self.now(self.keyrings.write_keyring(BOB, b"other", None))
        self.assertEqual(self.now(self.keyrings.write_keyring(ALICE, b"second", tag(b"first"))), tag(b"second"))
        self.failureResultOf(self.keyrings.write_keyring(ALICE, b"third", tag(b"first")), PreconditionFailed)
        self.failureResultOf(self.keyrings.write_keyring(ALICE, b"third", tag(b"other")), PreconditionFailed)
        self.assertEqual(self.now(self.keyrings.read_keyring(ALICE)), (b"second", tag(b"second")))

    def test_removed_user(self) -> None:
        """It goes with its user, and does not outlive the user either."""
        self.now(self.keyrings.write_keyring(ALICE, b"first", None))
        self.now(self.accounts.remove_user(ALICE))
        self.failureResultOf(self.keyrings.read_keyring(ALICE), KeyringNotFound)
        self.failureResultOf(self.keyrings.write_keyring(ALICE, b"second", None), NoSuchUser)
