"""A database that fails or waits on cue, and a reader of feeds."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from app.domain.tenancy import Caller
from app.errors import Unavailable
from app.generation.engine import Listener
from app.generation.feed import Feed
from app.store.db import Database, Tx
from tests.generation.composing import parsed

AWAY = Unavailable()


class FaultyDatabase(Database):
    """The same pool, with one fault for each transaction that is begun, until there are no more."""

    def __init__(
        self,
        db: Database,
        *,
        before: Sequence[Exception] = (),
        after: Sequence[Exception] = (),
        gate: asyncio.Event | None = None,
    ) -> None:
        """`before` keeps a transaction from beginning, `after` hides that it was committed.

        `gate` holds each transaction open until it is set.
        """
        super().__init__(db.pool)
        self._before, self._after, self._gate = list(before), list(after), gate
        self.is_begun = asyncio.Event()

    def begin(self, caller: Caller) -> AbstractAsyncContextManager[Tx]:
        return self._shaken(super().begin(caller))

    def autocommit(self, caller: Caller) -> AbstractAsyncContextManager[Tx]:
        """A transaction all the same: one statement alone could not be held open before it is committed."""
        return self._shaken(super().begin(caller))

    @asynccontextmanager
    async def _shaken(self, block: AbstractAsyncContextManager[Tx]) -> AsyncGenerator[Tx]:
        self.is_begun.set()
        if self._before:
            raise self._before.pop(0)
        async with block as tx:
            yield tx
            if self._gate:
                await self._gate.wait()
        if self._after:
            raise self._after.pop(0)


async def heard(feed: Listener | None) -> list[dict[str, Any]]:
    """Everything that a listener hears, to the end."""
    assert isinstance(feed, Feed)
    found: list[dict[str, Any]] = []
    while events := await feed.take():
        found += parsed(events)
    return found
