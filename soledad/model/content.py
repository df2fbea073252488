"""
The content of a document: a JSON object, as text and as a value.

Two contents are the same when their canonical texts are equal: the order of keys does not matter, while 1, 1.0 and
true differ, which Python's ``==`` would not see.  Source: docs/spec/documents.rst, "Content".
"""

from __future__ import annotations

import json
from collections.abc import Callable
from math import isinf
from typing import Any, NoReturn

from soledad.errors import InvalidContent, InvalidJSON

Content = dict[str, Any]

#: Objects and lists within each other, at most: far from what Python can read again wherever the caller stands.
MAX_DEPTH = 200

_ATOMS = (str, int, float, bool, type(None))


def parse(text: str | bytes, decoder: json.JSONDecoder | None = None) -> Content:
    """:raise InvalidJSON: the text is not a JSON object (RFC 8259), or has numbers that are none."""
    try:
        if isinstance(text, str):
            value = (decoder or _DECODER).decode(text)
        else:
            value = json.loads(text, parse_constant=_no_number)
    except RecursionError:
        raise InvalidJSON("nested too deeply") from None
    except (ValueError, TypeError) as error:
        # The error's own text may quote the document.
        raise InvalidJSON(type(error).__name__) from None
    if not isinstance(value, dict):
        raise InvalidJSON("not an object")
    return value


def check(text: str) -> Content:
    """
    Look whether a text is a document's content, and return what it stands for.

    :raise InvalidJSON: it is not a JSON object, or has numbers that are none.
    :raise InvalidContent: it has what no content may have.
    """
    value = parse(text, _CHECKER)
    # Going through the value takes several times as long as parsing it; only such a text can be nested too deeply, or
    # have a lone surrogate.
    if "\\u" in text or text.count("{") + text.count("[") > MAX_DEPTH:
        canonical(value)
    return value


def render(content: Content) -> str:
    """
    Return the content as JSON text, keys in their order.

    :raise InvalidContent: it is not a JSON object.
    """
    return render_copy(copied(content))


def canonical(content: Content) -> str:
    """
    Return the text that tells whether two contents are the same.

    :raise InvalidContent: it is not a JSON object.
    """
    return _dumped(copied(content), _SORTED)


def copied(content: Content) -> Content:
    """
    Return what rendering and parsing the content would: a copy that no one else can change, of the plain types alone.

    It takes a tenth of the time.  What is refused here is what `json` would change in silence (keys that are not text,
    tuples), what is no JSON at all, and what is nested too deeply, such as a value within itself.

    :raise InvalidContent: it is not a JSON object.
    """
    if not isinstance(content, dict):
        raise InvalidContent("not a dict")
    try:
        copy: Content = _copied(content, 1)
    except RecursionError:
        raise InvalidContent("nested too deeply") from None
    return copy


def render_copy(copy: Content) -> str:
    """
    Do as `render`, of what `copied` returned.

    :raise InvalidContent: it has lone surrogates, or numbers that are none.
    """
    return _dumped(copy, _IN_THEIR_ORDER)


def _dumped(copy: Content, encode: Callable[[Content], str]) -> str:
    try:
        text = encode(copy)
        text.encode()
    except RecursionError:
        raise InvalidContent("nested too deeply") from None
    except UnicodeEncodeError:
        raise InvalidContent("a lone surrogate") from None
    except ValueError:
        raise InvalidContent("a number that is none") from None
    return text


def _copied(value: Any, depth: int) -> Any:
    if depth > MAX_DEPTH and isinstance(value, dict | list):
        raise InvalidContent("nested too deeply, or within itself")
    if isinstance(value, dict):
        # No comprehensions: they would need twice as many frames, of which there are not many.
        copy = {}
        for key, item in value.items():
            plain = key if type(key) is str else _plain_key(key)
            copy[plain] = item if type(item) in _ATOMS else _copied(item, depth + 1)
        return copy
    if isinstance(value, list):
        items = []
        for item in value:
            items.append(item if type(item) in _ATOMS else _copied(item, depth + 1))
        return items
    return _plain(value)


def _plain_key(key: object) -> str:
    if not isinstance(key, str):
        raise InvalidContent("a key that is not text")
    return str.__str__(key)


def _plain(value: object) -> str | int | float:
    """Return the plain value of one that is of a derived class: as `json` does, whatever such a class says."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    raise InvalidContent(f"a value of type {type(value).__name__}")


def _no_number(name: str) -> NoReturn:
    raise ValueError(name)


def _finite(text: str) -> float:
    number = float(text)
    if isinf(number):
        raise ValueError("too large")
    return number


# Made once: `json` would make one for each text.
_DECODER = json.JSONDecoder(parse_constant=_no_number)
_CHECKER = json.JSONDecoder(parse_constant=_no_number, parse_float=_finite)


def _encoder(sort_keys: bool) -> Callable[[Content], str]:
    # What is within itself was refused before.
    encoder = json.JSONEncoder(
        sort_keys=sort_keys, ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":")
    )
    # The part of it that is written in C, made once, too.  A Python that has none does without.
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return encoder.encode
    encode = make(None, encoder.default, json.encoder.encode_basestring, None, ":", ",", sort_keys, False, False)
    return lambda content: "".join(encode(content, 0))


_IN_THEIR_ORDER, _SORTED = _encoder(sort_keys=False), _encoder(sort_keys=True)
