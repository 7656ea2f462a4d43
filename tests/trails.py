"""Audit trails as tests make them, look at them, and tamper with them."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from app.domain.audit import Head, Record, check
from app.domain.signing import Signer
from app.domain.tenancy import Caller
from app.generation.ledger import Ledger
from app.store import audit
from app.store.db import Database

SIGNER = Signer(bytes(range(32)))


async def settle(db: Database, caller: Caller, signer: Signer = SIGNER) -> None:
    """Give all that was noted its place."""
    await Ledger(db, signer).settle(caller)


async def recorded(db: Database, caller: Caller) -> Sequence[Record]:
    """The whole trail, which has to be right."""
    async with db.read(caller) as tx:
        records = await audit.page(tx, limit=100_000, newest_first=False)
        end = await audit.head(tx)
    before = Head()
    for record in records:
        assert check(record, before) is None
        before = Head(record.seq, record.hash)
    assert end == before
    return records


async def pending(db: Database, caller: Caller) -> int:
    async with db.read(caller) as tx:
        return await audit.pending(tx)


async def vouch(db: Database, caller: Caller, signer: Signer = SIGNER) -> None:
    """Write a checkpoint now, however young the last one is."""
    ledger = Ledger(db, signer)
    async with db.begin_system() as tx:
        locked = await audit.lock_head(tx.of(caller.tenant_id))
        await ledger._checkpoint(tx, caller.tenant_id, locked.head, locked)


@asynccontextmanager
async def behind_the_trigger(database_url: str) -> AsyncGenerator[Any]:
    """A superuser's connection on which no trigger fires: whoever has that can do anything."""
    connection: Any = await asyncpg.connect(database_url)
    try:
        await connection.execute("set session_replication_role = replica")
        yield connection
    finally:
        await connection.close()
