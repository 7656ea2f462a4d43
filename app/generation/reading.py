"""Who has looked: reads by keys that audit are noted, many at a time, after they were answered.

Nobody waits for that, so what was read in the last second before a process is killed may go unnoted.
"""

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import structlog

from app.domain.audit import Action
from app.domain.tenancy import Caller, Scope
from app.errors import Unavailable
from app.store import outbox
from app.store.db import Database

log: structlog.stdlib.BoundLogger = structlog.get_logger()

FLUSH_SECONDS = 1.0
MAX_WAITING = 10_000
"""While Postgres is away, so many reads are remembered and no more."""

_Reading = tuple[Action, UUID | None, Mapping[str, Any]]


class Readings:
    """What was read in this process and is not noted yet."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._waiting: defaultdict[Caller, list[_Reading]] = defaultdict(list)
        self._count = 0
        self._flushing: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()

    def note(
        self,
        caller: Caller,
        action: Action,
        subject: UUID | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> None:
        """Remember that this caller has read something, if theirs is a key that audits."""
        if caller.key_id is None or not caller.may(Scope.AUDIT):
            return
        if self._count >= MAX_WAITING:
            log.error("readings.lost", action=action.word)
            return
        self._count += 1
        self._waiting[caller].append((action, subject, data or {}))
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.ensure_future(self._later())

    async def flush(self) -> None:
        """Note all that waits, and wait for whoever is at it already."""
        async with self._lock:
            for caller in list(self._waiting):
                await self._flush(caller)

    async def _flush(self, caller: Caller) -> None:
        """Note what one has read. It waits on until that is done, but for what never could be."""
        readings = self._waiting.pop(caller)
        try:
            async with self._db.autocommit(caller) as tx:
                await outbox.note_many(tx, readings)
        except Unavailable:
            log.warning("readings.waiting", count=len(readings))
            self._waiting[caller] = readings + self._waiting[caller]
            return
        except Exception:
            log.exception("readings.lost", count=len(readings))
        self._count -= len(readings)

    async def _later(self) -> None:
        while self._waiting:
            await asyncio.sleep(FLUSH_SECONDS)
            await self.flush()
