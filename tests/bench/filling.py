"""Chains and conversations to begin with, written by the store's own functions."""

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import cache
from uuid import UUID

from app import ids
from app.domain.conversation import Conversation
from app.domain.tenancy import Caller
from app.domain.turn import Place, Turn
from app.generation.ledger import Ledger
from app.store import conversations, lifecycle
from app.store.db import Database
from tests.bench.conversations import fill
from tests.bench.storage import Say, texts, turn

AT_ONCE = 8
"""Connections: what waits for the disk is then committed together."""


async def write_chains(url: str, *, depth: int, count: int) -> list[UUID]:
    """So many chains of so many turns, two items of about 1 KB each; the last id of each."""
    say = _say()

    async def one(db: Database) -> UUID:
        last: Turn | None = None
        for _ in range(depth):
            last = turn(say, last)
            async with db.begin(Caller()) as tx:
                await lifecycle.append(tx, last)
        assert last
        return last.id

    return await _many(url, one, count)


async def write_conversations(url: str, *, turns: int, count: int) -> list[UUID]:
    """So many conversations of so many turns, two items of about 1 KB each; their ids."""
    say = _say()

    async def one(db: Database) -> UUID:
        conversation = Conversation(ids.new_uuid(), {})
        async with db.begin(Caller()) as tx:
            await conversations.insert(tx, conversation, Place(conversation.id, 0))
        await fill(db, Caller(), say, conversation, turns)
        return conversation.id

    return await _many(url, one, count)


async def settle(url: str) -> None:
    """Do what a worker does behind the hot path: the audit trail, and facts for lists and search."""
    async with connected(url, size=1) as db:
        ledger = Ledger(db)
        while await ledger.settle_all():
            pass


@asynccontextmanager
async def connected(url: str, *, size: int) -> AsyncGenerator[Database]:
    db = await Database.connect(url, size=size)
    try:
        yield db
    finally:
        await db.close()


@cache
def _say() -> Say:
    return texts(random.Random(7))["prose"]


async def _many(url: str, one: Callable[[Database], Awaitable[UUID]], count: int) -> list[UUID]:
    async def some(db: Database, share: int) -> list[UUID]:
        return [await one(db) for _ in range(share)]

    async with connected(url, size=AT_ONCE) as db:
        shares = [len(range(place, count, AT_ONCE)) for place in range(AT_ONCE)]
        made = await asyncio.gather(*(some(db, share) for share in shares))
    return [each for some_of_them in made for each in some_of_them]
