"""Tests of revisions: version vectors as text, and how they stand to each other."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from soledad.errors import InvalidIdentifier
from soledad.model.revision import (
    Vector,
    counted,
    following,
    incremented,
    is_concurrent,
    is_newer,
    maximum,
    normal,
    parse,
    reissued,
    render,
)

replicas = st.text("0123456789abcdef", min_size=1, max_size=3)
vectors = st.dictionaries(replicas, st.integers(1, 5), max_size=5)
revisions = vectors.map(render)

#: (one, other, is newer, is concurrent), each with what it shows.
CASES: dict[str, tuple[str | None, str | None, bool, bool]] = {
    "both empty": ("", "", False, False),
    "none and empty are the same": (None, "", False, False),
    "anything is newer than nothing": ("a:1", None, True, False),
    "nothing is newer than nothing else": (None, "a:1", False, False),
    "the same": ("a:1|b:2", "a:1|b:2", False, False),
    "the same in another order": ("b:2|a:1", "a:1|b:2", False, False),
    "one counter is greater": ("a:2|b:2", "a:1|b:2", True, False),
    "one counter is less": ("a:1|b:2", "a:2|b:2", False, False),
    "one replica more": ("a:1|b:1", "a:1", True, False),
    "one replica less": ("a:1", "a:1|b:1", False, False),
    "other replicas": ("a:1", "b:1", False, True),
    "one greater, one less": ("a:2|b:1", "a:1|b:2", False, True),
    "greater, but one replica less": ("a:2", "a:1|b:1", False, True),
    "counters are numbers, not text": ("a:10", "a:9", True, False),
}

#: Texts that are no revisions.
MALFORMED = ["a", "a:", ":1", "a:0", "a:-1", "a:01", "a:1|", "|a:1", "a:1||b:1", "a:1|a:2", "a:1\n", "a:x", "ä:1", " "]


class RevisionTests(SynchronousTestCase):
    """What is newer than what."""

    def test_normal(self) -> None:
        """A revision is written in one way, whatever the order in which it came; what is none is refused."""
        for rev, written in (("a:1", "a:1"), ("b:2|a:1", "a:1|b:2"), ("a:1|b:2", "a:1|b:2"), ("", "")):
            self.assertEqual(normal(rev), written)
        for rev in ("a:0", "a:01", "a", "a:1|a:2", "a:1\n", "a:1|"):
            self.assertRaises(InvalidIdentifier, normal, rev)

    def test_cases(self) -> None:
        """Each pair stands as the table says."""
        for name, (one, other, newer, concurrent) in CASES.items():
            self.assertEqual((is_newer(one, other), is_concurrent(one, other)), (newer, concurrent), name)

    def test_malformed(self) -> None:
        """What is no revision is refused."""
        for text in MALFORMED:
            with self.assertRaises(InvalidIdentifier, msg=text):
                parse(text)

    def test_sorted(self) -> None:
        """The text is sorted by replica, whatever order it came in."""
        self.assertEqual(render(parse("c:3|a:1|b:2")), "a:1|b:2|c:3")

    def test_first(self) -> None:
        """A replica that is not in the vector counts as zero."""
        self.assertEqual(incremented(None, "b"), "b:1")
        self.assertEqual(incremented("a:7|b:9", "b"), "a:7|b:10")

    def test_following(self) -> None:
        """What follows several revisions is newer than they are, and not newer than what stays beside them."""
        cases: dict[str, tuple[list[str], list[str], str]] = {
            "one": (["a:1"], [], "a:1|me:1"),
            "several": (["a:2|me:1", "a:1|b:1"], [], "a:2|b:1|me:2"),
            "ours beside them, not known": (["a:1"], ["b:1|me:1", "a:2"], "a:1|me-1:1"),
            "ours beside them, known": (["a:1|me:2"], ["b:1|me:2"], "a:1|me:3"),
            "ours beside them, known in part": (["a:1|me:1"], ["me:2"], "a:1|me:1|me-1:1"),
            "and again": (["a:1|me:1|me-1:1"], ["me:2"], "a:1|me:1|me-1:2"),
            "two of ours beside them": (["a:1"], ["me:2", "b:1|me-1:1"], "a:1|me-2:1"),
        }
        for name, (revs, beside, expected) in cases.items():
            found = following(revs, "me", beside)
            self.assertEqual(found, expected, name)
            self.assertTrue(all(is_newer(found, rev) for rev in revs), name)
            self.assertFalse(any(is_newer(found, rev) for rev in beside), name)

    def test_many_replicas(self) -> None:
        """Any number of replicas works."""
        vector = {f"{number:032x}": number + 1 for number in range(2000)}
        self.assertEqual(parse(render(vector)), vector)
        self.assertTrue(is_newer(incremented(render(vector), "0"), render(vector)))

    @given(vectors)
    def test_round_trip(self, vector: Vector) -> None:
        """A vector survives as text."""
        self.assertEqual(parse(render(vector)), vector)

    @given(revisions, replicas)
    def test_increment_is_newer(self, rev: str, replica: str) -> None:
        """A revision that was changed is newer than what it was, and not the other way round."""
        self.assertTrue(is_newer(incremented(rev, replica), rev))
        self.assertFalse(is_newer(rev, incremented(rev, replica)))

    @given(revisions, revisions)
    def test_one_of_four(self, one: str, other: str) -> None:
        """Two revisions are the same, or one is newer, or they are concurrent: just one of these."""
        stands = [one == other, is_newer(one, other), is_newer(other, one), is_concurrent(one, other)]
        self.assertEqual(stands.count(True), 1)

    @given(revisions, revisions, revisions)
    def test_transitive(self, one: str, two: str, three: str) -> None:
        """What is newer than something newer is newer."""
        top = maximum(one, two)
        highest = incremented(maximum(top, three), "f")
        self.assertTrue(is_newer(highest, top))
        self.assertTrue(is_newer(highest, one))

    @given(revisions, revisions)
    def test_maximum(self, one: str, other: str) -> None:
        """The maximum is not older than either, is the same both ways round, and no component is more than needed."""
        top = maximum(one, other)
        self.assertEqual(top, maximum(other, one))
        for rev in (one, other):
            self.assertTrue(top == rev or is_newer(top, rev))
        for replica, counter in parse(top).items():
            self.assertIn(counter, (parse(one).get(replica), parse(other).get(replica)))


class ReissuedTests(SynchronousTestCase):
    """Counting under another name what a replica counted."""

    def test_table(self) -> None:
        """What is known stays; all beyond is one change of the new name."""
        for rev, known, expected in (
            ("a:3", {}, "n:1"),
            ("a:3", {"a": 2}, "a:2|n:1"),
            ("a:3", {"a": 3}, "a:3"),
            ("a:3", {"a": 4}, "a:3"),
            ("a:3|b:1", {"a": 1}, "a:1|b:1|n:1"),
            ("a-1:1|a:2", {"a": 2}, "a:2|n:1"),
            ("ab:1", {}, "ab:1"),
            ("b:1", {}, "b:1"),
        ):
            with self.subTest(rev=rev, known=known):
                self.assertEqual(reissued(rev, "a", known, "n"), expected)

    def test_counted(self) -> None:
        """A replica's count is its own, and not that of a longer name."""
        self.assertEqual([counted(rev, "a") for rev in ("a:3|b:1", "ab:2", "b:1")], [3, 0, 0])
