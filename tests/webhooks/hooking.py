"""Endpoints and their deliveries in the test's own process."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_network
from typing import Any
from uuid import UUID

from app.domain.seals import Seals
from app.domain.tenancy import Caller
from app.domain.webhooks import EVENT_TYPES, Delivery, Standing, State
from app.store import webhook_deliveries
from app.store.db import Database
from app.store.webhook_endpoints import Changes
from app.webhooks import endpoints
from app.webhooks.delivering import Deliveries, Policy, open_deliveries
from app.webhooks.sending import Rules, Sender
from tests.background import cancel, enqueued, execute
from tests.waiting import patience
from tests.webhooks.receiving import Receiver

LOOPBACK = (ip_network("127.0.0.0/8"),)
SEALS = Seals(bytes(range(32)))


async def an_endpoint(
    db: Database, caller: Caller, url: str, *types: str, standing: Standing = Standing.NEW
) -> tuple[UUID, str]:
    """An endpoint and its secret."""
    async with db.begin(caller) as tx:
        given = Changes("mine", url, types or EVENT_TYPES)
        made, secret = await endpoints.create(tx, given, SEALS, most=1000, allowed=LOOPBACK)
    async with db.begin_system() as tx:
        update = "update webhook_endpoints set standing = $2 where id = $1"
        await tx._driver.fetch(update, made.id, int(standing))
    return made.id, secret


async def an_event(db: Database, caller: Caller) -> UUID:
    """The end of a background response, by the shortest way: it is cancelled."""
    draft = await enqueued(db, caller)
    assert await cancel(db, caller, draft.id)
    return draft.id


async def found(db: Database, caller: Caller, endpoint_id: UUID, event_id: UUID) -> Delivery:
    async with db.read(caller) as tx:
        delivery = await webhook_deliveries.get(tx, endpoint_id, event_id)
    assert delivery
    return delivery


async def tried(db: Database, caller: Caller, endpoint_id: UUID, event_id: UUID) -> list[Any]:
    """How each attempt ended."""
    async with db.read(caller) as tx:
        attempts = await webhook_deliveries.attempts_of(tx, endpoint_id, event_id)
    assert [each["attempt"] for each in attempts] == list(range(1, len(attempts) + 1))
    return [(each["reason"], each["status_code"]) for each in attempts]


async def make_due(database_url: str) -> None:
    """Let every pause, rest and lease be over."""
    await execute(database_url, "update webhook_endpoints set rests_until = null")
    await execute(database_url, "update webhook_deliveries set due_at = now() where due_at is not null")


@asynccontextmanager
async def delivering(
    db: Database, *, seals: Seals = SEALS, timeout_seconds: float = 5.0, **policy: Any
) -> AsyncGenerator[Deliveries]:
    """What a worker process delivers with."""
    sender = Sender(Rules(LOOPBACK, timeout_seconds))
    given: dict[str, Any] = {"retry_seconds": 0.01, **policy}
    how = Policy(**given)
    try:
        async with open_deliveries(Deliveries(db, sender, seals, how)) as deliveries:
            yield deliveries
    finally:
        await sender.close()


async def waked(deliveries: Deliveries, condition: Callable[[], Awaitable[bool]]) -> None:
    """Wake it, as the reaper's bells would, until something holds."""
    async with patience():
        while not await condition():
            deliveries.wake()
            await asyncio.sleep(0.01)


def stands(db: Database, caller: Caller, which: tuple[UUID, UUID], state: State) -> Any:
    async def look() -> bool:
        return (await found(db, caller, *which)).state is state

    return look


async def one(db: Database, caller: Caller, receiver: Receiver) -> tuple[UUID, UUID]:
    """An endpoint and an event for it."""
    endpoint_id, _ = await an_endpoint(db, caller, receiver.url())
    return endpoint_id, await an_event(db, caller)


def any_delivered(db: Database, caller: Caller, *which: tuple[UUID, UUID]) -> Callable[[], Awaitable[bool]]:
    """Whichever of them was sent first."""
    looks = [stands(db, caller, each, State.DELIVERED) for each in which]

    async def is_any() -> bool:
        return any([await look() for look in looks])

    return is_any
