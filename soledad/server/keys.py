"""
The resource of a user's keyring: ``/keys/{uuid}``.

Source: docs/spec/keys-http.rst.
"""

from __future__ import annotations

from attrs import define
from zope.interface import implementer

from soledad.errors import BadRequest, KeyringNotFound, PathNotFound, PreconditionFailed
from soledad.model.ids import UserId
from soledad.server.blobs import names_tag, parse_tags
from soledad.server.http import BYTES, Answer, Call, IArea, check_owner, method_refused, small_body
from soledad.server.interfaces import IKeyringsBackend
from soledad.wire.routes import KEYRING_LIMIT


@implementer(IArea)
@define(eq=False)
class KeysArea:
    """Everything under ``/keys``."""

    _backend: IKeyringsBackend

    async def answer(self, user: UserId, call: Call) -> Answer:
        """See `IArea`."""
        if len(call.segments) != 1:
            raise PathNotFound()
        check_owner(user, call)
        if call.query:
            raise BadRequest("unknown arguments")
        if call.method in ("GET", "HEAD"):
            return await self._get(user, call)
        if call.method == "PUT":
            return await self._put(user, call)
        return method_refused(call, "GET", "HEAD", "PUT")

    async def _get(self, user: UserId, call: Call) -> Answer:
        data, etag = await self._backend.read_keyring(user)
        headers = {"etag": f'"{etag}"'}
        if (condition := call.header("if-none-match")) is not None and names_tag(condition, etag, weak=True):
            return Answer(304, headers)
        headers["content-type"] = BYTES
        if call.method == "HEAD":
            return Answer(200, headers, length=len(data))
        return Answer(200, headers, data)

    async def _put(self, user: UserId, call: Call) -> Answer:
        expected = await self._expected(user, call)
        data = await small_body(call, KEYRING_LIMIT)
        if not data:
            raise BadRequest("a keyring has at least one byte")
        etag = await self._backend.write_keyring(user, data, expected)
        return Answer(201 if expected is None else 204, {"etag": f'"{etag}"'})

    async def _expected(self, user: UserId, call: Call) -> str | None:
        """
        Return the tag of what is to be replaced; none if nothing is there.

        :raise BadRequest: there is not exactly one condition that can be obeyed.
        :raise PreconditionFailed: it is not fulfilled, as far as can be told before the body.
        """
        match, none_match = call.header("if-match"), call.header("if-none-match")
        if (match is None) == (none_match is None):
            raise BadRequest("a keyring is replaced with If-Match, and created with If-None-Match: *")
        found = await self._tag(user)
        if match is None:
            if (none_match or "").strip() != "*":
                raise BadRequest("If-None-Match must be *")
            if found is not None:
                raise PreconditionFailed()
            return None
        if found is None or found not in parse_tags(match):
            raise PreconditionFailed()
        return found

    async def _tag(self, user: UserId) -> str | None:
        try:
            return (await self._backend.read_keyring(user))[1]
        except KeyringNotFound:
            return None
