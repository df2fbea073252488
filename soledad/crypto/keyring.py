"""
The keyring: all keys of a user, as values and as the bytes of its file.  No files here, and no waiting.

`create` and `unlock` run a key derivation if the credential is a passphrase: callers use a thread.
Source: docs/spec/keyring.rst.
"""

from __future__ import annotations

from hashlib import sha256

from attrs import evolve, field, frozen

from soledad.crypto.cipher import Context, KeyMaterial, Keys
from soledad.crypto.container import open_, seal
from soledad.crypto.kdf import KEY_SIZE, Database, database_key
from soledad.crypto.slots import Credential, Entropy, Fields, Slot, SlotCredential, SlotType
from soledad.errors import CryptoError, MalformedKeyring
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


def _encode_slots(slots: tuple[Slot, ...]) -> bytes:
    """Return the shared part up to the end of the slots."""
    return bytes((VERSION, len(slots))) + b"".join(slot.encode() for slot in slots)


@frozen
class OpenKeyring:
    """An unlocked keyring on this device."""

    uuid: UserId
    #: The keyring key.
    key: KeyMaterial
    keyring: Keyring
    device_key: bytes = field(repr=False)
    slots: tuple[Slot, ...] = field(repr=False)
    #: The slot it was opened with; none if the keyring key was handed in.
    slot_id: bytes | None

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

    def with_passphrase(self, passphrase: SlotCredential, entropy: Entropy) -> OpenKeyring:
        """
        Return the next generation, which opens with ``passphrase`` instead of what it was opened with.

        Takes as long as unlocking.

        :raise MalformedKeyring: there would be too many slots.
        """
        slot = passphrase.wrap(self.uuid, self.key, entropy)
        slots = (*(old for old in self.slots if old.slot_id != self.slot_id), slot)
        keyring = evolve(self.keyring, generation=self.keyring.generation + 1)
        return evolve(self, keyring=keyring, slots=SharedPart(slots, b"").slots, slot_id=slot.slot_id)

    def seal_shared(self, entropy: Entropy) -> SharedPart:
        """Seal the body anew."""
        slots_hash = SharedPart(self.slots, b"").slots_hash
        context = _body_context(self.uuid)
        return SharedPart(self.slots, seal(self.key, context, entropy(SALT_SIZE), self.keyring.encode(slots_hash)))

    def seal(self, entropy: Entropy) -> bytes:
        """Return the bytes of the file."""
        shared = self.seal_shared(entropy)
        device = seal(self.key, _device_context(self.uuid), entropy(SALT_SIZE), self.device_key)
        return encode_file(shared, device)


def create(uuid: UserId, credential: Credential, entropy: Entropy) -> OpenKeyring:
    """Make a new keyring with new keys."""
    key, slots = credential.new_key(uuid, entropy)
    keyring = Keyring.create(entropy)
    slot_id = slots[0].slot_id if slots else None
    return OpenKeyring(uuid, key, keyring, entropy(KEY_SIZE), slots, slot_id)


def unlock(uuid: UserId, data: bytes, credential: Credential) -> OpenKeyring:
    """
    Open the bytes of a keyring file.

    :raise MalformedKeyring: they are damaged, or not a keyring of this user.
    :raise WrongPassphrase: the credential opens no slot.
    """
    shared, device = parse_file(data)
    key, slot_id = credential.find_key(uuid, shared.slots, _key_id_of(shared.body))
    keyring = open_body(uuid, shared, key)
    device_key = _open(key, _device_context(uuid), device, "device part")
    if len(device_key) != KEY_SIZE:
        raise MalformedKeyring("device part")
    return OpenKeyring(uuid, key, keyring, device_key, shared.slots, slot_id)


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


def _key_id_of(body: bytes) -> bytes:
    """Return which keyring key the body is sealed under. :raise MalformedKeyring: it is no container."""
    try:
        return Header.parse(body).key_id
    except CryptoError:
        raise MalformedKeyring("body") from None


def _open(key: KeyMaterial, context: Context, container: bytes, name: str) -> bytes:
    """Open a part. :raise MalformedKeyring: it does not open."""
    try:
        return open_({key.key_id: key}, context, container)
    except CryptoError:
        raise MalformedKeyring(name) from None
