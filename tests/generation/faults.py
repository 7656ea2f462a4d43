"""A database that fails or waits on cue, and a reader of feeds."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
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
        super().__init__(db._pool)
        self._before, self._after, self._gate = list(before), list(after), gate
        self.is_begun = asyncio.Event()

    @asynccontextmanager
    async def begin(self, caller: Caller) -> AsyncGenerator[Tx]:
        self.is_begun.set()
        if self._before:
            raise self._before.pop(0)
        async with super().begin(caller) as tx:
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
