"""
The keyring: all keys of a user, as values and as the bytes of its file.  No files here, and no waiting.

`create` and `unlock` run a key derivation if the credential is a passphrase: callers use a thread.
Source: docs/spec/keyring.rst.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from attrs import evolve, field, frozen

from soledad.crypto.cipher import Context, KeyMaterial, Keys
from soledad.crypto.container import open_, seal
from soledad.crypto.kdf import KEY_SIZE, Database, database_key, hkdf, info_list
from soledad.crypto.slots import Credential, Entropy, Fields, Slot, SlotCredential, SlotType
from soledad.errors import CryptoError, MalformedKeyring, WrongPassphrase
from soledad.model.ids import UserId
from soledad.wire.container import KEY_ID_SIZE, SALT_SIZE, Header, Purpose

MAGIC = b"SLDK"
VERSION = 1
#: Bytes of a whole file, at most.
MAX_FILE = 1 << 20
MAX_SLOTS = 8
MAX_PASSPHRASES = 3
MAX_ROOTS = 1024
ACCOUNT_ID_SIZE = 16
_CHECK_SIZE = 32


@frozen
class Keyring:
    """What the body holds: the keys of the account."""

    generation: int
    names_key: bytes = field(repr=False)
    digest_key: bytes = field(repr=False)
    #: By key id.
    roots: Keys
    #: The key id of the root that new containers are sealed under.
    current_id: bytes

    @classmethod
    def create(cls, entropy: Entropy) -> Keyring:
        """Make new keys."""
        root = KeyMaterial(secret=entropy(KEY_SIZE), account_id=entropy(ACCOUNT_ID_SIZE))
        return cls(
            generation=1,
            names_key=entropy(KEY_SIZE),
            digest_key=entropy(KEY_SIZE),
            roots={root.key_id: root},
            current_id=root.key_id,
        )

    @classmethod
    def parse(cls, data: bytes, slots_hash: bytes) -> Keyring:
        """Read a body. :raise MalformedKeyring: it is none, or belongs to other slots."""
        fields = Fields(data)
        generation = fields.number(8)
        names_key, digest_key = fields.take(KEY_SIZE), fields.take(KEY_SIZE)
        pairs = [(fields.take(ACCOUNT_ID_SIZE), fields.take(KEY_SIZE)) for _ in range(fields.number(2))]
        roots = [KeyMaterial(secret, account_id) for account_id, secret in pairs]
        ids = [root.key_id for root in roots]
        current_id = fields.take(KEY_ID_SIZE)
        if fields.rest() != slots_hash:
            raise MalformedKeyring("slots are not the body's")
        if not 1 <= len(ids) <= MAX_ROOTS or ids != sorted(set(ids)) or current_id not in ids or not generation:
            raise MalformedKeyring("body")
        return cls(generation, names_key, digest_key, dict(zip(ids, roots, strict=True)), current_id)

    @property
    def account(self) -> bytes:
        """What tells the account keys from others, and nothing about them: 8 bytes."""
        return hkdf(self.names_key + self.digest_key, 8, info_list("soledad/account"))

    def encode(self, slots_hash: bytes) -> bytes:
        """Return the body's bytes."""
        roots = [self.roots[key_id] for key_id in sorted(self.roots)]
        return b"".join(
            (
                self.generation.to_bytes(8, "big"),
                self.names_key,
                self.digest_key,
                len(roots).to_bytes(2, "big"),
                *(root.account_id + root.secret for root in roots),
                self.current_id,
                slots_hash,
            )
        )

    @property
    def current(self) -> KeyMaterial:
        """The root that new containers are sealed under."""
        return self.roots[self.current_id]


@frozen
class SharedPart:
    """What the server keeps of a keyring: slots, and the sealed body."""

    slots: tuple[Slot, ...]
    body: bytes = field(repr=False)

    def __attrs_post_init__(self) -> None:
        """:raise MalformedKeyring: too many slots, or two with one id."""
        passphrases = sum(slot.type is SlotType.PASSPHRASE for slot in self.slots)
        if len(self.slots) > MAX_SLOTS or passphrases > MAX_PASSPHRASES:
            raise MalformedKeyring("too many slots")
        if len({slot.slot_id for slot in self.slots}) < len(self.slots):
            raise MalformedKeyring("slot ids")

    @classmethod
    def parse(cls, data: bytes) -> SharedPart:
        """Read a shared part. :raise MalformedKeyring: it is none."""
        fields = Fields(data)
        if fields.number(1) != VERSION:
            raise MalformedKeyring("version")
        count = fields.number(1)
        if count > MAX_SLOTS:
            raise MalformedKeyring("too many slots")
        return cls(tuple(Slot.parse(fields) for _ in range(count)), fields.rest())

    def encode(self) -> bytes:
        """Return the shared part's bytes."""
        return _encode_slots(self.slots) + self.body

    @property
    def slots_hash(self) -> bytes:
        """What the body must have of the slots."""
        return sha256(_encode_slots(self.slots)).digest()

    @property
    def digest(self) -> bytes:
        """SHA-256 of its bytes."""
        return sha256(self.encode()).digest()

    @property
    def key_id(self) -> bytes:
        """Which keyring key the body is sealed under. :raise MalformedKeyring: it is no container."""
        try:
            return Header.parse(self.body).key_id
        except CryptoError:
            raise MalformedKeyring("body") from None


def _encode_slots(slots: tuple[Slot, ...]) -> bytes:
    """Return the shared part up to the end of the slots."""
    return bytes((VERSION, len(slots))) + b"".join(slot.encode() for slot in slots)


@frozen
class Known:
    """The last shared part that the server was seen to have."""

    generation: int
    #: SHA-256 of its bytes.
    digest: bytes


@frozen
class OpenKeyring:
    """An unlocked keyring on this device."""

    uuid: UserId
    #: The keyring key.
    key: KeyMaterial
    keyring: Keyring
    device_key: bytes = field(repr=False)
    #: Slots, and the body as it is sealed: the very bytes that the server has, or will have.
    shared: SharedPart = field(repr=False)
    #: The slot it was opened with; none if the keyring key was handed in.
    slot_id: bytes | None
    #: None: no server was seen to have any.
    known: Known | None = None

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The ways to the keyring key."""
        return self.shared.slots

    @property
    def is_backed_up(self) -> bool:
        """Whether the server was seen to have this very keyring, and no newer one since."""
        return self.known is not None and self.known.digest == self.shared.digest

    @property
    def roots(self) -> Keys:
        """What opens containers, by key id."""
        return self.keyring.roots

    @property
    def current(self) -> KeyMaterial:
        """What seals containers."""
        return self.keyring.current

    def database_key(self, database: Database) -> bytes:
        """Return the raw key of a database: 32 bytes."""
        return database_key(self.device_key, database)

    def resealed(self, keyring: Keyring, slots: tuple[Slot, ...], entropy: Entropy) -> OpenKeyring:
        """
        Return what opens with these slots and holds these keys.

        :raise MalformedKeyring: there are too many slots, or too many roots.
        """
        if len(keyring.roots) > MAX_ROOTS:
            raise MalformedKeyring("too many roots")
        return evolve(self, keyring=keyring, shared=_seal_shared(self.uuid, self.key, keyring, slots, entropy))

    def with_passphrase(self, passphrase: SlotCredential, entropy: Entropy) -> OpenKeyring:
        """
        Return the next generation, which opens with ``passphrase`` instead of any that it opened with.

        Takes as long as unlocking.  Slots of other types stay.
        """
        return self._with_slot(passphrase, entropy)

    def with_recovery_code(self, code: SlotCredential, entropy: Entropy) -> OpenKeyring:
        """Return the next generation, which opens with ``code`` instead of any earlier one; passphrases stay."""
        return evolve(self._with_slot(code, entropy), slot_id=self.slot_id)

    def with_new_root(self, entropy: Entropy) -> OpenKeyring:
        """Return the next generation, whose containers are sealed under a new root; the others still open."""
        root = KeyMaterial(secret=entropy(KEY_SIZE), account_id=entropy(ACCOUNT_ID_SIZE))
        roots = {**self.roots, root.key_id: root}
        generation = self.keyring.generation + 1
        keyring = evolve(self.keyring, generation=generation, roots=roots, current_id=root.key_id)
        return self.resealed(keyring, self.slots, entropy)

    def backed_up(self) -> OpenKeyring:
        """Return this, noted as what the server has."""
        return evolve(self, known=Known(self.keyring.generation, self.shared.digest))

    def seal(self, entropy: Entropy) -> bytes:
        """Return the bytes of the file."""
        known = Known(0, bytes(_CHECK_SIZE)) if self.known is None else self.known
        data = self.device_key + known.generation.to_bytes(8, "big") + known.digest
        return encode_file(self.shared, seal(self.key, _device_context(self.uuid), entropy(SALT_SIZE), data))

    def _with_slot(self, credential: SlotCredential, entropy: Entropy) -> OpenKeyring:
        slot = credential.wrap(self.uuid, self.key, entropy)
        slots = (*(old for old in self.slots if old.type is not slot.type), slot)
        keyring = evolve(self.keyring, generation=self.keyring.generation + 1)
        return evolve(self.resealed(keyring, slots, entropy), slot_id=slot.slot_id)


def create(uuid: UserId, credential: Credential, entropy: Entropy) -> OpenKeyring:
    """Make a new keyring with new keys."""
    key, slots = credential.new_key(uuid, entropy)
    keyring = Keyring.create(entropy)
    slot_id = slots[0].slot_id if slots else None
    device_key = entropy(KEY_SIZE)
    return OpenKeyring(uuid, key, keyring, device_key, _seal_shared(uuid, key, keyring, slots, entropy), slot_id)


def unlock(uuid: UserId, data: bytes, credential: Credential) -> OpenKeyring:
    """
    Open the bytes of a keyring file.

    :raise MalformedKeyring: they are damaged, or not a keyring of this user.
    :raise WrongPassphrase: the credential opens no slot.
    """
    shared, device = parse_file(data)
    opened = open_shared(uuid, shared, credential, b"")
    return evolve(opened, **_open_device(uuid, device, opened.key))


def open_shared(uuid: UserId, shared: SharedPart, credential: Credential, device_key: bytes) -> OpenKeyring:
    """
    Open what the server has; ``device_key`` is this device's.

    :raise MalformedKeyring: it is damaged, or not a keyring of this user.
    :raise WrongPassphrase: the credential opens no slot.
    """
    key, slot_id = credential.find_key(uuid, shared.slots, shared.key_id)
    return OpenKeyring(uuid, key, open_body(uuid, shared, key), device_key, shared, slot_id)


def open_file_with(uuid: UserId, data: bytes, theirs: OpenKeyring) -> OpenKeyring:
    """
    Open the bytes of a keyring file whose slots do not open, with the keyring key that the server's slots had.

    :raise MalformedKeyring: the file is damaged.
    :raise WrongPassphrase: the file is under another keyring key.
    """
    shared, device = parse_file(data)
    if shared.key_id != theirs.key.key_id:
        raise WrongPassphrase()
    opened = evolve(theirs, keyring=open_body(uuid, shared, theirs.key), shared=shared)
    return evolve(opened, **_open_device(uuid, device, theirs.key))


def _seal_shared(
    uuid: UserId, key: KeyMaterial, keyring: Keyring, slots: tuple[Slot, ...], entropy: Entropy
) -> SharedPart:
    slots_hash = SharedPart(slots, b"").slots_hash
    return SharedPart(slots, seal(key, _body_context(uuid), entropy(SALT_SIZE), keyring.encode(slots_hash)))


def _open_device(uuid: UserId, device: bytes, key: KeyMaterial) -> dict[str, Any]:
    """Return the fields of the device part. :raise MalformedKeyring: it does not open, or is none."""
    fields = Fields(_open(key, _device_context(uuid), device, "device part"))
    device_key, known = fields.take(KEY_SIZE), Known(fields.number(8), fields.take(_CHECK_SIZE))
    if fields.rest():
        raise MalformedKeyring("device part")
    return {"device_key": device_key, "known": known if known.generation else None}


def open_body(uuid: UserId, shared: SharedPart, key: KeyMaterial) -> Keyring:
    """
    Open the body of a shared part with the keyring key.

    :raise MalformedKeyring: it does not open, is none, or belongs to other slots.
    """
    return Keyring.parse(_open(key, _body_context(uuid), shared.body, "body"), shared.slots_hash)


def encode_file(shared: SharedPart, device: bytes) -> bytes:
    """Return the bytes of a keyring file."""
    encoded = shared.encode()
    data = MAGIC + bytes((VERSION,)) + len(encoded).to_bytes(4, "big") + encoded + device
    return data + sha256(data).digest()


def parse_file(data: bytes) -> tuple[SharedPart, bytes]:
    """
    Return the shared part and the sealed device part of a keyring file.

    :raise MalformedKeyring: it is damaged, or none.
    """
    if len(data) > MAX_FILE:
        raise MalformedKeyring("too long")
    content, check = data[:-_CHECK_SIZE], data[-_CHECK_SIZE:]
    if sha256(content).digest() != check:
        raise MalformedKeyring("damaged")
    fields = Fields(content)
    if fields.take(len(MAGIC)) != MAGIC:
        raise MalformedKeyring("magic")
    if fields.number(1) != VERSION:
        raise MalformedKeyring("version")
    return SharedPart.parse(fields.take(fields.number(4))), fields.rest()


def _body_context(uuid: UserId) -> Context:
    """Return where the body belongs."""
    return Context(Purpose.KEYRING, "", uuid)


def _device_context(uuid: UserId) -> Context:
    """Return where the device part belongs."""
    return Context(Purpose.DEVICE, "", uuid)


def _open(key: KeyMaterial, context: Context, container: bytes, name: str) -> bytes:
    """Open a part. :raise MalformedKeyring: it does not open."""
    try:
        return open_({key.key_id: key}, context, container)
    except CryptoError:
        raise MalformedKeyring(name) from None
