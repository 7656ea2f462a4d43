"""Endpoints that hang, fail or flood are in nobody else's way."""

import asyncio
from collections import Counter

import pytest
from aiohttp import web

from app.domain.tenancy import Caller
from app.domain.webhooks import RESTS_AFTER, DeliveryJob, Standing, State
from app.store import webhook_claims
from app.store.db import Database
from app.store.webhook_claims import Room
from app.webhooks import endpoints
from tests.background import execute
from tests.builders import a_caller
from tests.webhooks.hooking import (
    an_endpoint,
    an_event,
    delivering,
    make_due,
    one,
    stands,
    tried,
    waked,
)
from tests.webhooks.receiving import Receiver, hang, receiving

pytestmark = pytest.mark.usefixtures("no_endpoints")


class TestFairness:
    @pytest.mark.parametrize(
        ("standing", "dead_standing", "room"),
        [
            (Standing.ANSWERING, Standing.NEW, 6),
            (Standing.ANSWERING, Standing.FAILING, 4),
            (Standing.NEW, Standing.FAILING, 4),
        ],
    )
    async def test_endpoints_that_hang_keep_nobody_waiting(
        self,
        db: Database,
        caller: Caller,
        receiver: Receiver,
        database_url: str,
        standing: Standing,
        dead_standing: Standing,
        room: int,
    ) -> None:
        """They never answer as long as this test lasts, and they are many more than fit."""
        await an_endpoint(db, caller, receiver.url("/healthy"), standing=standing)
        async with receiving() as dead:
            dead.answers = [hang] * 1000
            for _ in range(9):
                stranger = await a_caller(database_url)
                for _ in range(2):
                    await an_endpoint(db, stranger, dead.url(), standing=dead_standing)
                await an_event(db, stranger)
            async with delivering(db, timeout_seconds=60, concurrency=8) as deliveries:
                deliveries.wake()
                await dead.wait_for(room)
                for _ in range(20):
                    await an_event(db, caller)
                deliveries.wake()
                await receiver.wait_for(20)
                assert len(dead.received) == room

    async def test_what_resting_ones_are_owed_is_not_looked_for_again_and_again(
        self, db: Database, caller: Caller, receiver: Receiver, database_url: str
    ) -> None:
        """It is due all the time. Whoever is new is served all the same, though woken for only once."""
        await an_endpoint(db, caller, receiver.url("/resting"), standing=Standing.FAILING)
        await an_event(db, caller)
        await execute(database_url, "update webhook_endpoints set rests_until = now() + interval '1 hour'")
        async with delivering(db) as deliveries:
            asked = Counter[Standing]()
            claim = deliveries._claim

            async def counted(room: Room) -> list[DeliveryJob]:
                asked[room.standing] += 1
                return await claim(room)

            deliveries._claim = counted
            for _ in range(3):
                await deliveries._fill()
            assert asked == {Standing.ANSWERING: 3, Standing.NEW: 1, Standing.FAILING: 1}
            other = await a_caller(database_url)
            await an_endpoint(db, other, receiver.url())
            await an_event(db, other)
            deliveries.wake()
            assert [each.path for each in await receiver.wait_for(1)] == ["/hook"]

    async def test_new_endpoints_of_one_tenant_leave_room_for_those_of_others(
        self, db: Database, caller: Caller, receiver: Receiver, database_url: str
    ) -> None:
        await an_endpoint(db, caller, receiver.url())
        async with receiving() as dead:
            dead.answers = [hang] * 1000
            stranger = await a_caller(database_url)
            for _ in range(20):
                await an_endpoint(db, stranger, dead.url())
            await an_event(db, stranger)
            async with delivering(db, timeout_seconds=60, concurrency=16) as deliveries:
                deliveries.wake()
                await dead.wait_for(1)
                for _ in range(20):
                    await an_event(db, caller)
                deliveries.wake()
                await receiver.wait_for(20)
                assert len(dead.received) == 1

    async def test_a_proven_endpoint_is_sent_several_at_once_and_no_more(
        self, db: Database, caller: Caller, receiver: Receiver
    ) -> None:
        may_answer = asyncio.Event()

        async def slow(_: web.Request) -> web.StreamResponse:
            await may_answer.wait()
            return web.Response()

        receiver.answers = [slow] * 4
        await an_endpoint(db, caller, receiver.url(), standing=Standing.ANSWERING)
        for _ in range(9):
            await an_event(db, caller)
        async with delivering(db, concurrency=64, endpoint_concurrency=4) as deliveries:
            deliveries.wake()
            await receiver.wait_for(4)
            async with db.begin_system() as tx:
                assert await webhook_claims.count_due(tx, limit=99) == 5
            may_answer.set()
            await receiver.wait_for(9)

    async def test_who_fails_again_and_again_is_left_alone_for_a_while(
        self, db: Database, caller: Caller, receiver: Receiver, database_url: str
    ) -> None:
        receiver.answers = [500] * RESTS_AFTER
        endpoint_id, _ = await an_endpoint(db, caller, receiver.url())
        which = [(endpoint_id, await an_event(db, caller)) for _ in range(9)]
        async with delivering(db, retry_seconds=1000) as deliveries:

            async def rests() -> bool:
                resting = "select 1 from webhook_endpoints where rests_until > now() + interval '50 seconds'"
                return bool(await execute(database_url, resting))

            await waked(deliveries, rests)
            deliveries.wake()
            assert len([each for each in which if await tried(db, caller, *each)]) == RESTS_AFTER
            assert len(receiver.received) == RESTS_AFTER
            await make_due(database_url)
            for each in which:
                await waked(deliveries, stands(db, caller, each, State.DELIVERED))

    async def test_replaying_rouses_who_was_left_alone(
        self, db: Database, caller: Caller, receiver: Receiver, database_url: str
    ) -> None:
        which = await one(db, caller, receiver)
        await execute(database_url, "update webhook_endpoints set rests_until = 'infinity'")
        async with delivering(db) as deliveries:
            async with db.begin(caller) as tx:
                await endpoints.replay(tx, *which)
            await waked(deliveries, stands(db, caller, which, State.DELIVERED))

    async def test_who_answers_slowly_stands_no_better_than_who_fails(
        self, db: Database, caller: Caller, receiver: Receiver, database_url: str
    ) -> None:
        endpoint_id, _ = await an_endpoint(db, caller, receiver.url(), standing=Standing.ANSWERING)
        look = "select standing, failures, rests_until from webhook_endpoints"
        for failures, slow_seconds, standing in ((0, 0, 0), (RESTS_AFTER, 0, 0), (0, 1000, 2)):
            await execute(database_url, "update webhook_endpoints set failures = $1", failures)
            which = (endpoint_id, await an_event(db, caller))
            async with delivering(db, slow_seconds=slow_seconds) as deliveries:
                await waked(deliveries, stands(db, caller, which, State.DELIVERED))
            assert [tuple(row) for row in await execute(database_url, look)] == [(standing, 0, None)]

    async def test_who_fails_is_asked_one_at_a_time_until_it_answers_again(
        self, db: Database, caller: Caller, receiver: Receiver, database_url: str
    ) -> None:
        receiver.answers = [500]
        endpoint_id, _ = await an_endpoint(db, caller, receiver.url(), standing=Standing.ANSWERING)
        which = (endpoint_id, await an_event(db, caller))
        standing = "select standing from webhook_endpoints"
        async with delivering(db, retry_seconds=1000) as deliveries:

            async def failed() -> bool:
                return (await execute(database_url, standing))[0]["standing"] == Standing.FAILING

            await waked(deliveries, failed)
            await make_due(database_url)
            await waked(deliveries, stands(db, caller, which, State.DELIVERED))
        assert (await execute(database_url, standing))[0]["standing"] == Standing.ANSWERING
