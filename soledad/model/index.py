"""
Indexes: what their expressions mean, which keys a document has, and which of them a query wants.

Keys are tuples of text, compared as tuples.  Source: docs/spec/indexes.rst.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from itertools import product
from math import prod
from typing import Any, Final, TypeAlias

from attrs import field, frozen

from soledad.errors import (
    IndexDefinitionParseError,
    InvalidGlobbing,
    InvalidLimit,
    InvalidValueForIndex,
    TooManyKeys,
)
from soledad.model.content import MAX_DEPTH, Content

#: Keys that one document may have in one index.
MAX_KEYS = 10_000
#: Columns that an index may have.
MAX_COLUMNS = 64
MAX_WIDTH = 1000

Scalar: TypeAlias = str | int | float | bool
# Tuples, here and below: `isinstance` would make a union each time.
_SCALARS = (str, int, float)
#: What a document is found under: a text for each column.
Key: TypeAlias = tuple[str, ...]

# --- expressions --------------------------------------------------------------------------------------


@frozen
class Field:
    """A path into the content."""

    path: tuple[str, ...]

    def values(self, content: Content) -> list[Scalar]:
        """Return what the content has there."""
        return _found(content.get(self.path[0]), self.path[1:])

    def text(self, content: Content) -> str | None:
        """Return the one text that the content has there, if that is seen at once, as it is of most documents."""
        found = content.get(self.path[0])
        return found if type(found) is str and len(self.path) == 1 else None


@frozen
class Call:
    """An operation on what other terms give."""

    op: str
    terms: tuple[Term, ...]
    #: Of ``number``: the digits that a number has at least.
    width: int = 0

    def values(self, content: Content) -> list[Scalar]:
        """Return what the operation makes of what its terms give."""
        inner = self.terms[0].values(content)
        for other in self.terms[1:]:
            inner = inner + other.values(content)
        return _OPERATIONS[self.op](inner, self.width)

    def text(self, content: Content) -> str | None:
        """Do as `Field.text`."""
        term = self.terms[0]
        if not isinstance(term, Field) or len(term.path) > 1:
            return None
        found = content.get(term.path[0])
        if self.op == "number" and type(found) is int:
            return padded(found, self.width)
        if self.op == "lower" and type(found) is str:
            return found.lower()
        return None


Term: TypeAlias = Field | Call

_TOKEN = re.compile(r"[(),]|[^(),]+")
_WIDTH = re.compile(r"[0-9]{1,4}", re.ASCII)


def parse_all(expressions: Iterable[str]) -> tuple[Term, ...]:
    """
    Return the columns of an index.

    :raise IndexDefinitionParseError: an expression is none; or there are too many, or none at all.
    """
    terms = tuple(parse(expression) for expression in expressions)
    if not 0 < len(terms) <= MAX_COLUMNS:
        raise IndexDefinitionParseError("", f"{len(terms)} expressions: an index has 1 to {MAX_COLUMNS}")
    return terms


def parse_fields(fields: Iterable[str]) -> tuple[Term, ...]:
    """Do as `parse_all`, of paths alone: operations are refused."""
    fields = list(fields)
    terms = parse_all(fields)
    for term, text in zip(terms, fields, strict=True):
        if not isinstance(term, Field):
            raise IndexDefinitionParseError(text[:200], "a text index takes fields, and no operations")
    return terms


def parse(expression: str) -> Term:
    """:raise IndexDefinitionParseError: it is not an expression."""
    if not isinstance(expression, str):
        raise IndexDefinitionParseError(type(expression).__name__, "not text")
    try:
        return _Parser(expression).parse()
    except ValueError as error:
        raise IndexDefinitionParseError(expression[:200], str(error)) from None


class _Parser:
    """Takes one expression apart; anything that is wrong is a `ValueError`."""

    def __init__(self, expression: str) -> None:
        words = (word.strip() for word in _TOKEN.findall(expression))
        self._rest: list[str] = [word for word in words if word][::-1]

    def parse(self) -> Term:
        """Return the whole."""
        term = self._term(1)
        if self._rest:
            raise ValueError(f"{self._rest[-1]!r} behind the end")
        return term

    def _term(self, depth: int) -> Term:
        if depth > MAX_DEPTH:
            raise ValueError("nested too deeply")
        word = self._next()
        if word in "(),":
            raise ValueError(f"{word!r} where a field or an operation should be")
        if not self._rest or self._rest[-1] != "(":
            return Field(_path(word))
        terms = []
        while self._next() != ")":
            terms.append(self._term(depth + 1))
            if not self._rest or self._rest[-1] not in "),":
                raise ValueError("a parenthesis is not closed")
        return _call(word, terms)

    def _next(self) -> str:
        if not self._rest:
            raise ValueError("it ends too early")
        return self._rest.pop()


def _path(word: str) -> tuple[str, ...]:
    path = tuple(word.split("."))
    if not all(path):
        raise ValueError("a dot with nothing before it or behind it")
    if len(path) > MAX_DEPTH:
        raise ValueError("a path that is too long")
    return path


def _call(op: str, terms: Sequence[Term]) -> Call:
    if op not in _OPERATIONS:
        raise ValueError(f"no such operation: {op}")
    if op == "number":
        if len(terms) != 2:
            raise ValueError("number takes a term and a width")
        return Call(op, (terms[0],), _width(terms[1]))
    if len(terms) != 1 and not (op == "combine" and terms):
        raise ValueError(f"{op} takes {'at least ' if op == 'combine' else ''}one term")
    return Call(op, tuple(terms))


def _width(term: Term) -> int:
    if not (isinstance(term, Field) and len(term.path) == 1 and _WIDTH.fullmatch(term.path[0])):
        raise ValueError("a width that is not a number")
    width = int(term.path[0])
    if not 0 < width <= MAX_WIDTH:
        raise ValueError(f"a width is 1 to {MAX_WIDTH}")
    return width


# --- extraction ---------------------------------------------------------------------------------------


def keys(terms: Sequence[Term], content: Content) -> list[Key]:
    """
    Return the keys of a document, each once.

    :raise TooManyKeys: there are more than `MAX_KEYS`.
    """
    key: list[Any] = [term.text(content) for term in terms]
    if None not in key:
        return [tuple(key)]
    columns = [texts(term, content) for term in terms]
    number = prod(map(len, columns))
    if number > MAX_KEYS:
        raise TooManyKeys(number, MAX_KEYS)
    return list(product(*columns))


def texts(term: Term, content: Content) -> list[str]:
    """Return the texts that a term gives, each once."""
    return list(dict.fromkeys(value for value in term.values(content) if isinstance(value, str)))


def padded(number: int, width: int) -> str:
    """Return what ``number(x, width)`` makes of an integer: in the order of these texts, numbers ascend."""
    digits = str(abs(number)).zfill(width)
    beyond = len(digits) - width
    if number >= 0:
        return ":" * beyond + digits
    return "-" * (1 + beyond) + digits.translate(_COMPLEMENT)


_COMPLEMENT = str.maketrans("0123456789", "9876543210")


def _found(value: Any, path: tuple[str, ...]) -> list[Scalar]:
    """Return what is at a path of a value, or of each value in a list; lists within lists give nothing."""
    items = value if isinstance(value, list) else [value]
    if not path:
        return [item for item in items if isinstance(item, _SCALARS)]
    return [scalar for item in items if isinstance(item, dict) for scalar in _found(item.get(path[0]), path[1:])]


def _lower(values: list[Scalar], width: int) -> list[Scalar]:
    return [value.lower() for value in values if isinstance(value, str)]


def _number(values: list[Scalar], width: int) -> list[Scalar]:
    return [padded(value, width) for value in values if isinstance(value, int) and not isinstance(value, bool)]


def _bool(values: list[Scalar], width: int) -> list[Scalar]:
    return ["1" if value else "0" for value in values if isinstance(value, bool)]


def _split_words(values: list[Scalar], width: int) -> list[Scalar]:
    return list(dict.fromkeys(word for value in values if isinstance(value, str) for word in value.split()))


def _combine(values: list[Scalar], width: int) -> list[Scalar]:
    return values


def _is_null(values: list[Scalar], width: int) -> list[Scalar]:
    return ["0" if values else "1"]


_OPERATIONS: dict[str, Callable[[list[Scalar], int], list[Scalar]]] = {
    "lower": _lower,
    "number": _number,
    "bool": _bool,
    "split_words": _split_words,
    "combine": _combine,
    "is_null": _is_null,
}


# --- matching -----------------------------------------------------------------------------------------


@frozen
class Exact:
    """Matches this text, also when it ends in ``*``."""

    text: str = field(repr=False)


@frozen
class Prefix:
    """Matches what begins with this text, also when it ends in ``*``."""

    text: str = field(repr=False)


class AnyValue(Enum):
    """The type of `ANY`."""

    ANY = "*"

    def __repr__(self) -> str:
        """Return the name that applications know it by."""
        return self.name


#: Matches every value.
ANY: Final = AnyValue.ANY

#: What a query may give for a column.
Value: TypeAlias = str | Exact | Prefix | AnyValue
#: What a range may have as a bound; `None`: it is open.
Bound: TypeAlias = Value | Sequence[Value] | None


@frozen
class Range:
    """Which keys a query wants.  A tuple that is shorter than keys is compared with as many of their columns."""

    lowest: Key = field(repr=False)
    #: `None`: there is no end.
    highest: Key | None = field(repr=False)
    #: Whether ``highest`` itself is wanted.
    inclusive: bool
    #: Whether only one key can match, so that each document comes once anyway.
    single: bool = False


def between(start: Bound, end: Bound, columns: int) -> Range:
    """
    Return the range between two bounds, inclusive; values that are both bounds want the keys that match them.

    :raise InvalidValueForIndex: there is not a value for each column, or one is none.
    :raise InvalidGlobbing: something else than `ANY` stands behind a wildcard.
    """
    exact, prefix = _split(start, columns)
    lowest = exact if prefix is None else (*exact, prefix)
    if end is not start:
        exact, prefix = _split(end, columns)
    above = None if prefix is None else successor(prefix)
    if above is not None:
        return Range(lowest, (*exact, above), inclusive=False)
    return Range(lowest, exact or None, inclusive=True, single=len(exact) == columns and lowest == exact)


def successor(prefix: str) -> str | None:
    """Return the least text that is greater than all that begin with ``prefix``; `None`: there is none."""
    last = prefix.rstrip(chr(_LAST))
    if not last:
        return None
    after = ord(last[-1]) + 1
    # Surrogates are not text.
    return last[:-1] + chr(0xE000 if after == 0xD800 else after)


_LAST = 0x10FFFF
_VALUES, _SEQUENCES = (str, Exact, Prefix, AnyValue), (list, tuple)


def _split(bound: Bound, columns: int) -> tuple[Key, str | None]:
    """Return the leading columns that are given in full, and the prefix behind them (`None`: that was all)."""
    if bound is None:
        return (), ""
    values = [bound] if isinstance(bound, _VALUES) else bound
    if not isinstance(values, _SEQUENCES):
        raise InvalidValueForIndex(f"a bound of type {type(values).__name__}")
    if len(values) != columns:
        raise InvalidValueForIndex(f"{len(values)} values for {columns} columns")
    patterns = [_pattern(value) for value in values]
    exact = tuple([text for text, wild in patterns if not wild])
    behind = patterns[len(exact) :]
    if not behind:
        return exact, None
    # What is wild stands last, and only `ANY` behind the first of it.
    if not all(wild for _, wild in behind) or any(text for text, _ in behind[1:]):
        raise InvalidGlobbing()
    return exact, behind[0][0]


def _pattern(value: Value) -> tuple[str, bool]:
    """Return a text, and whether what begins with it matches, too."""
    if isinstance(value, str):
        text, wild = (value[:-1], True) if value.endswith("*") else (value, False)
    elif isinstance(value, Exact | Prefix):
        text, wild = value.text, isinstance(value, Prefix)
    else:
        text, wild = ("", True) if value is ANY else (None, False)
    if not isinstance(text, str):
        raise InvalidValueForIndex(f"a value of type {type(value).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidValueForIndex("a lone surrogate") from None
    return text, wild


# --- how many of the answers --------------------------------------------------------------------------


@frozen
class Slice:
    """Which of many answers are wanted."""

    limit: int | None = None
    offset: int = 0

    @classmethod
    def of(cls, limit: int | None, offset: int) -> Slice:
        """:raise InvalidLimit: one of them is not a whole number from 0 on."""
        if limit is None and offset == 0 and type(offset) is int:
            return ALL
        return cls(None if limit is None else _whole("limit", limit), _whole("offset", offset))


ALL = Slice()
#: More than there can be; what is larger does not fit into what counts.
_MANY = 2**60


def _whole(name: str, number: int) -> int:
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        raise InvalidLimit(name)
    return min(number, _MANY)
