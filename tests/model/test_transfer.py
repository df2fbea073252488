"""What an entry of a list means: every case of docs/spec/blob-sync.rst, "What changed"."""

from __future__ import annotations

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from soledad.model.blob import TRANSITIONS, BlobInfo, BlobKey, Priority, Sealed, SyncStatus
from soledad.model.ids import ATTACHMENTS, DEFAULT, BlobId
from soledad.model.transfer import DIRECTIONS, EVENTS, Direction, Finding, Queued, find

S, F = SyncStatus, Finding
OURS, OTHERS = b"o" * 32, b"x" * 32
TAG, OTHER_TAG = "a" * 64, "b" * 64
LIVE = BlobInfo(BlobId("a"), DEFAULT, 100, TAG)
DEAD = evolve(LIVE, deleted=True)
#: Those whose bytes are here, and that the server may know.
HERE = (S.SYNCED, S.PENDING_UPLOAD, S.FAILED_UPLOAD)
ABSENT = (S.REMOTE, S.AWAITED, S.PENDING_DOWNLOAD, S.FAILED_DOWNLOAD)
INDIFFERENT = (S.LOCAL_ONLY, S.UNREFERENCED)
NONE: frozenset[bytes] = frozenset()


def row(status: SyncStatus, etag: str | None = None, commitment: bytes = OURS) -> Queued:
    """Return what the queue has of the blob."""
    sealed = Sealed(5, 100, None, commitment)
    return Queued(BlobKey(DEFAULT, LIVE.blob_id), status, Priority.MEDIUM, sealed, etag)


class FindTests(SynchronousTestCase):
    """The server alone makes nothing go."""

    def test_unknown(self) -> None:
        """What is new is new; what was deleted before it was heard of is nothing."""
        self.assertIs(find(None, LIVE, NONE), F.NEW)
        self.assertIs(find(None, DEAD, frozenset({OURS})), F.NOTHING)

    def test_same_tag(self) -> None:
        """The tag that is known confirms."""
        for status in (*HERE, *ABSENT, S.PENDING_DELETE):
            self.assertIs(find(row(status, TAG), LIVE, NONE), F.CONFIRMED)

    def test_other_tag(self) -> None:
        """Another tag lets a device look, if it has the bytes; what is not here is what the server has."""
        self.assertIs(find(row(S.SYNCED, OTHER_TAG), LIVE, NONE), F.UNCERTAIN)
        self.assertIs(find(row(S.SYNCED), LIVE, NONE), F.UNCERTAIN)
        for status in (S.PENDING_UPLOAD, S.FAILED_UPLOAD, S.PENDING_DELETE):
            self.assertIs(find(row(status), LIVE, NONE), F.NOTHING)
        for status in ABSENT:
            self.assertIs(find(row(status, OTHER_TAG), LIVE, NONE), F.REPLACED)
            self.assertIs(find(row(status, None), LIVE, NONE), F.UNCERTAIN)

    def test_replaced(self) -> None:
        """With a tombstone that names it, it makes room for what is there now; with another one it does not."""
        for status in HERE:
            self.assertIs(find(row(status, OTHER_TAG), LIVE, frozenset({OTHERS, OURS})), F.REPLACED)
            self.assertIsNot(find(row(status, OTHER_TAG), LIVE, frozenset({OTHERS})), F.REPLACED)

    def test_deleted(self) -> None:
        """Only a tombstone that names it makes it go; what is not here, and was never seen, goes with any."""
        for status in (*HERE, *ABSENT):
            self.assertIs(find(row(status, TAG), DEAD, frozenset({OURS})), F.GONE)
            self.assertIs(find(row(status, TAG), DEAD, frozenset({OTHERS})), F.MISSED)
            self.assertIs(find(row(status, TAG), DEAD, NONE), F.MISSED)
        unseen = row(S.REMOTE, TAG, b"")
        self.assertIs(find(unseen, DEAD, frozenset({OTHERS})), F.GONE)
        self.assertIs(find(unseen, DEAD, NONE), F.MISSED)
        self.assertIs(find(row(S.PENDING_DELETE), DEAD, NONE), F.GONE)

    def test_put_again(self) -> None:
        """A tombstone of what it replaces says nothing of it."""
        again = evolve(row(S.PENDING_UPLOAD), replaces=OTHERS)
        self.assertIs(find(again, DEAD, frozenset({OTHERS})), F.MISSED)

    def test_indifferent(self) -> None:
        """What is to stay here only stays, whatever the server has, or says."""
        for status in INDIFFERENT:
            for entry in (LIVE, DEAD):
                self.assertIs(find(row(status, TAG), entry, frozenset({OURS})), F.NOTHING)

    def test_attachments(self) -> None:
        """No list makes an attachment go, and none makes one known."""
        for status in S:
            for entry in (LIVE, DEAD):
                found = find(row(status, TAG), evolve(entry, namespace=ATTACHMENTS), frozenset({OURS}))
                self.assertNotIn(found, (F.GONE, F.REPLACED, F.NEW, F.UNCERTAIN))
        self.assertIs(find(None, evolve(LIVE, namespace=ATTACHMENTS), NONE), F.NOTHING)

    def test_events(self) -> None:
        """Whatever is found goes with the status it is found for."""
        for status in S:
            for tag in (None, TAG, OTHER_TAG):
                for deleted in (NONE, frozenset({OURS}), frozenset({OTHERS})):
                    for entry in (LIVE, DEAD, evolve(LIVE, namespace=ATTACHMENTS), evolve(DEAD, namespace=ATTACHMENTS)):
                        found = find(row(status, tag), entry, deleted)
                        if found in EVENTS:
                            self.assertIn((status, EVENTS[found]), TRANSITIONS)

    def test_directions(self) -> None:
        """What is here is sent, what is not is fetched."""
        for status, direction in DIRECTIONS.items():
            self.assertEqual(direction is Direction.UPLOAD, status.is_local)
            self.assertIs(row(status).direction, direction)
        self.assertIsNone(row(S.SYNCED).direction)
