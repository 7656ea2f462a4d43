"""Settle what was noted: give it its place in the audit trail, and renew the facts of what it tells of.

Behind the hot path, in small batches, one tenant at a time under the lock of its trail's head. Whoever
wants to read what has just been done settles it first, so that nobody reads an old answer
(docs/decisions/0023 and 0024).
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID

import structlog

from app import ids
from app.domain.audit import OF_RESPONSES, SERVER, Action, Checkpoint, Head, Note, Record, chain
from app.domain.facts import Price
from app.domain.signing import Signer
from app.domain.tenancy import Caller
from app.errors import Unavailable
from app.store import audit, facts, outbox, tenants
from app.store.db import Database, SystemTx

log: structlog.stdlib.BoundLogger = structlog.get_logger()

_T = TypeVar("_T")

BATCH = 500
"""Notes that are settled in one transaction."""

BEFORE_READING = 10
"""Batches that a reader settles at most; what has piled up beyond that the workers are at."""

CHECKPOINT_RECORDS = 1000
CHECKPOINT_AGE = timedelta(seconds=60)
"""A trail that goes on is vouched for this often."""

MOST_UNSIGNED = CHECKPOINT_RECORDS + BATCH
"""More records than this never follow each other without a checkpoint."""

PAUSE_SECONDS = 1.0
"""How long a worker waits when there was nothing to settle."""

LOOK_SECONDS = 15.0
"""How often it looks for trails at rest that nobody has vouched for, however busy others keep it."""

ADOPTED_SECONDS = 86_400
"""How far back a worker looks for what an earlier release has stored without a note."""

BEGIN_SECONDS = 3600.0
"""How often it looks: processes of that release may have been the last to stop."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """Who settles, and with what."""

    db: Database
    signer: Signer = field(default_factory=Signer)
    prices: Mapping[str, Price] = field(default_factory=dict)
    _settling: dict[int, asyncio.Task[bool]] = field(default_factory=dict[int, "asyncio.Task[bool]"])
    """What readers of this process wait for, by tenant."""

    async def settle_all(self) -> bool:
        """Settle one batch of every tenant that has anything; whether that moved any trail."""
        tenant_id, did = SERVER - 1, False
        while (following := await self._next(tenant_id)) is not None:
            tenant_id = following
            did = bool(await self._safely(self._settle(tenant_id))) or did
        return did

    async def settle(self, caller: Caller) -> None:
        """Settle what this tenant has done until now, but for what is more than a reader should wait for.

        A trail that cannot go on keeps nobody from reading: that is for `verification` to tell.
        """
        for _ in range(BEFORE_READING):
            async with self.db.read(Caller(caller.tenant_id)) as tx:
                if not await audit.is_pending(tx):
                    return
            try:
                await self._settle_together(caller.tenant_id)
            except Unavailable:
                raise
            except Exception:
                log.exception("ledger.crashed", tenant_id=caller.tenant_id)
                return

    async def vouch(self) -> None:
        """Write the checkpoints that are due where nothing has been done since."""
        async with self.db.begin_system() as tx:
            due = await audit.unsigned(tx, age=CHECKPOINT_AGE)
        for tenant_id in due:
            await self._safely(self._vouch(tenant_id))

    async def run(self) -> None:
        """Settle whatever comes, until cancelled; at most half of the time, which is others' too."""
        next_look = next_beginning = 0.0
        while True:
            began = time.monotonic()
            if began >= next_beginning:
                await self._safely(self.begin())
                next_beginning = began + BEGIN_SECONDS
            did = await self._safely(self.settle_all())
            if began >= next_look:
                await self._safely(self.vouch())
                next_look = began + LOOK_SECONDS
            await asyncio.sleep(time.monotonic() - began if did else PAUSE_SECONDS)

    async def begin(self) -> None:
        """Note what starting workers find: what an earlier release has stored while this one was being
        installed, and trails at rest for which this server's key does not vouch yet.
        """
        floor = UUID(int=int((time.time() - ADOPTED_SECONDS) * 1000) << 80)
        async with self.db.begin_system() as tx:
            found = await tenants.all_ids(tx)
        for tenant_id in found:
            await self._safely(self._adopt(tenant_id, floor))
        if key := self.signer.public_key:
            async with self._alone() as tx:
                await audit.note_signing(tx, self.signer.trusted, outbox.text({"public_key": key.hex()}))

    async def _adopt(self, tenant_id: int, floor: UUID) -> None:
        async with self._alone() as tx:
            await facts.adopt(tx, tenant_id, floor, Action.RESPONSE_ADOPTED)

    @asynccontextmanager
    async def _alone(self) -> AsyncGenerator[SystemTx]:
        """Keep several workers that start at once from noting the same: they take turns, by one lock."""
        async with self.db.begin_system() as tx:
            await audit.lock_head(tx.of(SERVER))
            yield tx

    async def _safely(self, work: Coroutine[Any, Any, _T]) -> _T | None:
        """A bug, or a database that is away, ends one piece of work and never those after it."""
        try:
            return await work
        except Unavailable:
            log.warning("store.unavailable")
        except Exception:
            log.exception("ledger.crashed")
        return None

    async def _next(self, after: int) -> int | None:
        async with self.db.begin_system() as tx:
            return await audit.next_pending(tx, after)

    async def _settle_together(self, tenant_id: int) -> None:
        """Settle one batch, for all of this process that want it: one connection waits for the head, not
        one for each reader.
        """
        if (task := self._settling.get(tenant_id)) is None:
            task = self._settling[tenant_id] = asyncio.ensure_future(self._settle(tenant_id))
            task.add_done_callback(lambda _: self._settling.pop(tenant_id))
        await asyncio.shield(task)

    async def _settle(self, tenant_id: int) -> bool:
        """Settle one batch; whether there was any."""
        async with self.db.begin_system() as tx:
            mine = tx.of(tenant_id)
            locked = await audit.lock_head(mine, age=CHECKPOINT_AGE)
            notes = await audit.take(mine, limit=BATCH)
            if not notes:
                return False
            records = list(chain(tenant_id, locked.head, notes))
            await audit.append(mine, records)
            await self._vouch_if_due(tx, records, locked)
            await self._renew_facts(tx, tenant_id, notes)
            return True

    async def _vouch(self, tenant_id: int) -> None:
        async with self.db.begin_system() as tx:
            locked = await audit.lock_head(tx.of(tenant_id), age=CHECKPOINT_AGE)
            if locked.unsigned:
                await self._checkpoint(tx, tenant_id, locked.head, locked)

    async def _vouch_if_due(self, tx: SystemTx, records: Sequence[Record], locked: audit.LockedHead) -> None:
        if locked.is_old or locked.unsigned + len(records) >= CHECKPOINT_RECORDS:
            last = records[-1]
            await self._checkpoint(tx, last.tenant_id, Head(last.seq, last.hash), locked)

    async def _checkpoint(self, tx: SystemTx, tenant_id: int, head: Head, locked: audit.LockedHead) -> None:
        unsigned = Checkpoint(head.seq, locked.now, head.hash)
        await audit.checkpoint(tx.of(tenant_id), self.signer.signed(tenant_id, unsigned))

    async def _renew_facts(self, tx: SystemTx, tenant_id: int, notes: Sequence[Note]) -> None:
        """Whatever is wrong with a response, the trail goes on, and so do the others."""
        about = [note for note in notes if note.action in OF_RESPONSES and note.subject]
        subjects = list(dict.fromkeys(note.subject for note in about if note.subject))
        for portion in await facts.portions(tx.of(tenant_id), subjects):
            if await self._renewed(tx, tenant_id, portion, about):
                continue
            for subject in portion:
                if not await self._renewed(tx, tenant_id, [subject], about):
                    log.error("facts.unreadable", response_id=ids.response_id(subject))

    async def _renewed(
        self, tx: SystemTx, tenant_id: int, subjects: Sequence[UUID], about: Sequence[Note]
    ) -> bool:
        mine = tx.of(tenant_id)
        created = [note for note in about if note.action == Action.RESPONSE_CREATED]
        keys = {note.subject: note.key_id for note in created if note.subject}
        # A deletion comes after the note of what it deletes: that note counts it, and not the deletion's own.
        done = {note.subject for note in about if note.action != Action.RESPONSE_DELETED}
        try:
            async with tx.savepoint():
                found = await facts.read(mine, subjects, self.prices)
                there = [each for each in found if not each.is_deleted]
                gone = set(subjects) - {each.id for each in there}
                if there:
                    await facts.put(mine, there, keys)
                if gone:
                    await facts.count(mine, [each for each in found if each.is_deleted and each.id in done])
                    await facts.forget(mine, sorted(gone))
        except Unavailable:
            raise
        except Exception:
            log.exception("facts.failed", tenant_id=tenant_id, count=len(subjects))
            return False
        return True


@asynccontextmanager
async def settling(ledger: Ledger) -> AsyncGenerator[None]:
    """Settle beside whatever else a worker does."""
    task = asyncio.ensure_future(ledger.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
