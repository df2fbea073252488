"""One person's devices, with passphrases as they are in life: threads, sockets, and the time that Argon2 takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from soledad import Soledad
from soledad.errors import (
    ConnectionFailed,
    InvalidPassphrase,
    InvalidRecoveryCode,
    KeyringChanged,
    NoServer,
    WrongPassphrase,
)
from tests.integration.devices import ALICE, new_user
from tests.integration.serving import ServerProcess


class SeveralDevicesTests(TestCase):
    """A server process, and devices of one user."""

    timeout = 120

    async def setUp(self) -> None:  # type: ignore[override]
        """Start the server."""
        self.server_folder = Path(self.mktemp())
        self.token = new_user(self.server_folder)
        self.server = await ServerProcess.start(self, self.server_folder)

    def place(self, folder: Path | None = None, url: str | None = None) -> dict[str, Any]:
        """Return where a device is, and its server."""
        folder = Path(self.mktemp()) if folder is None else folder
        return {"data_dir": folder, "server_url": url or self.server.url, "auth_token": self.token}

    async def device(self, passphrase: str, folder: Path | None = None, url: str | None = None) -> Soledad:
        """Open a device."""
        soledad = await Soledad.open(ALICE, passphrase, **self.place(folder, url))
        self.addCleanup(soledad.close)
        return soledad

    async def test_life(self) -> None:
        """A second device, a code, another passphrase, a recovery: what each opens with."""
        first = await self.device("first")
        await first.rotate_root()
        code = await first.create_recovery_code()
        second_folder = Path(self.mktemp())
        second = await self.device("first", second_folder)
        self.assertEqual(second._local.keyring.roots, first._local.keyring.roots)
        await self.assertFailure(Soledad.recover(ALICE, code[:-1], "third", **self.place()), InvalidRecoveryCode)
        await self.assertFailure(Soledad.recover(ALICE, code, "", **self.place()), InvalidPassphrase)
        await self.assertFailure(Soledad.recover(ALICE, code, "x", data_dir=self.mktemp()), NoServer)
        recovered = await Soledad.recover(ALICE, code.lower().replace("-", " "), "third", **self.place())
        self.addCleanup(recovered.close)
        self.assertEqual(recovered._local.keyring.roots, first._local.keyring.roots)
        # The others go on, with what they have open.
        doc = await second.create_doc({})
        await doc.put_attachment(b"data")
        await second.put_doc(doc)
        await doc.upload_attachment()
        await second.close()
        await self.assertFailure(Soledad.open(ALICE, "first", **self.place()), WrongPassphrase)
        again = await self.device("third", second_folder)
        await again.close()
        offline = await Soledad.open(ALICE, "third", data_dir=second_folder)
        await offline.close()

    async def test_apart(self) -> None:
        """Two that began apart with two passphrases: nothing is sent before the person says which one it is."""
        await self.device("theirs")
        folder = Path(self.mktemp())
        nowhere = "http://127.0.0.1:9"
        alone = await self.device("mine", folder, nowhere)
        doc = await alone.create_doc({}, "doc")
        await doc.put_attachment(b"data")
        await alone.put_doc(doc)
        await self.assertFailure(doc.upload_attachment(), ConnectionFailed)
        await self.assertFailure(alone.change_passphrase("other"), ConnectionFailed)
        await alone.close()
        device = await self.device("mine", folder)
        found = await device.get_doc("doc")
        assert found is not None
        await self.assertFailure(found.upload_attachment(), KeyringChanged)
        self.assertIsInstance(device.keyring_problem, KeyringChanged)
        await self.assertFailure(device.adopt_keyring("mine"), WrongPassphrase)
        await device.adopt_keyring("theirs")
        await found.upload_attachment()
        await device.close()
        device = await self.device("theirs", folder)
        found = await device.get_doc("doc")
        assert found is not None
        self.assertEqual(await found.read_attachment(), b"data")

    async def test_follow(self) -> None:
        """What is written on one device is on the other soon, though nobody calls for a sync."""
        devices = [await self.device("passphrase") for _ in range(2)]
        followings = [device.follow() for device in devices]
        arrived: Deferred[None] = Deferred()
        devices[1].subscribe(lambda *change: arrived.callback(None), "doc")
        await devices[0].create_doc({"n": 1}, "doc")
        await arrived
        doc = await devices[1].get_doc("doc")
        assert doc is not None
        self.assertEqual(doc.content, {"n": 1})
        self.assertEqual([following.problem for following in followings], [None, None])
        await followings[0].stop()
