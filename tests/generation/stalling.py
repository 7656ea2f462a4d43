"""Runs that stand still in the middle."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from app.domain.context import Context
from app.domain.response import Draft, Status
from app.domain.tenancy import Caller
from app.generation.background import Background
from app.providers.base import Delta, Started
from app.store import events
from app.store.db import Database
from tests.background import (
    execute,
    generate,
    journalled,
    state,
    working,
)
from tests.scripted import DONE, ScriptedProvider, hello
from tests.waiting import patience, until


class Slow(ScriptedProvider):
    """It takes its time to close, once."""

    def __init__(self, steps: Sequence[Any]) -> None:
        super().__init__(steps)
        self.may_close = asyncio.Event()

    async def stream(self, context: Context) -> AsyncGenerator[Delta, None]:
        is_first = not self.contexts
        try:
            async for delta in super().stream(context):
                yield delta
        finally:
            if is_first:
                await self.may_close.wait()


async def taken(database_url: str, draft: Draft) -> None:
    """Another worker has claimed the response."""
    await execute(database_url, "update responses set attempt = attempt + 1 where id = $1", draft.id)


async def untouched(database_url: str, draft: Draft) -> bool:
    """Whether the row is still as the other worker has it."""
    [row] = await execute(
        database_url, "select status, attempt, finished_at from responses where id = $1", draft.id
    )
    return tuple(row) == (Status.IN_PROGRESS, 2, None)


async def reaped(background: Background, database_url: str, draft: Draft) -> None:
    """Let the lease of the response end, and reap until that has been treated.

    One round may pass it by: whatever holds the row is not waited for, and a renewal may come in between.
    """
    over = "update responses set lease_until = now() - interval '1 s' where id = $1 and status = 1"

    async def is_treated() -> bool:
        await execute(database_url, over, draft.id)
        await background.reap()
        [[status]] = await execute(database_url, "select status from responses where id = $1", draft.id)
        return status != Status.IN_PROGRESS

    await until(is_treated)


class Running:
    """A run that has played its first steps and stands still until `go`."""

    def __init__(self, background: Background, provider: ScriptedProvider, gate: asyncio.Event) -> None:
        self.background, self.provider, self._gate = background, provider, gate
        self.task = asyncio.ensure_future(generate(background))

    async def stopped(self) -> None:
        """Return once the upstream is closed and the run is over."""
        async with patience():
            assert await self.task
        assert self.provider.is_closed

    async def go(self) -> None:
        self._gate.set()
        await self.stopped()


@asynccontextmanager
async def stalled(
    db: Database, database_url: str, *, then: Sequence[Any] = (*hello()[2:], DONE), **policy: Any
) -> AsyncGenerator[Running]:
    """A worker in the middle of a message."""
    gate = asyncio.Event()
    provider = ScriptedProvider([Started(), *hello("one ", "two ")[:4], gate, *then])
    async with working(db, database_url, provider, **policy) as background:
        it = Running(background, provider, gate)
        await provider.is_stalled.wait()
        yield it


async def is_in(db: Database, caller: Caller, draft: Draft, status: Status) -> bool:
    return await state(db, caller, draft.id) is status


async def has_shown(db: Database, caller: Caller, draft: Draft, count: int) -> bool:
    async with db.read(caller) as tx:
        return await events.count(tx, draft.id) >= count


async def is_closed(provider: ScriptedProvider) -> bool:
    return provider.is_closed


async def shown(db: Database, caller: Caller, draft: Draft) -> bytes:
    return b"".join(batch for _, batch in await journalled(db, caller, draft.id))
