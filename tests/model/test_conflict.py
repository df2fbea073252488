"""Tests of versions: what two sets of them become, and what resolving leaves; tables of cases."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from soledad.errors import InvalidIdentifier, RevisionConflict
from soledad.model.attachment import Pointer
from soledad.model.conflict import Merged, Outcome, Versions, has_same_content, is_same_set, merge, resolve
from soledad.model.document import Stored
from soledad.model.ids import BlobId, DocId

DOC = DocId("doc")
INSERTED, SUPERSEDED, CONVERGED, CONFLICTED = Outcome

#: What is stored (nothing, or the current version and then the alternatives), what comes, what becomes of it, and what
#: is stored then.  A version is its revision and its content, ``-`` for a tombstone; ``me`` is this replica.
CASES: dict[str, tuple[list[str], list[str], Outcome, list[str]]] = {
    # 1. Incoming newer.
    "a document that is not here": ([], ["b:1 X"], INSERTED, ["b:1 X"]),
    "a tombstone of a document that is not here": ([], ["b:2 -"], INSERTED, ["b:2 -"]),
    "a document that is not here, in conflict": ([], ["b:1 X", "c:1 Y"], INSERTED, ["b:1 X", "c:1 Y"]),
    "a newer revision": (["b:1 X"], ["b:2 Y"], INSERTED, ["b:2 Y"]),
    "a newer revision, by a replica more": (["b:1 X"], ["b:1|c:1 Y"], INSERTED, ["b:1|c:1 Y"]),
    "a newer revision with the same content": (["b:1 X"], ["b:2 X"], INSERTED, ["b:2 X"]),
    "a newer tombstone": (["b:1 X"], ["b:2 -"], INSERTED, ["b:2 -"]),
    "a document newer than the tombstone here": (["b:2 -"], ["b:3 X"], INSERTED, ["b:3 X"]),
    "a resolution settles all that it knows": (["b:1 Y", "me:1 X"], ["b:2|me:1 Z"], INSERTED, ["b:2|me:1 Z"]),
    "a resolution that deletes": (["b:1 Y", "me:1 X"], ["b:2|me:1 -"], INSERTED, ["b:2|me:1 -"]),
    "a newer one leaves alternatives that it does not know": (
        ["b:1 Y", "c:1 Z", "me:1 X"],
        ["b:2|me:1 W"],
        INSERTED,
        ["b:2|me:1 W", "c:1 Z"],
    ),
    "alternatives of both sides join": (
        ["b:1 Y", "c:1 X"],
        ["b:2 Z", "d:1 W"],
        INSERTED,
        ["b:2 Z", "c:1 X", "d:1 W"],
    ),
    "a newer one with the content of an alternative that it does not know": (
        ["b:1 Y", "me:1 X"],
        ["b:2 X"],
        SUPERSEDED,
        ["b:2|me:2 X"],
    ),
    "a newer one with the content of an alternative that it knows": (
        ["b:1 Y", "me:1 X"],
        ["b:2|me:1 X"],
        INSERTED,
        ["b:2|me:1 X"],
    ),
    # 2. The same revision.
    "the same": (["b:1 X"], ["b:1 X"], CONVERGED, ["b:1 X"]),
    "the same tombstone": (["b:2 -"], ["b:2 -"], CONVERGED, ["b:2 -"]),
    "the same, its revision in another order": (["b:1|c:1 X"], ["c:1|b:1 X"], CONVERGED, ["b:1|c:1 X"]),
    "the same conflict": (["b:1 X", "c:1 Y"], ["b:1 X", "c:1 Y"], CONVERGED, ["b:1 X", "c:1 Y"]),
    "the same, in conflict there": (["b:1 X"], ["b:1 X", "c:1 Y"], CONVERGED, ["b:1 X", "c:1 Y"]),
    "the same, in conflict here": (["b:1 X", "c:1 Y"], ["b:1 X"], CONVERGED, ["b:1 X", "c:1 Y"]),
    # 3. Stored newer.
    "an older revision": (["b:2 Y"], ["b:1 X"], SUPERSEDED, ["b:2 Y"]),
    "an older revision of a tombstone": (["b:2 -"], ["b:1 X"], SUPERSEDED, ["b:2 -"]),
    "an older tombstone": (["b:3 X"], ["b:2 -"], SUPERSEDED, ["b:3 X"]),
    "an older one that brings an alternative": (["b:2 Y"], ["b:1 X", "c:1 Z"], SUPERSEDED, ["b:2 Y", "c:1 Z"]),
    "an older one, older than an alternative": (["c:1 Z", "b:2 X"], ["b:1 Y"], SUPERSEDED, ["c:1 Z", "b:2 X"]),
    "an older one that brings an alternative with the content of ours": (
        ["b:2 Y"],
        ["b:1 X", "c:1 Y"],
        SUPERSEDED,
        ["b:2|c:1|me:1 Y"],
    ),
    # 4. Concurrent, the same content.
    "concurrent, the same content": (["me:1 X"], ["b:1 X"], SUPERSEDED, ["b:1|me:2 X"]),
    "two tombstones": (["a:1|me:1 -"], ["a:1|b:1 -"], SUPERSEDED, ["a:1|b:1|me:2 -"]),
    "neither of them ours": (["b:1 X"], ["c:1 X"], SUPERSEDED, ["b:1|c:1|me:1 X"]),
    "the same content, while an alternative remains": (
        ["b:1 Y", "c:1 X"],
        ["d:1 Y"],
        SUPERSEDED,
        ["b:1|d:1|me:1 Y", "c:1 X"],
    ),
    "the same content, while one of ours remains that the new revision does not know": (
        ["b:1 Y", "me:3 X"],
        ["d:1 Y"],
        SUPERSEDED,
        ["b:1|d:1|me-1:1 Y", "me:3 X"],
    ),
    "the same content, but ours was settled there": (["b:1 Z"], ["c:1 Z", "b:2 X"], INSERTED, ["c:1 Z", "b:2 X"]),
    # 5. Concurrent, different.
    "concurrent": (["me:1 X"], ["b:1 Y"], CONFLICTED, ["b:1 Y", "me:1 X"]),
    "a concurrent tombstone": (["me:2 X"], ["b:1|me:1 -"], CONFLICTED, ["b:1|me:1 -", "me:2 X"]),
    "concurrent with the tombstone here": (["me:2 -"], ["b:1|me:1 X"], CONFLICTED, ["b:1|me:1 X", "me:2 -"]),
    "a third one": (["b:1 Y", "me:1 X"], ["c:1 Z"], CONFLICTED, ["c:1 Z", "b:1 Y", "me:1 X"]),
    "it knows an alternative, but not the current one": (
        ["b:1 Y", "me:1 X"],
        ["c:1|me:1 Z"],
        CONFLICTED,
        ["c:1|me:1 Z", "b:1 Y"],
    ),
    "it has the content of an alternative": (
        ["b:1 Y", "me:1 X"],
        ["c:1 X"],
        CONFLICTED,
        ["c:1|me:2 X", "b:1 Y"],
    ),
    "it brings an alternative": (["me:1 X"], ["b:1 Y", "c:1 Z"], CONFLICTED, ["b:1 Y", "c:1 Z", "me:1 X"]),
    "ours is among its alternatives": (["me:1 X"], ["b:1 Y", "me:1 X"], CONFLICTED, ["b:1 Y", "me:1 X"]),
    "one of its alternatives is newer than ours": (["b:1 Y"], ["c:1 Z", "b:2 X"], CONFLICTED, ["c:1 Z", "b:2 X"]),
    "it is among our alternatives": (["b:1 X", "c:1 Z"], ["c:1 Z", "b:1 X"], CONFLICTED, ["c:1 Z", "b:1 X"]),
    # Both current ones are known to alternatives of the other side.
    "neither current one is new": (["b:1 Y", "c:2 Z"], ["c:1 W", "b:2 X"], INSERTED, ["b:2 X", "c:2 Z"]),
}

#: One revision with two contents: what is stored, what comes, what is stored then, and whether that is news.
COPIED: dict[str, tuple[list[str], list[str], list[str], bool]] = {
    "another content": (["b:1 X"], ["b:1 Y"], ["b:1 Y", "b:1 X"], True),
    "a tombstone": (["b:1 X"], ["b:1 -"], ["b:1 -", "b:1 X"], True),
    "a third content": (["b:1 Y", "b:1 X"], ["b:1 Z"], ["b:1 Z", "b:1 X", "b:1 Y"], True),
    "that of an alternative": (["c:1 Z", "b:1 X"], ["b:1 Y"], ["b:1 Y", "b:1 X", "c:1 Z"], True),
    "the same two again": (["b:1 Y", "b:1 X"], ["b:1 Y", "b:1 X"], ["b:1 Y", "b:1 X"], False),
    "one of the two again": (["b:1 Y", "b:1 X"], ["b:1 Y"], ["b:1 Y", "b:1 X"], False),
    "it is resolved": (["b:1 Y", "b:1 X"], ["b:1|c:1 Z"], ["b:1|c:1 Z"], False),
}

#: What is stored, the content that settles it, the revisions that are settled, and what is stored then.
RESOLVED: dict[str, tuple[list[str], str, list[str], list[str]]] = {
    "all": (["b:1 Y", "me:1 X"], "Z", ["b:1", "me:1"], ["b:1|me:2 Z"]),
    "all, in favour of the current one": (["b:1 Y", "me:1 X"], "Y", ["me:1", "b:1"], ["b:1|me:2 Y"]),
    "all, in favour of an alternative": (["b:1 Y", "me:1 X"], "X", ["b:1", "me:1"], ["b:1|me:2 X"]),
    "all, deleting": (["b:1 Y", "me:1 X"], "-", ["b:1", "me:1"], ["b:1|me:2 -"]),
    "none of them ours": (["b:1 Y", "c:2 X"], "Z", ["b:1", "c:2"], ["b:1|c:2|me:1 Z"]),
    "some": (["b:1 Y", "c:1 X", "d:1 W"], "Z", ["b:1", "d:1"], ["b:1|d:1|me:1 Z", "c:1 X"]),
    "the current one only": (["b:1 Y", "c:1 X"], "Z", ["b:1"], ["b:1|me:1 Z", "c:1 X"]),
    "ours remains, though it counts further": (["b:1 Y", "me:2 X"], "Z", ["b:1"], ["b:1|me-1:1 Z", "me:2 X"]),
    "ours remains, the second time": (
        ["b:1|me-1:1 Y", "c:1 W", "me:2 X"],
        "Z",
        ["b:1|me-1:1", "c:1"],
        ["b:1|c:1|me-1:2 Z", "me:2 X"],
    ),
    "two of ours remain": (
        ["b:1 Y", "c:1|me-1:1 W", "me:2 X"],
        "Z",
        ["b:1"],
        ["b:1|me-2:1 Z", "c:1|me-1:1 W", "me:2 X"],
    ),
    "a revision that is not here any more": (["b:1 Y", "c:2 X"], "Z", ["b:1", "c:1"], ["b:1|c:1|me:1 Z", "c:2 X"]),
    "a newer one than is here": (["b:1 Y", "c:1 X"], "Z", ["b:1", "c:2"], ["b:1|c:2|me:1 Z"]),
    "a tombstone remains": (["b:1 Y", "c:1 -"], "Z", ["b:1"], ["b:1|me:1 Z", "c:1 -"]),
    "one that remains has the content already": (
        ["b:1 Y", "c:1 X", "d:1 W"],
        "X",
        ["b:1", "d:1"],
        ["b:1|c:1|d:1|me:1 X"],
    ),
    "one revision with two contents": (["b:1 Y", "b:1 X"], "Z", ["b:1"], ["b:1|me:1 Z"]),
    "no conflict": (["b:1 Y"], "Z", ["b:1"], ["b:1|me:1 Z"]),
    "written in another order": (["b:1|c:1 Y"], "Z", ["c:1|b:1"], ["b:1|c:1|me:1 Z"]),
}


def version(text: str, **pointers: Pointer) -> Stored:
    """Return the version that a text stands for."""
    rev, content = text.split()
    return Stored(DOC, rev, None if content == "-" else f'{{"is": "{content}"}}', pointers)


def versions(texts: Sequence[str]) -> Versions:
    """Return the versions that texts stand for."""
    return Versions(version(texts[0]), [version(text) for text in texts[1:]])


def shown(shown: Versions) -> list[str]:
    """Return the texts of versions, the current one first."""
    return [f"{one.rev} {'-' if one.content is None else one.content[8:-2]}" for one in shown]


def merged(stored: Sequence[str], incoming: Sequence[str]) -> Merged:
    """Merge what texts stand for."""
    return merge(versions(stored) if stored else None, versions(incoming), "me")


class MergeTests(SynchronousTestCase):
    """Applying revisions from elsewhere."""

    def test_cases(self) -> None:
        """Each case comes out as the table says."""
        for name, (stored, incoming, outcome, after) in CASES.items():
            got = merged(stored, incoming)
            self.assertEqual((got.outcome, shown(got.versions), got.copied), (outcome, after, False), name)

    def test_again(self) -> None:
        """What came before is no change when it comes again, except that it may become the current one."""
        for name, (_, incoming, _, after) in CASES.items():
            again = merged(after, incoming)
            self.assertEqual(set(shown(again.versions)), set(after), name)
            self.assertIn(again.versions.current.rev, (after[0].split()[0], incoming[0].split()[0]), name)

    def test_back(self) -> None:
        """The other side, when it gets the result, has the same versions, and the same one of them is current."""
        for name, (_, incoming, _, after) in CASES.items():
            there = merge(versions(incoming), versions(after), "other")
            self.assertTrue(is_same_set(there.versions, versions(after)), name)

    def test_copied(self) -> None:
        """A revision with two contents is a conflict, and told once; both contents stay."""
        for name, (stored, incoming, after, is_news) in COPIED.items():
            got = merged(stored, incoming)
            self.assertEqual((shown(got.versions)[0], got.copied), (after[0], is_news), name)
            self.assertEqual(sorted(shown(got.versions)), sorted(after), name)

    def test_same_content(self) -> None:
        """The order of keys does not matter; 1, 1.0 and true differ, and so do attachments."""
        pointer = Pointer(BlobId("1"), 5, None, bytes(32))
        one = Stored(DOC, "b:1", '{"a": 1, "b": 2}', {"name": pointer})
        cases = {
            "the same": (one, True),
            "keys in another order": (evolve(one, content='{"b":2,"a":1}'), True),
            "another number": (evolve(one, content='{"a": 1.0, "b": 2}'), False),
            "true is no number": (evolve(one, content='{"a": true, "b": 2}'), False),
            "nothing attached": (evolve(one, attachments={}), False),
            "another name": (evolve(one, attachments={"other": pointer}), False),
            "another blob": (evolve(one, attachments={"name": evolve(pointer, blob_id=BlobId("2"))}), False),
            "another type": (evolve(one, attachments={"name": evolve(pointer, content_type="a/b")}), False),
            "a tombstone": (evolve(one, content=None, attachments={}), False),
        }
        for name, (other, same) in cases.items():
            self.assertEqual(has_same_content(one, other), same, name)
            outcome = merge(Versions(one), Versions(evolve(other, rev="c:1")), "me").outcome
            self.assertEqual(outcome, SUPERSEDED if same else CONFLICTED, name)

    def test_text_stays(self) -> None:
        """Where the content is the same, the text that is stored stays byte for byte."""
        ours = Stored(DOC, "b:1", '{ "a" : 1 }')
        for rev in ("b:1", "c:1"):
            got = merge(Versions(ours), Versions(Stored(DOC, rev, '{"a":1}')), "me")
            self.assertEqual(got.versions.current.content, ours.content, rev)

    def test_malformed(self) -> None:
        """What has no revision, or none that is one, is no version."""
        for rev in ("", "nonsense", "b:0"):
            with self.assertRaises(InvalidIdentifier, msg=rev):
                Versions(Stored(DOC, rev, "{}"))

    def test_not_normal(self) -> None:
        """Versions that come with a newer one of themselves, or with a twin, are put in order."""
        self.assertEqual(shown(merged([], ["b:1 X", "b:2 Y"]).versions), ["b:2 Y"])
        self.assertEqual(shown(merged([], ["b:1 X", "c:1 X"]).versions), ["b:1|c:1|me:1 X"])


class ResolveTests(SynchronousTestCase):
    """Settling a conflict."""

    def test_cases(self) -> None:
        """Each case comes out as the table says."""
        for name, (stored, content, revs, after) in RESOLVED.items():
            got = resolve(versions(stored), version(f"any:1 {content}"), revs, "me")
            self.assertEqual(shown(got), after, name)

    def test_elsewhere(self) -> None:
        """A replica that has the versions, too, takes the resolution as it is."""
        for name, (stored, content, revs, after) in RESOLVED.items():
            got = resolve(versions(stored), version(f"any:1 {content}"), revs, "me")
            there = merge(versions(stored), got, "other")
            self.assertEqual((there.outcome, shown(there.versions)), (INSERTED, after), name)

    def test_current_not_listed(self) -> None:
        """The current revision has to be among those that are settled."""
        for revs in ([], ["c:1"], ["b:2"]):
            with self.assertRaises(RevisionConflict) as caught:
                resolve(versions(["b:1 Y", "c:1 X"]), version("c:1 X"), revs, "me")
            self.assertEqual((caught.exception.given, caught.exception.stored), (" ".join(revs), "b:1"))

    def test_no_revision(self) -> None:
        """What is settled is named by revisions."""
        with self.assertRaises(InvalidIdentifier):
            resolve(versions(["b:1 Y"]), version("b:1 Y"), ["b:1", "nonsense"], "me")
