"""The vectors are what the code makes: a format does not change unnoticed."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.vectors import FOLDER, make, sync


class MakeTests(SynchronousTestCase):
    """The files of vectors, made again."""

    def test_same(self) -> None:
        """With the same entropy the same bytes come out, to the last one."""
        for name, document in {**make.documents(), **sync.documents()}.items():
            self.assertEqual((FOLDER / name).read_text(), make.encode(document), name)
