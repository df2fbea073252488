"""
Processes that kill themselves at a chosen step of a change of the keyring, for test_keyring_crashes.py beside it.

Run as ``python -m tests.integration.keyring_crashing FOLDER SCENARIO``; see `tests.integration.local_crashing`, which
this is like.  Each child has a copy of a device, ``FOLDER/N/device``, and of a server's database,
``FOLDER/N/server``.  Steps are before and after each call of the system that changes the keyring's file, and each
exchange with the server.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from hashlib import sha256
from os import urandom
from pathlib import Path
from time import time
from typing import Any

from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from zope.interface import implementer

from soledad import Soledad
from soledad.client.api import open_store
from soledad.client.interfaces import IRemoteKeys
from soledad.client.local import durable
from soledad.client.local.store import Workers
from soledad.crypto.kdf import Argon2Parameters
from soledad.crypto.slots import Credential, RecoveryCode, SlotCredential, SlotType, encode_argon2
from soledad.deferreds import InPlace, deferred
from soledad.errors import ConnectionFailed
from soledad.model.ids import user_id
from soledad.server.accounts import Accounts
from soledad.server.database import Database
from soledad.server.keyrings import Keyrings
from tests.integration import local_crashing
from tests.integration.local_crashing import SteppingOS, Steps, now

USER = user_id("user")

Say = Callable[[str], None]


@frozen
class Quick(SlotCredential):
    """A passphrase whose key takes no time."""

    slot_type = SlotType.PASSPHRASE
    text: bytes = field(repr=False)

    def slot_parameters(self) -> bytes:
        """Return what a reader accepts."""
        return encode_argon2(Argon2Parameters())

    def slot_key(self, parameters: bytes, salt: bytes) -> bytes:
        """Derive the key."""
        return sha256(self.text + salt).digest()


OLD, NEW = Quick(b"old"), Quick(b"new")
CODE = RecoveryCode(bytes(range(16)))


@implementer(IRemoteKeys)
@define(eq=False)
class StoredKeys:
    """A server's keyring, as near as its database is; it takes steps, and may be out of reach."""

    _keyrings: Keyrings
    _step: Callable[[], object]

    @classmethod
    def at(cls, folder: Path, step: Callable[[], object] = lambda: None) -> StoredKeys:
        """Open a server's database."""
        return cls(Keyrings(Database.in_file(str(folder / "server"), InPlace(), InPlace())), step)

    @deferred
    async def get(self) -> bytes:
        """See `IRemoteKeys`."""
        self._step()
        return (await self._keyrings.read_keyring(USER))[0]

    @deferred
    async def put(self, data: bytes, replaced: bytes | None) -> None:
        """See `IRemoteKeys`."""
        self._step()
        await self._keyrings.write_keyring(USER, data, None if replaced is None else replaced.hex())
        self._step()


@implementer(IRemoteKeys)
@define(eq=False)
class OutOfReach:
    """A server that is not there."""

    @deferred
    async def get(self) -> bytes:
        """See `IRemoteKeys`."""
        raise ConnectionFailed()

    @deferred
    async def put(self, data: bytes, replaced: bytes | None) -> None:
        """See `IRemoteKeys`."""
        raise ConnectionFailed()


@define(eq=False)
class OnlyKeys:
    """A server of which only the keyring is asked."""

    keys: IRemoteKeys
    blobs: None = None
    uploads: None = None
    stream: None = None
    documents: None = None
    url: str = "http://server.invalid"

    def before_writing(self, call: object) -> None:
        """Nothing else is written."""

    @deferred
    async def close(self) -> None:
        """There is nothing to close."""


def opening(folder: Path, credential: Credential, keys: IRemoteKeys, recovers: bool = False) -> Deferred[Soledad]:
    """Open the device of a folder, in place."""
    workers = Workers.start(lambda threads, name: InPlace())
    server: Any = OnlyKeys(keys)
    store = open_store(Clock(), workers, USER, credential, folder / "device", server, recovers)
    return Deferred.fromCoroutine(store)


def change(store: Soledad, credential: SlotCredential) -> Deferred[None]:
    """Let a store open with something else."""
    return store._change_keyring(lambda: lambda keyring: keyring.with_passphrase(credential, urandom))


# --- what is killed -----------------------------------------------------------------------------------


def change_passphrase(folder: Path, keys: StoredKeys, say: Say) -> None:
    """Change the passphrase of a device."""
    store = now(opening(folder, OLD, keys))
    now(change(store, NEW))
    say("changed")
    now(store.close())


def merge(folder: Path, keys: StoredKeys, say: Say) -> None:
    """Open a device that began apart."""
    store = now(opening(folder, OLD, keys))
    say("merged")
    now(store.close())


def recover(folder: Path, keys: StoredKeys, say: Say) -> None:
    """Open a new device with a code, and give it a new passphrase."""
    store = now(opening(folder, CODE, keys, recovers=True))
    now(change(store, NEW))
    say("recovered")
    now(store.close())


SCENARIOS: dict[str, Callable[[Path, StoredKeys, Say], None]] = {
    "change": change_passphrase,
    "merge": merge,
    "recover": recover,
}


def prepare(template: Path, scenario: str) -> None:
    """Make what a scenario begins with: a server with a keyring that has a code, too, and perhaps a device."""
    template.mkdir()
    database = Database.in_file(str(template / "server"), InPlace(), InPlace())
    now(Accounts(database, time).add_user(USER))
    if scenario == "merge":
        now(now(opening(template, OLD, OutOfReach())).close())
        (template / "device").rename(template / "apart")
    store = now(opening(template, OLD, StoredKeys.at(template)))
    now(store._change_keyring(lambda: lambda keyring: keyring.with_recovery_code(CODE, urandom)))
    now(store.close())
    if scenario != "change":
        shutil.rmtree(template / "device")
    if scenario == "merge":
        (template / "apart").rename(template / "device")
    database.close()


def run(scenario: str) -> Callable[[Path, Say], None]:
    """Return a scenario as `local_crashing` runs them; the step at which it dies is set by then."""

    def running(folder: Path, say: Say) -> None:
        module: Any = durable
        SCENARIOS[scenario](folder, StoredKeys.at(folder, module.os.take), say)

    return running


class Steppers(SteppingOS):
    """The module ``os`` with steps, which others may take too."""

    def __init__(self, steps: Steps) -> None:
        super().__init__(steps)
        self.take = steps.step


def take_steps(steps: Steps) -> None:
    """Let this process take steps from now on."""
    module: Any = durable
    module.os = Steppers(steps)


def main(folder: Path, scenario: str) -> None:
    """Run children until one gets to the end."""
    template = folder / "template"
    prepare(template, scenario)
    local_crashing.take_steps = take_steps
    local_crashing.SCENARIOS[scenario] = run(scenario)
    for step in range(1, 1000):
        own = folder / str(step)
        shutil.copytree(template, own)
        said, died = local_crashing.run_child(scenario, own, step)
        sys.stdout.write(f"{step} {' '.join(said)}\n")
        sys.stdout.flush()
        if not died:
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
