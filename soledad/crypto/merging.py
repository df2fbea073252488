"""
Two keyrings of one user: this device's, and the one that the server has.  What is to become of them is decided here.

Plain functions; who asks the server and writes the file is `soledad.client.keys`.
Source: docs/spec/keyring.rst, "On several devices".
"""

from __future__ import annotations

from enum import Enum

from attrs import evolve

from soledad.crypto.keyring import MAX_PASSPHRASES, Known, OpenKeyring, SharedPart, open_body
from soledad.crypto.slots import Entropy, Slot, SlotType
from soledad.errors import KeyringRolledBack


class Standing(Enum):
    """How the server's keyring stands to this device's."""

    #: It is the same.
    SAME = "same"
    #: It is what it was when this device last saw it; this device's is newer.
    OLDER = "older"
    #: It is newer, and this device's is what the server had before.
    NEWER = "newer"
    #: Both were changed, apart from each other; they have one keyring key.
    DIVERGED = "diverged"
    #: It has another keyring key, and so began elsewhere.
    FOREIGN = "foreign"


def compare(mine: OpenKeyring, shared: SharedPart) -> Standing:
    """
    Tell how the server's keyring stands to this device's.

    :raise MalformedKeyring: it claims to have the same keyring key, and does not open with it.
    :raise KeyringRolledBack: it is older than what the server was seen to have, or another of the same age.
    """
    if shared.digest == mine.shared.digest:
        return Standing.SAME
    if mine.known is not None and shared.digest == mine.known.digest:
        return Standing.OLDER
    if shared.key_id != mine.key.key_id:
        return Standing.FOREIGN
    theirs = open_body(mine.uuid, shared, mine.key)
    if mine.known is not None and theirs.generation <= mine.known.generation:
        raise KeyringRolledBack(theirs.generation, mine.known.generation)
    if mine.is_backed_up and mine.roots.keys() <= theirs.roots.keys():
        return Standing.NEWER
    return Standing.DIVERGED


def adopt(mine: OpenKeyring, shared: SharedPart) -> OpenKeyring:
    """Return the server's newer keyring, as it is on this device."""
    adopted = evolve(mine, keyring=open_body(mine.uuid, shared, mine.key), shared=shared)
    return adopted.backed_up()


def join(mine: OpenKeyring, shared: SharedPart, entropy: Entropy) -> OpenKeyring:
    """
    Return what becomes of two keyrings that have one keyring key: all roots, and whatever opened either opens it.

    The root that one of them changed to is current; of two such, the server's.
    """
    theirs = open_body(mine.uuid, shared, mine.key)
    current_id = mine.keyring.current_id if theirs.current_id in mine.roots else theirs.current_id
    generation = max(mine.keyring.generation, theirs.generation) + 1
    keyring = evolve(theirs, generation=generation, roots={**mine.roots, **theirs.roots}, current_id=current_id)
    joined = mine.resealed(keyring, _all_slots(mine.slots, shared.slots), entropy)
    return evolve(joined, known=Known(theirs.generation, shared.digest))


def merge(mine: OpenKeyring, theirs: OpenKeyring, entropy: Entropy) -> OpenKeyring:
    """
    Return what becomes of two keyrings that began apart: the server's, with this device's roots for reading.

    Its account keys, its current root, its slots: what opened this device's opens no more.  Nothing is changed when
    it has these roots already.
    """
    merged = evolve(theirs, device_key=mine.device_key).backed_up()
    if mine.roots.keys() <= theirs.roots.keys():
        return merged
    generation = max(mine.keyring.generation, theirs.keyring.generation) + 1
    keyring = evolve(theirs.keyring, generation=generation, roots={**mine.roots, **theirs.roots})
    return merged.resealed(keyring, theirs.slots, entropy)


def _all_slots(mine: tuple[Slot, ...], theirs: tuple[Slot, ...]) -> tuple[Slot, ...]:
    """Return all slots; of passphrases as many as there may be, this device's first."""
    ids = {slot.slot_id for slot in mine}
    slots = [*mine, *(slot for slot in theirs if slot.slot_id not in ids)]
    surplus = [slot for slot in slots if slot.type is SlotType.PASSPHRASE][MAX_PASSPHRASES:]
    codes = [slot for slot in slots if slot.type is SlotType.RECOVERY][MAX_PASSPHRASES:]
    return tuple(slot for slot in slots if slot not in surplus and slot not in codes)
