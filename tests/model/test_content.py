"""Tests of the content of documents: what is JSON, and what is the same."""

from __future__ import annotations

import json
from enum import Enum
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from soledad.errors import InvalidContent, InvalidJSON
from soledad.model.content import MAX_DEPTH, Content, _encoder, canonical, check, copied, parse, render, render_copy

SECRET = "sesame"

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
atoms = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
values = st.recursive(atoms, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3))
contents = st.dictionaries(texts, values, max_size=4)


class _Number(Enum):
    ONE = 1


def nested(depth: int) -> Content:
    """Return content of ``depth`` objects within each other."""
    content: Content = {}
    for _ in range(depth - 1):
        content = {"a": content}
    return content


def within_itself() -> Content:
    """Return content that has no end."""
    content: Content = {}
    content["a"] = [content]
    return content


#: Values that are no content, by what is wrong with them.
NO_CONTENT: dict[str, Any] = {
    "nothing": None,
    "a list": [],
    "text": "{}",
    "NaN": {"a": float("nan")},
    "infinity": {"a": [float("inf")]},
    "less than all": {"a": float("-inf")},
    "a lone surrogate": {"a": "\ud800"},
    "a lone surrogate in a key": {"\udfff": 1},
    "a key that is a number": {1: 2},
    "a key that is true": {"a": {True: 2}},
    "a key that is null": {"a": [{None: 2}]},
    "bytes": {"a": b"b"},
    "a tuple": {"a": (1, 2)},
    "a set": {"a": {1}},
    "an object": {"a": object()},
    "an enum": {"a": _Number.ONE},
    "within itself": within_itself(),
    "too deep": nested(MAX_DEPTH + 1),
    "far too deep": nested(100_000),
    "a number too long to be written": {"a": 10**5000},
}

#: Texts that are no JSON objects, by what is wrong with them.
NO_JSON: dict[str, str] = {
    "empty": "",
    "space": " ",
    "a list": "[]",
    "null": "null",
    "a number": "1",
    "text": '"a"',
    "two": "{} {}",
    "cut": '{"a": 1',
    "single quotes": "{'a': 1}",
    "a key without quotes": "{a: 1}",
    "a comma too many": '{"a": 1,}',
    "NaN": '{"a": NaN}',
    "Infinity": '{"a": Infinity}',
    "-Infinity": '{"a": -Infinity}',
    "a comment": '{} // "a"',
    "a byte order mark": "\ufeff{}",
    "a control character": '{"a": "\n"}',
    "far too deep": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "a number too long to be read": '{"a": 1' + "0" * 5000 + "}",
}


class ContentTests(SynchronousTestCase):
    """What is JSON and what is not."""

    def test_no_content(self) -> None:
        """What JSON cannot say is refused, by both ways of writing."""
        for name, value in NO_CONTENT.items():
            for write in (render, canonical):
                with self.assertRaises(InvalidContent, msg=name):
                    write(value)

    def test_no_json(self) -> None:
        """Text that is no JSON object is refused."""
        for name, text in NO_JSON.items():
            with self.assertRaises(InvalidJSON, msg=name):
                parse(text)

    def test_deep_enough(self) -> None:
        """Nesting is allowed as deep as is said, and such content can be read again."""
        self.assertEqual(parse(render(nested(MAX_DEPTH))), nested(MAX_DEPTH))

    def test_no_content_in_errors(self) -> None:
        """An error does not quote the document."""
        for wrong in ('{"%s" 1}', '{"a": "%s" x}', '"%s"', '{"a": "%s\n"}'):
            with self.assertRaises(InvalidJSON) as caught:
                parse(wrong % SECRET)
            self.assertNotIn(SECRET, f"{caught.exception} {caught.exception!r}")
        for value in ({SECRET: {1: 2}}, {"a": f"{SECRET}\ud800"}, {"a": {SECRET}}):
            with self.assertRaises(InvalidContent) as invalid:
                render(value)
            self.assertNotIn(SECRET, f"{invalid.exception} {invalid.exception!r}")

    @given(contents)
    def test_as_json_does(self, content: Content) -> None:
        """The texts are those that `json` makes."""
        for sort_keys, text in ((False, render(content)), (True, canonical(content))):
            expected = json.dumps(content, ensure_ascii=False, separators=(",", ":"), sort_keys=sort_keys)
            self.assertEqual(text, expected)

    def test_other_pythons(self) -> None:
        """Where `json` has no part in C the texts are the same."""
        self.patch(json.encoder, "c_make_encoder", None)
        value = {"b": [1.5, None, {"ä": "\n"}], "a": 10**30}
        self.assertEqual([_encoder(sort_keys)(value) for sort_keys in (False, True)], [render(value), canonical(value)])

    def test_keys_in_their_order(self) -> None:
        """Rendering keeps the order of keys, and non-ASCII text as it is."""
        self.assertEqual(render({"b": "ä", "a": [1, 2.5, None, True]}), '{"b":"ä","a":[1,2.5,null,true]}')


class _Text(str):
    """Text that says something else of itself."""

    def __str__(self) -> str:
        return "something else"

    def lower(self) -> str:
        return "something else"


class _Whole(int):
    def __repr__(self) -> str:
        return "something else"


class _Real(float):
    def __repr__(self) -> str:
        return "something else"


class _Object(dict[str, Any]):
    def items(self) -> Any:
        return [("shown", 1)]


class CopyTests(SynchronousTestCase):
    """What nobody else can change."""

    @given(contents)
    def test_same(self, content: Content) -> None:
        """A copy is what its text stands for, and has the same text."""
        self.assertEqual(canonical(copied(content)), canonical(parse(render(content))))
        self.assertEqual(render_copy(copied(content)), render(content))

    def test_nothing_shared(self) -> None:
        """What is changed later is not changed in the copy, at any depth."""
        content: Content = {"a": {"b": [{"c": 1}, [2]]}}
        copy = copied(content)
        content["a"]["b"][0]["c"] = 3
        content["a"]["b"][1].append(4)
        content["a"]["b"].append(5)
        content["a"]["d"] = content["e"] = 6
        self.assertEqual(copy, {"a": {"b": [{"c": 1}, [2]]}})

    def test_derived(self) -> None:
        """Of derived classes nothing is left, as in the text."""
        content: Content = {_Text("t"): [_Text("x"), _Whole(1), _Real(0.5)], "o": _Object(hidden=2), "b": True}
        copy = copied(content)
        self.assertEqual(repr(copy), "{'t': ['x', 1, 0.5], 'o': {'shown': 1}, 'b': True}")
        self.assertEqual({type(one) for one in [*copy, *copy["t"]]}, {str, int, float})
        self.assertEqual(copy, parse(render(content)))

    def test_deep(self) -> None:
        """One as deep as is allowed can be copied from a place that is deep itself."""

        def deeper(frames: int) -> Content:
            return deeper(frames - 1) if frames else copied(nested(MAX_DEPTH))

        self.assertEqual(canonical(deeper(500)), canonical(nested(MAX_DEPTH)))


class CheckTests(SynchronousTestCase):
    """Whether a text is content, without making anything of it."""

    @given(contents)
    def test_good(self, content: Content) -> None:
        """Whatever content there is, however it is escaped."""
        for text in (render(content), json.dumps(content, indent=1)):
            self.assertEqual(canonical(check(text)), canonical(content))

    def test_bad(self) -> None:
        """Text that is no JSON object, and what no content may have, are refused."""
        for name, text in NO_JSON.items():
            with self.assertRaises(InvalidJSON, msg=name):
                check(text)
        for text in (
            '{"a":1e999}',
            '{"a":-1e999}',
            '{"a":' + "9" * 300 + "e9}",
            '{"a":1' + "0" * 400 + ".0}",
            '{"a":"\\ud800"}',
            '{"\\uDFFF":1}',
            '{"a":' + "[" * MAX_DEPTH + "]" * MAX_DEPTH + "}",
        ):
            with self.assertRaises((InvalidJSON, InvalidContent), msg=text[:20]):
                check(text)

    @given(st.text(alphabet='{}[]":,\\\\ud8e+-019.aE ', max_size=30))
    def test_same_as_reading(self, text: str) -> None:
        """It says the same as reading and writing the content does."""
        try:
            canonical(parse(text))
        except (InvalidJSON, InvalidContent):
            with self.assertRaises((InvalidJSON, InvalidContent)):
                check(text)
        else:
            check(text)


class CanonicalTests(SynchronousTestCase):
    """What is the same content."""

    def same(self, one: Content, other: Content) -> bool:
        """Tell whether the canonical texts are equal."""
        return canonical(one) == canonical(other)

    def test_order(self) -> None:
        """The order of keys does not matter, at any depth; that of lists does."""
        self.assertTrue(self.same({"a": {"b": 1, "c": 2}, "d": 3}, {"d": 3, "a": {"c": 2, "b": 1}}))
        self.assertFalse(self.same({"a": [1, 2]}, {"a": [2, 1]}))

    def test_numbers(self) -> None:
        """1, 1.0 and true differ, and so do 0, 0.0 and false."""
        for alike in ([1, 1.0, True], [0, 0.0, False]):
            self.assertEqual(len({canonical({"a": value}) for value in alike}), 3)

    def test_null(self) -> None:
        """A key with null is not a key that is missing."""
        self.assertFalse(self.same({"a": None}, {}))

    @given(contents)
    def test_round_trip(self, content: Content) -> None:
        """Both texts, read, are the content they were made of."""
        self.assertEqual(canonical(parse(render(content))), canonical(content))
        self.assertEqual(canonical(parse(canonical(content))), canonical(content))

    @given(contents, st.randoms(use_true_random=False))
    def test_any_order(self, content: Content, random: Any) -> None:
        """However the keys are ordered, the canonical text is the same."""
        items = list(content.items())
        random.shuffle(items)
        self.assertEqual(canonical(dict(items)), canonical(content))

    @given(contents)
    def test_escapes(self, content: Content) -> None:
        """How the text was escaped does not matter."""
        self.assertEqual(canonical(parse(json.dumps(content, ensure_ascii=True, indent=1))), canonical(content))
