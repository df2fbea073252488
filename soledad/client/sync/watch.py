"""
Whether what a server shows can be the truth: plain functions of what is known and of a head.

Source: docs/spec/documents-sync.rst, "The head" and "What is found".
"""

from __future__ import annotations

from collections.abc import Iterable

from attrs import frozen

from soledad.crypto import checkpoint as checkpoints
from soledad.crypto.checkpoint import Checkpoint, Commit, contradictions
from soledad.errors import ServerRolledBack, TamperingDetected
from soledad.model.tampering import FOUND, IncidentKind, Problem, Reason

#: What an older copy of the server's data, put back, is found by; whoever put it back may say so.
ROLLED_BACK = {IncidentKind.RECORD_BACK, IncidentKind.STATE_BACK, IncidentKind.COMMITS_MISSING}


@frozen
class Verdict:
    """What a head comes to."""

    #: What is wrong with it.
    found: frozenset[IncidentKind] = frozenset()
    #: Whether this device's own entry is a commit that it never made: this store is a copy.
    is_copy: bool = False
    #: Whether somebody said that the server was restored, since this device has last looked.
    has_restarted: bool = False
    #: Whether the pending push is in it.
    has_arrived: bool = False


def judge(
    known: Checkpoint | None,
    head: Checkpoint,
    device: str,
    pending: Commit | None,
    digest: int,
    history: str | None = None,
) -> Verdict:
    """
    Compare a head with what is known.

    :param known: the last checkpoint that was accepted.
    :param device: this store's replica id.
    :param pending: its entry in the push of which is not known whether it arrived.
    :param digest: what the records of the server are together, as they came.
    :param history: what the server had before, if this device was with another one meanwhile.
    """
    found = set() if known is None else set(contradictions(known, head))
    has_restarted = IncidentKind.RESTARTED in found
    found.discard(IncidentKind.RESTARTED)
    if history is not None and known is None and head.history != history:
        found.add(IncidentKind.HISTORY_SPLIT)
    if head.digest != digest:
        found.add(IncidentKind.STATE_DIFFERS)
    last = None if known is None else known.devices.get(device)
    standing = checkpoints.standing(head, device, last, pending)
    if standing is checkpoints.Standing.MISSING and not has_restarted:
        found.add(IncidentKind.COMMITS_MISSING)
    return Verdict(
        frozenset(found),
        standing is checkpoints.Standing.AHEAD,
        has_restarted,
        standing is checkpoints.Standing.PENDING,
    )


def found_in(problems: Iterable[Problem], is_stated: bool = False) -> frozenset[IncidentKind]:
    """
    Return what records that are set aside come to.

    :param is_stated: whether the checkpoint states that these are the records.  Then one of the user's devices knew
        of those that do not open, told of them, and went on.
    """
    return frozenset(
        FOUND[one.reason] for one in problems if one.reason in FOUND and not (is_stated and is_given_up(one))
    )


def is_given_up(problem: Problem) -> bool:
    """Tell whether nothing can be done about a record, once a checkpoint speaks of it: it was never good here."""
    return problem.reason is Reason.FORGED and problem.doc_id is None


def as_error(found: Iterable[IncidentKind]) -> TamperingDetected:
    """Return the error for what was found."""
    kinds = sorted(set(found))
    error = ServerRolledBack if ROLLED_BACK.issuperset(kinds) else TamperingDetected
    return error(tuple(kind.name for kind in kinds))
