"""Tenants take turns at the queue, and none has more running than it may (docs/decisions/0022)."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import Any

import orjson
import pytest

from app.domain.jobs import Job
from app.store import fairness, lifecycle
from app.store.db import Database
from app.store.statements import Statement
from tests.background import a_background, empty_queue, enqueued, execute
from tests.builders import a_caller
from tests.scripted import ScriptedProvider, answer
from tests.store.queueing import enqueue, finish
from tests.store.test_plans import kinds, scans
from tests.waiting import patience, until

QUEUE = """
    insert into responses (
        tenant_id, id, chain_id, seq, status, queued_at, mode, priority, codec, model, input_count,
        output_count, input_bytes, input_gated, output_gated, body, items, request
    )
    select tenant, id, id, 0, 0, now(), 1, 0, 1, 'a-model', 1, 0, 0, 0, 0, '', '', ''
    from (
        select $1 + n / $3 as tenant, gen_random_uuid() as id from generate_series(0, $2 - 1) n
    ) made
"""
"""Queue `$2` responses, `$3` for each tenant from `$1` on: as many as nobody would enqueue one by one."""

FIRST_OF_MANY = 1_000_000_000
"""A tenant behind all that were ever made: rows of the queue ask for no tenant's row."""


@pytest.fixture(autouse=True)
async def leave_nothing_queued(nothing_queued: None, database_url: str) -> AsyncGenerator[None]:
    yield
    await empty_queue(database_url)


async def claim(db: Database, last: int = 0, *, max_running: int | None = None) -> Job | None:
    async with db.begin_system() as tx:
        jobs = await lifecycle.claim(
            tx, owner="me", lease_seconds=30, last_tenant_id=last, max_running=max_running
        )
    return jobs[0] if jobs else None


async def served(db: Database, count: int, *, last: int = 0, max_running: int | None = None) -> list[int]:
    """The tenants of so many claims in a row, as one worker makes them."""
    found = list[int]()
    for _ in range(count):
        if job := await claim(db, found[-1] if found else last, max_running=max_running):
            found.append(job.claim.tenant_id)
    return found


class TestTurns:
    @pytest.mark.parametrize("last", ["nobody", "the first", "the second", "the third"])
    async def test_tenants_are_served_one_after_the_other(
        self, db: Database, database_url: str, last: str
    ) -> None:
        """Wherever the round begins, nobody is served twice before everybody was served once."""
        tenants = [await a_caller(database_url) for _ in range(3)]
        for tenant in tenants:
            for _ in range(3):
                await enqueue(db, tenant)
        numbers = [tenant.tenant_id for tenant in tenants]
        start = {"nobody": 0, "the first": 1, "the second": 2, "the third": 0}[last]
        before = {"nobody": 0, "the first": numbers[0], "the second": numbers[1], "the third": numbers[2]}[
            last
        ]
        expected = numbers[start:] + numbers[:start]
        assert await served(db, 10, last=before) == expected * 3

    async def test_a_tenants_first_job_does_not_wait_for_ten_thousand_of_anothers(
        self, db: Database, database_url: str
    ) -> None:
        """Whether its number is lower than theirs or higher."""
        low, many, high = [await a_caller(database_url) for _ in range(3)]
        await execute(database_url, QUEUE, many.tenant_id, 10_000, 10_000)
        assert await served(db, 3) == [many.tenant_id] * 3
        for newcomer in (low, high):
            turn = await enqueue(db, newcomer)
            job = await claim(db, many.tenant_id)
            assert job
            assert job.claim.response_id == turn.id
        assert await served(db, 2, last=high.tenant_id) == [many.tenant_id] * 2

    async def test_within_a_tenant_the_service_tier_goes_before_age(
        self, db: Database, database_url: str
    ) -> None:
        first, second = await a_caller(database_url), await a_caller(database_url)
        made = {
            tenant.tenant_id: [await enqueue(db, tenant, priority=priority) for priority in (1, 0, -1)]
            for tenant in (first, second)
        }
        jobs, last = list[Any](), 0
        for _ in range(6):
            job = await claim(db, last)
            assert job
            last = job.claim.tenant_id
            jobs.append(job.claim.response_id)
        assert jobs == [made[t][place].id for place in (2, 1, 0) for t in made]

    async def test_a_tenant_whose_rows_are_in_others_hands_is_passed_by(
        self, db: Database, database_url: str
    ) -> None:
        """Nobody waits: a lock on the row of one tenant does not keep a worker from another's."""
        first, second = await a_caller(database_url), await a_caller(database_url)
        held, free = await enqueue(db, first), await enqueue(db, second)
        async with db.begin(first) as tx:
            assert await lifecycle.lock(tx, held.id)
            async with patience():
                jobs = [await claim(db), await claim(db)]
        assert [job and job.claim.response_id for job in jobs] == [free.id, None]

    async def test_many_workers_win_every_row_once(self, wide: Database, database_url: str) -> None:
        tenants = [await a_caller(database_url) for _ in range(5)]
        turns = [await enqueue(wide, tenant) for tenant in tenants for _ in range(12)]
        jobs = await asyncio.gather(*[claim(wide, tenants[n % 5].tenant_id) for n in range(80)])
        won = Counter(job.claim.response_id for job in jobs if job)
        while job := await claim(wide):
            won[job.claim.response_id] += 1
        assert won == Counter(turn.id for turn in turns)

    async def test_a_worker_goes_on_with_the_next_tenant(self, db: Database, database_url: str) -> None:
        """The process remembers whom it has served; what it is rung for does not matter."""
        first, second = await a_caller(database_url), await a_caller(database_url)
        for tenant in (first, second):
            for _ in range(2):
                await enqueue(db, tenant)
        background = a_background(db, ScriptedProvider(answer()))
        jobs = [job for _ in range(4) for job in await background._claim(1)]
        assert [job.claim.tenant_id for job in jobs] == [first.tenant_id, second.tenant_id] * 2


class TestMaxRunning:
    async def test_no_more_of_a_tenant_is_claimed_than_may_run(self, db: Database, database_url: str) -> None:
        full, other = await a_caller(database_url), await a_caller(database_url)
        turns = [await enqueue(db, full) for _ in range(4)]
        await enqueue(db, other)
        found = await served(db, 9, max_running=2)
        assert found == [full.tenant_id, other.tenant_id, full.tenant_id]
        assert await claim(db, max_running=2) is None
        # One ends, and there is room again.
        claimed = await claim(db, max_running=3)
        assert claimed
        assert await claim(db, max_running=3) is None
        assert await finish(db, claimed.claim, turns[2])
        assert await served(db, 9, max_running=3) == [full.tenant_id]

    async def test_it_is_exact_whoever_claims_at_once(self, wide: Database, database_url: str) -> None:
        tenants = [await a_caller(database_url) for _ in range(2)]
        for tenant in tenants:
            for _ in range(20):
                await enqueue(wide, tenant)
        jobs = await asyncio.gather(*[claim(wide, max_running=3) for _ in range(40)])
        found = Counter(job.claim.tenant_id for job in jobs if job)
        assert found == {tenant.tenant_id: 3 for tenant in tenants}

    async def test_who_waited_for_the_last_place_goes_on_to_another_tenant(
        self, db: Database, database_url: str
    ) -> None:
        first, second = await a_caller(database_url), await a_caller(database_url)
        for tenant in (first, first, second):
            await enqueue(db, tenant)
        async with db.begin_system() as tx:
            [mine] = await lifecycle.claim(tx, owner="me", lease_seconds=30, max_running=1)
            theirs = asyncio.ensure_future(claim(db, max_running=1))
            await waiting(database_url)
        found = await theirs
        assert found
        assert (mine.claim.tenant_id, found.claim.tenant_id) == (first.tenant_id, second.tenant_id)

    async def test_a_worker_generates_what_had_to_wait_for_room(
        self, db: Database, database_url: str
    ) -> None:
        """One bell is enough: those of the others may have rung while there was no room."""
        tenant = await a_caller(database_url)
        drafts = [await enqueued(db, tenant) for _ in range(3)]
        background = a_background(db, ScriptedProvider(answer()), max_running=1)
        await background.answer()
        query = "select count(*) = 3 from responses where id = any($1) and status >= 2"

        async def have_ended() -> bool:
            [[have]] = await execute(database_url, query, [draft.id for draft in drafts])
            return have

        await until(have_ended)


async def waiting(database_url: str) -> None:
    """Return once somebody waits for a lock that another holds."""
    query = "select from pg_locks where locktype = 'advisory' and not granted"
    async with patience():
        while not await execute(database_url, query):  # noqa: ASYNC110 - Postgres has no signal for it
            await asyncio.sleep(0.005)


class TestPlans:
    """A claim reads the same few rows, whether one tenant has 100,000 queued or 1,000 have 100 each."""

    @pytest.fixture
    def database_url(self, quiet_database_url: str) -> str:
        """A database of its own: statistics of so many rows would change the plans of other tests."""
        return quiet_database_url

    @pytest.fixture(params=[100_000, 100], ids=["one tenant", "1000 tenants"])
    async def crowd(self, database_url: str, request: pytest.FixtureRequest) -> None:
        await execute(database_url, QUEUE, FIRST_OF_MANY, 100_000, request.param)
        await execute(database_url, "analyze responses")

    async def plan(self, db: Database, statement: Statement, **values: object) -> Any:
        values = {"owner": "me", "lease": timedelta(seconds=30), **values}
        literals = ", ".join(
            str(int(each)) if isinstance(each, int) else f"'{each}'" for each in statement.arguments(values)
        )
        async with db.begin_system() as tx:
            await tx._driver.execute(f"prepare probe as {statement.sql}")
            explain = f"explain (analyze, timing off, format json) execute probe({literals})"
            found = await tx._driver.fetch(explain)
            await tx._driver.execute("deallocate probe; rollback; begin")
        return orjson.loads(next(iter(found[0].values())))[0]["Plan"]

    def read(self, plan: Any) -> float:
        """How many entries of indexes and rows it looked at."""
        assert not kinds(plan) & {"Seq Scan", "Sort", "Bitmap Heap Scan", "Hash Join", "Merge Join"}
        nodes = [it for it in scans(plan) if it["Actual Loops"] and "Index Name" in it]
        return sum(
            (it["Actual Rows"] + it.get("Rows Removed by Filter", 0)) * it["Actual Loops"] for it in nodes
        )

    @pytest.mark.usefixtures("crowd")
    async def test_a_claim_reads_a_few_rows(self, db: Database) -> None:
        """Those of the next tenant's place in the index, of its first response, and the row itself; with a
        limit also of what runs. Wherever the round begins.
        """
        for last in (0, FIRST_OF_MANY, FIRST_OF_MANY + 500, FIRST_OF_MANY + 999):
            one, many = [
                await self.plan(db, lifecycle._claim, last_tenant_id=last, count=count) for count in (1, 16)
            ]
            turn = await self.plan(db, fairness._turn, last_tenant_id=last, max_running=10)
            limited = await self.plan(db, lifecycle._claim_of_tenant, turn_of=FIRST_OF_MANY, max_running=10)
            for found in (one, turn, limited):
                assert found["Actual Rows"] == 1
                assert self.read(found) <= 5
            assert many["Actual Rows"] == 16
            assert self.read(many) <= 5 * 16
