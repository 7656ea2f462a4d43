"""Each function of the store, applied to a turn, and what a stranger gets to see."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta

from app import ids
from app.domain.idempotency import IdempotencyKey, KeyClaim
from app.domain.jobs import Claim, Ending, Mode, NewJob
from app.domain.response import Status
from app.domain.tenancy import Caller
from app.domain.turn import Turn
from app.store import (
    attempts,
    entries,
    events,
    idempotency,
    items,
    lifecycle,
    lineage,
    rate_limits,
    responses,
)
from app.store.codec import CODEC, compress
from app.store.db import Database, Tx
from tests.store.turns import a_turn

Look = Callable[[Tx, Turn], Awaitable[object]]


async def enqueue(tx: Tx, turn: Turn) -> int:
    turn = replace(turn, status=Status.QUEUED)
    return await lifecycle.enqueue(
        tx, [NewJob(turn, mode=Mode.BACKGROUND, priority=0, event_count=0, request=b"{}")], max_queued=1
    )


async def put_in_queue(tx: Tx, turn: Turn) -> int:
    turn = replace(turn, status=Status.QUEUED)
    job = NewJob(turn, Mode.BACKGROUND | Mode.STREAMED, 0, 2, b"{}", frames=b"event: x\n\n")
    return await entries.put_in_queue(tx, [job], max_queued=1)


async def finish(tx: Tx, turn: Turn) -> bool:
    claim = Claim(tx.tenant_id, turn.id, 1)
    ended = await lifecycle.finish(tx, Ending(claim, turn, event_count=5, shape=None, ttl_seconds=1))
    return ended is not None


async def finish_each(tx: Tx, turn: Turn) -> bool:
    claim = Claim(tx.tenant_id, turn.id, 1)
    [ended] = await lifecycle.finish_each(tx, [Ending(claim, turn, event_count=5, shape=None, ttl_seconds=1)])
    return ended is not None


async def end(tx: Tx, turn: Turn) -> None:
    nothing = {"body": compress(b'{"model":"m"}'), "request": compress(b"{}"), "items": compress(b"")}
    row = {"id": turn.id, "codec": CODEC, "conversation_id": None, **nothing}
    await lifecycle.end(tx, row, Status.CANCELLED, event_count=2, ttl_seconds=1, error=None)


def use_limits(tx: Tx) -> Awaitable[object]:
    return rate_limits.use(tx, requests=timedelta(seconds=1), tokens=timedelta(seconds=1))


LOOKS: dict[str, tuple[Look, object]] = {
    "responses.get": (lambda tx, turn: responses.get(tx, turn.id), None),
    "responses.delete": (lambda tx, turn: responses.delete(tx, turn.id), False),
    "responses.status": (lambda tx, turn: responses.status(tx, turn.id), None),
    "responses.shape": (lambda tx, turn: responses.shape(tx, turn.id), None),
    "lifecycle.append": (lifecycle.append, None),
    "lifecycle.append_each": (lambda tx, turn: lifecycle.append_each(tx, [(turn, None)]), None),
    "lifecycle.enqueue": (enqueue, 1),
    "entries.put_in_queue": (put_in_queue, 1),
    "lineage.ancestry": (lambda tx, turn: lineage.ancestry(tx, turn.id), None),
    "lineage.before": (lambda tx, turn: lineage.before(tx, turn.id, turn.place.next()), None),
    "items.find": (lambda tx, turn: items.find(tx, [ids.item_id("message", turn.id, 0)]), {}),
}
"""Each function of the store, applied to a turn, and what a stranger gets to see."""


OF_RUNS: dict[str, tuple[Look, object]] = {
    "lifecycle.lock": (lambda tx, turn: lifecycle.lock(tx, turn.id), None),
    "lifecycle.finish": (finish, False),
    "lifecycle.finish_each": (finish_each, False),
    "lifecycle.requeue": (
        lambda tx, turn: lifecycle.requeue(tx, Claim(tx.tenant_id, turn.id, 1), event_count=2),
        False,
    ),
    "lifecycle.put_off": (
        lambda tx, turn: lifecycle.put_off(tx, Claim(tx.tenant_id, turn.id, 1), seconds=60),
        None,
    ),
    "lifecycle.end": (end, None),
    "attempts.end": (
        lambda tx, turn: attempts.end(tx, Claim(tx.tenant_id, turn.id, 1), "mine now"),
        None,
    ),
    "attempts.list_of": (lambda tx, turn: attempts.list_of(tx, turn.id), []),
    "events.put": (lambda tx, turn: events.put(tx, turn.id, 9, b"event: x\n\n"), None),
    "events.read_after": (lambda tx, turn: events.read_after(tx, turn.id, -1), []),
    "events.read_all": (lambda tx, turn: events.read_all(tx, turn.id), b""),
    "events.count": (lambda tx, turn: events.count(tx, turn.id), 0),
    "rate_limits.use": (lambda tx, _: use_limits(tx), rate_limits.Used(1, 1)),
    "rate_limits.look": (lambda tx, _: rate_limits.look(tx), rate_limits.Used(0, 0)),
    "rate_limits.correct": (lambda tx, _: rate_limits.correct(tx, tokens=timedelta(seconds=1)), None),
}
"""The same for a response that is being generated."""


def keyed(tx: Tx, turn: Turn) -> KeyClaim:
    return KeyClaim(tx.tenant_id, "key", turn.id)


OF_KEYS: dict[str, tuple[Look, object]] = {
    "idempotency.claim": (
        lambda tx, turn: idempotency.claim(
            tx, IdempotencyKey("key", b"print"), turn.id, lease_seconds=60, retention_seconds=60
        ),
        None,
    ),
    "idempotency.find": (lambda tx, _: idempotency.find(tx, "key"), None),
    "idempotency.end": (lambda tx, turn: idempotency.end(tx, keyed(tx, turn)), False),
    "idempotency.release": (lambda tx, turn: idempotency.release(tx, keyed(tx, turn)), None),
    "idempotency.answer": (lambda tx, _: idempotency.answer(tx, "key", b"{}"), None),
}
"""The same for an idempotency key whose response is being made."""


async def running(db: Database, caller: Caller) -> Turn:
    """A turn that is being generated, with two events in its journal."""
    turn = a_turn()
    async with db.begin(caller) as tx:
        await enqueue(tx, turn)
        await events.put(tx, turn.id, 1, b"event: x\n\n" * 2)
        await use_limits(tx)
        claim = "update responses set status = 1, attempt = 1, lease_until = now() where id = $1"
        await tx._driver.fetch(claim, turn.id)
        attempt = (
            "insert into response_attempts (tenant_id, response_id, attempt, owner) values ($1, $2, 1, '')"
        )
        await tx._driver.fetch(attempt, caller.tenant_id, turn.id)
    return turn


async def everything(db: Database, caller: Caller, turn: Turn) -> list[object]:
    """What the tables hold of a turn of this tenant's."""
    async with db.read(caller) as tx:
        return [
            await tx._driver.fetch(
                f"select * from {table} where tenant_id = $1 and {key} = $2", caller.tenant_id, turn.id
            )
            for table, key in (
                ("responses", "id"),
                ("response_events", "response_id"),
                ("response_attempts", "response_id"),
                # Of the tenant itself: it has no turn to be looked up by.
                ("rate_limits", "$2::uuid"),
            )
        ]


async def keys(db: Database, caller: Caller) -> object:
    """What is kept of this tenant's keys."""
    async with db.read(caller) as tx:
        return await tx._driver.fetch("select * from idempotency_keys where tenant_id = $1", caller.tenant_id)
