"""What a stored document is, and what writing one comes to."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import field, frozen

from soledad.model import content as contents
from soledad.model.attachment import Pointer
from soledad.model.content import Content
from soledad.model.ids import BlobId, DocId

#: The newest generation, its transaction id, and each changed document at its latest change.
Changes = tuple[int, str, list[tuple[DocId, int, str]]]


@frozen
class Stored:
    """A document as the store has it, or is to have it."""

    doc_id: DocId
    #: The stored revision; to be written: the one that it was made from, empty for none.
    rev: str
    #: JSON text; `None` for a tombstone.
    content: str | None = field(default=None, repr=False)
    attachments: Mapping[str, Pointer] = field(factory=dict)
    #: Whether the store has other versions of it.
    has_conflicts: bool = False
    #: What the text stands for, if whoever made this had it at hand: nobody changes it.
    value: Content | None = field(default=None, repr=False, eq=False)


@frozen
class Snapshot:
    """
    What a document held at one moment, which nothing changes any more.

    Taking it is what cannot wait; its text is made where there is time.
    """

    #: JSON text that the content was made from, if it was; without this and ``value`` it is a tombstone.
    text: str | None = field(repr=False)
    #: A copy of the content, if it was given as a value, or may have been changed since.
    value: Content | None = field(repr=False)
    attachments: Mapping[str, Pointer]
    #: Whether the text was looked at before: it is stored already.
    known: bool = False

    def written(self) -> tuple[str | None, Content | None]:
        """
        Return the content as JSON text, and as a value if there is one.

        The text is the very one that it was made from, unless it means something else now.

        :raise InvalidContent: it is none.
        """
        text, value = self.text, self.value
        if text is None:
            return None if value is None else contents.render_copy(value), value
        if value is None:
            return text, None if self.known else _checked(text)
        same = contents.canonical(contents.parse(text)) == contents.canonical(value)
        return text if same else contents.render_copy(value), value

    def stored(self, doc_id: DocId, rev: str) -> Stored:
        """
        Return it as what is to be stored, made from ``rev``.

        :raise InvalidContent: it has what no content may have.
        """
        text, value = self.written()
        return Stored(doc_id, rev, text, self.attachments, value=value)


def _checked(text: str) -> Content:
    value = contents.parse(text)
    contents.canonical(value)
    return value


@frozen
class Written:
    """What a write came to."""

    rev: str
    #: Blobs that nothing refers to since.
    dropped: frozenset[BlobId] = frozenset()
    #: The change's number in the log.
    generation: int = 0
    #: The indexes that the document was in before, or is in now.
    indexes: frozenset[str] = frozenset()
    #: Whether there are other versions still.
    has_conflicts: bool = False
    #: The text that is stored now; `None`: a tombstone.
    content: str | None = field(default=None, repr=False)
