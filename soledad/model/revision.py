"""
Revisions: version vectors, written ``replica:counter`` pairs joined by ``|`` and sorted by replica.

Source: docs/spec/documents.rst, "Revisions".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import count

from soledad.errors import InvalidIdentifier

_PAIR = re.compile(r"([0-9A-Za-z_-]{1,64}):([1-9][0-9]{0,17})", re.ASCII)

#: Replica -> how often it changed the document.
Vector = Mapping[str, int]


def parse(rev: str | None) -> Vector:
    """
    Return the vector that a revision stands for; `None` and the empty text are the empty one.

    :raise InvalidIdentifier: it is not a revision.
    """
    if not rev:
        return {}
    vector: dict[str, int] = {}
    for pair in rev.split("|"):
        match = _PAIR.fullmatch(pair)
        if match is None or match[1] in vector:
            raise InvalidIdentifier("revision", rev[:80])
        vector[match[1]] = int(match[2])
    return vector


def render(vector: Vector) -> str:
    """Return the revision of a vector."""
    return "|".join(f"{replica}:{counter}" for replica, counter in sorted(vector.items()))


@lru_cache(maxsize=1000)
def normal(rev: str) -> str:
    """
    Return a revision as it is written.

    :raise InvalidIdentifier: it is not a revision.
    """
    # What only one replica has changed cannot be written in two ways.
    return rev if _PAIR.fullmatch(rev) else render(parse(rev))


@lru_cache(maxsize=1000)
def incremented(rev: str | None, replica: str) -> str:
    """Return the revision that follows ``rev`` when ``replica`` changes the document."""
    vector = parse(rev)
    return render({**vector, replica: vector.get(replica, 0) + 1})


def following(revs: Iterable[str], replica: str, beside: Iterable[str] = ()) -> str:
    """
    Return the revision of a change that ``replica`` makes with knowledge of ``revs``, and without that of ``beside``.

    A vector cannot say that of two changes of one replica the second was made without knowledge of the first.  Where
    it would have to, the change is counted under another name: ``replica-1``, ``replica-2``, ...
    """
    vector = parse(maximum(*revs))
    others = [parse(rev) for rev in beside]
    names = (f"{replica}-{number}" if number else replica for number in count())
    name = next(name for name in names if all(other.get(name, 0) <= vector.get(name, 0) for other in others))
    return render({**vector, name: vector.get(name, 0) + 1})


@lru_cache(maxsize=1000)
def counted(rev: str, replica: str) -> int:
    """Return how often ``replica`` changed a document up to a revision."""
    return parse(rev).get(replica, 0) if replica in rev else 0


def reissued(rev: str, replica: str, known: Vector, name: str) -> str:
    """
    Return a revision in which what ``replica`` counted beyond ``known`` is one change that ``name`` made.

    The names that `following` makes of the replica's are the replica's, too.
    """
    vector = dict(parse(rev))
    beyond = [one for one, counter in vector.items() if _is_of(one, replica) and counter > known.get(one, 0)]
    for one in beyond:
        vector[one] = known.get(one, 0)
    if beyond:
        vector[name] = 1
    return render({one: counter for one, counter in vector.items() if counter})


def _is_of(name: str, replica: str) -> bool:
    return name == replica or name.startswith(f"{replica}-")


def maximum(*revs: str) -> str:
    """Return the least revision that is not older than any of ``revs``."""
    highest: dict[str, int] = {}
    for rev in revs:
        for replica, counter in parse(rev).items():
            highest[replica] = max(counter, highest.get(replica, 0))
    return render(highest)


def is_newer(one: str | None, other: str | None) -> bool:
    """Tell whether ``one`` was made with knowledge of ``other`` and is not the same."""
    mine, theirs = parse(one), parse(other)
    return mine != theirs and all(mine.get(replica, 0) >= counter for replica, counter in theirs.items())


def is_concurrent(one: str | None, other: str | None) -> bool:
    """Tell whether neither was made with knowledge of the other."""
    return parse(one) != parse(other) and not is_newer(one, other) and not is_newer(other, one)
