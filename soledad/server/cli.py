"""
``soledad-server``: what an operator does besides running the server.

Everything but ``check --repair`` can be done while servers run.  Exit status: 0, or 1 when it failed or `check` found a
problem, or 2 when the command cannot be understood.  Answers go to standard output, everything else to standard error.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, TextIO, TypeVar

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from soledad.deferreds import unawaited
from soledad.errors import InvalidIdentifier, SoledadError
from soledad.model.ids import UserId, user_id
from soledad.server.backends.check import check
from soledad.server.folder import DataFolder
from soledad.server.repairs import Repairs
from soledad.server.service import Parts, Workers, open_parts
from soledad.streams import Budget

T = TypeVar("T")


def main(arguments: Sequence[str] | None = None, out: TextIO | None = None, err: TextIO | None = None) -> int:
    """Carry out one command; return the exit status."""
    options = _parser().parse_args(arguments)
    console = _Console(out or sys.stdout, err or sys.stderr)
    try:
        folder = DataFolder(options.data_dir)
        if options.makes_folder:
            folder.make()
        parts = open_parts(folder, Workers(), Budget())
        try:
            return int(options.command(parts, console, options) or 0)
        finally:
            parts.close()
    except SoledadError as error:
        return console.refuse(str(error))


@frozen
class _Console:
    """Standard output, and standard error."""

    _out: TextIO
    _err: TextIO

    def say(self, line: str) -> None:
        """Print a line."""
        self._out.write(line + "\n")

    def refuse(self, reason: str) -> int:
        """Say why it failed; return the exit status for that."""
        self._err.write(f"soledad-server: {reason}\n")
        return 1


def _add_user(parts: Parts, console: _Console, options: Namespace) -> None:
    console.say(_now(parts.accounts.add_user(options.user, options.quota)))


def _list_users(parts: Parts, console: _Console, options: Namespace) -> None:
    for account in _now(parts.accounts.users()):
        console.say(f"{account.user}\t{account.used}\t{'-' if account.quota is None else account.quota}")


def _remove_user(parts: Parts, console: _Console, options: Namespace) -> None:
    _now(parts.accounts.remove_user(options.user))


def _set_quota(parts: Parts, console: _Console, options: Namespace) -> None:
    _now(parts.accounts.set_quota(options.user, options.quota))


def _add_token(parts: Parts, console: _Console, options: Namespace) -> None:
    console.say(_now(parts.accounts.add_token(options.user)))


def _list_tokens(parts: Parts, console: _Console, options: Namespace) -> None:
    for token in _now(parts.accounts.tokens(options.user)):
        console.say(f"{token.name}\t{datetime.fromtimestamp(token.created, UTC):%Y-%m-%dT%H:%M:%SZ}")


def _revoke_token(parts: Parts, console: _Console, options: Namespace) -> int:
    revoked = _now(parts.accounts.revoke_tokens(options.user, None if options.all else options.name))
    return 0 if revoked or options.all else console.refuse("there is no such token")


def _check(parts: Parts, console: _Console, options: Namespace) -> int:
    if not options.repair:
        return _checked(parts, console, None)
    # Servers that are started meanwhile wait for their turn with the folder.
    with DataFolder(options.data_dir).opening():
        if parts.is_shared:
            return console.refuse("servers use the folder: stop them before it is repaired")
        return _checked(parts, console, Repairs.of(parts.backend.index))


def _checked(parts: Parts, console: _Console, repairs: Repairs | None) -> int:
    found = _now(Deferred.fromCoroutine(check(parts.backend, lambda problem: console.say(str(problem)), repairs)))
    return 1 if found else 0


def _restored(parts: Parts, console: _Console, options: Namespace) -> None:
    _now(Repairs.of(parts.backend.index).restore())


def _now(work: Deferred[T]) -> T:
    """Return the result of what was done in place."""
    results: list[Any] = []
    unawaited(work.addBoth(results.append))
    (result,) = results
    if isinstance(result, Failure):
        result.raiseException()
    return result  # type: ignore[no-any-return]


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="soledad-server", description="Administer the data of a soledad server.")
    parser.add_argument("--data-dir", required=True, metavar="DIR", help="the folder with the server's data")
    parser.set_defaults(makes_folder=False)
    groups = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    users = groups.add_parser("user", help="users").add_subparsers(required=True, metavar="COMMAND")
    tokens = groups.add_parser("token", help="tokens of a user").add_subparsers(required=True, metavar="COMMAND")

    add = _command(users, "add", _add_user, "add a user (and the folder, if there is none); prints a first token")
    add.add_argument("--quota", type=_bytes, metavar="BYTES", help="bytes, or none: the server's default (default)")
    add.set_defaults(makes_folder=True)
    _command(users, "list", _list_users, "print user, bytes used, quota, with tabs between", user=False)
    _command(users, "remove", _remove_user, "remove a user, with all tokens and blobs")
    quota = _command(users, "quota", _set_quota, "set a user's quota")
    quota.add_argument("quota", type=_bytes, metavar="BYTES", help="bytes, or none: the server's default")

    _command(tokens, "add", _add_token, "print a new token; the others stay valid")
    _command(tokens, "list", _list_tokens, "print the names of the tokens, and when they were made")
    revoke = _command(tokens, "revoke", _revoke_token, "make a token invalid, at once")
    which = revoke.add_mutually_exclusive_group(required=True)
    which.add_argument("name", nargs="?", type=_token_name, metavar="NAME", help="its name in the list")
    which.add_argument("--all", action="store_true", help="all of the user's tokens")

    checking = _command(
        groups, "check", _check, "compare the index with the files, and every tag; prints problems", user=False
    )
    checking.add_argument("--repair", action="store_true", help="mend what is found; no server may run")
    text = "say that the data come from a backup: devices compare in full"
    _command(groups, "restored", _restored, text, user=False)
    return parser


def _command(
    group: Any, name: str, command: Callable[[Parts, _Console, Namespace], object], text: str, *, user: bool = True
) -> ArgumentParser:
    parser: ArgumentParser = group.add_parser(name, help=text, description=text)
    parser.set_defaults(command=command)
    if user:
        parser.add_argument("user", type=_user, metavar="UUID", help="the user's id")
    return parser


def _user(text: str) -> UserId:
    try:
        return user_id(text)
    except InvalidIdentifier as error:
        raise ArgumentTypeError(str(error)) from error


def _token_name(text: str) -> str:
    if len(text) < 4 or not set(text) <= set("0123456789abcdef"):
        raise ArgumentTypeError("a token's name is what `token list` prints")
    return text


def _bytes(text: str) -> int | None:
    if text == "none":
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise ArgumentTypeError("a number of bytes, or none")
    return int(text)
