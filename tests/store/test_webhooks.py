"""What is queued by the end of a response, and what claims take of it."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import orjson
import pytest

from app import ids
from app.domain.jobs import Claim, Ending, Mode, NewJob
from app.domain.response import TERMINAL, Status
from app.domain.tenancy import Caller
from app.domain.webhooks import EVENT_TYPES, DeliveryJob, Standing, State, event_of
from app.errors import InvalidRequest
from app.store import lifecycle, webhook_claims, webhook_deliveries, webhook_endpoints
from app.store.db import Database
from app.store.webhook_claims import Room
from app.store.webhook_endpoints import Changes
from app.webhooks import endpoints
from tests.background import execute
from tests.builders import a_caller
from tests.store.test_coalesced import until_one_waits
from tests.store.turns import a_turn, add
from tests.webhooks.hooking import LOOPBACK, SEALS, an_endpoint

URL = "http://127.0.0.1:1/"


@pytest.fixture(scope="module")
def database_url(quiet_database_url: str) -> str:
    return quiet_database_url


@pytest.fixture(autouse=True)
async def nothing_queued(database_url: str) -> None:
    await execute(database_url, "delete from webhook_endpoints")
    await execute(database_url, "delete from responses where status < 2")


async def running(db: Database, caller: Caller, mode: Mode = Mode.BACKGROUND) -> tuple[Any, Claim]:
    turn = a_turn(status=Status.QUEUED, body=b'{"model":"m"}')
    async with db.begin(caller) as tx:
        assert await lifecycle.enqueue(
            tx, [NewJob(turn, mode=mode, priority=0, event_count=0, request=b"{}")], max_queued=9
        )
    async with db.begin_system() as tx:
        [job] = await lifecycle.claim(tx, owner="me", lease_seconds=60)
    assert job.claim.response_id == turn.id
    return turn, job.claim


async def finish(db: Database, claim: Claim, turn: Any, status: Status) -> int | None:
    async with db.begin(Caller(claim.tenant_id)) as tx:
        ending = Ending(claim, replace(turn, status=status), event_count=0, shape=None, ttl_seconds=600)
        ended = await lifecycle.finish(tx, ending)
    return ended.deliveries if ended else None


async def end(db: Database, caller: Caller, response_id: UUID, status: Status) -> None:
    async with db.begin(caller) as tx:
        row = await lifecycle.lock(tx, response_id)
        assert row
        await lifecycle.end(tx, row, status, event_count=0, ttl_seconds=600, error=None)


async def queued(database_url: str) -> Sequence[Any]:
    return await execute(database_url, "select * from webhook_deliveries order by created_at")


class TestEnds:
    @pytest.mark.parametrize("mode", [Mode.BACKGROUND, Mode.BACKGROUND | Mode.EPHEMERAL])
    @pytest.mark.parametrize("status", sorted(TERMINAL))
    async def test_a_run_s_end_is_queued_once_for_each_endpoint_that_wants_it(
        self, db: Database, caller: Caller, database_url: str, status: Status, mode: Mode
    ) -> None:
        wanted = {(await an_endpoint(db, caller, URL, event_of(status)))[0] for _ in range(2)}
        await an_endpoint(db, caller, URL, *(event_of(each) for each in TERMINAL - {status}))
        await an_endpoint(db, await a_caller(database_url), URL)
        turn, claim = await running(db, caller, mode)
        assert [await finish(db, claim, turn, status) for _ in range(2)] == [2, None]
        rows = await queued(database_url)
        assert {(row["tenant_id"], row["endpoint_id"]) for row in rows} == {
            (caller.tenant_id, UUID(int=each.int)) for each in wanted
        }
        assert {(row["event_id"], row["event_type"]) for row in rows} == {(turn.id, event_of(status))}

    @pytest.mark.parametrize("status", [Status.CANCELLED, Status.FAILED])
    async def test_so_is_an_end_from_outside(
        self, db: Database, caller: Caller, database_url: str, status: Status
    ) -> None:
        await an_endpoint(db, caller, URL)
        turn, claim = await running(db, caller)
        await end(db, caller, turn.id, status)
        assert await finish(db, claim, turn, Status.COMPLETED) is None
        assert [row["event_type"] for row in await queued(database_url)] == [event_of(status)]

    async def test_what_is_undone_was_not_queued(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        await an_endpoint(db, caller, URL)
        turn, claim = await running(db, caller)
        done = replace(turn, status=Status.COMPLETED)

        async def undone() -> None:
            async with db.begin(caller) as tx:
                ended = await lifecycle.finish(
                    tx, Ending(claim, done, event_count=0, shape=None, ttl_seconds=1)
                )
                assert ended
                assert ended.deliveries == 1
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await undone()
        assert await queued(database_url) == []

    async def test_a_foreground_response_tells_nobody_and_does_not_even_look(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        await an_endpoint(db, caller, URL)
        await add(db, caller)
        assert await queued(database_url) == []
        for statement in (lifecycle._insert, lifecycle._append, lifecycle._insert_items, lifecycle._enqueue):
            assert "webhook" not in statement.sql

    async def test_an_endpoint_that_is_being_deleted_does_not_keep_a_response_from_ending(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        endpoint_id, _ = await an_endpoint(db, caller, URL)
        turn, claim = await running(db, caller)
        async with db.begin(caller) as tx:
            assert await webhook_endpoints.delete(tx, endpoint_id)
            ending = asyncio.ensure_future(finish(db, claim, turn, Status.COMPLETED))
            await until_one_waits(database_url)
        assert await ending == 0
        async with db.begin(caller) as tx:
            assert await lifecycle.lock(tx, turn.id)

    async def test_an_endpoint_can_be_changed_while_a_response_ends(
        self, db: Database, caller: Caller
    ) -> None:
        """Neither waits for the other."""
        endpoint_id, _ = await an_endpoint(db, caller, URL)
        turn, claim = await running(db, caller)
        async with db.begin(caller) as tx:
            assert await webhook_endpoints.rotate(
                tx, endpoint_id, sealed=b"x", secret_hint="x", keeps_old=True
            )
            assert await finish(db, claim, turn, Status.COMPLETED) == 1

    async def test_deleting_an_endpoint_takes_all_of_it_along(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        endpoint_id, _ = await an_endpoint(db, caller, URL)
        await planted(database_url, caller, endpoint_id)
        assert await claim(db)
        async with db.begin(caller) as tx:
            assert await webhook_endpoints.delete(tx, endpoint_id)
        for table in ("webhook_deliveries", "webhook_attempts"):
            assert await execute(database_url, f"select 1 from {table}") == []


async def planted(database_url: str, caller: Caller, endpoint_id: UUID, count: int = 1) -> None:
    """Deliveries that are due, as the ends of so many responses leave them."""
    insert = """
        insert into webhook_deliveries (tenant_id, endpoint_id, event_id, event_type, due_at)
        select $1, $2, unnest($3::uuid[]), 'response.completed', now() - interval '1 second'
    """
    await execute(database_url, insert, caller.tenant_id, endpoint_id, [ids.new_uuid() for _ in range(count)])


async def claim(
    db: Database,
    *,
    standing: Standing = Standing.NEW,
    limit: int = 99,
    of_tenant: int = 99,
    of_endpoint: int = 99,
    by_tenant: dict[int, int] | None = None,
    by_endpoint: dict[UUID, int] | None = None,
    last_tenant_id: int = 0,
    lease_seconds: float = 60,
    give_up_seconds: float = 3600,
) -> list[DeliveryJob]:
    room = Room(standing, limit, of_tenant, of_endpoint, by_tenant or {}, by_endpoint or {})
    async with db.begin_system() as tx:
        return await webhook_claims.claim(
            tx,
            room,
            lease_seconds=lease_seconds,
            give_up_seconds=give_up_seconds,
            last_tenant_id=last_tenant_id,
        )


class TestClaims:
    async def test_each_endpoint_has_its_share_less_what_is_under_way(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        busy, idle, full = [(await an_endpoint(db, caller, URL))[0] for _ in range(3)]
        for endpoint_id in (busy, idle, full):
            await planted(database_url, caller, endpoint_id, 9)
        jobs = await claim(db, of_endpoint=4, by_endpoint={busy: 3, full: 7})
        assert Counter(job.claim.endpoint_id for job in jobs) == {busy: 1, idle: 4}

    async def test_each_tenant_has_its_share_less_what_is_under_way(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        others = [await a_caller(database_url) for _ in range(2)]
        for each in (caller, *others):
            for _ in range(3):
                await planted(database_url, each, (await an_endpoint(db, each, URL))[0], 5)
        taken = {caller.tenant_id: 2, others[0].tenant_id: 50}
        jobs = await claim(db, of_tenant=8, by_tenant=taken)
        assert Counter(job.claim.tenant_id for job in jobs) == {
            caller.tenant_id: 6,
            others[1].tenant_id: 8,
        }

    async def test_tenants_take_turns(self, db: Database, caller: Caller, database_url: str) -> None:
        everyone = [caller, *[await a_caller(database_url) for _ in range(2)]]
        for each in everyone:
            await planted(database_url, each, (await an_endpoint(db, each, URL))[0], 3)
        served, last = list[int](), 0
        for _ in range(9):
            [job] = await claim(db, limit=1, last_tenant_id=last)
            served.append(last := job.claim.tenant_id)
        assert served == sorted(each.tenant_id for each in everyone) * 3
        assert await claim(db) == []

    @pytest.mark.parametrize("standing", Standing)
    async def test_only_endpoints_of_one_standing_are_served(
        self, db: Database, caller: Caller, database_url: str, standing: Standing
    ) -> None:
        made = {each: (await an_endpoint(db, caller, URL, standing=each))[0] for each in Standing}
        for endpoint_id in made.values():
            await planted(database_url, caller, endpoint_id)
        [job] = await claim(db, standing=standing)
        assert (job.claim.endpoint_id, job.standing) == (made[standing], standing)

    async def test_the_longest_due_comes_first(self, db: Database, caller: Caller, database_url: str) -> None:
        endpoint_id, _ = await an_endpoint(db, caller, URL)
        await planted(database_url, caller, endpoint_id, 3)
        await execute(
            database_url,
            "update webhook_deliveries set due_at = now() - interval '1 hour' where event_id = "
            "(select max(event_id::text)::uuid from webhook_deliveries)",
        )
        found = [job.claim.event_id for job in [*await claim(db, limit=1), *await claim(db)]]
        assert found[0] == max(found)

    async def test_what_is_not_due_is_left(self, db: Database, caller: Caller, database_url: str) -> None:
        endpoint_id, _ = await an_endpoint(db, caller, URL)
        await planted(database_url, caller, endpoint_id, 2)
        later = "update webhook_deliveries set due_at = now() + interval '1 hour'"
        await execute(database_url, later)
        assert await claim(db) == []

    async def test_claims_at_once_share_and_never_double(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        endpoint_id, _ = await an_endpoint(db, caller, URL)
        await planted(database_url, caller, endpoint_id, 100)
        found = await asyncio.gather(*(claim(db, limit=20) for _ in range(8)))
        claimed = [job.claim for jobs in found for job in jobs]
        assert len(set(claimed)) == len(claimed)
        while jobs := await claim(db):
            claimed += [job.claim for job in jobs]
        assert len(set(claimed)) == 100

    async def test_once_the_lease_is_over_it_is_claimed_again_and_the_first_is_lost(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        endpoint_id, _ = await an_endpoint(db, caller, URL)
        await planted(database_url, caller, endpoint_id)
        [first] = await claim(db, lease_seconds=0)
        [second] = await claim(db)
        assert (first.claim.attempt, second.claim.attempt) == (1, 2)
        async with db.read(caller) as tx:
            attempts = await webhook_deliveries.attempts_of(tx, endpoint_id, first.claim.event_id)
        assert [each["reason"] for each in attempts] == ["lost", None]
        assert await claim(db) == []

    async def test_what_always_dies_has_failed_once_its_time_is_over(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        endpoint_id, _ = await an_endpoint(db, caller, URL)
        await planted(database_url, caller, endpoint_id, 2)
        await execute(database_url, "update webhook_deliveries set queued_at = now() - interval '2 hours'")
        jobs = await claim(db, lease_seconds=0)
        # Nobody has tried them yet, however long ago that was; and the new one waits behind them.
        assert [job.tries for job in jobs] == [1, 1]
        await planted(database_url, caller, endpoint_id)
        later = "update webhook_deliveries set due_at = now() where attempt = 0"
        await execute(database_url, later)
        [new] = await claim(db, of_endpoint=1)
        assert new.claim.event_id not in {job.claim.event_id for job in jobs}
        for job in jobs:
            async with db.read(caller) as tx:
                found = await webhook_deliveries.get(tx, endpoint_id, job.claim.event_id)
                attempts = await webhook_deliveries.attempts_of(tx, endpoint_id, job.claim.event_id)
            assert found
            assert (found.state, found.attempts, found.due_at) == (State.FAILED, 1, None)
            assert [each["reason"] for each in attempts] == ["lost"]

    async def test_it_reads_no_more_than_it_takes(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        """However much is queued: 20,000 of somebody else, of whom a few may be sent."""
        crowd, _ = await an_endpoint(db, caller, URL)
        await planted(database_url, caller, crowd, 20_000)
        stranger = await a_caller(database_url)
        await planted(database_url, stranger, (await an_endpoint(db, stranger, URL))[0], 2)
        await execute(database_url, "analyze webhook_deliveries, webhook_endpoints")
        found = await plan(db)
        read = sum(it["Actual Rows"] * it["Actual Loops"] for it in scans(found, "webhook_deliveries"))
        assert read < 100
        assert "Seq Scan" not in {it["Node Type"] for it in scans(found, "webhook_deliveries")}


async def plan(db: Database) -> Any:
    statement = webhook_claims._claim
    values = statement.arguments(
        {
            "limit": 9, "most_of_tenant": 4, "most_of_endpoint": 4, "tenant_ids": [], "tenant_counts": [],
            "endpoint_ids": [], "endpoint_counts": [], "standing": 1, "lease": timedelta(seconds=9),
            "give_up": timedelta(hours=1), "last_tenant_id": 0,
        }
    )  # fmt: skip
    async with db.begin_system() as tx:
        explain = f"explain (analyze, timing off, format json) {statement.sql}"
        driver: Any = tx._driver
        [row] = await driver.fetch(explain, *values)
    return orjson.loads(next(iter(row.values())))[0]["Plan"]


def scans(node: Any, table: str) -> list[Any]:
    found = [node] if node.get("Relation Name") == table and "Scan" in node["Node Type"] else []
    return found + [each for child in node.get("Plans", []) for each in scans(child, table)]


async def test_made_at_once_there_are_no_more_of_them(db: Database, caller: Caller) -> None:
    async def make() -> None:
        async with db.begin(caller) as tx:
            await endpoints.create(tx, Changes("n", URL, EVENT_TYPES), SEALS, most=2, allowed=LOOPBACK)

    outcomes = await asyncio.gather(*(make() for _ in range(12)), return_exceptions=True)
    assert outcomes.count(None) == 2
    refused = [each for each in outcomes if isinstance(each, InvalidRequest)]
    assert [each.code for each in refused] == ["webhook_endpoint_limit_exceeded"] * 10


class TestLog:
    async def test_what_ended_long_ago_is_forgotten_with_its_attempts(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        endpoint_id, _ = await an_endpoint(db, caller, URL)
        await planted(database_url, caller, endpoint_id, 3)
        jobs = await claim(db)
        ended = """
            update webhook_deliveries set state = 1, due_at = null, ended_at = now() - $2::interval
            where event_id = $1
        """
        await execute(database_url, ended, jobs[0].claim.event_id, timedelta(hours=2))
        await execute(database_url, ended, jobs[1].claim.event_id, timedelta(minutes=1))
        async with db.begin_system() as tx:
            await webhook_deliveries.forget(tx, retention_seconds=3600)
        left = {row["event_id"] for row in await queued(database_url)}
        assert left == {job.claim.event_id for job in jobs[1:]}
        assert len(await execute(database_url, "select 1 from webhook_attempts")) == 2

    async def test_a_delivery_has_either_ended_or_is_due(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        endpoint_id, _ = await an_endpoint(db, caller, URL)
        await planted(database_url, caller, endpoint_id)
        for change in ("state = 1", "due_at = null", "ended_at = now()"):
            with pytest.raises(asyncpg.CheckViolationError):
                await execute(database_url, f"update webhook_deliveries set {change}")
