"""Limits per minute: what fits, what is left, and how a duration is written."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from app.domain.response import Status
from app.domain.tenancy import Caller
from app.generation import engine, rate_limits
from app.generation.rate_limits import UNLIMITED, Limits, OverLimit, amend, go_duration, settled, use
from app.providers.base import Finished
from app.store.db import Database
from tests.background import a_background, enqueued, execute, generate
from tests.builders import a_caller, a_draft, a_run
from tests.scripted import ScriptedProvider, answer


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0, "0s"),
        (0.0004, "1ms"),
        (0.02, "20ms"),
        (0.9999, "1s"),
        (1, "1s"),
        (1.5, "1.5s"),
        (8.64, "8.64s"),
        (59.999, "59.999s"),
        (60, "1m0s"),
        (360, "6m0s"),
        (3661.5, "1h1m1.5s"),
    ],
)
def test_a_duration_is_written_as_go_does(seconds: float, written: str) -> None:
    assert go_duration(seconds) == written


@pytest.mark.parametrize("limit", [1, 3, 7, 60, 999, 30_000, 40_000_000])
def test_a_whole_minutes_worth_fits_into_a_minute_and_one_more_does_not(limit: int) -> None:
    window = timedelta(minutes=1)
    assert rate_limits._time_of(1, limit) * limit <= window
    assert rate_limits._time_of(limit, limit) == window
    assert rate_limits._time_of(limit + limit // 1000 + 1, limit) > window


@pytest.mark.parametrize("limit", [1, 3, 7])
async def test_a_minutes_worth_may_come_at_once_and_no_more(db: Database, caller: Caller, limit: int) -> None:
    limits = Limits(requests_per_minute=limit)
    outcomes = await asyncio.gather(
        *[use(db, caller, limits, a_draft()) for _ in range(30)], return_exceptions=True
    )
    let_in = [each for each in outcomes if isinstance(each, tuple)]
    assert sorted(standing.remaining for (standing,) in let_in) == list(range(limit))
    assert sum(isinstance(each, OverLimit) for each in outcomes) == 30 - limit


async def test_of_two_limits_a_refusal_by_one_uses_nothing_of_the_other(
    db: Database, caller: Caller, database_url: str
) -> None:
    draft = a_draft(input="x" * 4000)
    limits = Limits(requests_per_minute=1000, tokens_per_minute=1500)
    await use(db, caller, limits, draft)
    before = await row_of(database_url, caller)
    with pytest.raises(OverLimit) as refused:
        await use(db, caller, limits, draft)
    assert refused.value.kind == "tokens"
    assert await row_of(database_url, caller) == before


async def test_tenants_do_not_share_a_limit(db: Database, caller: Caller, database_url: str) -> None:
    limits = Limits(requests_per_minute=1)
    await use(db, caller, limits, a_draft())
    assert await use(db, await a_caller(database_url), limits, a_draft())


async def test_without_limits_nothing_is_kept(db: Database, caller: Caller, database_url: str) -> None:
    assert await use(db, caller, UNLIMITED, a_draft()) == ()
    assert await row_of(database_url, caller) == []


async def test_what_was_only_referred_to_is_counted_when_it_is_known(
    db: Database, caller: Caller, database_url: str
) -> None:
    limits, draft = Limits(tokens_per_minute=6000), a_draft()
    await use(db, caller, limits, draft)
    [[before]] = await row_of(database_url, caller)
    await amend(db, caller, limits, draft, draft)
    assert await row_of(database_url, caller) == [(before,)]
    await amend(db, caller, limits, draft, a_draft(input="x" * 4002))
    [[after]] = await row_of(database_url, caller)
    # 1,000 tokens of 6,000 flow in within ten seconds.
    assert after - before == timedelta(seconds=10)


@pytest.mark.parametrize("total", [1100, 50])
async def test_reported_usage_stands_in_the_place_of_the_estimate(
    db: Database, caller: Caller, database_url: str, total: int
) -> None:
    limits, draft = Limits(tokens_per_minute=6000), a_draft(input="x" * 340)
    [standing] = await use(db, caller, limits, draft)
    estimated = 6000 - standing.remaining
    [[before]] = await row_of(database_url, caller)
    usage = {"input_tokens": total - 10, "output_tokens": 10}
    provider = ScriptedProvider([*answer()[:-1], Finished("completed", usage)])
    run = engine.run(await a_run(db, caller, provider, draft))
    await settled(run, db, caller, limits, draft)
    [[after]] = await row_of(database_url, caller)
    assert after - before == timedelta(seconds=(total - estimated) / 100)


async def test_a_background_run_is_settled_by_its_worker(
    quiet_database_url: str,
) -> None:
    database = await Database.connect(quiet_database_url, size=2)
    tenant = await a_caller(quiet_database_url)
    limits = Limits(tokens_per_minute=6000)
    draft = await enqueued(database, tenant)
    await use(database, tenant, limits, draft)
    [[before]] = await row_of(quiet_database_url, tenant)
    usage = {"input_tokens": 3000, "output_tokens": 10}
    provider = ScriptedProvider([*answer()[:-1], Finished("completed", usage)])
    assert await generate(a_background(database, provider, limits=limits))
    [[after]] = await row_of(quiet_database_url, tenant)
    await database.close()
    assert timedelta(seconds=29) < after - before < timedelta(seconds=31)


@pytest.mark.parametrize("total", [10**12, 2**53])
async def test_a_count_that_cannot_be_true_neither_fails_the_run_nor_locks_its_tenant_out_for_good(
    db: Database, caller: Caller, database_url: str, total: int
) -> None:
    limits, draft = Limits(tokens_per_minute=6000), a_draft()
    await use(db, caller, limits, draft)
    [[before]] = await row_of(database_url, caller)
    provider = ScriptedProvider([*answer()[:-1], Finished("completed", {"input_tokens": total})])
    run = engine.run(await a_run(db, caller, provider, draft))
    assert (await settled(run, db, caller, limits, draft)).status is Status.COMPLETED
    [[after]] = await row_of(database_url, caller)
    assert after - before == timedelta(days=1)


async def row_of(database_url: str, caller: Caller) -> list[Any]:
    query = "select tokens_until from rate_limits where tenant_id = $1"
    return [tuple(row) for row in await execute(database_url, query, caller.tenant_id)]
