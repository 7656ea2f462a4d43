"""What becomes of a delivery: tried, tried again, given up."""

import pytest
from aiohttp import web

from app.domain.tenancy import Caller
from app.domain.webhooks import State
from app.store.db import Database
from tests.background import execute
from tests.webhooks.hooking import (
    an_endpoint,
    an_event,
    delivering,
    found,
    make_due,
    one,
    stands,
    tried,
    waked,
)
from tests.webhooks.receiving import Receiver, hang

pytestmark = pytest.mark.usefixtures("no_endpoints")


async def test_it_is_tried_until_it_is_taken_with_one_id(
    db: Database, caller: Caller, receiver: Receiver
) -> None:
    receiver.answers = [500, 302, 404, hang]
    which = await one(db, caller, receiver)
    async with delivering(db, timeout_seconds=0.5) as deliveries:
        await waked(deliveries, stands(db, caller, which, State.DELIVERED))
    assert await tried(db, caller, *which) == [
        ("refused", 500),
        ("redirected", 302),
        ("refused", 404),
        ("timed_out", None),
        ("delivered", 200),
    ]
    assert {each.headers["webhook-id"] for each in receiver.received} == {f"evt_{which[1].hex}"}
    assert {each.path for each in receiver.received} == {"/hook"}
    assert len({each.body for each in receiver.received}) == 1


async def test_it_is_given_up_when_its_time_is_over(db: Database, caller: Caller, receiver: Receiver) -> None:
    receiver.answers = [500, 500]
    which = await one(db, caller, receiver)
    async with delivering(db, give_up_seconds=0.001) as deliveries:
        await waked(deliveries, stands(db, caller, which, State.FAILED))
    delivery = await found(db, caller, *which)
    assert (delivery.attempts, delivery.due_at) == (1, None)
    assert delivery.ended_at


async def test_pauses_grow(db: Database, caller: Caller, receiver: Receiver, database_url: str) -> None:
    receiver.answers = [500] * 4
    which = await one(db, caller, receiver)
    paused = list[float]()
    async with delivering(db, retry_seconds=100) as deliveries:
        for number in range(4):
            await make_due(database_url)
            deliveries.wake()
            await receiver.wait_for(number + 1)

            async def settled(number: int = number) -> bool:
                return len([each for each in await tried(db, caller, *which) if each[0]]) > number

            await waked(deliveries, settled)
            due = "select extract(epoch from due_at - now()) as pause from webhook_deliveries"
            paused.append(float((await execute(database_url, due))[0]["pause"]))
    for tries, pause in enumerate(paused):
        assert 0.7 * 100 * 2**tries <= pause <= 1.25 * 100 * 2**tries


async def test_who_is_busy_says_for_how_long(
    db: Database, caller: Caller, receiver: Receiver, database_url: str
) -> None:
    """It is left alone, and what it refused waits, until then."""

    async def busy(_: web.Request) -> web.StreamResponse:
        return web.Response(status=429, headers={"retry-after": "1000"})

    receiver.answers = [busy]
    endpoint_id, _ = await an_endpoint(db, caller, receiver.url())
    which = [(endpoint_id, await an_event(db, caller)) for _ in range(2)]
    left = "select extract(epoch from {} - now()) as seconds from {} order by 1 desc"
    async with delivering(db) as deliveries:
        deliveries.wake()
        await receiver.wait_for(1)

        async def rests() -> bool:
            rows = await execute(database_url, left.format("rests_until", "webhook_endpoints"))
            return bool(rows[0]["seconds"]) and 900 < rows[0]["seconds"] <= 1000

        await waked(deliveries, rests)
        deliveries.wake()
        due = await execute(database_url, left.format("due_at", "webhook_deliveries"))
        assert [each["seconds"] > 900 for each in due] == [True, False]
        assert len(receiver.received) == 1
        await make_due(database_url)
        for each in which:
            await waked(deliveries, stands(db, caller, each, State.DELIVERED))
