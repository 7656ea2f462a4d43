"""Connections and transactions. A transaction is a visible block, and it knows its tenant.

`read(caller)` is for one statement or several that need no snapshot; `begin(caller)` is a
transaction. Neither may contain an await on an upstream or on the client (law L4): `checked_out`
is there for tests to prove it.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from functools import partial
from typing import Any, Generic, Protocol, TypeVar
from uuid import UUID

import asyncpg

from app.domain.tenancy import Caller
from app.errors import Unavailable
from app.store.pool import Pool
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
    async def fetchmany(self, query: str, args: Sequence[Sequence[object]]) -> list[Row]: ...
    async def execute(self, query: str, *args: object) -> str: ...
    def transaction(self) -> AbstractAsyncContextManager[None]: ...


class _Connection(asyncpg.Connection):
    """Remembers for whom it acts, so that it costs a round trip only where that changes."""

    _acting_for: int | None = None

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

    async def fetch_each(self, statement: Statement, rows: Sequence[Mapping[str, Any]]) -> Sequence[Row]:
        """Run one statement once for each of these values, in one round trip, all or nothing.

        Whose key did it may stand among the values; the tenant is always this transaction's.
        """
        own, fixed = {"tenant_id": self.tenant_id}, self._fixed
        arguments = [statement.arguments({**fixed, **row, **own}) for row in rows]
        return await self._driver.fetchmany(statement.sql, arguments)


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


_AnyTx = TypeVar("_AnyTx", ReadTx, Tx, SystemTx)


class _Block(Generic[_AnyTx]):
    """A connection that acts for one tenant, or for every one, from the beginning of a block to its end.

    A class, because every read passes here, and each `@asynccontextmanager` around it would cost as much as
    the look-up of its statement.
    """

    __slots__ = ("_connection", "_db", "_is_transaction", "_make", "_tenant_id", "_transaction")

    def __init__(
        self,
        db: "Database",
        tenant_id: int,
        make: Callable[[_Driver], _AnyTx],
        *,
        is_transaction: bool = False,
    ) -> None:
        self._db = db
        self._tenant_id = tenant_id
        self._make = make
        # A proxy hands out another connection with each transaction: nothing outside of one is remembered.
        self._is_transaction = is_transaction or not db.is_ours
        self._transaction: Any = None

    async def __aenter__(self) -> _AnyTx:
        with _unavailable():
            connection = self._connection = await self._db.pool.acquire(within_seconds=ACQUIRE_SECONDS)
            try:
                await self._begin(connection)
            except BaseException:
                self._db.pool.release(connection)
                raise
        return self._make(connection)

    async def __aexit__(self, *raised: object) -> None:
        try:
            if self._transaction:
                await self._transaction.__aexit__(*raised)
        except _DOWN as error:
            raise Unavailable from error
        finally:
            self._db.pool.release(self._connection)
        if isinstance(raised[1], _DOWN):
            raise Unavailable from raised[1]

    async def _begin(self, connection: Any) -> None:
        if self._db.is_ours:
            await connection.act_for(self._tenant_id)
        if self._is_transaction:
            self._transaction = connection.transaction()
            await self._transaction.start()
        if not self._db.is_ours:
            await connection.fetch(_ACT_LOCALLY, *_session_of(self._tenant_id))


class Database:
    """A small pool: more connections than cores make Postgres slower, so requests wait here instead."""

    def __init__(self, pool: Pool, *, is_ours: bool = True) -> None:
        """`is_ours` is false where a proxy stands between, that pools transactions."""
        self.pool = pool
        self.is_ours = is_ours

    @classmethod
    async def connect(cls, url: str, *, size: int, statement_cache: bool = True) -> "Database":
        """Open the pool.

        Args:
            statement_cache: False behind a transaction-pooling proxy; a statement then costs
                several times as much, because each one is planned anew.
        """
        pool = Pool(partial(_connect, url, has_cache=statement_cache), size=size)
        with _unavailable():
            pool.release(await pool.acquire(within_seconds=ACQUIRE_SECONDS))
        return cls(pool, is_ours=statement_cache)

    @property
    def checked_out(self) -> int:
        """Connections in use at this moment."""
        return self.pool.lent

    def read(self, caller: Caller) -> AbstractAsyncContextManager[ReadTx]:
        """For one statement that reads, or several that need no snapshot."""
        return _Block(
            self, caller.tenant_id, partial(ReadTx, tenant_id=caller.tenant_id, key_id=caller.key_id)
        )

    def autocommit(self, caller: Caller) -> AbstractAsyncContextManager[Tx]:
        """For one statement that writes, and is a transaction by itself."""
        make = partial(Tx, tenant_id=caller.tenant_id, key_id=caller.key_id)
        return _Block(self, caller.tenant_id, make)

    def begin(self, caller: Caller) -> AbstractAsyncContextManager[Tx]:
        """A transaction of one tenant's."""
        make = partial(Tx, tenant_id=caller.tenant_id, key_id=caller.key_id)
        return _Block(self, caller.tenant_id, make, is_transaction=True)

    def autocommit_system(self) -> AbstractAsyncContextManager[SystemTx]:
        """For one statement that sees every tenant's rows, and is a transaction by itself."""
        return _Block(self, EVERY_TENANT, SystemTx)

    def begin_system(self) -> AbstractAsyncContextManager[SystemTx]:
        """A transaction that sees every tenant's rows."""
        return _Block(self, EVERY_TENANT, SystemTx, is_transaction=True)

    async def ping(self, *, within_seconds: float = 2.0) -> None:
        """Raise `Unavailable` if no connection is free, or Postgres does not answer, within this time."""
        with _unavailable():
            async with asyncio.timeout(within_seconds):
                connection = await self.pool.acquire(within_seconds=within_seconds)
                try:
                    await connection.execute("select 1")
                except asyncio.CancelledError:
                    # Nobody waits for the word of a server that says nothing.
                    connection.terminate()
                    raise
                finally:
                    self.pool.release(connection)

    async def close(self) -> None:
        """Give the connections back in order; those that do not answer are dropped."""
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.pool.close()
        except TimeoutError:
            self.pool.terminate()


async def _connect(url: str, *, has_cache: bool) -> Any:
    return await asyncpg.connect(
        url.replace("postgresql+asyncpg://", "postgresql://", 1),
        connection_class=_Connection,
        command_timeout=STATEMENT_SECONDS,
        statement_cache_size=100 if has_cache else 0,
        server_settings={
            "application_name": "holdfast",
            "plan_cache_mode": "force_generic_plan",
            "jit": "off",
        },
    )


@contextmanager
def _unavailable() -> Generator[None]:
    """Tell the client to come back when Postgres is away; anything else is a bug and stays one."""
    try:
        yield
    except _DOWN as error:
        raise Unavailable from error
