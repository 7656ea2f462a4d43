"""Background work in the test's own process: a queue of its own, workers, followers."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from app.domain.response import Draft, Status
from app.domain.seals import NO_SEALS, Seals
from app.domain.tenancy import Caller
from app.generation import cancel as cancelling
from app.generation.accept import accept
from app.generation.background import Background, Policy, open_background
from app.generation.follow import IDLE, follow
from app.generation.queueing import enqueue
from app.providers.base import Provider
from app.providers.registry import Entry, Registry
from app.store import attempts, events, responses
from app.store.db import Database
from app.store.entries import Entries
from app.store.notifications import Notifications
from app.store.responses import StoredResponse
from tests.builders import a_draft

Json = dict[str, Any]

TTL_SECONDS = 600.0

POLICY: Mapping[str, Any] = {
    "lease_seconds": 30.0,
    "max_attempts": 3,
    "rerun": "if_no_output",
    "max_run_seconds": 60.0,
    "event_retention_seconds": 3600.0,
    "idempotency_retention_seconds": 86400.0,
    "ephemeral_result_seconds": TTL_SECONDS,
    "queued_too_long_seconds": 10.0,
    "pads": False,
}


async def execute(database_url: str, statement: str, *arguments: object) -> list[Any]:
    """One statement on a connection of its own: what a test does behind the product's back."""
    connection: Any = await asyncpg.connect(database_url)
    try:
        return await connection.fetch(statement, *arguments)
    finally:
        await connection.close()


async def generate(worker: Background) -> bool:
    """Claim one response and wait for its end; False if none was queued that may run."""
    if worker._is_draining or not (runs := await worker._begun(1)):
        return False
    await asyncio.wait(runs)
    return True


async def empty_queue(database_url: str) -> None:
    """Remove what other tests left unfinished: a queue belongs to nobody, and any worker would take it."""
    await execute(database_url, "delete from responses where status < 2")


async def expire(database_url: str, response_id: UUID) -> None:
    """Let the lease of a response end, as if its worker had been silent for so long."""
    statement = "update responses set lease_until = now() - interval '1 second' where id = $1"
    await execute(database_url, statement, response_id)


async def forget_events(database_url: str, response_id: UUID) -> None:
    """What pruning does once a stream is old."""
    await execute(database_url, "delete from response_events where response_id = $1", response_id)


async def enqueued(
    db: Database, caller: Caller, *, max_queued: int = 1000, seals: Seals = NO_SEALS, **params: Any
) -> Draft:
    """A background response as `create` leaves it: queued."""
    accepted = await accept(db, caller, a_draft(background=True, **params))
    await enqueue(db, Entries(db, max_queued=max_queued), caller, accepted, seals=seals)
    return accepted.draft


def registry(*providers: Provider) -> Registry:
    """Each provider serves the model of its name; the first serves `a-model`."""
    return Registry([Entry(each, [each.name], {"a-model": each.name}) for each in providers])


def a_background(db: Database, *providers: Provider, seals: Seals = NO_SEALS, **policy: Any) -> Background:
    """Without what runs beside it: for runs whose leases and journal are looked after by the test."""
    return Background(db, registry(*providers), Policy(**{**POLICY, **policy}), seals)


@asynccontextmanager
async def working(
    db: Database, database_url: str, *providers: Provider, **policy: Any
) -> AsyncGenerator[Background]:
    """A worker process without its process. `policy` are fields of `Policy`."""
    policies = Policy(**{**POLICY, **policy})
    async with open_background(db, registry(*providers), policies, database_url) as background:
        yield background


@asynccontextmanager
async def listening(database_url: str) -> AsyncGenerator[Notifications]:
    """What an API process listens with, once it does."""
    notifications = Notifications(database_url, events.CHANNEL)
    task = asyncio.ensure_future(notifications.run())
    with notifications.subscribed("ready") as ready:
        await ready.wait()
    try:
        yield notifications
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def deaf() -> Notifications:
    """Notifications that never come."""
    return Notifications("postgresql://nobody", events.CHANNEL)


async def followed(
    db: Database,
    caller: Caller,
    response_id: UUID,
    notifications: Notifications | None = None,
    *,
    after: int = -1,
    is_padded: bool = True,
    poll_seconds: float = 0.05,
) -> bytes:
    """Everything that a follower reads, to the end."""
    stream = follow(
        db,
        caller,
        notifications or deaf(),
        response_id,
        after=after,
        is_padded=is_padded,
        poll_seconds=poll_seconds,
    )
    async with aclosing(stream) as batches:
        return b"".join([batch async for batch in batches if batch != IDLE])


def frames(stream: bytes) -> list[bytes]:
    """The frames of a stream, whole."""
    assert stream == b"" or stream.endswith(b"\n\n")
    return [frame + b"\n\n" for frame in stream.split(b"\n\n")[:-1]]


def said(stream: bytes) -> list[Json]:
    """The events of a stream as a client reads them; the name above must be the name inside."""
    found: list[Json] = []
    for frame in frames(stream):
        name, data = frame[:-2].split(b"\n")
        found.append(orjson.loads(data.removeprefix(b"data: ")))
        assert name == b"event: " + found[-1]["type"].encode()
    return found


def numbers(stream: bytes) -> list[int]:
    return [event["sequence_number"] for event in said(stream)]


async def cancel(db: Database, caller: Caller, response_id: UUID) -> bool:
    return await cancelling.cancel(db, caller, response_id, ttl_seconds=TTL_SECONDS)


async def found(db: Database, caller: Caller, response_id: UUID) -> StoredResponse:
    async with db.read(caller) as tx:
        stored = await responses.get(tx, response_id)
    assert stored is not None
    return stored


async def state(db: Database, caller: Caller, response_id: UUID) -> Status:
    return (await found(db, caller, response_id)).status


async def body(db: Database, caller: Caller, response_id: UUID) -> Json:
    return orjson.loads((await found(db, caller, response_id)).json())


async def tries(db: Database, caller: Caller, response_id: UUID) -> list[Json]:
    """The attempts at a response, as the API shows them."""
    async with db.read(caller) as tx:
        return await attempts.list_of(tx, response_id)


async def journalled(db: Database, caller: Caller, response_id: UUID) -> Sequence[tuple[int, bytes]]:
    """What is in the journal: last sequence numbers and frames."""
    async with db.read(caller) as tx:
        return await events.read_after(tx, response_id, -1, limit=10_000)
