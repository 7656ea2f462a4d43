"""What is done to a queued response, each in a transaction of its own."""

from dataclasses import replace
from typing import Any

import orjson

from app.domain.jobs import Claim, Ending, Job, Mode, NewJob
from app.domain.response import Status
from app.domain.tenancy import Caller
from app.domain.turn import Turn
from app.store import leases, lifecycle, lineage
from app.store.db import Database
from tests.background import TTL_SECONDS, execute
from tests.store.turns import a_turn

LEASE: dict[str, Any] = {"lease_seconds": 30.0}


ERROR = {"code": "server_error", "message": "Gone."}


async def enqueue(
    db: Database,
    caller: Caller,
    *,
    mode: Mode = Mode.BACKGROUND,
    priority: int = 0,
    max_queued: int = 1000,
    event_count: int = 0,
    parent: Turn | None = None,
    **changes: Any,
) -> Turn:
    """A queued turn; `changes` are its fields."""
    async with db.begin(caller) as tx:
        before = await lineage.ancestry(tx, parent.id) if parent else None
        turn = a_turn("hi", before, output_blob=b"", output_count=0, **changes)
        body = {**orjson.loads(turn.body), "model": turn.model, "status": "queued", "service_tier": "auto"}
        turn = replace(turn, status=Status.QUEUED, body=orjson.dumps(body))
        is_in = await lifecycle.enqueue(
            tx,
            [
                NewJob(
                    turn,
                    mode=mode,
                    priority=priority,
                    event_count=event_count,
                    request=orjson.dumps({"model": turn.model, "service_tier": "flex"}),
                )
            ],
            max_queued=max_queued,
        )
    assert is_in
    return turn


async def claim(db: Database, owner: str = "me", **lease: Any) -> Job | None:
    async with db.begin_system() as tx:
        jobs = await lifecycle.claim(tx, owner=owner, **{**LEASE, **lease})
    return jobs[0] if jobs else None


async def claimed(db: Database, caller: Caller, **how: Any) -> tuple[Turn, Claim]:
    """The only queued response, claimed."""
    turn = await enqueue(db, caller, **how)
    job = await claim(db)
    assert job is not None
    assert job.claim.response_id == turn.id
    return turn, job.claim


async def finish(db: Database, claim: Claim, turn: Turn, status: Status = Status.COMPLETED) -> bool:
    done = replace(turn, status=status)
    async with db.begin(Caller(claim.tenant_id)) as tx:
        return (
            await lifecycle.finish(
                tx, Ending(claim, done, event_count=7, shape=None, ttl_seconds=TTL_SECONDS)
            )
            is not None
        )


async def end(db: Database, caller: Caller, turn: Turn, status: Status = Status.CANCELLED) -> None:
    async with db.begin(caller) as tx:
        row = await lifecycle.lock(tx, turn.id)
        assert row is not None
        error = ERROR if status is Status.FAILED else None
        await lifecycle.end(tx, row, status, event_count=3, ttl_seconds=TTL_SECONDS, error=error)


async def requeue(db: Database, claim: Claim) -> bool:
    async with db.begin(Caller(claim.tenant_id)) as tx:
        return await lifecycle.requeue(tx, claim, event_count=2)


async def renew(db: Database, *claims: Claim, **lease: float) -> set[Claim]:
    async with db.begin_system() as tx:
        return await leases.renew(tx, claims, **{**LEASE, **lease})


async def row_of(database_url: str, turn: Turn) -> Any:
    [row] = await execute(database_url, "select *, now() from responses where id = $1", turn.id)
    return row
