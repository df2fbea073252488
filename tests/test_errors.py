"""What errors tell people."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from soledad import errors
from soledad.errors import SoledadError


def every() -> list[type[SoledadError]]:
    """Return all classes of errors."""
    return [item for item in vars(errors).values() if isinstance(item, type) and issubclass(item, SoledadError)]


class TextTests(SynchronousTestCase):
    """The text of an error."""

    def test_fields(self) -> None:
        """The summary comes first, then the fields that are known; a zero is known."""
        self.assertEqual(str(errors.WrongLength(0, 3)).partition(" (")[2], "announced=0, given=3)")
        self.assertEqual(str(errors.QuotaExceeded()), errors.QuotaExceeded.summary())

    def test_readable(self) -> None:
        """Each summary is one whole line of plain text."""
        for error in every():
            self.assertRegex(error.summary(), r"^[A-Z][^`]+[^.`]$", error.__name__)
            self.assertNotIn(error.__name__, error.summary())

    def test_sentences(self) -> None:
        """A docstring's summary ends on its first line: the text would be cut otherwise."""
        for error in every():
            self.assertTrue((error.__doc__ or "").splitlines()[0].endswith("."), error.__name__)
