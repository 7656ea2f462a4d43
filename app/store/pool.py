"""Connections to Postgres that are lent out one at a time.

asyncpg has a pool. It wraps a connection in a proxy each time, waits with a timeout where nothing has to be
waited for, and gives back in a task of its own: together more than a statement costs (docs/decisions/0027).
Ours lends the connection itself. Whatever comes back in doubt, inside a transaction or in the middle of a
statement, is not lent again.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

Connection = Any
"""Of asyncpg, which ships no types for it."""


class Pool:
    """At most `size` connections, opened when they are needed; the one used last is lent first."""

    def __init__(self, connect: Callable[[], Awaitable[Connection]], *, size: int) -> None:
        """Open nothing yet."""
        self._connect = connect
        self._free = size
        """How many more may be opened."""
        self._idle: list[Connection] = []
        self._lent: set[Connection] = set()
        self._waiting: deque[asyncio.Future[Connection | None]] = deque()
        self._is_closed = False
        self._all_back: asyncio.Future[None] | None = None

    @property
    def lent(self) -> int:
        """How many connections are in use at this moment."""
        return len(self._lent)

    async def acquire(self, *, within_seconds: float) -> Connection:
        """A connection that was open a moment ago; give it back by `release`.

        Raises:
            TimeoutError: none became free in time, or Postgres did not answer in it.
            OSError: it cannot be reached. Or an error of asyncpg, which says why it refuses us.
            ConnectionError: the pool is closed.
        """
        if self._is_closed:
            raise ConnectionError("the pool is closed")
        while self._idle:
            if not (connection := self._idle.pop()).is_closed():
                self._lent.add(connection)
                return connection
            self._free += 1
        async with asyncio.timeout(within_seconds):
            if self._free:
                self._free -= 1
            elif connection := await self._turn():
                return connection
            return await self._opened()

    def release(self, connection: Connection) -> None:
        """Take a connection back; the one who has waited longest goes on."""
        if connection._cancellations:  # noqa: SLF001 - nothing public says that a cancelled statement has not ended
            # Postgres is still being told. A connection that was dropped now would take that with it, and the
            # statement would run on for nobody. asyncpg waits for the answer as long as for a statement.
            told = asyncio.gather(*connection._cancellations, return_exceptions=True)  # noqa: SLF001
            told.add_done_callback(lambda _: self._take_back(connection))
        else:
            self._take_back(connection)

    async def close(self) -> None:
        """Wait for what is lent, then end every connection in order."""
        self._is_closed = True
        if self._lent:
            self._all_back = asyncio.get_running_loop().create_future()
            await self._all_back
        while self._idle:
            await self._idle.pop().close()

    def terminate(self) -> None:
        """Drop every connection at once, also those that are lent."""
        self._is_closed = True
        for connection in (*self._idle, *self._lent):
            connection.terminate()
        self._idle.clear()

    def _take_back(self, connection: Connection) -> None:
        self._lent.discard(connection)
        if self._is_closed or not _is_fit(connection):
            connection.terminate()
            self._give(None)
        else:
            self._give(connection)
        if self._all_back and not self._lent and not self._all_back.done():
            self._all_back.set_result(None)

    async def _turn(self) -> Connection | None:
        """Wait behind those who came before: for a connection, or for the right to open one (None)."""
        turn: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                # It came, and we are gone: then it is the next one's.
                self._lent.discard(turn.result())
                self._give(turn.result())
            raise

    def _give(self, connection: Connection | None) -> None:
        """Pass on a connection, or the right to open one."""
        while self._waiting:
            if not (turn := self._waiting.popleft()).done():
                if connection:
                    self._lent.add(connection)
                turn.set_result(connection)
                return
        if connection:
            self._idle.append(connection)
        else:
            self._free += 1

    async def _opened(self) -> Connection:
        try:
            connection = await self._connect()
        except BaseException:
            self._give(None)
            raise
        self._lent.add(connection)
        return connection


def _is_fit(connection: Connection) -> bool:
    """Whether it is as it was when it was lent: open, and with nothing begun."""
    if connection.is_closed() or connection.is_in_transaction() or connection._top_xact:  # noqa: SLF001 - a BEGIN that failed
        return False
    # After a cancellation the server is still being told, and its answer would be taken for the next one's.
    return not connection._protocol._is_cancelling()  # noqa: SLF001 - asyncpg's own pool asks this too
