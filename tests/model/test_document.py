"""Tests of what is stored of what a document held."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from soledad.errors import InvalidContent, InvalidJSON
from soledad.model.document import Snapshot, Stored
from soledad.model.ids import DocId

#: What is told -> text, value, whether the text is known, what is stored: text and value.
WRITTEN: dict[str, tuple[str | None, Any, bool, str | None, Any]] = {
    "a tombstone": (None, None, False, None, None),
    "a value": (None, {"b": 1, "a": [2]}, False, '{"b":1,"a":[2]}', {"b": 1, "a": [2]}),
    "an empty value": (None, {}, False, "{}", {}),
    "a text, byte for byte": ('{ "a" : 1.0 }', None, False, '{ "a" : 1.0 }', {"a": 1.0}),
    "a text that was looked at before": ('{ "a" : 1.0 }', None, True, '{ "a" : 1.0 }', None),
    "a text, and a value that means the same": (
        '{"a":1, "b":2}',
        {"b": 2, "a": 1},
        True,
        '{"a":1, "b":2}',
        {"a": 1, "b": 2},
    ),
    "a text, and a value that means something else": ('{"a":1}', {"a": True}, True, '{"a":true}', {"a": True}),
}

#: What is wrong -> text, value, whether the text is known.
REFUSED: dict[str, tuple[str | None, Any, bool]] = {
    "a number that is none": (None, {"a": float("nan")}, False),
    "a number that is too large": (None, {"a": 10**5000}, False),
    "a lone surrogate": (None, {"a": "\ud800"}, False),
    "a lone surrogate in a text": ('{"a":"\\ud800"}', None, False),
    "a number in a text that is too large": ('{"a":1e999}', None, False),
    "a lone surrogate in the value only": ('{"a":"b"}', {"a": "\ud800"}, True),
    "no JSON": ("{", None, False),
}


class SnapshotTests(SynchronousTestCase):
    """What documents held at one moment."""

    def test_written(self) -> None:
        """Each comes to the text, and the value, that stand beside it."""
        for what, (text, value, known, *expected) in WRITTEN.items():
            self.assertEqual([*Snapshot(text, value, {}, known).written()], expected, what)

    def test_refused(self) -> None:
        """What is no content is found at the latest here."""
        for what, (text, value, known) in REFUSED.items():
            with self.assertRaises((InvalidContent, InvalidJSON), msg=what):
                Snapshot(text, value, {}, known).written()

    def test_stored(self) -> None:
        """What is stored has the value at hand; that makes no difference to anybody."""
        stored = Snapshot(None, {"a": 1}, {}).stored(DocId("doc"), "a:1")
        self.assertEqual(stored, Stored(DocId("doc"), "a:1", '{"a":1}'))
        self.assertEqual(stored.value, {"a": 1})
        self.assertNotIn("{", repr(stored).replace("attachments={}", ""))
