"""Connections that are lent: whose turn it is, and which are not lent again."""

import asyncio
from collections.abc import AsyncGenerator

import asyncpg
import pytest

from app.store.pool import Connection, Pool
from tests.store.proxy import Proxy
from tests.waiting import PATIENCE_SECONDS, happened, patience

SOON = {"within_seconds": PATIENCE_SECONDS}


@pytest.fixture
async def pool(database_url: str) -> AsyncGenerator[Pool]:
    pool = Pool(lambda: asyncpg.connect(database_url), size=2)
    yield pool
    pool.terminate()


async def pid(connection: Connection) -> int:
    return await connection.fetchval("select pg_backend_pid()")


async def sleeping(database_url: str) -> list[asyncpg.Record]:
    other = await asyncpg.connect(database_url)
    try:
        return await other.fetch(
            "select from pg_stat_activity"
            " where datname = current_database() and state = 'active' and query = 'select pg_sleep(60)'"
        )
    finally:
        await other.close()


async def until_sleeping(database_url: str) -> None:
    async with patience():
        while not await sleeping(database_url):  # noqa: ASYNC110 - Postgres gives no signal
            await asyncio.sleep(0.01)


async def both(pool: Pool) -> list[Connection]:
    return [await pool.acquire(**SOON) for _ in range(2)]


async def test_the_one_used_last_is_lent_first_and_no_more_are_opened(pool: Pool) -> None:
    one, other = await both(pool)
    pool.release(one)
    pool.release(other)
    assert await pool.acquire(**SOON) is other
    assert pool.lent == 1


async def test_those_who_wait_are_served_in_their_order(pool: Pool) -> None:
    one, other = await both(pool)
    waiting = [asyncio.ensure_future(pool.acquire(**SOON)) for _ in range(3)]
    await asyncio.sleep(0)
    pool.release(one)
    # Who comes now comes after them, though a connection has just been given back.
    late = asyncio.ensure_future(pool.acquire(**SOON))
    assert await waiting[0] is one
    pool.release(other)
    assert await waiting[1] is other
    pool.release(one)
    assert await waiting[2] is one
    pool.release(other)
    assert await late is other


async def test_nobody_waits_for_ever(pool: Pool) -> None:
    connections = await both(pool)
    with pytest.raises(TimeoutError):
        await pool.acquire(within_seconds=0.01)
    for connection in connections:
        pool.release(connection)
    assert len({await pid(each) for each in await both(pool)}) == 2


async def test_who_leaves_when_served_gives_it_to_the_next(pool: Pool) -> None:
    one, _ = await both(pool)
    first, second = (asyncio.ensure_future(pool.acquire(**SOON)) for _ in range(2))
    await asyncio.sleep(0)
    pool.release(one)
    first.cancel()
    assert await second is one
    assert pool.lent == 2
    assert first.cancelled()


async def test_what_comes_back_closed_makes_room_for_a_new_one(pool: Pool) -> None:
    one, _ = await both(pool)
    waiting = asyncio.ensure_future(pool.acquire(**SOON))
    await asyncio.sleep(0)
    one.terminate()
    pool.release(one)
    new = await waiting
    assert new is not one
    assert await pid(new)


async def test_what_was_closed_while_idle_is_not_lent(pool: Pool) -> None:
    for connection in (connections := await both(pool)):
        pool.release(connection)
        connection.terminate()
    again = await both(pool)
    assert not set(again) & set(connections)


async def test_what_comes_back_inside_a_transaction_is_dropped(pool: Pool) -> None:
    one = await pool.acquire(**SOON)
    await one.execute("begin; create temporary table t()")
    pool.release(one)
    assert one.is_closed()
    assert pool.lent == 0


async def test_what_comes_back_in_the_middle_of_a_statement_is_dropped(pool: Pool, database_url: str) -> None:
    one = await pool.acquire(**SOON)
    running = asyncio.ensure_future(one.execute("select pg_sleep(60)"))
    await until_sleeping(database_url)
    running.cancel()
    await asyncio.wait([running])
    pool.release(one)
    assert await pid(await pool.acquire(**SOON)) > 0
    # Once Postgres has ended the statement.
    await happened(one.is_closed)


async def test_a_place_is_not_lost_where_none_can_be_opened(database_url: str) -> None:
    async with Proxy(database_url) as proxy:
        pool = Pool(lambda: asyncpg.connect(proxy.url), size=1)
        await proxy.go_away()
        for _ in range(3):
            with pytest.raises(OSError, match=r"refused|Connect call failed"):
                await pool.acquire(**SOON)
        await proxy.come_back()
        pool.release(await pool.acquire(**SOON))
        await pool.close()


async def test_closing_waits_for_what_is_lent(pool: Pool) -> None:
    one, other = await both(pool)
    pool.release(one)
    closing = asyncio.ensure_future(pool.close())
    await asyncio.sleep(0.01)
    assert not closing.done()
    pool.release(other)
    await closing
    assert one.is_closed()
    assert other.is_closed()


async def test_a_cancelled_statement_ends_in_postgres_too(pool: Pool, database_url: str) -> None:
    one = await pool.acquire(**SOON)
    running = asyncio.ensure_future(one.execute("select pg_sleep(60)"))
    await until_sleeping(database_url)
    running.cancel()
    await asyncio.wait([running])
    pool.release(one)
    assert pool.lent == 1, "its place is free when Postgres has ended it, not before"
    async with patience():
        await pool.close()
    assert await sleeping(database_url) == []


async def test_a_closed_pool_lends_nothing(pool: Pool) -> None:
    await pool.close()
    with pytest.raises(ConnectionError):
        await pool.acquire(**SOON)
