"""Runs whose worker was lost."""

import asyncio
from typing import Any

from app.domain.response import Draft
from app.domain.tenancy import Caller
from app.providers.base import Started
from app.store import events
from app.store.db import Database
from tests.background import (
    a_background,
    enqueued,
    expire,
    generate,
    working,
)
from tests.scripted import ScriptedProvider, hello
from tests.waiting import until

VANISHED = {"code": "server_error", "message": "The worker that was generating this response was lost."}


class Killed(BaseException):
    """The process is gone: nothing after this point happens, not even what should always happen."""


async def die(*_: object, **__: object) -> None:
    raise Killed


async def abandoned(
    db: Database, caller: Caller, database_url: str, *steps: Any, shown: int = 0, **params: Any
) -> Draft:
    """A response whose worker has died after these steps, of which so many events were stored."""
    draft = await enqueued(db, caller, **params)
    provider = ScriptedProvider([*steps, asyncio.Event()])
    async with working(db, database_url, provider) as background:
        background._leave = die
        task = asyncio.ensure_future(generate(background))
        await provider.is_stalled.wait()
        await until(lambda: are_journalled(db, caller, draft, shown))
        for run in list(background._running):
            run.cancel()
        await task
    await expire(database_url, draft.id)
    return draft


async def are_journalled(db: Database, caller: Caller, draft: Draft, count: int) -> bool:
    async with db.read(caller) as tx:
        return await events.count(tx, draft.id) >= count


async def reaped(db: Database, **policy: Any) -> int:
    """Reap until nothing is left of what was over, or what is left is left for good.

    A round passes by what is locked, and an attempt that is thought dead may be writing a batch just then.
    """
    over = "select 1 from responses where lease_until < now()"
    bells = 0
    for _ in range(5):
        # Waits for whoever holds a row, which the round would not.
        async with db.begin_system() as tx:
            await tx._driver.fetch(f"{over} order by lease_until for update")
        bells = await a_background(db, **policy).reap()
        async with db.begin_system() as tx:
            if not await tx._driver.fetch(over):
                break
    return bells


HALF = (Started("m"), *hello("half")[:3])
"""Events 2 to 5: in progress, an item, a part, a delta."""
