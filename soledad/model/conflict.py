"""
Versions of a document that were written without knowledge of each other: how those of two stores become one set.

Plain functions of what a store has and of what comes from elsewhere; any number of replicas.
Source: docs/spec/documents.rst, "Applying a revision from elsewhere" and "Conflicts".
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from enum import Enum

from attrs import evolve, field, frozen

from soledad.errors import InvalidIdentifier, RevisionConflict
from soledad.model import content as contents
from soledad.model import revision
from soledad.model.document import Stored, Written
from soledad.model.ids import DocId


class Outcome(Enum):
    """What became of the current revision of another store."""

    #: It is the current one now.
    INSERTED = "inserted"
    #: The stored one stays, or another replaced both: that is to go out.
    SUPERSEDED = "superseded"
    #: It was here already.
    CONVERGED = "converged"
    #: It is the current one now, and what was current before waits beside it to be resolved.
    CONFLICTED = "conflicted"


def _checked(version: Stored) -> Stored:
    """:raise InvalidIdentifier: its revision is none.  Returns it with the revision as it is written."""
    rev = revision.normal(version.rev)
    if not rev:
        raise InvalidIdentifier("revision", version.rev)
    if rev == version.rev and not version.has_conflicts:
        return version
    return evolve(version, rev=rev, has_conflicts=False)


def _ordered(versions: Collection[Stored]) -> tuple[Stored, ...]:
    # Most documents have none.
    return tuple(sorted(map(_checked, versions), key=lambda version: version.rev)) if versions else ()


@frozen
class Versions:
    """All versions of one document that a store has: the current one, and the alternatives, ordered by revision."""

    current: Stored = field(converter=_checked)
    alternatives: tuple[Stored, ...] = field(default=(), converter=_ordered)

    def __iter__(self) -> Iterator[Stored]:
        """Give them all, the current one first."""
        yield self.current
        yield from self.alternatives

    @property
    def revs(self) -> tuple[str, ...]:
        """Their revisions, that of the current one first."""
        # Most documents have one version.
        return (self.current.rev, *(one.rev for one in self.alternatives)) if self.alternatives else (self.current.rev,)

    @property
    def doc_id(self) -> DocId:
        """Whose versions they are."""
        return self.current.doc_id


@frozen
class Merged:
    """What two sets of versions became."""

    outcome: Outcome
    versions: Versions
    #: Whether one revision came with two contents.
    copied: bool


@frozen
class Applied:
    """What applying the versions of a document from elsewhere came to."""

    outcome: Outcome
    #: All versions that the store has since.
    versions: Versions
    #: Whether these are not just the versions that came: then they are to go out.
    goes_out: bool
    #: Whether one revision came with two contents: a store was copied, or set back, and both copies were written.
    copied: bool
    #: What was changed; `None`: nothing.
    written: Written | None


def merge(stored: Versions | None, incoming: Versions, replica: str) -> Merged:
    """
    Return what a store has after ``incoming`` came from elsewhere.

    :param stored: what it has before; `None`: nothing.
    :param replica: the store's own, which counts what has to be written here.
    """
    if stored is None and not incoming.alternatives:
        return Merged(Outcome.INSERTED, incoming, False)
    mine = [] if stored is None else list(stored)
    everything = _distinct([*mine, *incoming])
    newest = [version for version in everything if not _is_dominated(version, everything)]
    outcome, current = _chosen(stored, incoming, newest)
    merged = _without_twins(current, [version for version in newest if not is_same(version, current)], replica)
    if outcome is not Outcome.CONFLICTED and merged.current.rev != current.rev:
        outcome = Outcome.SUPERSEDED
    return Merged(outcome, merged, _is_copied(mine, incoming))


def resolve(stored: Versions, document: Stored, revs: Collection[str], replica: str) -> Versions:
    """
    Return what a store has after ``document`` settled the versions that have one of ``revs``.

    :raise RevisionConflict: the current one is not among them.
    :raise InvalidIdentifier: one of them is no revision.
    """
    settled = {revision.render(revision.parse(rev)) for rev in revs}
    if stored.current.rev not in settled:
        raise RevisionConflict(stored.doc_id, " ".join(sorted(settled)), stored.current.rev)
    known = revision.maximum(*settled)
    others = [one for one in stored.alternatives if one.rev not in settled and not _is_known(one.rev, known)]
    twins, others = _twins_and_others(document, others)
    rev = revision.following([known, *_revs(twins)], replica, _revs(others))
    return Versions(evolve(document, rev=rev), others)


def is_same(one: Stored, other: Stored) -> bool:
    """Tell whether two are the same version of a document."""
    return one.rev == other.rev and has_same_content(one, other)


def is_same_set(one: Versions, other: Versions) -> bool:
    """Tell whether two stores have the same versions, and the same one of them as the current one."""
    return one is other or (
        is_same(one.current, other.current)
        and len(one.alternatives) == len(other.alternatives)
        and all(_is_among(version, other.alternatives) for version in one.alternatives)
    )


def has_same_content(one: Stored, other: Stored) -> bool:
    """Tell whether two have the same content and the same attachments: two tombstones do."""
    if dict(one.attachments) != dict(other.attachments):
        return False
    if one.content is None or other.content is None:
        return one.content is other.content
    return one.content == other.content or _canonical(one.content) == _canonical(other.content)


def _chosen(stored: Versions | None, incoming: Versions, newest: Sequence[Stored]) -> tuple[Outcome, Stored]:
    """Return the one that becomes current, before equal ones are joined."""
    theirs = _candidate(stored, incoming, newest)
    if stored is None:
        return Outcome.INSERTED, theirs or incoming.current
    mine = stored.current
    if theirs is None:
        return Outcome.SUPERSEDED, mine
    if is_same(mine, theirs):
        return Outcome.CONVERGED, mine
    if revision.is_newer(theirs.rev, mine.rev):
        return Outcome.INSERTED, theirs
    if not has_same_content(mine, theirs):
        return Outcome.CONFLICTED, theirs
    # Concurrent and equal.  Mine may be settled by one of the incoming alternatives: then nothing is to be joined.
    return (Outcome.SUPERSEDED, mine) if _is_among(mine, newest) else (Outcome.INSERTED, theirs)


def _candidate(stored: Versions | None, incoming: Versions, newest: Sequence[Stored]) -> Stored | None:
    """Return the one of ``incoming`` that may become current: its current one, unless a newer one is known."""
    if _is_among(incoming.current, newest):
        return incoming.current
    for version in incoming.alternatives:
        if _is_among(version, newest) and (stored is None or revision.is_newer(version.rev, stored.current.rev)):
            return version
    return None


def _without_twins(current: Stored, others: Sequence[Stored], replica: str) -> Versions:
    """Join to the current one those that have its content; if there are any, that is a revision of our own."""
    twins, others = _twins_and_others(current, others)
    if not twins:
        return Versions(current, others)
    rev = revision.following([current.rev, *_revs(twins)], replica, _revs(others))
    return Versions(evolve(current, rev=rev), others)


def _twins_and_others(current: Stored, versions: Iterable[Stored]) -> tuple[list[Stored], list[Stored]]:
    """Part versions into those that have the content of the current one and those that do not."""
    twins: list[Stored] = []
    others: list[Stored] = []
    for version in versions:
        (twins if has_same_content(version, current) else others).append(version)
    return twins, others


def _is_copied(mine: Iterable[Stored], incoming: Iterable[Stored]) -> bool:
    """Tell whether a revision came that is here with another content, and did not come with this one before."""
    mine = list(mine)
    return any(one.rev in _revs(mine) and not _is_among(one, mine) for one in incoming)


def _is_dominated(version: Stored, others: Iterable[Stored]) -> bool:
    return any(revision.is_newer(other.rev, version.rev) for other in others)


def _is_known(rev: str, known: str) -> bool:
    return rev == known or revision.is_newer(known, rev)


def _is_among(version: Stored, others: Iterable[Stored]) -> bool:
    return any(is_same(version, other) for other in others)


def _distinct(versions: Iterable[Stored]) -> list[Stored]:
    distinct: list[Stored] = []
    for version in versions:
        if not _is_among(version, distinct):
            distinct.append(version)
    return distinct


def _revs(versions: Iterable[Stored]) -> list[str]:
    return [version.rev for version in versions]


def _canonical(text: str) -> str:
    return contents.canonical(contents.parse(text))
