"""Claimed responses that end together: each as it would have alone, whoever fails, leaves or comes too late."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import asyncpg
import orjson
import pytest

from app.domain.jobs import Claim, Ended, Ending
from app.domain.response import Status
from app.domain.tenancy import Caller
from app.domain.turn import Turn
from app.errors import Unavailable
from app.store.db import Database
from app.store.endings import Endings
from tests.background import TTL_SECONDS, execute, tries
from tests.builders import a_caller
from tests.store.proxy import Proxy
from tests.store.queueing import claimed
from tests.store.test_coalesced import held, until_one_waits

pytestmark = pytest.mark.usefixtures("nothing_queued")

USED = b'{"usage":{"total_tokens":9}}'


async def running(db: Database, caller: Caller, count: int) -> list[Ending]:
    """How so many claimed responses are to end."""
    return [ending(*await claimed(db, caller)) for _ in range(count)]


def ending(turn: Turn, claim: Claim) -> Ending:
    done = replace(turn, status=Status.COMPLETED)
    return Ending(claim, done, 7, None, TTL_SECONDS, upstream_id=f"up_{turn.id}", usage=USED)


async def together(database_url: str, ends: Endings, batch: Sequence[Ending]) -> list[Any]:
    """What became of each; the first is being written while all others come."""
    async with held(database_url):
        first = asyncio.ensure_future(ends.finish(batch[0]))
        await until_one_waits(database_url)
        others = [asyncio.ensure_future(ends.finish(each)) for each in batch[1:]]
        await asyncio.sleep(0)
    return await asyncio.gather(first, *others, return_exceptions=True)


async def state(database_url: str, it: Ending) -> tuple[int, int, str]:
    """Status, attempt and the transaction that was the last to write it."""
    query = "select status, attempt, xmin::text from responses where id = $1"
    [row] = await execute(database_url, query, it.turn.id)
    return tuple(row)


async def test_those_that_end_together_are_one_commit(
    db: Database, database_url: str, caller: Caller
) -> None:
    batch = await running(db, caller, 9)
    assert await together(database_url, Endings(db), batch) == [Ended(0)] * 9
    found = [await state(database_url, each) for each in batch]
    assert {status for status, _, _ in found} == {Status.COMPLETED}
    # The first had begun alone.
    assert [by for _, _, by in found].count(found[-1][2]) == 8
    for each in batch:
        [attempt] = await tries(db, caller, each.turn.id)
        assert (attempt["reason"], attempt["upstream_id"]) == ("completed", each.upstream_id)
        assert attempt["usage"] == orjson.loads(USED)["usage"]
    query = "select count(*) from audit_outbox where subject = any($1) and digest is not null"
    [[notes]] = await execute(database_url, query, [each.turn.id for each in batch])
    assert notes == 2 * len(batch), "each was created, and finished"


@pytest.mark.parametrize("change", ["attempt = 2", "status = 5, finished_at = now(), lease_until = null"])
async def test_who_has_lost_its_lease_writes_nothing_and_stops_nobody(
    db: Database, database_url: str, caller: Caller, change: str
) -> None:
    batch = await running(db, caller, 4)
    await execute(database_url, f"update responses set {change} where id = $1", batch[2].turn.id)
    before = await state(database_url, batch[2])
    assert await together(database_url, Endings(db), batch) == [Ended(0), Ended(0), None, Ended(0)]
    assert await state(database_url, batch[2]) == before
    assert [attempt["reason"] for attempt in await tries(db, caller, batch[2].turn.id)] == [None]
    assert [(await state(database_url, batch[place]))[0] for place in (0, 1, 3)] == [Status.COMPLETED] * 3


async def test_one_that_cannot_be_stored_fails_alone(db: Database, database_url: str, caller: Caller) -> None:
    batch = await running(db, caller, 4)
    batch[2] = replace(batch[2], turn=replace(batch[2].turn, output_count=2**40))
    outcomes = await together(database_url, Endings(db), batch)
    assert isinstance(outcomes[2], asyncpg.DataError)
    assert [outcomes[place] for place in (0, 1, 3)] == [Ended(0)] * 3
    assert (await state(database_url, batch[2]))[0] == Status.IN_PROGRESS


async def test_tenants_do_not_share_a_commit(db: Database, database_url: str, caller: Caller) -> None:
    other = await a_caller(database_url)
    mine, theirs = await running(db, caller, 3), await running(db, other, 3)
    batch = [each for pair in zip(mine, theirs, strict=True) for each in pair]
    assert await together(database_url, Endings(db), batch) == [Ended(0)] * 6
    by = [{(await state(database_url, each))[2] for each in ends} for ends in (mine, theirs)]
    assert not by[0] & by[1]


async def test_another_tenants_response_is_not_ended(db: Database, database_url: str, caller: Caller) -> None:
    other = await a_caller(database_url)
    [mine], [theirs] = await running(db, caller, 1), await running(db, other, 1)
    foreign = replace(theirs, claim=replace(theirs.claim, tenant_id=caller.tenant_id))
    assert await together(database_url, Endings(db), [mine, foreign]) == [Ended(0), None]
    assert (await state(database_url, theirs))[0] == Status.IN_PROGRESS


@pytest.mark.parametrize("place", [0, 1, 2, 4])
async def test_one_who_leaves_takes_nobody_along(
    db: Database, database_url: str, caller: Caller, place: int
) -> None:
    ends, batch = Endings(db), await running(db, caller, 5)
    async with held(database_url):
        waiting = [asyncio.ensure_future(ends.finish(batch[0]))]
        await until_one_waits(database_url)
        waiting += [asyncio.ensure_future(ends.finish(each)) for each in batch[1:]]
        await asyncio.sleep(0)
        waiting[place].cancel()
        await asyncio.sleep(0)
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(outcomes[place], asyncio.CancelledError)
    for each, outcome in zip(batch, outcomes, strict=True):
        if outcome != Ended(0):
            # As the engine does where nobody knows what became of it.
            assert await ends.finish(each) in (Ended(0), None)
    assert {(await state(database_url, each))[0] for each in batch} == {Status.COMPLETED}


async def test_a_postgres_that_is_away_is_told_to_all(database_url: str, caller: Caller) -> None:
    async with Proxy(database_url) as proxy:
        db = await Database.connect(proxy.url, size=2)
        ends, batch = Endings(db), await running(db, caller, 4)
        async with held(database_url):
            waiting = [asyncio.ensure_future(ends.finish(batch[0]))]
            await until_one_waits(database_url)
            waiting += [asyncio.ensure_future(ends.finish(each)) for each in batch[1:]]
            await asyncio.sleep(0)
            await proxy.go_away()
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(each) for each in outcomes} == {Unavailable}
        await proxy.come_back()
        for each in batch:
            assert await ends.finish(each) in (Ended(0), None)
        await db.close()
    assert {(await state(database_url, each))[0] for each in batch} == {Status.COMPLETED}
