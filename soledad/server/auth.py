"""Who is asking: the ``Authorization`` header becomes a user.  Nothing is remembered, so revoking works at once."""

from __future__ import annotations

from attrs import define

from soledad.errors import Unauthorized
from soledad.model.ids import UserId
from soledad.server.accounts import Accounts
from soledad.wire.routes import parse_authorization


@define(eq=False)
class Authenticator:
    """Knows a user by a token."""

    _accounts: Accounts

    async def user(self, header: str | None) -> UserId:
        """
        Return whose token is in the header.

        :raise Unauthorized: there is no header, it cannot be read, or the token is not that user's.
        """
        if header is None:
            raise Unauthorized()
        user, token = parse_authorization(header)
        if not await self._accounts.knows(user, token):
            raise Unauthorized()
        return user
