"""Who a key stands for, remembered for a few seconds: one process's view of the keys in the database."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from uuid import UUID

import structlog

from app.domain.keys import masked, parse
from app.domain.tenancy import Caller
from app.errors import Unauthenticated, Unavailable
from app.store import keys
from app.store.db import Database
from app.store.keys import ValidKey

log: structlog.stdlib.BoundLogger = structlog.get_logger()

USES_SECONDS = 60.0
"""How often uses are noted: one statement for all keys, whatever the number of requests."""

MOST_REMEMBERED = 10_000
"""Of keys, and as many of wrong ids: beside each other, so that guesses push no key out."""

_NOBODY = bytes(32)


class Keyring:
    """Answers with a caller, or refuses. `open_keyring` makes it and keeps it up to date.

    Lookups of one process go to Postgres one after the other, each with every id that waits meanwhile:
    whoever sends guesses makes one small statement per round trip, however fast they come.
    """

    def __init__(self, db: Database, *, cache_seconds: float) -> None:
        self._db = db
        self._cache_seconds = cache_seconds
        self._exist = False
        self._known = dict[UUID, tuple[float, ValidKey]]()
        self._unknown = dict[UUID, float]()
        self._wanted = dict[UUID, asyncio.Future[ValidKey | None]]()
        self._looking: asyncio.Task[None] | None = None
        self._used = set[UUID]()

    async def caller(self, text: str | None) -> Caller:
        """Whom the key in a request stands for; the default tenant where there has never been a key.

        Raises:
            Unauthenticated: none was given, or it is unknown, wrong, revoked or expired; they sound alike.
            Unavailable: Postgres has to be asked and is away.
        """
        caller = await self.standing(text)
        if caller.key_id:
            self._used.add(caller.key_id)
        return caller

    async def standing(self, text: str | None) -> Caller:
        """The same for a key that is not used now: to see whether it could be."""
        if not self._exist:
            return Caller()
        if text is None:
            raise Unauthenticated
        key = parse(text)
        if key is None:
            raise _incorrect(text)
        found = await self._find(key.id)
        # One comparison in any case, so that its time does not tell whether the id exists.
        if not key.fits(found.hash if found else _NOBODY) or found is None:
            raise _incorrect(text)
        return found.caller

    async def look(self) -> None:
        """See whether there are keys by now. Once there are, it stays so: their rows are never removed."""
        if not self._exist:
            async with self._db.begin_system() as tx:
                self._exist = await keys.exist(tx)

    async def note_uses(self) -> None:
        """Write down who was used since the last time; kept for the next time where that fails."""
        used, self._used = self._used, set[UUID]()
        try:
            if used:
                async with self._db.begin_system() as tx:
                    await keys.note_uses(tx, used)
        except Unavailable:
            self._used |= used
            raise

    async def run(self) -> None:
        """Look for the first key and note uses, until cancelled."""
        noted_at = time.monotonic()
        while True:
            await asyncio.sleep(min(self._cache_seconds, USES_SECONDS))
            # While Postgres is away what was last seen counts; a key that has to be looked up is refused.
            try:
                await self.look()
                if time.monotonic() >= noted_at + USES_SECONDS:
                    await self.note_uses()
                    noted_at = time.monotonic()
            except Unavailable:
                continue
            except Exception:
                # Whoever stopped looking would stay open for all, whatever keys there come to be.
                log.exception("keys.unseen")

    async def close(self) -> None:
        """Note the last uses. Requests must have ended."""
        if self._looking:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        with contextlib.suppress(Unavailable):
            await self.note_uses()

    async def _find(self, key_id: UUID) -> ValidKey | None:
        now = time.monotonic()
        known, unknown_until = self._known.get(key_id), self._unknown.get(key_id, 0.0)
        if known and now < known[0]:
            return known[1]
        if now < unknown_until:
            return None
        waiting = self._wanted.setdefault(key_id, asyncio.get_running_loop().create_future())
        if self._looking is None or self._looking.done():
            self._looking = asyncio.ensure_future(self._look_up())
        # Others may wait for the same key: whose client hangs up must not cancel it for them.
        return await asyncio.shield(waiting)

    async def _look_up(self) -> None:
        while self._wanted:
            wanted, self._wanted = self._wanted, dict[UUID, asyncio.Future[ValidKey | None]]()
            asked_at = time.monotonic()
            try:
                async with self._db.begin_system() as tx:
                    found = await keys.find_valid(tx, wanted)
            except Exception as error:  # noqa: BLE001 - whoever waits gets it
                for waiting in wanted.values():
                    waiting.set_exception(error)
                    waiting.exception()  # Seen, also where the client is gone and nobody waits any more.
                continue
            for key_id, waiting in wanted.items():
                self._remember(key_id, found.get(key_id), asked_at + self._cache_seconds)
                waiting.set_result(found.get(key_id))

    def _remember(self, key_id: UUID, found: ValidKey | None, until: float) -> None:
        self._known.pop(key_id, None)
        self._unknown.pop(key_id, None)
        if found:
            self._known[key_id] = until, found
        else:
            self._unknown[key_id] = until
        for memory in (self._known, self._unknown):
            if len(memory) > MOST_REMEMBERED:
                del memory[next(iter(memory))]


@asynccontextmanager
async def open_keyring(db: Database, *, cache_seconds: float) -> AsyncGenerator[Keyring]:
    """The keyring, having looked once; its last uses are noted on leaving.

    Raises:
        Unavailable: Postgres is away.
    """
    keyring = Keyring(db, cache_seconds=cache_seconds)
    await keyring.look()
    running = asyncio.ensure_future(keyring.run())
    try:
        yield keyring
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await keyring.close()


def _incorrect(text: str) -> Unauthenticated:
    return Unauthenticated(f"Incorrect API key provided: {masked(text)}.")
