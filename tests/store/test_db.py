"""Connections and transactions: what happens when Postgres is away, and when it comes back."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack

import pytest
import sqlalchemy as sa

from app.domain.tenancy import Caller
from app.errors import Unavailable
from app.store import lifecycle
from app.store.db import Database, ReadTx
from app.store.statements import Statement
from tests.store.proxy import Proxy
from tests.store.turns import a_turn, add, ancestry, put, rows

SELECT_1 = Statement(sa.select(sa.literal_column("1")))
MY_PID = Statement(sa.select(sa.func.pg_backend_pid().label("pid")))


@pytest.fixture
async def proxy(database_url: str) -> AsyncGenerator[Proxy]:
    async with Proxy(database_url) as proxy:
        yield proxy


async def kill(database_url: str, tx: ReadTx) -> None:
    """End the session behind this transaction, as an administrator or a restart would."""
    row = await tx.fetch_one(MY_PID)
    assert row
    other = await Database.connect(database_url, size=1)
    async with other.read(Caller(0)) as killer:
        await killer._driver.fetch("select pg_terminate_backend($1, 1000)", row["pid"])
    await other.close()


async def works(db: Database) -> bool:
    async with db.read(Caller(0)) as tx:
        return bool(await tx.fetch(SELECT_1))


async def test_nobody_listens() -> None:
    with pytest.raises(Unavailable):
        await Database.connect("postgresql://nobody@127.0.0.1:1/nothing", size=1)


async def test_the_url_may_be_in_the_style_of_sqlalchemy(database_url: str) -> None:
    db = await Database.connect(database_url.replace("postgresql://", "postgresql+asyncpg://"), size=1)
    assert await works(db)
    await db.close()


async def test_a_read_whose_session_is_ended_is_unavailable_and_the_next_works(
    db: Database, database_url: str, caller: Caller
) -> None:
    async def read() -> None:
        async with db.read(caller) as tx:
            await kill(database_url, tx)
            await tx.fetch(SELECT_1)

    with pytest.raises(Unavailable):
        await read()
    assert await works(db)
    assert db.checked_out == 0


async def test_a_transaction_whose_session_is_ended_is_unavailable_and_has_done_nothing(
    db: Database, database_url: str, caller: Caller
) -> None:
    turn = a_turn()

    async def append() -> None:
        async with db.begin(caller) as tx:
            await lifecycle.append(tx, turn)
            await kill(database_url, tx)

    with pytest.raises(Unavailable):
        await append()
    assert await ancestry(db, caller, turn.id) is None
    await put(db, caller, turn)
    assert await ancestry(db, caller, turn.id) is not None
    assert db.checked_out == 0


async def test_idle_connections_that_were_ended_are_replaced(
    db: Database, database_url: str, caller: Caller
) -> None:
    async with AsyncExitStack() as stack:
        held = [await stack.enter_async_context(db.read(caller)) for _ in range(4)]
        for tx in held:
            await kill(database_url, tx)
    for _ in range(8):
        assert await works(db)


async def test_a_server_that_goes_away_is_unavailable_until_it_is_back(proxy: Proxy, caller: Caller) -> None:
    db = await Database.connect(proxy.url, size=2)
    await add(db, caller, "before")
    await proxy.go_away()
    for _ in range(3):
        with pytest.raises(Unavailable):
            await works(db)
        with pytest.raises(Unavailable):
            await add(db, caller)
        with pytest.raises(Unavailable):
            await db.ping()
    await proxy.come_back()
    await db.ping()
    await add(db, caller, "after")
    assert len(await rows(proxy.url, caller, "id")) == 2
    await db.close()


async def test_a_ping_does_not_wait_for_a_server_that_says_nothing(proxy: Proxy, caller: Caller) -> None:
    db = await Database.connect(proxy.url, size=1)
    proxy.fall_silent()
    with pytest.raises(Unavailable):
        await db.ping(within_seconds=0.1)
    await db.close()


async def test_a_ping_does_not_wait_for_a_connection_either(database_url: str, caller: Caller) -> None:
    """A process whose pool is full for seconds cannot serve: it must not look ready, nor hang."""
    db = await Database.connect(database_url, size=1)
    async with db.read(caller):
        with pytest.raises(Unavailable):
            await db.ping(within_seconds=0.05)
    await db.ping()
    await db.close()


async def test_requests_wait_for_one_another_on_a_full_pool(database_url: str, caller: Caller) -> None:
    db = await Database.connect(database_url, size=2)
    await asyncio.gather(*[add(db, caller) for _ in range(30)])
    assert len(await rows(database_url, caller, "id")) == 30
    assert db.checked_out == 0
    await db.close()


async def test_statements_work_without_a_cache(database_url: str, caller: Caller) -> None:
    """As behind a proxy that pools transactions."""
    db = await Database.connect(database_url, size=1, statement_cache=False)
    root = await add(db, caller)
    turn = await add(db, caller, parent=root)
    found = await ancestry(db, caller, turn.id)
    assert found is not None
    assert len(found.turns) == 2
    await db.close()


async def test_an_error_of_our_own_stays_what_it_is(db: Database, caller: Caller) -> None:
    with pytest.raises(RuntimeError, match="a bug"):
        async with db.begin(caller):
            raise RuntimeError("a bug")
    assert db.checked_out == 0


async def test_a_forgotten_parameter_is_an_error_and_not_null(db: Database, caller: Caller) -> None:
    statement = Statement(sa.select(sa.cast(sa.bindparam("wanted"), sa.Text), sa.literal("constant")))
    async with db.read(caller) as tx:
        with pytest.raises(KeyError, match="wanted"):
            await tx.fetch(statement)
        assert [tuple(row.values()) for row in await tx.fetch(statement, wanted=None)] == [(None, "constant")]
