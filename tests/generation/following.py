"""A stream that is followed by hand while it is made."""

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from app.domain.context import Context
from app.domain.response import Draft, Status
from app.domain.tenancy import Caller
from app.generation.background import Background
from app.generation.follow import IDLE, follow
from app.providers.base import Delta
from app.store import responses
from app.store.db import Database
from app.store.notifications import Notifications
from tests.background import (
    enqueued,
    generate,
    working,
)
from tests.scripted import ScriptedProvider, answer
from tests.waiting import patience, until

WORDS = [f"word {number} " for number in range(50)]
"""Enough for a stream of some sixty events."""


PADS = {"pads": True}
"""So that what was said again from the items is not taken for what was journalled."""


class Slow(ScriptedProvider):
    """It lets the journal write in between, so that a stream is many batches."""

    async def stream(self, context: Context) -> AsyncGenerator[Delta, None]:
        async for delta in super().stream(context):
            yield delta
            if random.random() < 0.1:
                await asyncio.sleep(0.025)


async def generated(background: Background) -> bool:
    """Generate what is queued. A claim passes by a row that somebody else holds, and is made again."""
    await until(lambda: generate(background))
    return True


async def made(
    db: Database, caller: Caller, database_url: str, *words: str, is_slow: bool = False, **params: Any
) -> Draft:
    """A streamed background response that has ended."""
    kind = Slow if is_slow else ScriptedProvider
    draft = await enqueued(db, caller, stream=True, **params)
    async with working(db, database_url, kind(answer(*(words or WORDS))), **PADS) as background:
        assert await generated(background)
    return draft


@asynccontextmanager
async def being_made(
    db: Database, caller: Caller, database_url: str
) -> AsyncGenerator[tuple[Draft, asyncio.Event, asyncio.Task[bool]]]:
    """A stream that stands still in the middle until the gate is opened."""
    gate = asyncio.Event()
    steps = answer(*WORDS)
    provider = ScriptedProvider([*steps[:30], gate, *steps[30:]])
    draft = await enqueued(db, caller, stream=True)
    async with working(db, database_url, provider, **PADS) as background:
        task = asyncio.ensure_future(generated(background))
        await provider.is_stalled.wait()
        yield draft, gate, task
        gate.set()
        await task


class Reader:
    """A follower that is read by hand."""

    def __init__(
        self,
        db: Database,
        caller: Caller,
        draft: Draft,
        notifications: Notifications,
        *,
        after: int = -1,
        poll_seconds: float = 3600,
    ) -> None:
        self._stream = follow(
            db, caller, notifications, draft.id, after=after, is_padded=True, poll_seconds=poll_seconds
        )
        self.read = b""
        self.idles = 0

    async def until_frame(self, count: int) -> bytes:
        """Everything so far, once it has so many frames."""
        async with patience():
            while self.read.count(b"\n\n") < count:
                batch = await anext(self._stream)
                self.idles += batch == IDLE
                self.read += batch
        return self.read

    async def to_the_end(self) -> bytes:
        async with patience():
            async for batch in self._stream:
                self.idles += batch == IDLE
                self.read += batch
        return self.read

    async def leave(self) -> None:
        await self._stream.aclose()


async def is_over(db: Database, caller: Caller, draft: Draft) -> bool:
    async with db.read(caller) as tx:
        return await responses.status(tx, draft.id) is Status.COMPLETED
