"""What becomes of deliveries when their endpoint is gone, rotates its secret, or asks for one again."""

import asyncio
from typing import Any
from uuid import UUID

import orjson
import pytest
from aiohttp import web
from openai import InvalidWebhookSignatureError, OpenAI

from app.domain.audit import Action
from app.domain.seals import Seals
from app.domain.tenancy import Caller
from app.domain.webhooks import Standing, State
from app.errors import Conflict, NotFound
from app.store import webhook_deliveries
from app.store.db import Database
from app.store.webhook_endpoints import Changes
from app.webhooks import endpoints
from tests.background import execute
from tests.webhooks.hooking import (
    LOOPBACK,
    SEALS,
    an_endpoint,
    an_event,
    any_delivered,
    delivering,
    found,
    one,
    stands,
    tried,
    waked,
)
from tests.webhooks.receiving import Received, Receiver, hang

pytestmark = pytest.mark.usefixtures("no_endpoints")


def unwrapped(got: Received, secret: str) -> Any:
    return OpenAI(api_key="unused").webhooks.unwrap(got.body, got.headers, secret=secret)


class TestGone:
    """410, by which a receiver says that it wants nothing any more (Standard Webhooks)."""

    @pytest.fixture
    async def gone(self, db: Database, caller: Caller, receiver: Receiver) -> list[tuple[UUID, UUID]]:
        """Two deliveries to an endpoint that has answered so to the first."""
        receiver.answers = [410]
        endpoint_id, _ = await an_endpoint(db, caller, receiver.url())
        which = [(endpoint_id, await an_event(db, caller)) for _ in range(2)]
        async with delivering(db) as deliveries:
            await waked(deliveries, stands(db, caller, which[0], State.FAILED))
            await deliveries.reap()
        return which

    async def is_disabled(self, db: Database, caller: Caller, endpoint_id: UUID) -> bool:
        async with db.read(caller) as tx:
            return (await endpoints.get(tx, endpoint_id)).is_disabled

    async def test_it_is_told_nothing_more(
        self, db: Database, caller: Caller, receiver: Receiver, gone: list[tuple[UUID, UUID]]
    ) -> None:
        endpoint_id = gone[0][0]
        assert await self.is_disabled(db, caller, endpoint_id)
        assert [await tried(db, caller, *each) for each in gone] == [[("refused", 410)], []]
        assert await stands(db, caller, gone[1], State.FAILED)()
        later = await an_event(db, caller)
        async with db.read(caller) as tx:
            assert await webhook_deliveries.get(tx, endpoint_id, later) is None
        assert len(receiver.received) == 1

    async def test_what_was_sent_before_and_is_taken_after_it_enables_nothing(
        self, db: Database, caller: Caller, receiver: Receiver
    ) -> None:
        gate = asyncio.Event()

        async def late(_: web.Request) -> web.StreamResponse:
            await gate.wait()
            return web.Response(status=200)

        receiver.answers = [late, 410]
        endpoint_id, _ = await an_endpoint(db, caller, receiver.url(), standing=Standing.ANSWERING)
        before, after = [(endpoint_id, await an_event(db, caller)) for _ in range(2)]
        async with delivering(db) as deliveries:
            deliveries.wake()
            await receiver.wait_for(2)
            await waked(deliveries, lambda: self.is_disabled(db, caller, endpoint_id))
            gate.set()
            await waked(deliveries, any_delivered(db, caller, before, after))
        assert await self.is_disabled(db, caller, endpoint_id)

    async def test_what_is_being_tried_then_is_left_to_who_tries_it(
        self, db: Database, caller: Caller, receiver: Receiver, database_url: str
    ) -> None:
        """It may be too late to call it off."""
        which = await one(db, caller, receiver)
        receiver.answers = [hang]
        async with delivering(db) as deliveries:
            deliveries.wake()
            await receiver.wait_for(1)
            await execute(database_url, "update webhook_endpoints set rests_until = 'infinity'")
            await deliveries.reap()
            assert (await found(db, caller, *which)).state is State.PENDING

    async def test_a_failure_beside_it_does_not_call_it_back(
        self, db: Database, caller: Caller, receiver: Receiver, database_url: str
    ) -> None:
        which = await one(db, caller, receiver)

        async def fail(_: web.Request) -> web.StreamResponse:
            await execute(database_url, "update webhook_endpoints set rests_until = 'infinity'")
            return web.Response(status=500)

        receiver.answers = [fail]
        async with delivering(db) as deliveries:
            deliveries.wake()
            await receiver.wait_for(1)

            async def is_settled() -> bool:
                return await tried(db, caller, *which) == [("refused", 500)]

            await waked(deliveries, is_settled)
        assert await self.is_disabled(db, caller, which[0])

    @pytest.mark.parametrize("how", ["url", "replay"])
    async def test_it_is_back_once_somebody_says_so(
        self, db: Database, caller: Caller, receiver: Receiver, gone: list[tuple[UUID, UUID]], how: str
    ) -> None:
        endpoint_id = gone[0][0]
        async with db.begin(caller) as tx:
            await endpoints.update(tx, endpoint_id, Changes(name="other"), allowed=LOOPBACK)
        assert await self.is_disabled(db, caller, endpoint_id)
        async with db.begin(caller) as tx:
            if how == "url":
                await endpoints.update(tx, endpoint_id, Changes(url=receiver.url()), allowed=LOOPBACK)
            else:
                await endpoints.replay(tx, *gone[0])
        assert not await self.is_disabled(db, caller, endpoint_id)
        which = [(endpoint_id, await an_event(db, caller)), *(gone[:1] if how == "replay" else ())]
        async with delivering(db) as deliveries:
            for each in which:
                await waked(deliveries, stands(db, caller, each, State.DELIVERED))


class TestReplay:
    async def replay(self, db: Database, caller: Caller, which: tuple[UUID, UUID]) -> Any:
        async with db.begin(caller) as tx:
            return await endpoints.replay(tx, *which)

    @pytest.mark.parametrize("status", [200, 500])
    async def test_what_has_ended_is_delivered_once_more_the_same(
        self, db: Database, caller: Caller, receiver: Receiver, status: int
    ) -> None:
        receiver.answers = [status]
        which = await one(db, caller, receiver)
        async with delivering(db, give_up_seconds=0.001) as deliveries:
            ended = State.DELIVERED if status == 200 else State.FAILED
            await waked(deliveries, stands(db, caller, which, ended))
            assert (await self.replay(db, caller, which))["status"] == "pending"
            deliveries.wake()
            first, second = await receiver.wait_for(2)
            await waked(deliveries, stands(db, caller, which, State.DELIVERED))
        assert first.body == second.body
        assert first.headers["webhook-id"] == second.headers["webhook-id"]
        assert len(await tried(db, caller, *which)) == 2

    async def test_what_waits_for_its_next_try_is_due_at_once(
        self, db: Database, caller: Caller, receiver: Receiver
    ) -> None:
        receiver.answers = [500]
        which = await one(db, caller, receiver)
        async with delivering(db, retry_seconds=1000) as deliveries:
            deliveries.wake()
            await receiver.wait_for(1)

            async def paused() -> bool:
                return (await tried(db, caller, *which)) == [("refused", 500)]

            await waked(deliveries, paused)
            await self.replay(db, caller, which)
            await waked(deliveries, stands(db, caller, which, State.DELIVERED))

    async def test_what_is_being_tried_is_left_alone(
        self, db: Database, caller: Caller, receiver: Receiver
    ) -> None:
        receiver.answers = [hang]
        which = await one(db, caller, receiver)
        async with delivering(db) as deliveries:
            deliveries.wake()
            await receiver.wait_for(1)
            with pytest.raises(Conflict, match="just now"):
                await self.replay(db, caller, which)

    async def test_what_is_not_there_is_not_found(self, db: Database, caller: Caller) -> None:
        with pytest.raises(NotFound):
            await self.replay(db, caller, (UUID(int=1), UUID(int=2)))

    async def test_it_is_noted(
        self, db: Database, caller: Caller, receiver: Receiver, database_url: str
    ) -> None:
        which = await one(db, caller, receiver)
        await self.replay(db, caller, which)
        noted = "select subject, data from audit_outbox where tenant_id = $1 and action = $2"
        [row] = await execute(database_url, noted, caller.tenant_id, int(Action.WEBHOOK_REPLAYED))
        assert row["subject"] == which[0]
        assert orjson.loads(row["data"]) == {"event_id": f"evt_{which[1].hex}"}


class TestRotation:
    async def rotated(self, db: Database, caller: Caller, endpoint_id: UUID, *, keeps_old: bool) -> str:
        async with db.begin(caller) as tx:
            _, secret = await endpoints.rotate(tx, endpoint_id, SEALS, keeps_old=keeps_old)
        return secret

    async def got(self, db: Database, caller: Caller, receiver: Receiver) -> Received:
        await an_event(db, caller)
        count = len(receiver.received)
        async with delivering(db) as deliveries:
            deliveries.wake()
            return (await receiver.wait_for(count + 1))[-1]

    async def test_both_secrets_verify_for_24_hours_and_then_the_new_one_alone(
        self, db: Database, caller: Caller, receiver: Receiver, database_url: str
    ) -> None:
        endpoint_id, old = await an_endpoint(db, caller, receiver.url())
        new = await self.rotated(db, caller, endpoint_id, keeps_old=True)
        [row] = await execute(
            database_url,
            "select extract(epoch from old_secret_until - now()) as left from webhook_endpoints",
        )
        assert 86_400 - 60 < row["left"] <= 86_400
        got = await self.got(db, caller, receiver)
        for secret in (old, new):
            assert unwrapped(got, secret).type == "response.cancelled"
        await execute(
            database_url, "update webhook_endpoints set old_secret_until = now() - interval '1 second'"
        )
        got = await self.got(db, caller, receiver)
        assert unwrapped(got, new)
        with pytest.raises(InvalidWebhookSignatureError):
            unwrapped(got, old)

    async def test_unless_it_is_asked_for_the_old_one_ends_at_once(
        self, db: Database, caller: Caller, receiver: Receiver
    ) -> None:
        endpoint_id, old = await an_endpoint(db, caller, receiver.url())
        new = await self.rotated(db, caller, endpoint_id, keeps_old=False)
        got = await self.got(db, caller, receiver)
        assert " " not in got.headers["webhook-signature"]
        assert unwrapped(got, new)
        with pytest.raises(InvalidWebhookSignatureError):
            unwrapped(got, old)

    async def test_secrets_are_sealed_at_rest(
        self, db: Database, caller: Caller, receiver: Receiver, database_url: str
    ) -> None:
        endpoint_id, old = await an_endpoint(db, caller, receiver.url())
        new = await self.rotated(db, caller, endpoint_id, keeps_old=True)
        [row] = await execute(database_url, "select webhook_endpoints::text as text from webhook_endpoints")
        for secret in (old, new):
            for form in (secret, secret.encode().hex(), secret.removeprefix("whsec_")):
                assert form not in row["text"]

    async def test_what_no_key_opens_is_not_sent_unsigned(
        self, db: Database, caller: Caller, receiver: Receiver
    ) -> None:
        which = await one(db, caller, receiver)
        async with delivering(db, seals=Seals(bytes(32)), give_up_seconds=0.001) as deliveries:
            await waked(deliveries, stands(db, caller, which, State.FAILED))
        assert await tried(db, caller, *which) == [("secret_sealed", None)]
        assert receiver.received == []
