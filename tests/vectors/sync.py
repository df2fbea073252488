"""
Makes the vectors of records and checkpoints: ``python -m tests.vectors.sync``.  The same bytes each time.

A change of ``record.json`` or ``checkpoint.json`` that was not meant is a change of a format.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256

from attrs import evolve

from soledad.crypto.checkpoint import (
    Checkpoint,
    Commit,
    Incident,
    IncidentKind,
    KeyringMark,
    checkpoint_code,
    digest_of,
    encode,
    seal_checkpoint,
)
from soledad.crypto.container import Context, KeyMaterial, seal
from soledad.crypto.record import encode as encode_record
from soledad.crypto.record import parse as parse_record
from soledad.crypto.record import record_name, seal_record
from soledad.model.attachment import Pointer
from soledad.model.conflict import Versions
from soledad.model.document import Stored
from soledad.model.ids import BlobId, DocId, RecordName, user_id
from soledad.wire.changes import SealedRecord
from soledad.wire.container import Purpose
from tests.vectors import FOLDER
from tests.vectors.make import OTHER_ROOT, ROOT, Case, Counter, flipped, text
from tests.vectors.make import encode as as_json

USER = user_id("user-1")
NAMES_KEY, DIGEST_KEY = sha256(b"names").digest(), sha256(b"digest").digest()
DOC = DocId("D-1%.x_")
ONE, TWO = "aa" * 16, "bb" * 16
POINTER = Pointer(BlobId("blob-1"), 2**40, "text/plain", sha256(b"commitment").digest())


# --- records ----------------------------------------------------------------------------------------------------------


def stored(rev: str, content: str | None, **attachments: Pointer) -> Stored:
    """Return a version of the document."""
    return Stored(DOC, rev, content, attachments)


SIMPLE = Versions(stored(f"{ONE}:1", '{"a": 1}'))
RECORDS = {
    "a document": SIMPLE,
    "a tombstone": Versions(stored(f"{ONE}:2", None)),
    "no key, and white space": Versions(stored(f"{ONE}:1", " { }\n")),
    "text that is not ASCII": Versions(stored(f"{ONE}:1", '{"ä": "\\u0000\\ud83d\\ude00"}')),
    "attachments": Versions(
        stored(f"{ONE}:1|{TWO}:7", "{}", ä=POINTER, b=evolve(POINTER, content_type=None), default=POINTER)
    ),
    "a conflict": Versions(
        stored(f"{TWO}:1", '{"b":2}'),
        (stored(f"{ONE}:3", None), stored(f"{ONE}:2|x:1", '{"c":3}', a=POINTER)),
    ),
    "one revision with several contents": Versions(
        stored(f"{ONE}:1", '{"a":1}'), (stored(f"{ONE}:1", '{"a":2}'), stored(f"{ONE}:1", None))
    ),
}


def record_case(name: str, record: SealedRecord, material: KeyMaterial = ROOT, names_key: bytes = NAMES_KEY) -> Case:
    """Return what a reader is given."""
    return {
        "name": name,
        "secret": material.secret.hex(),
        "account_id": material.account_id.hex(),
        "names_key": names_key.hex(),
        "record_name": record.name,
        "record": text(record.data),
    }


def version_case(version: Stored) -> Case:
    """Return a version as JSON has it."""
    pointers = {
        name: [pointer.blob_id, pointer.length, pointer.content_type, pointer.commitment.hex()]
        for name, pointer in version.attachments.items()
    }
    return {"rev": version.rev, "content": version.content, "attachments": pointers}


def records_that_open() -> Iterator[Case]:
    """Yield one of each kind."""
    entropy = Counter("record")
    for name, versions in RECORDS.items():
        record = seal_record(ROOT, record_name(NAMES_KEY, versions.doc_id), entropy(24), versions)
        yield {
            **record_case(name, record),
            "inside": text(encode_record(versions)),
            "doc_id": DOC,
            "versions": [version_case(version) for version in parse_record(encode_record(versions))],
        }


def replaced(inside: bytes, old: bytes, new: bytes) -> bytes:
    """Return the bytes with the one place that has ``old`` changed."""
    if inside.count(old) != 1:
        raise ValueError(old)
    return inside.replace(old, new)


def insides_that_must_not() -> Iterator[tuple[str, bytes]]:
    """Yield each way in which the inside of a record can be wrong."""
    inside = encode_record(SIMPLE)
    content, rev = b'\0\0\0\x08{"a": 1}', f"{ONE}:1".encode()
    start = inside.index(rev) - 4
    yield "nothing", b""
    yield "version 2", b"\2" + inside[1:]
    yield "a byte too much", inside + b"\0"
    yield "the last byte cut off", inside[:-1]
    yield "a document id with a slash", replaced(inside, b"D-1%", b"D/1%")
    yield "no document id", inside[:1] + b"\0\0" + inside[1 + 2 + len(DOC) :]
    yield "no version", inside[: start - 2] + b"\0\0"
    yield "no revision", replaced(inside, b"\0\0\0\x22" + rev, bytes(4))
    yield "a counter of 0", replaced(inside, rev, f"{ONE}:0".encode())
    yield (
        "replicas that do not ascend",
        replaced(inside, b"\0\0\0\x22" + rev, b"\0\0\0\x45" + f"{TWO}:1|{ONE}:1".encode()),
    )
    yield "a kind that is not known", replaced(inside, b"\1" + content, b"\2" + content)
    for what, wrong in (
        ("no JSON", b'{"a": 1,'),
        ("no object", b"[1]"),
        ("NaN", b'{"a":NaN}'),
        ("a number that is too large", b'{"a":1e999}'),
        ("another one, without an exponent", b'{"a":1' + bytes(b"0" * 400) + b".5}"),
        ("half a surrogate", b'{"a":"\\ud83d"}'),
        ("201 lists within each other", b'{"a":' + b"[" * 201 + b"]" * 201 + b"}"),
        ("not UTF-8", b'{"a":"\xff"}'),
    ):
        yield f"content: {what}", replaced(inside, content, len(wrong).to_bytes(4, "big") + wrong)
    tombstone = encode_record(RECORDS["a tombstone"])
    attachment = b"\0\1a\0\1b" + bytes(8) + b"\0" + bytes(32)
    yield "a tombstone with an attachment", tombstone[:-2] + b"\0\1" + attachment
    for what, wrong in (
        ("without a name", attachment[:1] + b"\0" + attachment[3:]),
        ("a name that is not UTF-8", replaced(attachment, b"a", b"\xff")),
        ("a blob id with a slash", replaced(attachment, b"b", b"/")),
        ("a length of 2 ** 63", attachment[:6] + b"\x80" + attachment[7:]),
        ("has type 2", attachment[:14] + b"\2" + attachment[15:]),
        ("a commitment that is cut off", attachment[:-1]),
    ):
        yield f"an attachment: {what}", inside[:-2] + b"\0\1" + wrong
    yield "one attachment twice", inside[:-2] + b"\0\2" + attachment * 2
    yield "attachments that do not ascend", inside[:-2] + b"\0\2" + replaced(attachment, b"a", b"c") + attachment
    yield "fewer versions than told", inside[: start - 2] + b"\0\2" + inside[start:]
    conflict = encode_record(RECORDS["a conflict"])
    first, second = (conflict.index(one.rev.encode()) - 4 for one in RECORDS["a conflict"].alternatives)
    yield "alternatives that do not ascend", conflict[:first] + conflict[second:] + conflict[first:second]
    doubled = conflict[:second] + conflict[first:]
    yield "the current one among the alternatives", inside[: start - 2] + b"\0\2" + inside[start:] * 2
    yield "one alternative twice", doubled[: start - 2] + b"\0\4" + doubled[start:]


def records_that_must_not() -> Iterator[Case]:
    """Yield each way in which a record can be wrong, with its error."""
    entropy = Counter("bad record")
    record = seal_record(ROOT, record_name(NAMES_KEY, SIMPLE.doc_id), entropy(24), SIMPLE)
    other = record_name(NAMES_KEY, DocId("another"))
    for name, data in insides_that_must_not():
        context = Context(Purpose.RECORD, "", record.name)
        case = record_case(name, SealedRecord(record.name, seal(ROOT, context, entropy(24), data)))
        yield {**case, "error": "MalformedRecord"}
    misplaced = SealedRecord(other, seal(ROOT, Context(Purpose.RECORD, "", other), entropy(24), encode_record(SIMPLE)))
    for case, error in (
        (record_case("another name", evolve(record, name=other)), "AuthenticationFailed"),
        (record_case("sealed under another document's name", misplaced), "MalformedRecord"),
        (record_case("another names' key", record, names_key=DIGEST_KEY), "MalformedRecord"),
        (record_case("another root", record, OTHER_ROOT), "UnknownKey"),
        (
            record_case("another account", record, KeyMaterial(ROOT.secret, b"another account!")),
            "AuthenticationFailed",
        ),
        (record_case("its last byte", evolve(record, data=flipped(record.data))), "AuthenticationFailed"),
        (record_case("cut", evolve(record, data=record.data[:-1])), "MalformedContainer"),
        (record_case("nothing at all", evolve(record, data=b"")), "MalformedContainer"),
    ):
        yield {**case, "error": error}
    tombstone = seal(ROOT, Context(Purpose.TOMBSTONE, "", record.name), entropy(24), encode_record(SIMPLE))
    case = record_case("a container of another purpose", evolve(record, data=tombstone))
    yield {**case, "error": "AuthenticationFailed"}


# --- checkpoints ------------------------------------------------------------------------------------------------------

HASHES = {RecordName("01" * 32): b"\1" * 32, RecordName("ff" * 32): b"\xff" * 32}
FIRST = Checkpoint(
    history="ab" * 16,
    number=1,
    digest=0,
    keyring=KeyringMark(1, sha256(b"keyring").digest()),
    restarts=0,
    devices={ONE: Commit(1, "c1" * 16, 1_700_000_000)},
)
MANY = evolve(
    FIRST,
    number=2**63,
    digest=digest_of(DIGEST_KEY, HASHES),
    restarts=3,
    devices={TWO: Commit(2**40, "c2" * 16, 0), **FIRST.devices},
    incidents=tuple(Incident(1_700_000_000 + kind, TWO, kind) for kind in IncidentKind),
)


def checkpoint_case(name: str, container: bytes, user: str = USER, material: KeyMaterial = ROOT) -> Case:
    """Return what a reader is given."""
    return {
        "name": name,
        "secret": material.secret.hex(),
        "account_id": material.account_id.hex(),
        "user": user,
        "checkpoint": text(container),
    }


def checkpoints_that_open() -> Iterator[Case]:
    """Yield a small one and a large one."""
    entropy = Counter("checkpoint")
    for name, checkpoint in (("the first", FIRST), ("everything", MANY)):
        yield {
            **checkpoint_case(name, seal_checkpoint(ROOT, USER, entropy(24), checkpoint)),
            "inside": text(encode(checkpoint)),
            "history": checkpoint.history,
            "number": checkpoint.number,
            "digest": f"{checkpoint.digest:064x}",
            "keyring": [checkpoint.keyring.generation, checkpoint.keyring.hash.hex()],
            "restarts": checkpoint.restarts,
            "devices": {device: [one.count, one.commit_id, one.time] for device, one in checkpoint.devices.items()},
            "incidents": [[one.time, one.device, one.kind.name] for one in checkpoint.incidents],
            "code": checkpoint_code(checkpoint),
        }


def checkpoints_that_must_not() -> Iterator[Case]:
    """Yield each way in which a checkpoint can be wrong, with its error."""
    entropy = Counter("bad checkpoint")
    inside = encode(MANY)
    devices = 1 + 16 + 8 + 32 + 8 + 32 + 4
    incidents = devices + 2 + 2 * 48
    first, second = inside[devices + 2 : devices + 50], inside[devices + 50 : incidents]
    for name, data in (
        ("nothing", b""),
        ("version 2", b"\2" + inside[1:]),
        ("a byte too much", inside + b"\0"),
        ("the last byte cut off", inside[:-1]),
        ("a commit of number 0", inside[:17] + bytes(8) + inside[25:]),
        ("no device", inside[:devices] + bytes(2) + inside[incidents:]),
        ("a device without a commit", inside[: devices + 18] + bytes(8) + inside[devices + 26 :]),
        ("devices that do not ascend", inside[: devices + 2] + second + first + inside[incidents:]),
        ("a device twice", inside[: devices + 2] + first + first + inside[incidents:]),
        ("more devices than there may be", inside[:devices] + b"\4\1" + first * 1025 + inside[incidents:]),
        ("more incidents than there may be", inside[:incidents] + b"\0\x41" + inside[-25:] * 65),
        ("a kind of incident that is not known", inside[:-1] + b"\0"),
    ):
        container = seal(ROOT, Context(Purpose.CHECKPOINT, "", USER), entropy(24), data)
        yield {**checkpoint_case(name, container), "error": "MalformedCheckpoint"}
    good = seal_checkpoint(ROOT, USER, entropy(24), FIRST)
    for case, error in (
        (checkpoint_case("another user's", good, "user-2"), "AuthenticationFailed"),
        (checkpoint_case("another root", good, material=OTHER_ROOT), "UnknownKey"),
        (checkpoint_case("its last byte", flipped(good)), "AuthenticationFailed"),
        (checkpoint_case("cut", good[:-1]), "MalformedContainer"),
    ):
        yield {**case, "error": error}


def documents() -> dict[str, dict[str, list[Case]]]:
    """Return the content of each file of vectors."""
    return {
        "record.json": {"open": list(records_that_open()), "refuse": list(records_that_must_not())},
        "checkpoint.json": {"open": list(checkpoints_that_open()), "refuse": list(checkpoints_that_must_not())},
    }


if __name__ == "__main__":
    for name, document in documents().items():
        (FOLDER / name).write_text(as_json(document))
