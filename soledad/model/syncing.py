"""
Where a device stands with its server: what it has from there, what is on its way there, what waits.

Values only; `soledad.client.local.journal` keeps them, `soledad.client.sync` decides what they mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from attrs import field, frozen

from soledad.model.conflict import Versions
from soledad.model.ids import DocId, RecordName
from soledad.model.tampering import Incident, Problem, TamperPolicy


@frozen
class Standing:
    """How far this device is with the server."""

    #: The server's URL, and which account's keys its names are made with: with others, all begins anew.
    server: str = ""
    account: bytes = b""
    #: Up to where all records were taken.
    cursor: str = ""
    #: The tag of the head that was accepted with all records up to it; `None`: none was.
    head: str | None = None
    #: The digest of the records that the server has, as far as this device was told.
    digest: int = 0
    #: The last checkpoint that was accepted, encoded; empty: none was.
    checkpoint: bytes = field(default=b"", repr=False)
    #: How many commits this store has made.
    count: int = 0
    #: Whether a person said that the server was restored, and no commit has told the other devices yet.
    restarting: bool = False


@frozen
class Pending:
    """A push that was made ready, to the byte, and of which is not known whether it arrived."""

    #: This device's own entry in its checkpoint.
    count: int
    commit: str
    #: The tag of the head that it follows, and its own.
    follows: str | None
    tag: str
    #: What the state is after it.
    digest: int
    checkpoint: bytes = field(repr=False)
    #: The bytes that are sent.
    push: bytes = field(repr=False)


@frozen
class KnownRecord:
    """What is known of the record that the server has under a name."""

    #: Of the record there, good or not; `None`: the server has none any more.
    hash: bytes | None
    #: The revisions in the last good one, the current one first, with spaces between; empty: none was good.
    revs: str = ""
    #: The greatest count of this replica that the server ever had of it.
    own: int = 0


@frozen
class Known:
    """What is known of some records."""

    records: Mapping[RecordName, KnownRecord]
    #: The counts of this replica in the push of which is not known whether it arrived.
    sent: Mapping[RecordName, int]


@frozen
class Pulled:
    """A record that came, and what is to be done with it."""

    name: RecordName
    hash: bytes
    #: What is to be joined with the versions here; `None`: it is set aside, or was here already.
    versions: Versions | None = None
    #: Why it is set aside.
    problem: Problem | None = None
    #: The count of this replica in it.
    own: int = 0


@frozen
class Outgoing:
    """A document that the server has not got as it is here."""

    versions: Versions
    #: The number of its latest change.
    generation: int


@frozen
class Sent:
    """A record of a push."""

    name: RecordName
    hash: bytes
    doc_id: DocId
    revs: str
    generation: int
    own: int


#: A push, and what is in it.
Following: TypeAlias = tuple[Pending, Sequence[Sent]]


@frozen
class Look:
    """What there is to know before a sync begins."""

    standing: Standing
    policy: TamperPolicy
    #: This replica's name.
    replica: str
    #: The store's generation.
    generation: int
    #: Whether documents were changed since the journal has last looked, or wait to be sent.
    is_changed: bool
    pending: Pending | None
    problems: tuple[Problem, ...]
    #: What no checkpoint tells the other devices yet.
    untold: tuple[Incident, ...]
