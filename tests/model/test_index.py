"""Tests of indexes: what expressions mean, which keys documents have, and which of them are wanted."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from soledad.errors import (
    IndexDefinitionParseError,
    InvalidGlobbing,
    InvalidLimit,
    InvalidValueForIndex,
    TooManyKeys,
)
from soledad.model import index
from soledad.model.index import ALL, ANY, Call, Exact, Field, Prefix, Range, Slice

A, B = Field(("a",)), Field(("b",))
#: The greatest character, after which nothing can be put.
LAST = chr(0x10FFFF)

#: What is told -> expression -> what it means.
EXPRESSIONS: dict[str, tuple[str, index.Term]] = {
    "a field": ("a", A),
    "a path": ("a.b.c", Field(("a", "b", "c"))),
    "a field that is not ASCII": ("größe.日本", Field(("größe", "日本"))),
    "a field with white space in it": ("first name", Field(("first name",))),
    "a field with signs in it": ("a-b_c/d%", Field(("a-b_c/d%",))),
    "a field that has an operation's name": ("lower", Field(("lower",))),
    "a path that begins with an operation's name": ("lower.a", Field(("lower", "a"))),
    "a field of digits": ("5", Field(("5",))),
    "white space around a field": ("\t a \n", A),
    "lower": ("lower(a)", Call("lower", (A,))),
    "number": ("number(a, 5)", Call("number", (A,), 5)),
    "number, with the greatest width": ("number(a,1000)", Call("number", (A,), 1000)),
    "bool": ("bool(a)", Call("bool", (A,))),
    "split_words": ("split_words(a)", Call("split_words", (A,))),
    "is_null": ("is_null(a)", Call("is_null", (A,))),
    "combine of one": ("combine(a)", Call("combine", (A,))),
    "combine of several": ("combine(a, lower(b), a)", Call("combine", (A, Call("lower", (B,)), A))),
    "operations on operations": ("lower(split_words(a))", Call("lower", (Call("split_words", (A,)),))),
    "white space around everything": (" combine\n( a ,\tb ) ", Call("combine", (A, B))),
}

#: Not expressions.
NO_EXPRESSIONS: dict[str, Any] = {
    "nothing": "",
    "white space": " \t",
    "no text": 5,
    "none": None,
    "a dot at the end": "a.",
    "a dot at the beginning": ".a",
    "a dot alone": ".",
    "two dots": "a..b",
    "a dot at the end, inside": "lower(a.)",
    "an unknown operation": "upper(a)",
    "an operation in capitals": "LOWER(a)",
    "a path as an operation": "a.lower(b)",
    "no operation": "(a)",
    "no argument": "lower()",
    "no argument for combine": "combine()",
    "an empty argument": "combine(a,)",
    "an empty argument at the beginning": "combine(,a)",
    "too many arguments for lower": "lower(a, b)",
    "too many arguments for is_null": "is_null(a, b)",
    "too many arguments for bool": "bool(a, 1)",
    "too few arguments for number": "number(a)",
    "too many arguments for number": "number(a, 1, 2)",
    "a width that is a field": "number(a, b)",
    "a width that is negative": "number(a, -1)",
    "a width that is a fraction": "number(a, 1.5)",
    "a width that is an expression": "number(a, lower(b))",
    "a width that is zero": "number(a, 0)",
    "a width that is too large": "number(a, 1001)",
    "a width in other digits": "number(a, ٣)",
    "not closed": "lower(a",
    "not closed, and nothing in it": "lower(",
    "closed twice": "lower(a))",
    "closed and never opened": "a)",
    "a comma outside": "a, b",
    "a comma alone": ",",
    "something behind the end": "lower(a) b",
    "two calls in a row": "lower(a)(b)",
    "nested beyond measure": "lower(" * 300 + "a" + ")" * 300,
    "a path beyond measure": ".".join("a" * 300),
}


class ExpressionTests(SynchronousTestCase):
    """What is an expression, and what it means."""

    def test_expressions(self) -> None:
        """Each of these means what stands beside it."""
        for what, (expression, meaning) in EXPRESSIONS.items():
            self.assertEqual(index.parse(expression), meaning, what)

    def test_no_expressions(self) -> None:
        """Each of these is refused."""
        for what, expression in NO_EXPRESSIONS.items():
            with self.assertRaises(IndexDefinitionParseError, msg=what):
                index.parse(expression)

    @given(st.text(alphabet="ab.,() 1") | st.text())
    def test_any_text(self, text: str) -> None:
        """Whatever the text, it is an expression or it is refused."""
        try:
            index.parse(text)
        except IndexDefinitionParseError as error:
            self.assertTrue(error.reason)

    def test_several(self) -> None:
        """An index has at least one expression, and not too many."""
        self.assertEqual(index.parse_all(["a", "b"]), (A, B))
        self.assertEqual(len(index.parse_all(["a"] * 64)), 64)
        for wrong in ([], ["a"] * 65, ["a", "a."]):
            with self.assertRaises(IndexDefinitionParseError):
                index.parse_all(wrong)

    def test_fields(self) -> None:
        """Where only fields make sense, operations are refused."""
        self.assertEqual(index.parse_fields(["a", " b "]), (A, B))
        for wrong in ([], ["a", "lower(a)"]):
            with self.assertRaises(IndexDefinitionParseError):
                index.parse_fields(wrong)


#: What is told -> expression, content, the texts that come of it.
EXTRACTIONS: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "a text": ("a", {"a": "x"}, ["x"]),
    "the empty text": ("a", {"a": ""}, [""]),
    "missing": ("a", {"b": "x"}, []),
    "null": ("a", {"a": None}, []),
    "an object at the end": ("a", {"a": {"b": "x"}}, []),
    "a number, which is no text": ("a", {"a": 5}, []),
    "a boolean, which is no text": ("a", {"a": True}, []),
    "a list at the end": ("a", {"a": ["y", "x"]}, ["y", "x"]),
    "a list with the same text twice": ("a", {"a": ["x", "x"]}, ["x"]),
    "an empty list": ("a", {"a": []}, []),
    "a list with much else in it": ("a", {"a": [None, 1, True, {"b": "x"}, ["y"], "z"]}, ["z"]),
    "a list in a list": ("a", {"a": [["x"]]}, []),
    "a path": ("a.b", {"a": {"b": "x"}}, ["x"]),
    "a path that leads nowhere": ("a.b", {"a": {"c": "x"}}, []),
    "a path through a text": ("a.b", {"a": "b"}, []),
    "a path through null": ("a.b", {"a": None}, []),
    "a path through a number": ("a.b", {"a": 1}, []),
    "a key with a dot in it": ("a.b", {"a.b": "x"}, []),
    "a path that is not ASCII": ("größe.日本", {"größe": {"日本": "x"}}, ["x"]),
    "a list of objects on the way": ("a.b", {"a": [{"b": "x"}, {"c": "y"}, {"b": "z"}]}, ["x", "z"]),
    "lists of objects, one in the other": (
        "a.b.c",
        {"a": [{"b": [{"c": "x"}, {"c": ["y"]}]}, {"b": {"c": "z"}}]},
        ["x", "y", "z"],
    ),
    "a list of objects, and other things": ("a.b", {"a": ["b", None, {"b": "x"}, 1]}, ["x"]),
    "a list in a list on the way": ("a.b", {"a": [[{"b": "x"}]]}, []),
    "lower": ("lower(a)", {"a": ["Ab", "ÄÖ", 5, True]}, ["ab", "äö"]),
    "lower makes two the same": ("lower(a)", {"a": ["A", "a"]}, ["a"]),
    "number": ("number(a, 5)", {"a": 42}, ["00042"]),
    "number of zero": ("number(a, 2)", {"a": 0}, ["00"]),
    "number of what is none": ("number(a, 5)", {"a": [True, False, "7", 1.0, 1.5, None]}, []),
    "number of a list": ("number(a, 2)", {"a": [3, 1]}, ["03", "01"]),
    "number that is negative": ("number(a, 3)", {"a": -42}, ["-957"]),
    "number that is longer": ("number(a, 3)", {"a": 12345}, ["::12345"]),
    "number that is negative and longer": ("number(a, 3)", {"a": -12345}, ["---87654"]),
    "bool": ("bool(a)", {"a": [True, False]}, ["1", "0"]),
    "bool of what is none": ("bool(a)", {"a": [1, 0, "true", None]}, []),
    "words": ("split_words(a)", {"a": " one\ttwo\n one\u3000three "}, ["one", "two", "three"]),
    "words of several texts": ("split_words(a)", {"a": ["one two", "two three"]}, ["one", "two", "three"]),
    "words of nothing": ("split_words(a)", {"a": ["", "  ", 5]}, []),
    "words, in lower case": ("lower(split_words(a))", {"a": "One one"}, ["one"]),
    "combine": ("combine(a, b)", {"a": "x", "b": ["y", "x"]}, ["x", "y"]),
    "combine, where one is missing": ("combine(a, b)", {"b": "y"}, ["y"]),
    "combine of different kinds": ("combine(number(a, 2), lower(b))", {"a": 1, "b": "B"}, ["01", "b"]),
    "combine keeps 1 and true apart": ("bool(combine(a, b))", {"a": 1, "b": True}, ["1"]),
    "is_null of nothing": ("is_null(a)", {}, ["1"]),
    "is_null of null": ("is_null(a)", {"a": None}, ["1"]),
    "is_null of an object": ("is_null(a)", {"a": {}}, ["1"]),
    "is_null of an empty list": ("is_null(a)", {"a": []}, ["1"]),
    "is_null of a text": ("is_null(a)", {"a": ""}, ["0"]),
    "is_null of a number": ("is_null(a)", {"a": 0}, ["0"]),
    "is_null of a boolean": ("is_null(a)", {"a": False}, ["0"]),
    "is_null of what an operation left": ("is_null(lower(a))", {"a": 5}, ["1"]),
}


class ExtractionTests(SynchronousTestCase):
    """Which texts and keys documents have."""

    def test_texts(self) -> None:
        """Each content gives the texts that stand beside it."""
        for what, (expression, content, expected) in EXTRACTIONS.items():
            self.assertEqual(index.texts(index.parse(expression), content), expected, what)

    def test_at_once(self) -> None:
        """What is seen at once is the one text that there is."""
        seen = 0
        for what, (expression, content, expected) in EXTRACTIONS.items():
            text = index.parse(expression).text(content)
            seen += text is not None
            self.assertIn(text, (None, expected[0] if len(expected) == 1 else None), what)
        self.assertGreater(seen, 5)

    def test_product(self) -> None:
        """Keys are the product of the columns."""
        terms = index.parse_all(["a", "b"])
        content = {"a": ["x", "y"], "b": ["1", "2"]}
        self.assertEqual(index.keys(terms, content), [("x", "1"), ("x", "2"), ("y", "1"), ("y", "2")])

    def test_each_column(self) -> None:
        """A document without a value for one of the columns has no key, however many the others have."""
        terms = index.parse_all(["a", "b"])
        self.assertEqual(index.keys(terms, {"a": "x"}), [])
        self.assertEqual(index.keys(terms, {"a": [str(number) for number in range(20_000)]}), [])

    def test_too_many(self) -> None:
        """10,000 keys are allowed, whatever they are made of, and no more."""
        terms = index.parse_all(["a", "b"])
        hundred = [str(number) for number in range(100)]
        self.assertEqual(len(index.keys(terms, {"a": hundred, "b": hundred})), 10_000)
        with self.assertRaises(TooManyKeys) as caught:
            index.keys(terms, {"a": hundred, "b": [*hundred, "x"]})
        self.assertEqual((caught.exception.number, caught.exception.limit), (10_100, 10_000))

    @given(st.integers(), st.integers(), st.integers(1, 8))
    def test_numbers_in_order(self, one: int, other: int, width: int) -> None:
        """Texts have the order of the numbers that they are made of, negative and long ones included."""
        texts = index.padded(one, width), index.padded(other, width)
        self.assertEqual(texts[0] < texts[1], one < other)
        self.assertEqual(texts[0] == texts[1], one == other)

    def test_numbers_in_order_near_zero(self) -> None:
        """So have all numbers where signs and lengths change."""
        for width in (1, 2, 3):
            texts = [index.padded(number, width) for number in range(-1100, 1101)]
            self.assertEqual(texts, sorted(texts))

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text("ab "),
            lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from("ab"), inner),
        )
    )
    def test_any_content(self, value: Any) -> None:
        """Whatever the content, every operation gives texts, and each once."""
        for expression in (
            "a",
            "a.b",
            "lower(a)",
            "number(a.a, 2)",
            "bool(a)",
            "split_words(combine(a, b))",
            "is_null(a.b)",
        ):
            texts = index.texts(index.parse(expression), {"a": value, "b": value})
            self.assertTrue(all(isinstance(text, str) for text in texts))
            self.assertEqual(len(set(texts)), len(texts))


#: What is told -> values -> the range of keys, of an index of two columns.
MATCHES: dict[str, tuple[tuple[Any, ...], Range]] = {
    "two texts": (("x", "y"), Range(("x", "y"), ("x", "y"), True, True)),
    "empty texts": (("", ""), Range(("", ""), ("", ""), True, True)),
    "a prefix": (("x", "y*"), Range(("x", "y"), ("x", "z"), False)),
    "a prefix, then anything": (("x*", "*"), Range(("x",), ("y",), False)),
    "a text, then anything": (("x", "*"), Range(("x", ""), ("x",), True)),
    "anything": (("*", "*"), Range(("",), None, True)),
    "a star in the middle": (("a*b", "*c"), Range(("a*b", "*c"), ("a*b", "*c"), True, True)),
    "two stars": (("x", "y**"), Range(("x", "y*"), ("x", "y+"), False)),
    "signs of other languages": (("%_", "?["), Range(("%_", "?["), ("%_", "?["), True, True)),
    "exactly a star": ((Exact("*"), Exact("y*")), Range(("*", "y*"), ("*", "y*"), True, True)),
    "a prefix that ends in a star": (("x", Prefix("y*")), Range(("x", "y*"), ("x", "y+"), False)),
    "ANY": (("x", ANY), Range(("x", ""), ("x",), True)),
    "the empty prefix": ((Prefix(""), ANY), Range(("",), None, True)),
    "a prefix before the surrogates": (("x", "\ud7ff*"), Range(("x", "\ud7ff"), ("x", "\ue000"), False)),
    "a prefix that ends in the last character": (("x", f"y{LAST}*"), Range(("x", f"y{LAST}"), ("x", "z"), False)),
    "a prefix of last characters": (("x", f"{LAST}{LAST}*"), Range(("x", LAST * 2), ("x",), True)),
}

#: What is told -> bounds -> the range of keys, of an index of two columns.
RANGES: dict[str, tuple[Any, Any, Range]] = {
    "both open": (None, None, Range(("",), None, True)),
    "from a key on": (("x", "y"), None, Range(("x", "y"), None, True)),
    "up to a key": (None, ("x", "y"), Range(("",), ("x", "y"), True)),
    "between two": (("a", "b"), ("c", "d"), Range(("a", "b"), ("c", "d"), True)),
    "one key": (("a", "b"), ["a", "b"], Range(("a", "b"), ("a", "b"), True, True)),
    "from a prefix on": (("a", "b*"), None, Range(("a", "b"), None, True)),
    "up to a prefix": (None, ("a", "b*"), Range(("",), ("a", "c"), False)),
    "from the first with a text on": (("a", "*"), None, Range(("a", ""), None, True)),
    "up to the last with a text": (None, ("a", "*"), Range(("",), ("a",), True)),
    "up to the last with a prefix": (None, ("a*", ANY), Range(("",), ("b",), False)),
}

#: What no index of two columns can be asked.
NO_VALUES: dict[str, Any] = {
    "too few": ("x",),
    "too many": ("x", "y", "z"),
    "none": (),
    "a text for two columns": "xy",
    "a number": ("x", 5),
    "null": ("x", None),
    "bytes": (b"x", "y"),
    "a list": (["x"], "y"),
    "a number in Exact": (Exact(5), "y"),  # type: ignore[arg-type]
    "a lone surrogate": ("x", "\ud800"),
    "neither a tuple nor a list": {"x", "y"},
}

NO_GLOBBING: dict[str, tuple[Any, ...]] = {
    "a text behind a prefix": ("x*", "y"),
    "a text behind anything": ("*", "y"),
    "a prefix behind a prefix": ("x*", "y*"),
    "a prefix behind anything": ("*", "y*"),
    "a text behind ANY": (ANY, Exact("y")),
    "a prefix behind a Prefix": (Prefix("x"), Prefix("y")),
    "the empty text behind anything": ("*", ""),
}


class MatchingTests(SynchronousTestCase):
    """Which keys a query wants."""

    def test_values(self) -> None:
        """Values want the keys in the range that stands beside them."""
        for what, (values, expected) in MATCHES.items():
            self.assertEqual(index.between(values, values, 2), expected, what)

    def test_ranges(self) -> None:
        """Bounds want the keys in the range that stands beside them."""
        for what, (start, end, expected) in RANGES.items():
            self.assertEqual(index.between(start, end, 2), expected, what)

    def test_single(self) -> None:
        """For one column, a value needs no tuple."""
        for one in ("x", "x*", "*", Exact("x"), Prefix("x"), ANY):
            self.assertEqual(index.between(one, one, 1), index.between((one,), [one], 1))

    def test_no_values(self) -> None:
        """What is not one value for each column is refused, as either bound."""
        for what, values in NO_VALUES.items():
            for start, end in ((values, None), (None, values)):
                with self.assertRaises(InvalidValueForIndex, msg=what):
                    index.between(start, end, 2)

    def test_no_globbing(self) -> None:
        """Behind a wildcard there is nothing but what matches everything."""
        for what, values in NO_GLOBBING.items():
            for start, end in ((values, None), (None, values)):
                with self.assertRaises(InvalidGlobbing, msg=what):
                    index.between(start, end, 2)

    @given(st.text(), st.text())
    def test_successor(self, prefix: str, text: str) -> None:
        """What begins with a prefix lies between it and its successor, and nothing else does."""
        above = index.successor(prefix)
        self.assertEqual(text.startswith(prefix), prefix <= text and (above is None or text < above))
        self.assertTrue(above is None or prefix + text < above)

    def test_nothing_shown(self) -> None:
        """Values, which may be anybody's text, are not shown."""
        shown = repr([Exact("secret"), Prefix("secret"), index.between("secret", "secret*", 1), ANY])
        self.assertNotIn("secret", shown)
        self.assertIn("ANY", shown)


class SliceTests(SynchronousTestCase):
    """Limits and offsets."""

    def test_slices(self) -> None:
        """Whole numbers from 0 on are allowed, however large."""
        self.assertEqual(Slice.of(None, 0), ALL)
        self.assertEqual(Slice.of(0, 3), Slice(0, 3))
        self.assertLess(Slice.of(10**30, 10**30).offset, 2**62)

    def test_no_slices(self) -> None:
        """Other things are not."""
        wrong: list[Any] = [-1, 1.0, "1", True]
        for value in wrong:
            with self.assertRaises(InvalidLimit) as caught:
                Slice.of(value, 0)
            self.assertEqual(caught.exception.name, "limit")
            with self.assertRaises(InvalidLimit) as caught:
                Slice.of(None, value)
            self.assertEqual(caught.exception.name, "offset")
        with self.assertRaises(InvalidLimit):
            Slice.of(None, None)  # type: ignore[arg-type]
