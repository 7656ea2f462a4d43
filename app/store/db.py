"""Connections and transactions. A transaction is a visible block, and it knows its tenant.

`read(caller)` is for one statement or several that need no snapshot; `begin(caller)` is a
transaction. Neither may contain an await on an upstream or on the client (law L4): `checked_out`
is there for tests to prove it.
"""

import asyncio
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any, Protocol
from uuid import UUID

import asyncpg

from app.domain.tenancy import Caller
from app.errors import Unavailable
from app.store.statements import Statement
from app.store.tables import TENANT_ROLE, TENANT_SETTING

_DOWN = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    # Disk full, out of connections or memory, read-only after a failover, a statement that took too long.
    asyncpg.InsufficientResourcesError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.QueryCanceledError,
    asyncpg.PostgresIOError,
    # A deadlock or the like: whatever was wanted is undone, and may be asked for again.
    asyncpg.TransactionRollbackError,
)

Row = Mapping[str, Any]


STATEMENT_SECONDS = 10.0
"""What any statement may take: thousands of times what the slowest needs. A silent server is away."""

ACQUIRE_SECONDS = 10.0
"""How long a request waits for a connection before it is told to come back."""


CLOSE_SECONDS = 5.0


EVERY_TENANT = 0
# With row_security off Postgres refuses what a policy would hide: who acts for all tenants, but as a login
# role that policies bind, must not take "nothing is visible" for "nothing is there", such as keys.
_ACT = (
    f"select set_config('role', $1, false), set_config('{TENANT_SETTING}', $2, false), "
    "set_config('row_security', $3, false)"
)
_ACT_LOCALLY = _ACT.replace("false", "true")


def _session_of(tenant_id: int) -> tuple[str, str, str]:
    """Role, tenant and row security, as `_ACT` takes them."""
    if tenant_id == EVERY_TENANT:
        return "none", str(tenant_id), "off"
    return TENANT_ROLE, str(tenant_id), "on"


class _Driver(Protocol):
    """What a connection or a pool of asyncpg offers (the library ships no types for it)."""

    async def fetch(self, query: str, *args: object) -> list[Row]: ...
    async def execute(self, query: str, *args: object) -> str: ...
    def transaction(self) -> AbstractAsyncContextManager[None]: ...


class _Connection(asyncpg.Connection):
    """Given back without a reset query: we leave nothing behind, and it halves a round trip.

    But for whom it acts: that is remembered, so that it costs a round trip only where it changes.
    """

    _acting_for: int | None = None

    def get_reset_query(self) -> str:
        return ""

    async def act_for(self, tenant_id: int) -> None:
        """Be held to one tenant's rows by row-level security; `EVERY_TENANT` is held to nothing."""
        if self._acting_for == tenant_id:
            return
        self._acting_for = None
        await self.fetch(_ACT, *_session_of(tenant_id))
        self._acting_for = tenant_id


class _Fetching:
    """Run compiled statements on one connection."""

    __slots__ = ("_driver", "_fixed")

    def __init__(self, driver: _Driver, **fixed: Any) -> None:
        self._driver = driver
        self._fixed = fixed

    async def fetch(self, statement: Statement, **values: Any) -> Sequence[Row]:
        return await self._driver.fetch(statement.sql, *statement.arguments(values | self._fixed))

    async def fetch_one(self, statement: Statement, **values: Any) -> Row | None:
        rows = await self.fetch(statement, **values)
        return rows[0] if rows else None


class ReadTx(_Fetching):
    """The right to read one tenant's rows: `tenant_id` is always among a statement's parameters, and so
    is `key_id`, of the key that it is done with.
    """

    __slots__ = ("tenant_id",)

    def __init__(self, driver: _Driver, tenant_id: int, key_id: UUID | None = None) -> None:
        super().__init__(driver, tenant_id=tenant_id, key_id=key_id)
        self.tenant_id = tenant_id


class Tx(ReadTx):
    """The right to read and write one tenant's rows, all or nothing."""

    __slots__ = ()


class SystemTx(_Fetching):
    """The right to act for every tenant: for what finds work and keeps order, never for a request."""

    __slots__ = ()

    def of(self, tenant_id: int) -> Tx:
        """The same transaction, acting for one tenant: for what was found to be its work."""
        return Tx(self._driver, tenant_id)

    @asynccontextmanager
    async def savepoint(self) -> AsyncGenerator[None]:
        """A part of the transaction that is undone alone when it fails."""
        with _unavailable():
            async with self._driver.transaction():
                yield


class Database:
    """A small pool: more connections than cores make Postgres slower, so requests wait here instead."""

    def __init__(self, pool: Any, *, is_ours: bool = True) -> None:
        """`is_ours` is false where a proxy stands between, that pools transactions."""
        self._pool = pool
        self._is_ours = is_ours

    @classmethod
    async def connect(cls, url: str, *, size: int, statement_cache: bool = True) -> "Database":
        """Open the pool.

        Args:
            statement_cache: False behind a transaction-pooling proxy; a statement then costs
                several times as much, because each one is planned anew.
        """
        pool = asyncpg.create_pool(
            url.replace("postgresql+asyncpg://", "postgresql://", 1),
            min_size=1,
            max_size=size,
            connection_class=_Connection,
            max_inactive_connection_lifetime=0,
            command_timeout=STATEMENT_SECONDS,
            statement_cache_size=100 if statement_cache else 0,
            server_settings={
                "application_name": "holdfast",
                "plan_cache_mode": "force_generic_plan",
                "jit": "off",
            },
        )
        with _unavailable():
            await pool
        return cls(pool, is_ours=statement_cache)

    @property
    def checked_out(self) -> int:
        """Connections in use at this moment."""
        return self._pool.get_size() - self._pool.get_idle_size()

    @asynccontextmanager
    async def read(self, caller: Caller) -> AsyncGenerator[ReadTx]:
        async with self._connection(caller.tenant_id, is_transaction=False) as connection:
            yield ReadTx(connection, caller.tenant_id, caller.key_id)

    @asynccontextmanager
    async def autocommit(self, caller: Caller) -> AsyncGenerator[Tx]:
        """For one statement that writes, and is a transaction by itself."""
        async with self._connection(caller.tenant_id, is_transaction=False) as connection:
            yield Tx(connection, caller.tenant_id, caller.key_id)

    @asynccontextmanager
    async def begin(self, caller: Caller) -> AsyncGenerator[Tx]:
        async with self._connection(caller.tenant_id, is_transaction=True) as connection:
            yield Tx(connection, caller.tenant_id, caller.key_id)

    @asynccontextmanager
    async def begin_system(self) -> AsyncGenerator[SystemTx]:
        async with self._connection(EVERY_TENANT, is_transaction=True) as connection:
            yield SystemTx(connection)

    @asynccontextmanager
    async def _connection(self, tenant_id: int, *, is_transaction: bool) -> AsyncGenerator[Any]:
        """A connection that acts for one tenant, or for every one."""
        with _unavailable():
            async with self._pool.acquire(timeout=ACQUIRE_SECONDS) as connection:
                if not self._is_ours:
                    # A proxy hands out another connection with each transaction: nothing can be remembered.
                    async with connection.transaction():
                        await connection.fetch(_ACT_LOCALLY, *_session_of(tenant_id))
                        yield connection
                    return
                await connection.act_for(tenant_id)
                if is_transaction:
                    async with connection.transaction():
                        yield connection
                else:
                    yield connection

    async def ping(self, *, within_seconds: float = 2.0) -> None:
        """Raise `Unavailable` if no connection is free, or Postgres does not answer, within this time."""
        with _unavailable():
            async with asyncio.timeout(within_seconds), self._pool.acquire() as connection:
                try:
                    await connection.execute("select 1")
                except asyncio.CancelledError:
                    # The pool would first wait for the word of a server that says nothing.
                    connection.terminate()
                    raise

    async def close(self) -> None:
        """Give the connections back in order; those that do not answer are dropped."""
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()


@contextmanager
def _unavailable() -> Generator[None]:
    """Tell the client to come back when Postgres is away; anything else is a bug and stays one."""
    try:
        yield
    except _DOWN as error:
        raise Unavailable from error
