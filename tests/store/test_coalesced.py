"""Turns that are stored together: each as it would have been alone, whoever fails or leaves beside it."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from app import ids
from app.domain.response import Status
from app.domain.tenancy import Caller
from app.domain.turn import Turn
from app.errors import Unavailable
from app.store import coalesced
from app.store.coalesced import MOST_AT_ONCE, Coalesced
from app.store.db import Database
from app.store.entries import Entries
from tests.background import execute
from tests.builders import a_caller
from tests.store.proxy import Proxy
from tests.store.turns import a_turn, add, ancestry, rows
from tests.waiting import patience


@asynccontextmanager
async def held(database_url: str, table: str = "responses") -> AsyncGenerator[None]:
    """Whoever writes meanwhile waits, and others gather behind that one."""
    connection = await asyncpg.connect(database_url)
    try:
        async with connection.transaction():
            await connection.execute(f"lock table {table} in share mode")
            yield
    finally:
        await connection.close()


async def until_one_waits(database_url: str) -> None:
    waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
    while not (await execute(database_url, waiting))[0]["count"]:  # noqa: ASYNC110 - Postgres gives no signal
        await asyncio.sleep(0.01)


async def together(
    database_url: str, entries: Entries, turns: list[tuple[Caller, Turn]]
) -> list[BaseException | None]:
    """What became of each; the first is being written while all others come."""
    async with held(database_url):
        first = asyncio.ensure_future(entries.append(*turns[0]))
        await until_one_waits(database_url)
        others = [asyncio.ensure_future(entries.append(*each)) for each in turns[1:]]
        await asyncio.sleep(0)
    return await asyncio.gather(first, *others, return_exceptions=True)


async def commits(database_url: str, caller: Caller) -> list[Any]:
    """The transactions that a tenant's rows came by."""
    found = await rows(database_url, caller, "xmin::text as by")
    return [row["by"] for row in found]


async def test_those_that_come_together_are_one_commit(
    db: Database, database_url: str, caller: Caller
) -> None:
    turns = [a_turn(str(number)) for number in range(20)]
    assert (
        await together(database_url, Entries(db, max_queued=9), [(caller, turn) for turn in turns])
        == [None] * 20
    )
    assert {row["id"] for row in await rows(database_url, caller, "id")} == {turn.id for turn in turns}
    # The first had begun alone.
    assert len(set(await commits(database_url, caller))) == 2


async def test_a_commit_has_an_end(db: Database, database_url: str, caller: Caller) -> None:
    turns = [a_turn() for _ in range(2 * MOST_AT_ONCE + 1)]
    assert not any(
        await together(database_url, Entries(db, max_queued=9), [(caller, turn) for turn in turns])
    )
    by = await commits(database_url, caller)
    assert sorted(by.count(each) for each in set(by)) == [1, MOST_AT_ONCE, MOST_AT_ONCE]


async def test_alone_nobody_waits(db: Database, caller: Caller, database_url: str) -> None:
    turn = a_turn()
    await Entries(db, max_queued=9).append(caller, turn)
    assert [row["id"] for row in await rows(database_url, caller, "id")] == [turn.id]


async def test_each_is_noted_with_its_own_key(db: Database, database_url: str, caller: Caller) -> None:
    keys = [ids.new_uuid() for _ in range(2)]
    turns = [(replace(caller, key_id=key), a_turn()) for key in [*keys, None, *keys]]
    assert not any(await together(database_url, Entries(db, max_queued=9), turns))
    notes = await execute(
        database_url, "select subject, key_id from audit_outbox where tenant_id = $1", caller.tenant_id
    )
    assert {row["subject"]: row["key_id"] for row in notes} == {turn.id: by.key_id for by, turn in turns}


async def test_tenants_do_not_share_a_commit(db: Database, database_url: str, caller: Caller) -> None:
    other = await a_caller(database_url)
    turns = [(caller if number % 2 else other, a_turn()) for number in range(8)]
    assert not any(await together(database_url, Entries(db, max_queued=9), turns))
    for each in (caller, other):
        assert {row["id"] for row in await rows(database_url, each, "id")} == {
            turn.id for by, turn in turns if by is each
        }
    assert not set(await commits(database_url, caller)) & set(await commits(database_url, other))


async def test_children_of_one_parent_get_lines_of_their_own(
    db: Database, database_url: str, caller: Caller
) -> None:
    parent = await add(db, caller, "parent")
    before = await ancestry(db, caller, parent.id)
    children = [a_turn(str(number), before) for number in range(5)]
    assert not any(
        await together(database_url, Entries(db, max_queued=9), [(caller, turn) for turn in children])
    )
    lines = {row["id"]: row["chain_id"] for row in await rows(database_url, caller, "id, chain_id")}
    assert len(set(lines.values())) == 5
    for child in children:
        found = await ancestry(db, caller, child.id)
        assert found is not None
        assert [bool(blob) for blob, _ in found.turns] == [True, True]


async def test_repeating_is_harmless(db: Database, database_url: str, caller: Caller) -> None:
    turn = a_turn()
    repeated = [(caller, turn)] * 3
    assert not any(await together(database_url, Entries(db, max_queued=9), repeated))
    assert len(await rows(database_url, caller, "id")) == 1


async def test_one_that_cannot_be_stored_fails_alone(db: Database, database_url: str, caller: Caller) -> None:
    bad = a_turn(input_count=2**40)
    good = [a_turn() for _ in range(5)]
    turns = [*good[:2], bad, *good[2:]]
    outcomes = await together(database_url, Entries(db, max_queued=9), [(caller, turn) for turn in turns])
    assert [type(each) for each in outcomes if each] == [asyncpg.DataError]
    assert isinstance(outcomes[2], asyncpg.DataError)
    assert {row["id"] for row in await rows(database_url, caller, "id")} == {turn.id for turn in good}


@pytest.mark.parametrize("place", [1, 2, 5])
async def test_one_who_leaves_takes_nobody_along(
    db: Database, database_url: str, caller: Caller, place: int
) -> None:
    entries, turns = Entries(db, max_queued=9), [a_turn() for _ in range(6)]
    async with held(database_url):
        first = asyncio.ensure_future(entries.append(caller, turns[0]))
        await until_one_waits(database_url)
        waiting = [first, *(asyncio.ensure_future(entries.append(caller, turn)) for turn in turns[1:])]
        await asyncio.sleep(0)
        waiting[place].cancel()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(each) for each in outcomes if each] == [asyncio.CancelledError]
    stored = {row["id"] for row in await rows(database_url, caller, "id")}
    assert stored >= {turn.id for turn in turns if turn is not turns[place]}
    await entries.append(caller, last := a_turn())
    assert last.id in {row["id"] for row in await rows(database_url, caller, "id")}


async def test_whoever_was_asked_to_work_and_leaves_hands_on() -> None:
    loop, others = asyncio.get_running_loop(), list[asyncio.Future[str]]()

    async def work(batch: Sequence[str]) -> Sequence[str]:
        if batch == ["first"]:
            await asyncio.sleep(0)
            # It runs after the next one has been asked, and before that one goes on.
            loop.call_soon(others[0].cancel)
        return batch

    batches = Coalesced(work, len)
    first = asyncio.ensure_future(batches.do(1, "first"))
    others += [asyncio.ensure_future(batches.do(1, name)) for name in ("asked", "last")]
    outcomes = await asyncio.gather(first, *others, return_exceptions=True)
    assert [outcomes[0], type(outcomes[1]), outcomes[2]] == ["first", asyncio.CancelledError, "last"]
    assert await batches.do(1, "later") == "later"


class Fold:
    """Work that refuses some items, and can be held."""

    def __init__(self, *bad: str) -> None:
        self._bad = bad
        self.batches = list[list[str]]()
        self.gate = asyncio.Event()
        self.holds = list[str]()

    async def __call__(self, batch: Sequence[str]) -> Sequence[str]:
        self.batches.append(list(batch))
        if self.holds == list(batch):
            await self.gate.wait()
        if set(batch) & set(self._bad):
            raise ValueError(batch)
        return [each.upper() for each in batch]


async def one_after_another(work: Fold, *names: str) -> Sequence[asyncio.Future[str]]:
    """All of them: the first is under way when the others come."""
    work.holds, batches = [names[0]], Coalesced(work, len)
    waiting = [asyncio.ensure_future(batches.do(1, name)) for name in names]
    await asyncio.sleep(0)
    return waiting


async def until(work: Fold, batch: list[str]) -> None:
    """Let it go on, and hold it at this batch."""
    held, work.gate, work.holds = work.gate, asyncio.Event(), batch
    held.set()
    while work.batches[-1] != batch:  # noqa: ASYNC110 - it is a few turns of the loop
        await asyncio.sleep(0)


async def test_who_leaves_while_a_batch_is_divided_leaves_nobody_waiting() -> None:
    work = Fold("bad")
    waiting = await one_after_another(work, "first", "leader", "bad", "b", "c")
    await until(work, ["bad"])
    waiting[1].cancel()
    async with patience():
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert outcomes[0] == "FIRST"
    assert {type(each) for each in outcomes[1:]} <= {asyncio.CancelledError, ValueError, Unavailable, str}


async def test_who_is_cancelled_as_its_batch_fails_is_cancelled() -> None:
    work = Fold("leader", "b")
    waiting = await one_after_another(work, "first", "leader", "b")
    await until(work, ["leader", "b"])
    asyncio.get_running_loop().call_soon(waiting[2].cancel)
    work.gate.set()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(each) for each in outcomes] == [str, ValueError, asyncio.CancelledError]


async def test_what_is_large_goes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coalesced, "MOST_BYTES", 10)
    work = Fold()
    waiting = await one_after_another(work, "first", "a", "bb", "x" * 20, "c", "d" * 9)
    work.gate.set()
    await asyncio.gather(*waiting)
    assert work.batches == [["first"], ["a", "bb"], ["x" * 20], ["c", "d" * 9]]


async def test_a_postgres_that_is_away_is_told_to_all(database_url: str, caller: Caller) -> None:
    async with Proxy(database_url) as proxy:
        db = await Database.connect(proxy.url, size=2)
        entries, turns = Entries(db, max_queued=9), [a_turn() for _ in range(5)]
        async with held(database_url):
            waiting = [asyncio.ensure_future(entries.append(caller, turns[0]))]
            await until_one_waits(database_url)
            waiting += [asyncio.ensure_future(entries.append(caller, turn)) for turn in turns[1:]]
            await asyncio.sleep(0)
            await proxy.go_away()
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(each) for each in outcomes} == {Unavailable}
        await proxy.come_back()
        for turn in turns:
            await entries.append(caller, turn)
        await db.close()
    assert {row["id"] for row in await rows(database_url, caller, "id")} == {turn.id for turn in turns}


async def test_what_has_failed_leaves_the_line_free(db: Database, database_url: str, caller: Caller) -> None:
    parent = await add(db, caller, "parent")
    before = await ancestry(db, caller, parent.id)
    failed = a_turn("failed", before, status=Status.FAILED)
    done = a_turn("done", before)
    assert not any(
        await together(database_url, Entries(db, max_queued=9), [(caller, failed), (caller, done)])
    )
    lines = {row["id"]: row["chain_id"] for row in await rows(database_url, caller, "id, chain_id")}
    assert lines[done.id] == lines[parent.id] != lines[failed.id]
