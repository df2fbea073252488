"""Tests of finding documents, as applications do it: each method of a store, and a store against a dictionary."""

from __future__ import annotations

import json
from typing import Any

from attrs import define
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from soledad import ANY, Exact, Prefix, Soledad, padded
from soledad.client.local import indexes
from soledad.errors import (
    IndexDefinitionParseError,
    IndexDoesNotExist,
    IndexNameTakenError,
    InvalidGlobbing,
    InvalidIdentifier,
    InvalidLimit,
    InvalidSearch,
    InvalidValueForIndex,
    StoreClosed,
    TooManyKeys,
)
from soledad.testing import make_store
from tests.limits import examples


class StoreTestCase(SynchronousTestCase):
    """A store that is open."""

    def setUp(self) -> None:
        """Open it."""
        self.store = make_store(self)

    def now(self, work: Deferred[Any]) -> Any:
        """Return what a call came to."""
        return self.successResultOf(work)

    def ids(self, work: Deferred[Any]) -> list[str]:
        """Return the ids of the documents that a call came to."""
        return [doc.doc_id for doc in self.now(work)]


class IndexTests(StoreTestCase):
    """Indexes of a store."""

    def setUp(self) -> None:
        """Have one, and documents."""
        super().setUp()
        self.now(self.store.create_index("by-name", "lower(name)", "number(age, 3)"))
        for doc_id, name, age in (("a", "Ada", 36), ("b", "Bob", 7), ("c", "ada", 85)):
            self.now(self.store.create_doc({"name": name, "age": age}, doc_id))

    def test_get(self) -> None:
        """Documents are found by values, wildcards, limits and offsets."""
        get = self.store.get_from_index
        self.assertEqual(self.ids(get("by-name", "ada", "036")), ["a"])
        self.assertEqual(self.ids(get("by-name", "ada", padded(85, 3))), ["c"])
        self.assertEqual(self.ids(get("by-name", "a*", "*")), ["a", "c"])
        self.assertEqual(self.ids(get("by-name", Prefix("b"), ANY)), ["b"])
        self.assertEqual(self.ids(get("by-name", Exact("a*"), ANY)), [])
        self.assertEqual(self.ids(get("by-name", "*", "*", limit=1, offset=1)), ["c"])

    def test_belong(self) -> None:
        """What is found belongs to the store: it can be changed and put, attached to, deleted."""
        (doc,) = self.now(self.store.get_from_index("by-name", "bob", "*"))
        doc.content["name"] = "Bobby"
        self.now(doc.put_attachment(b"a picture"))
        self.now(self.store.put_doc(doc))
        self.assertEqual(self.ids(self.store.get_from_index("by-name", "bob", "*")), [])
        (found,) = self.now(self.store.get_from_index("by-name", "bobby", "*"))
        self.assertEqual(found, doc)
        self.assertEqual(self.now(found.read_attachment()), b"a picture")
        self.now(self.store.delete_doc(found))
        self.assertEqual(self.ids(self.store.get_from_index("by-name", "bobby", "*")), [])

    def test_range(self) -> None:
        """Documents are found between bounds; either may be left out."""
        get = self.store.get_range_from_index
        self.assertEqual(self.ids(get("by-name", ("ada", "040"), ("b*", "*"))), ["c", "b"])
        self.assertEqual(self.ids(get("by-name", end=("ada", "*"))), ["a", "c"])
        self.assertEqual(self.ids(get("by-name", limit=1, offset=2)), ["b"])

    def test_count_and_keys(self) -> None:
        """Counts and keys."""
        self.assertEqual(self.now(self.store.get_count_from_index("by-name", "a*", "*")), 2)
        self.assertEqual(
            self.now(self.store.get_index_keys("by-name")), [("ada", "036"), ("ada", "085"), ("bob", "007")]
        )
        self.assertEqual(self.now(self.store.get_index_keys("by-name", limit=1, offset=1)), [("ada", "085")])

    def test_list_and_delete(self) -> None:
        """Indexes are listed, and deleted."""
        self.assertEqual(self.now(self.store.list_indexes()), [("by-name", ["lower(name)", "number(age, 3)"])])
        self.now(self.store.delete_index("by-name"))
        self.assertEqual(self.now(self.store.list_indexes()), [])
        self.failureResultOf(self.store.get_from_index("by-name", "*", "*"), IndexDoesNotExist)

    def test_refused(self) -> None:
        """Each refusal has its error."""
        store, many = self.store, {"name": [str(number) for number in range(10_001)], "age": 1}
        for work, error in (
            (store.create_index("i", "a."), IndexDefinitionParseError),
            (store.create_index("i"), IndexDefinitionParseError),
            (store.create_index("by-name", "a"), IndexNameTakenError),
            (store.create_index(5, "a"), InvalidIdentifier),  # type: ignore[arg-type]
            (store.create_index("\ud800", "a"), InvalidIdentifier),
            (store.delete_index("i"), IndexDoesNotExist),
            (store.get_from_index("by-name", "a"), InvalidValueForIndex),
            (store.get_from_index("by-name", "*", "a"), InvalidGlobbing),
            (store.get_from_index("by-name", "*", "*", limit=-1), InvalidLimit),
            (store.get_range_from_index("by-name", offset=-1), InvalidLimit),
            (store.get_range_from_index("by-name", "a"), InvalidValueForIndex),
            (store.get_count_from_index("i", "*"), IndexDoesNotExist),
            (store.get_index_keys("i"), IndexDoesNotExist),
            (store.get_index_keys("by-name", limit=-1), InvalidLimit),
            (store.create_doc(many), TooManyKeys),
        ):
            self.failureResultOf(work, error)
        self.assertEqual(self.now(store.list_indexes()), [("by-name", ["lower(name)", "number(age, 3)"])])
        self.assertEqual(self.now(store.get_all_docs())[0], 3)

    def test_all_or_none(self) -> None:
        """When one of several documents has too many keys, none is in an index."""
        docs = self.now(self.store.get_docs(["a", "b"]))
        docs[0].content["name"] = "Zoe"
        docs[1].content["name"] = [str(number) for number in range(10_001)]
        self.failureResultOf(self.store.put_docs(docs), TooManyKeys)
        self.assertEqual(self.ids(self.store.get_from_index("by-name", "zoe", "*")), [])
        self.assertEqual(self.ids(self.store.get_from_index("by-name", "*", "*")), ["a", "c", "b"])

    def test_refused_index(self) -> None:
        """An index that cannot be made leaves nothing, and can be made when the document was mended."""
        doc = self.now(self.store.create_doc({"words": " ".join(map(str, range(10_001)))}))
        self.failureResultOf(self.store.create_index("words", "split_words(words)"), TooManyKeys)
        self.assertEqual(len(self.now(self.store.list_indexes())), 1)
        doc.content["words"] = "few"
        self.now(self.store.put_doc(doc))
        self.now(self.store.create_index("words", "split_words(words)"))
        self.assertEqual(self.now(self.store.get_count_from_index("words", "few")), 1)

    def test_stay(self) -> None:
        """Indexes are there when the store is opened again; after a change of Unicode they are made anew."""
        folder = self.mktemp()
        store = make_store(self, data_dir=folder)
        self.now(store.create_index("i", "a"))
        self.now(store.create_doc({"a": "x"}, "d"))
        self.now(store.close())
        store = make_store(self, data_dir=folder)
        self.assertEqual(self.ids(store.get_from_index("i", "x")), ["d"])
        self.now(store.close())
        self.patch(indexes, "RULES", "1 99.0.0")
        store = make_store(self, data_dir=folder)
        self.assertEqual(self.ids(store.get_from_index("i", "x")), ["d"])

    def test_closed(self) -> None:
        """A closed store answers no queries."""
        self.now(self.store.close())
        self.failureResultOf(self.store.get_from_index("by-name", "*", "*"), StoreClosed)
        self.failureResultOf(self.store.search("t", "x"), StoreClosed)


class TextTests(StoreTestCase):
    """Full text in a store."""

    def test_search(self) -> None:
        """Documents are found by words, and by the names of what is attached."""
        self.now(self.store.create_text_index("notes", "title", "body"))
        doc = self.now(self.store.create_doc({"title": "Shopping", "body": "Milk and crème"}, "d"))
        self.assertEqual(self.ids(self.store.search("notes", "creme shop*")), ["d"])
        self.assertEqual(self.ids(self.store.search("notes", "receipt")), [])
        self.now(doc.put_attachment(b"%PDF", "receipt.pdf", "application/pdf"))
        self.now(self.store.put_doc(doc))
        self.assertEqual(self.ids(self.store.search("notes", '"receipt.pdf" milk', limit=5)), ["d"])
        self.assertEqual(self.ids(self.store.search("notes", "milk", offset=1)), [])

    def test_belong(self) -> None:
        """What is found belongs to the store."""
        self.now(self.store.create_doc({"body": "text"}))
        self.now(self.store.create_text_index("notes", "body"))
        (doc,) = self.now(self.store.search("notes", "text"))
        self.assertFalse(self.now(doc.is_stale()))

    def test_list_and_delete(self) -> None:
        """Text indexes have names of their own."""
        self.now(self.store.create_index("notes", "body"))
        self.now(self.store.create_text_index("notes", "body"))
        self.now(self.store.create_text_index("notes", " body"))
        self.assertEqual(self.now(self.store.list_text_indexes()), [("notes", ["body"])])
        self.now(self.store.delete_text_index("notes"))
        self.assertEqual(self.now(self.store.list_text_indexes()), [])
        self.assertEqual(len(self.now(self.store.list_indexes())), 1)

    def test_refused(self) -> None:
        """Each refusal has its error."""
        store = self.store
        self.now(store.create_text_index("notes", "body"))
        for work, error in (
            (store.create_text_index("i", "lower(body)"), IndexDefinitionParseError),
            (store.create_text_index("i"), IndexDefinitionParseError),
            (store.create_text_index("notes", "title"), IndexNameTakenError),
            (store.delete_text_index("i"), IndexDoesNotExist),
            (store.search("i", "x"), IndexDoesNotExist),
            (store.search("notes", '"x'), InvalidSearch),
            (store.search("notes", "x", limit=-1), InvalidLimit),
            (store.search("notes", "x", offset=1.5), InvalidLimit),  # type: ignore[arg-type]
        ):
            self.failureResultOf(work, error)


# --- a store against a dictionary ---------------------------------------------------------------------

IDS = ["a", "b", "c", "B"]
TEXTS = st.sampled_from(["", "x", "X", "xy", "x*", "y", "ä", "x y"])
VALUES = st.one_of(TEXTS, st.none(), st.integers(-12, 12), st.booleans(), st.lists(TEXTS, max_size=3))
CONTENTS = st.fixed_dictionaries({}, optional={"s": VALUES, "t": VALUES, "n": VALUES, "o": st.just({"s": "x"})})
#: What a query may ask of a column, as the store is told, and as the dictionary understands it.
WANTED = st.one_of(
    TEXTS,
    st.just("*"),
    st.sampled_from(["x*", "x**", "ä*", "0*", "-*"]),
    TEXTS.map(Exact),
    TEXTS.map(Prefix),
    st.just(ANY),
)


def _scalars(content: dict[str, Any], key: str) -> list[Any]:
    value = content.get(key)
    return [one for one in (value if isinstance(value, list) else [value]) if one is not None]


def _texts(content: dict[str, Any], key: str) -> set[str]:
    return {one for one in _scalars(content, key) if isinstance(one, str)}


#: Expressions, and what each gives, said in other words.
EXPRESSIONS: dict[str, Any] = {
    "s": lambda content: _texts(content, "s"),
    "lower(t)": lambda content: {text.lower() for text in _texts(content, "t")},
    "number(n, 2)": lambda content: {
        f"{one:02}" if one >= 0 else f"-{99 + one:02}" for one in _scalars(content, "n") if type(one) is int
    },
    "bool(n)": lambda content: {str(int(one)) for one in _scalars(content, "n") if type(one) is bool},
    "is_null(s)": lambda content: {str(int(not _scalars(content, "s")))},
    "combine(s, split_words(t))": lambda content: (
        _texts(content, "s") | {word for text in _texts(content, "t") for word in text.split()}
    ),
    "o.s": lambda content: {"x"} if "o" in content else set(),
}


@define
class Pattern:
    """A value of a query: a text, and whether more may follow it."""

    text: str
    open: bool

    @classmethod
    def of(cls, value: Any) -> Pattern:
        """Understand a value."""
        if value is ANY:
            return cls("", True)
        if isinstance(value, str):
            return cls(value[:-1], True) if value.endswith("*") else cls(value, False)
        return cls(value.text, isinstance(value, Prefix))

    def matches(self, text: str) -> bool:
        """Tell whether a text is wanted."""
        return text.startswith(self.text) if self.open else text == self.text


def in_order(patterns: list[Pattern]) -> bool:
    """Tell whether only what matches everything stands behind a wildcard."""
    first = next((number for number, one in enumerate(patterns) if one.open), len(patterns))
    return all(one == Pattern("", True) for one in patterns[first + 1 :])


def is_at_least(key: tuple[str, ...], bound: list[Pattern]) -> bool:
    """Tell whether a key is not before a lower bound."""
    return key >= tuple(one.text for one in bound)


def is_at_most(key: tuple[str, ...], bound: list[Pattern]) -> bool:
    """Tell whether a key is not behind an upper bound."""
    for text, one in zip(key, bound, strict=True):
        if one.open:
            return text.startswith(one.text) or text < one.text
        if text != one.text:
            return text < one.text
    return True


class StoreMachine(RuleBasedStateMachine):
    """A store, and a dictionary that is told the same."""

    test: SynchronousTestCase

    @initialize()
    def open(self) -> None:
        """Open a store."""
        self.store: Soledad = make_store(self.test)
        self.docs: dict[str, dict[str, Any]] = {}
        self.objects: dict[str, Any] = {}
        self.indexes: dict[str, list[str]] = {}

    def now(self, work: Deferred[Any]) -> Any:
        """Return what a call came to."""
        return self.test.successResultOf(work)

    @rule(doc_id=st.sampled_from(IDS), content=CONTENTS)
    def put(self, doc_id: str, content: dict[str, Any]) -> None:
        """Save a document, new or not."""
        if doc_id in self.docs:
            self.objects[doc_id].content = json.loads(json.dumps(content))
            self.now(self.store.put_doc(self.objects[doc_id]))
        else:
            self.objects[doc_id] = self.now(self.store.create_doc(json.loads(json.dumps(content)), doc_id))
        self.docs[doc_id] = content

    @rule(doc_id=st.sampled_from(IDS))
    def delete(self, doc_id: str) -> None:
        """Delete a document, if there is one."""
        if self.docs.pop(doc_id, None) is not None:
            self.now(self.store.delete_doc(self.objects.pop(doc_id)))

    @rule(
        name=st.sampled_from("ij"), expressions=st.lists(st.sampled_from(sorted(EXPRESSIONS)), min_size=1, max_size=2)
    )
    def create_index(self, name: str, expressions: list[str]) -> None:
        """Make an index, unless the name is taken."""
        work = self.store.create_index(name, *expressions)
        if self.indexes.setdefault(name, expressions) == expressions:
            self.now(work)
        else:
            self.test.failureResultOf(work, IndexNameTakenError)

    @rule(name=st.sampled_from("ij"))
    def delete_index(self, name: str) -> None:
        """Delete an index."""
        work = self.store.delete_index(name)
        if self.indexes.pop(name, None) is None:
            self.test.failureResultOf(work, IndexDoesNotExist)
        else:
            self.now(work)

    @rule(data=st.data())
    def get(self, data: st.DataObject) -> None:
        """Ask for values."""
        name, columns = self.some_index(data)
        values = data.draw(st.tuples(*[WANTED] * columns))
        limit, offset = data.draw(st.none() | st.integers(0, 3)), data.draw(st.integers(0, 2))
        patterns = [Pattern.of(value) for value in values]
        got = self.store.get_from_index(name, *values, limit=limit, offset=offset)
        count = self.store.get_count_from_index(name, *values)
        if not in_order(patterns):
            self.test.failureResultOf(got, InvalidGlobbing)
            self.test.failureResultOf(count, InvalidGlobbing)
            return
        expected = self.found(name, lambda key: all(one.matches(text) for one, text in zip(patterns, key, strict=True)))
        self.test.assertEqual(self.now(count), len(expected))
        self.compare(got, expected[offset:][:limit])

    @rule(data=st.data())
    def get_range(self, data: st.DataObject) -> None:
        """Ask for a range."""
        name, columns = self.some_index(data)
        bounds = st.none() | st.tuples(*[WANTED] * columns)
        start, end = data.draw(bounds), data.draw(bounds)
        first, last = ([Pattern.of(value) for value in bound or ("*",) * columns] for bound in (start, end))
        got = self.store.get_range_from_index(name, start, end)
        if in_order(first) and in_order(last):
            self.compare(got, self.found(name, lambda key: is_at_least(key, first) and is_at_most(key, last)))
        else:
            self.test.failureResultOf(got, InvalidGlobbing)

    @invariant()
    def keys(self) -> None:
        """The keys of all indexes are those that the dictionary has."""
        for name in self.indexes:
            expected = sorted({key for doc_id in self.docs for key in self.keys_of(name, doc_id)})
            self.test.assertEqual(self.now(self.store.get_index_keys(name)), expected)

    def some_index(self, data: st.DataObject) -> tuple[str, int]:
        """Return an index, and how many columns it has; make one if there is none."""
        if not self.indexes:
            self.create_index("i", ["s", "lower(t)"])
        name = data.draw(st.sampled_from(sorted(self.indexes)))
        return name, len(self.indexes[name])

    def keys_of(self, name: str, doc_id: str) -> list[tuple[str, ...]]:
        """Return the keys that a document has, ascending."""
        keys: list[tuple[str, ...]] = [()]
        for expression in self.indexes[name]:
            keys = [(*key, text) for key in keys for text in EXPRESSIONS[expression](self.docs[doc_id])]
        return sorted(keys)

    def found(self, name: str, wants: Any) -> list[str]:
        """Return the ids of the documents that have a key that is wanted, in order."""
        pairs = sorted((key, doc_id) for doc_id in self.docs for key in self.keys_of(name, doc_id) if wants(key))
        return list(dict.fromkeys(doc_id for _, doc_id in pairs))

    def compare(self, got: Deferred[Any], expected: list[str]) -> None:
        """Compare an answer with the documents that it should have."""
        docs = self.now(got)
        self.test.assertEqual([doc.doc_id for doc in docs], expected)
        self.test.assertEqual([doc.content for doc in docs], [self.docs[doc_id] for doc_id in expected])

    def teardown(self) -> None:
        """Close the store."""
        if hasattr(self, "store"):
            self.now(self.store.close())


class ModelTests(SynchronousTestCase):
    """A store does what a dictionary would do."""

    def test_dictionary(self) -> None:
        """Whatever is put, deleted, indexed and asked for, in any order."""
        machine = type("Machine", (StoreMachine,), {"test": self})
        run_state_machine_as_test(machine, settings=settings(max_examples=examples(40), stateful_step_count=25))
