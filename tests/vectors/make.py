"""
Makes the vectors: ``python -m tests.vectors.make``.  The same bytes each time: all entropy is from a counter.

A change of ``container.json`` or ``keyring.json`` that was not meant is a change of a format.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

from attrs import evolve

from soledad.crypto.container import Context, KeyMaterial, Sealer, seal
from soledad.crypto.kdf import Argon2Parameters, Database
from soledad.crypto.keyring import OpenKeyring, SharedPart, create, encode_file, parse_file
from soledad.crypto.slots import Credential, HandedInKey, Passphrase, RecoveryCode
from soledad.model.ids import user_id
from soledad.wire.container import HEADER_SIZE, Purpose
from tests.vectors import FOLDER

Case = dict[str, Any]


class Counter:
    """Entropy that has none: the same bytes for the same label, in the order asked for."""

    def __init__(self, label: str) -> None:
        """Start at 0."""
        self._label = label
        self._count = 0

    def __call__(self, size: int) -> bytes:
        """Return the next bytes, at most 32."""
        self._count += 1
        return sha256(f"{self._label} {self._count}".encode()).digest()[:size]


def pattern(length: int) -> bytes:
    """Return data that differs from chunk to chunk."""
    return bytes((at * 7 + at // 256) % 256 for at in range(length))


def text(data: bytes) -> str:
    """Return bytes as JSON has them."""
    return b64encode(data).decode()


# --- containers ---------------------------------------------------------------------------------------

ROOT = KeyMaterial(sha256(b"root").digest(), sha256(b"account").digest()[:16])
OTHER_ROOT = KeyMaterial(sha256(b"other root").digest(), ROOT.account_id)
BLOB = Context(Purpose.BLOB, "default", "blob-1")


def container_case(
    name: str,
    container: bytes,
    length: int | None,
    context: Context = BLOB,
    material: KeyMaterial = ROOT,
    expected: bytes | None = None,
) -> Case:
    """Return what a reader is given."""
    return {
        "name": name,
        "purpose": context.purpose.label,
        "namespace": context.namespace,
        "id": context.id,
        "secret": material.secret.hex(),
        "account_id": material.account_id.hex(),
        "length": length,
        "expected_commitment": expected.hex() if expected else None,
        "container": text(container),
    }


def containers_that_open() -> Iterator[Case]:
    """Yield one of each purpose, and sizes around every border."""
    entropy = Counter("open")
    for purpose in Purpose:
        material = ROOT if purpose not in (Purpose.KEYRING, Purpose.DEVICE) else KeyMaterial(ROOT.secret)
        namespace = "default" if purpose in (Purpose.BLOB, Purpose.TOMBSTONE) else ""
        context = Context(purpose, namespace, "some-id")
        container = seal(material, context, entropy(24), b"data")
        yield {**container_case(purpose.label, container, 4, context, material), "data": text(b"data")}
    for length in (0, 1, 1023, 1024, 1025, 4087, 4088, 4095, 4096, 4097, 8192, 9000):
        data = pattern(length)
        container = seal(ROOT, BLOB, entropy(24), data, log2=12)
        yield {**container_case(f"{length} bytes in chunks of 4 KiB", container, length), "data": text(data)}
    data = b"the length is in the tail"
    yield {**container_case("no length given", seal(ROOT, BLOB, entropy(24), data), None), "data": text(data)}
    sealer = Sealer(ROOT, BLOB, entropy(24))
    container = sealer.header + sealer.seal(data) + sealer.finish()
    case = container_case("commitment given", container, len(data), expected=sealer.commitment)
    yield {**case, "data": text(data)}


def containers_that_must_not() -> Iterator[Case]:
    """Yield each way in which a container can be wrong, with its error."""
    entropy = Counter("refuse")
    data = pattern(9000)
    length = len(data)
    good = seal(ROOT, BLOB, entropy(24), data, log2=12)

    def refused(case: Case, error: str, chunk: int | None = None) -> Case:
        return {**case, "error": error, "chunk": chunk}

    def changed(at: int, value: int) -> bytes:
        return good[:at] + bytes((value,)) + good[at + 1 :]

    for name, at, value in (
        ("another magic", 0, 0x73),
        ("version 0", 4, 0),
        ("version 2", 4, 2),
        ("suite 2", 5, 2),
        ("chunks of 2 KiB", 6, 11),
        ("chunks of 2 MiB", 6, 21),
        ("a flag", 7, 1),
    ):
        yield refused(container_case(name, changed(at, value), length), "MalformedContainer")
    yield refused(container_case("nothing", b"", 0), "MalformedContainer")
    yield refused(container_case("half a header", good[:71], length), "MalformedContainer")
    yield refused(container_case("another key id", changed(8, good[8] ^ 1), length), "UnknownKey")
    yield refused(container_case("chunk size changed", changed(6, 13), length), "AuthenticationFailed")
    yield refused(container_case("salt changed", changed(16, good[16] ^ 1), length), "AuthenticationFailed")
    yield refused(container_case("commitment changed", changed(71, good[71] ^ 1), length), "AuthenticationFailed")
    for name, context, material, error in (
        ("another namespace", Context(Purpose.BLOB, "other", "blob-1"), ROOT, "AuthenticationFailed"),
        ("another id", Context(Purpose.BLOB, "default", "blob-2"), ROOT, "AuthenticationFailed"),
        ("namespace and id shifted", Context(Purpose.BLOB, "defaultb", "lob-1"), ROOT, "AuthenticationFailed"),
        ("another purpose", Context(Purpose.TOMBSTONE, "default", "blob-1"), ROOT, "AuthenticationFailed"),
        ("another account", BLOB, KeyMaterial(ROOT.secret, b"another account!"), "AuthenticationFailed"),
        ("another root", BLOB, OTHER_ROOT, "UnknownKey"),
    ):
        yield refused(container_case(name, good, length, context, material), error)
    other = seal(ROOT, BLOB, entropy(24), data, log2=12)
    yield refused(
        container_case("another commitment expected", good, length, expected=other[40:72]), "AuthenticationFailed"
    )
    first, second = HEADER_SIZE, HEADER_SIZE + 4112
    third = second + 4112
    for name, container, chunk in (
        ("a byte of the first chunk", changed(first, good[first] ^ 1), 0),
        ("a byte of the second chunk's tag", changed(third - 1, good[third - 1] ^ 1), 1),
        ("a byte of the last tag", good[:-1] + bytes((good[-1] ^ 1,)), 2),
        ("chunks swapped", good[:first] + good[second:third] + good[first:second] + good[third:], 0),
        ("chunks of another container", other[:first] + good[first:], 0),
        ("the last chunk cut off", good[:third], 2),
        ("all chunks cut off", good[:first], 0),
        ("the last byte cut off", good[:-1], 2),
    ):
        yield refused(container_case(name, container, length), "AuthenticationFailed", chunk)
    yield refused(container_case("a byte too much", good + b"\0", length), "MalformedContainer")
    yield refused(container_case("a length too small", good, length - 1), "MalformedContainer")
    yield refused(container_case("a length too large", good, length + 1), "MalformedContainer")
    yield refused(container_case("a length of another size", good, 4000), "MalformedContainer")
    yield refused(container_case("cut between chunks, no length", good[:third], None), "MalformedContainer")
    yield refused(container_case("cut, no length", good[:-16], None), "MalformedContainer")
    for name, stream in (
        ("padding that is not zeros", b"data" + b"\1" * 1020 + (4).to_bytes(8, "big")),
        ("a trailer that is not the length", b"data" + bytes(1020) + (5).to_bytes(8, "big")),
    ):
        yield refused(container_case(name, sealed_stream(entropy(24), stream), 4), "MalformedContainer")
    for zeros, given in ((1036, 4), (1036, None), (1084, 4), (1084, None)):
        stream = b"data" + bytes(zeros) + (4).to_bytes(8, "big")
        name = f"{zeros} zeros where 1020 are the rule" + ("" if given else ", no length")
        error = "MalformedContainer" if given is None else "AuthenticationFailed"
        yield refused(container_case(name, sealed_stream(entropy(24), stream), given), error)


def sealed_stream(salt: bytes, stream: bytes) -> bytes:
    """Return an authentic container of one chunk, whatever the stream is."""
    sealer = Sealer(ROOT, BLOB, salt)
    chunk = bytearray(len(stream) + 16)
    sealer._cipher.seal_into(0, stream, memoryview(chunk))
    return sealer.header + chunk


# --- keyrings -----------------------------------------------------------------------------------------

USER = user_id("user-1")
#: The least that a reader accepts: each vector costs a run of it.
FAST = Argon2Parameters(memory=64 * 1024)
PASSPHRASE = "pässphrase"
CODE = RecoveryCode(sha256(b"code").digest()[:16])
KEY = HandedInKey(sha256(b"keyring key").digest())


def checked(data: bytes) -> bytes:
    """Return a file's bytes with the check as it must be."""
    return data[:-32] + sha256(data[:-32]).digest()


def keyring_case(name: str, data: bytes, uuid: str = USER, **secret: str) -> Case:
    """Return what a reader is given."""
    return {"name": name, "uuid": uuid, **secret, "file": text(data)}


def opened(case: Case, keyring: OpenKeyring) -> Case:
    """Return the case with what it must open to."""
    held = keyring.keyring
    return {
        **case,
        "generation": held.generation,
        "names_key": held.names_key.hex(),
        "digest_key": held.digest_key.hex(),
        "roots": {k.hex(): {"secret": r.secret.hex(), "account_id": r.account_id.hex()} for k, r in held.roots.items()},
        "current": held.current_id.hex(),
        "database_keys": {database.value: keyring.database_key(database).hex() for database in Database},
    }


def made(label: str, credential: Credential) -> tuple[OpenKeyring, bytes]:
    """Return a keyring and its file."""
    entropy = Counter(label)
    keyring = create(USER, credential, entropy)
    return keyring, keyring.seal(entropy)


def keyrings_that_open() -> Iterator[Case]:
    """Yield a keyring for each kind of secret, and one with several slots and roots."""
    keyring, data = made("passphrase", Passphrase(PASSPHRASE, FAST))
    yield opened(keyring_case("a passphrase", data, passphrase=PASSPHRASE), keyring)
    yield opened(keyring_case("the same, decomposed", data, passphrase="pa\u0308ssphrase"), keyring)
    keyring, data = made("code", CODE)
    yield opened(keyring_case("a recovery code", data, recovery_code=CODE.as_text()), keyring)
    keyring, data = made("key", KEY)
    yield opened(keyring_case("the keyring key", data, key=KEY.secret.hex()), keyring)
    entropy = Counter("several")
    keyring = create(USER, Passphrase("first", FAST), entropy)
    slots = (*keyring.slots, CODE.wrap(USER, keyring.key, entropy))
    roots = {**keyring.roots, ROOT.key_id: ROOT}
    keyring = keyring.resealed(evolve(keyring.keyring, generation=7, roots=roots), slots, entropy).backed_up()
    yield opened(keyring_case("two slots, two roots", keyring.seal(entropy), recovery_code=CODE.as_text()), keyring)


def keyrings_that_must_not() -> Iterator[Case]:
    """Yield each way in which a keyring can be wrong, with its error."""
    entropy = Counter("refuse")
    keyring, data = made("passphrase", Passphrase(PASSPHRASE, FAST))
    by_passphrase = {"passphrase": PASSPHRASE}

    def refused(name: str, data: bytes, error: str = "MalformedKeyring", uuid: str = USER, **secret: str) -> Case:
        return {**keyring_case(name, data, uuid, **(secret or by_passphrase)), "error": error}

    def changed(at: int, value: bytes) -> bytes:
        return checked(data[:at] + value + data[at + len(value) :])

    yield refused("another passphrase", data, "WrongPassphrase", passphrase="passphrase")
    yield refused("another user", data, "WrongPassphrase", "user-2")
    yield refused(
        "a recovery code where there is no slot for one", data, "WrongPassphrase", recovery_code=CODE.as_text()
    )
    yield refused("another keyring key", data, "WrongPassphrase", key="11" * 32)
    yield refused("another slot's id, salt or nonce", changed(12, b"\0"), "WrongPassphrase")
    yield refused("nothing", b"")
    yield refused("a check that is wrong", data[:-1] + bytes((data[-1] ^ 1,)))
    yield refused("cut", data[:-100])
    yield refused("another magic", changed(0, b"X"))
    yield refused("version 2 of the file", changed(4, b"\2"))
    yield refused("a length behind the end", changed(5, b"\xff"))
    yield refused("version 2 of the shared part", changed(9, b"\2"))
    yield refused("nine slots", changed(10, b"\x09"))
    yield refused("a type of slot that is not known", changed(11, b"\3"))
    parameters = 11 + 1 + 16 + 1
    for name, value in (
        ("less than 64 MiB", (64 * 1024 - 1).to_bytes(4, "big")),
        ("more than 1 GiB", (1024 * 1024 + 1).to_bytes(4, "big")),
        ("2 passes", FAST.memory.to_bytes(4, "big") + b"\2"),
        ("11 passes", FAST.memory.to_bytes(4, "big") + b"\x0b"),
        ("no lane", FAST.memory.to_bytes(4, "big") + b"\3\0"),
        ("5 lanes", FAST.memory.to_bytes(4, "big") + b"\3\5"),
    ):
        yield refused(f"Argon2: {name}", changed(parameters, value))
    key, data_by_key = made("key", KEY)
    by_key = {"key": KEY.secret.hex()}
    shared, device = parse_file(data_by_key)
    yield refused("another user, the keyring key", data_by_key, uuid="user-2", **by_key)
    yield refused("a body that is no container", encode_file(evolve(shared, body=b""), device), **by_key)
    yield refused("a byte of the body", encode_file(evolve(shared, body=flipped(shared.body)), device), **by_key)
    yield refused("a byte of the device part", encode_file(shared, flipped(device)), **by_key)
    slot = CODE.wrap(USER, key.key, entropy)
    yield refused("a slot that the body does not know", encode_file(evolve(shared, slots=(slot,)), device), **by_key)
    slots = tuple(CODE.wrap(USER, key.key, entropy) for _ in range(2))
    twice = SharedPart(slots, b"").encode().replace(slots[1].slot_id, slots[0].slot_id) + shared.body
    yield refused("two slots with one id", raw_file(twice, device), **by_key)
    four = b"\1\4" + b"".join(evolve(keyring.slots[0], slot_id=bytes((n,)) * 16).encode() for n in range(4))
    yield refused("four slots for passphrases", raw_file(four + shared.body, device), **by_key)


def flipped(data: bytes) -> bytes:
    """Return the bytes with the last one changed."""
    return data[:-1] + bytes((data[-1] ^ 1,))


def raw_file(shared: bytes, device: bytes) -> bytes:
    """Return a file of a shared part that need not be one."""
    data = b"SLDK\1" + len(shared).to_bytes(4, "big") + shared + device
    return data + sha256(data).digest()


def documents() -> dict[str, dict[str, list[Case]]]:
    """Return the content of each file of vectors."""
    return {
        "container.json": {"open": list(containers_that_open()), "refuse": list(containers_that_must_not())},
        "keyring.json": {"open": list(keyrings_that_open()), "refuse": list(keyrings_that_must_not())},
    }


def encode(document: object) -> str:
    """Return the text of a file."""
    return json.dumps(document, indent=1, ensure_ascii=True, sort_keys=True) + "\n"


if __name__ == "__main__":
    for name, document in documents().items():
        (FOLDER / name).write_text(encode(document))
