"""What becomes of deliveries: tried, tried again, given up, handed back, replayed; and never in others' way."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any
from uuid import UUID

import orjson
import pytest
from aiohttp import web
from openai import InvalidWebhookSignatureError, OpenAI

from app.domain.audit import Action
from app.domain.seals import Seals
from app.domain.tenancy import Caller
from app.domain.webhooks import RESTS_AFTER, DeliveryJob, Outcome, Standing, State
from app.errors import Conflict, NotFound
from app.store import webhook_claims, webhook_deliveries
from app.store.db import Database
from app.store.webhook_claims import Room
from app.store.webhook_endpoints import Changes
from app.webhooks import endpoints
from app.webhooks.delivering import Deliveries
from tests.background import execute
from tests.builders import a_caller
from tests.waiting import patience
from tests.webhooks.hooking import (
    LOOPBACK,
    SEALS,
    an_endpoint,
    an_event,
    delivering,
    found,
    make_due,
    tried,
)
from tests.webhooks.receiving import Received, Receiver, hang, receiving


@pytest.fixture(scope="module")
def database_url(quiet_database_url: str) -> str:
    return quiet_database_url


@pytest.fixture(autouse=True)
async def nothing_queued(database_url: str) -> None:
    await execute(database_url, "delete from webhook_endpoints")


@pytest.fixture
async def receiver() -> AsyncGenerator[Receiver]:
    async with receiving() as it:
        yield it


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


def unwrapped(got: Received, secret: str) -> Any:
    return OpenAI(api_key="unused").webhooks.unwrap(got.body, got.headers, secret=secret)


async def one(db: Database, caller: Caller, receiver: Receiver) -> tuple[UUID, UUID]:
    """An endpoint and an event for it."""
    endpoint_id, _ = await an_endpoint(db, caller, receiver.url())
    return endpoint_id, await an_event(db, caller)


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


def any_delivered(db: Database, caller: Caller, *which: tuple[UUID, UUID]) -> Callable[[], Awaitable[bool]]:
    """Whichever of them was sent first."""
    looks = [stands(db, caller, each, State.DELIVERED) for each in which]

    async def is_any() -> bool:
        return any([await look() for look in looks])

    return is_any


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
