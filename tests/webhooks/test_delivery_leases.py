"""A worker that is lost, stops or comes too late: each delivery is one attempt's at a time."""

import asyncio
from typing import Any

import pytest
from aiohttp import web

from app.domain.tenancy import Caller
from app.domain.webhooks import Outcome, Standing, State
from app.store import webhook_claims, webhook_deliveries
from app.store.db import Database
from app.store.webhook_claims import Room
from app.webhooks import endpoints
from tests.webhooks.hooking import (
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


class TestLeases:
    async def claimed(self, db: Database) -> Any:
        async with db.begin_system() as tx:
            room = Room(Standing.NEW, 9, 9, 9, {}, {})
            [job] = await webhook_claims.claim(tx, room, lease_seconds=60, give_up_seconds=3600)
        return job

    async def test_two_claims_never_win_the_same(
        self, db: Database, caller: Caller, receiver: Receiver
    ) -> None:
        await one(db, caller, receiver)
        await self.claimed(db)
        with pytest.raises(ValueError, match="not enough"):
            await self.claimed(db)

    async def test_what_a_lost_worker_had_is_tried_again_and_it_comes_too_late(
        self, db: Database, caller: Caller, receiver: Receiver, database_url: str
    ) -> None:
        which = await one(db, caller, receiver)
        lost = await self.claimed(db)
        await make_due(database_url)
        async with delivering(db) as deliveries:
            await waked(deliveries, stands(db, caller, which, State.DELIVERED))
        assert await tried(db, caller, *which) == [("lost", None), ("delivered", 200)]
        async with db.begin(caller) as tx:
            outcome = Outcome("refused", 500)
            assert not await webhook_deliveries.settle(
                tx, lost.claim, outcome, state=State.PENDING, pause_seconds=1, rest_seconds=1
            )
        assert (await found(db, caller, *which)).state is State.DELIVERED

    async def test_a_worker_that_stops_hands_back_what_hangs(
        self, db: Database, caller: Caller, receiver: Receiver
    ) -> None:
        receiver.answers = [hang]
        which = await one(db, caller, receiver)
        async with delivering(db) as deliveries:
            deliveries.wake()
            await receiver.wait_for(1)
            await deliveries.drain(0)
            deliveries.wake()
        assert await tried(db, caller, *which) == [("handed_back", None)]
        # Due at once, and its first pause is still before it.
        assert (await self.claimed(db)).tries == 1

    async def test_a_worker_that_stops_lets_answers_come(
        self, db: Database, caller: Caller, receiver: Receiver
    ) -> None:
        may_answer = asyncio.Event()

        async def slow(_: web.Request) -> web.StreamResponse:
            await may_answer.wait()
            return web.Response()

        receiver.answers = [slow]
        which = await one(db, caller, receiver)
        async with delivering(db) as deliveries:
            deliveries.wake()
            await receiver.wait_for(1)
            draining = asyncio.ensure_future(deliveries.drain(20))
            await asyncio.sleep(0)
            may_answer.set()
            await draining
        assert await tried(db, caller, *which) == [("delivered", 200)]

    async def test_an_endpoint_that_is_deleted_meanwhile_is_no_error(
        self, db: Database, caller: Caller, receiver: Receiver
    ) -> None:
        receiver.answers = [hang]
        endpoint_id, _ = await one(db, caller, receiver)
        async with delivering(db, timeout_seconds=0.3) as deliveries:
            deliveries.wake()
            await receiver.wait_for(1)
            async with db.begin(caller) as tx:
                await endpoints.delete(tx, endpoint_id)
            # The next one shows that it goes on.
            which = await one(db, caller, receiver)
            await waked(deliveries, stands(db, caller, which, State.DELIVERED))
