"""Turns that end, so that there is something to settle."""

from dataclasses import replace
from uuid import UUID

from app.domain.jobs import Claim, Ending, Mode, NewJob
from app.domain.response import Status
from app.domain.tenancy import Caller
from app.domain.turn import Turn
from app.store import lifecycle
from app.store.db import Database, Tx
from tests.background import execute
from tests.store.turns import delete


async def enqueue(tx: Tx, turn: Turn) -> None:
    turn = replace(turn, status=Status.QUEUED)
    assert await lifecycle.enqueue(
        tx, [NewJob(turn, mode=Mode.BACKGROUND, priority=0, event_count=0, request=b"{}")], max_queued=1000
    )


async def run(db: Database, caller: Caller, turn: Turn) -> None:
    """The life of a background response, one transaction after the other."""
    async with db.begin(caller) as tx:
        await enqueue(tx, turn)
    await finish(db, caller, turn)
    await delete(db, caller, turn)


async def finish(db: Database, caller: Caller, turn: Turn) -> None:
    """Claim it as a worker does, and end it."""
    async with db.begin(caller) as tx:
        claimed = "update responses set status = 1, attempt = 1, lease_until = now() where id = $1"
        await tx._driver.fetch(claimed, turn.id)
    async with db.begin(caller) as tx:
        claim = Claim(caller.tenant_id, turn.id, 1)
        assert await lifecycle.finish(tx, Ending(claim, turn, event_count=1, shape=None, ttl_seconds=1))


async def facts_of(db: Database, caller: Caller) -> dict[UUID, Status]:
    async with db.read(caller) as tx:
        rows = await tx._driver.fetch(
            "select id, status from response_facts where tenant_id = $1", caller.tenant_id
        )
    return {UUID(int=row["id"].int): Status(row["status"]) for row in rows}


async def age(database_url: str, caller: Caller) -> None:
    """Let a day pass since the last checkpoint."""
    statement = "update audit_heads set checkpoint_at = checkpoint_at - interval '1 day' where tenant_id = $1"
    await execute(database_url, statement, caller.tenant_id)
