"""Buffers that are lent."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from soledad.client.scratch import BATCH, BUFFER, Scratch
from soledad.wire.container import CHUNK_LOG2, TAG_SIZE


class ScratchTests(SynchronousTestCase):
    """What was made once is used again, by one at a time."""

    def setUp(self) -> None:
        """Make a scratch, from which two buffers were lent and given back."""
        self.scratch = Scratch()
        with self.scratch.lend() as one, self.scratch.lend() as other:
            self.assertIsNot(one.obj, other.obj)
            self.made = {id(one.obj), id(other.obj)}

    def test_used_again(self) -> None:
        """Memory is not asked for when there is a buffer that nobody uses."""
        with self.scratch.lend() as one, self.scratch.lend() as other:
            self.assertEqual({id(one.obj), id(other.obj)}, self.made)

    def test_given_back_after_an_error(self) -> None:
        """A call that fails does not keep its buffer."""

        def fail() -> None:
            with self.scratch.lend(), self.scratch.lend():
                raise ValueError

        self.assertRaises(ValueError, fail)
        self.test_used_again()

    def test_more(self) -> None:
        """Who needs more than is usual, as for chunks of another size, gets it."""
        with self.scratch.lend(3 * BUFFER) as buffer:
            self.assertEqual(len(buffer), 3 * BUFFER)

    def test_room(self) -> None:
        """A buffer takes a batch that is sealed, or of what is sealed, with a chunk that was begun before."""
        chunk = 1 << CHUNK_LOG2
        with self.scratch.lend() as buffer:
            self.assertEqual(len(buffer), BUFFER)
            self.assertGreaterEqual(len(buffer), (BATCH // chunk + 1) * (chunk + TAG_SIZE))
