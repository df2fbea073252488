"""
The keyring's part in a sync: the keys are the account's before it begins, and as new as its checkpoint says after it.

That an older keyring is shown than there was is found here, too.  Source: docs/spec/keyring.rst, "On several devices".
"""

from __future__ import annotations

from attrs import define

from soledad.client.keys import Keys
from soledad.client.sync.documents import Parts
from soledad.client.sync.watch import as_error
from soledad.crypto.checkpoint import KeyringMark
from soledad.errors import KeyringRolledBack
from soledad.model.tampering import Incident, IncidentKind, TamperPolicy


@define(eq=False)
class KeyringWatch:
    """Keeps the keyring in step with what syncs show."""

    _keys: Keys
    _parts: Parts

    async def begin(self) -> None:
        """
        Make sure that the keys are those of the account, and that other devices can have them.

        :raise KeyringChanged: the server has another keyring.
        :raise TamperingDetected: it has an older one than before, and the policy is not to go on with that.
        """
        await self._keys.ready()
        if isinstance(self._keys.problem, KeyringRolledBack):
            await self._put_back(self._keys.problem.known)

    async def renew(self) -> None:
        """Take a newer keyring, if there is one; errors as `begin`."""
        try:
            await self._keys.settle()
        except KeyringRolledBack as error:
            await self._put_back(error.known)

    async def restored(self) -> None:
        """Put the newest keyring there is on a server that was restored."""
        await self._keys.settle(restored=True)

    async def end(self, told: KeyringMark | None) -> None:
        """See whether a newer keyring was told of by the checkpoint, and take it; errors as `begin`."""
        if told is None or not self._is_behind(told):
            return
        await self.renew()
        if self._is_behind(told):
            # A device had it when it made the checkpoint, and so the server.
            await self._put_back(told.generation)

    async def withheld(self) -> None:
        """Note that there is a newer keyring than the server shows; errors as `begin`."""
        await self._put_back(self._parts.keys.keyring.keyring.generation + 1)

    def _is_behind(self, told: KeyringMark) -> bool:
        mine = KeyringMark.of(self._parts.keys.keyring)
        return told.generation > mine.generation or (told.generation == mine.generation and told.hash != mine.hash)

    async def _put_back(self, generation: int) -> None:
        look = await self._parts.journal.look()
        incident = Incident(IncidentKind.KEYRING_BACK, self._parts.now(), look.replica)
        await self._parts.journal.note([(incident, f"keyring/{generation}")])
        if look.policy is not TamperPolicy.WARN:
            raise as_error({IncidentKind.KEYRING_BACK})
