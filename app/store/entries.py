"""How new responses of a process reach the table: those that come at the same time, together."""

from collections.abc import Sequence

from app.domain.jobs import SHOWN_BY_QUEUEING, NewJob
from app.domain.tenancy import Caller
from app.domain.turn import Turn
from app.store import events, lifecycle
from app.store.coalesced import Coalesced
from app.store.db import Database, Tx


class Entries:
    """One way in for all requests that write nothing else."""

    def __init__(self, db: Database, *, max_queued: int) -> None:
        """`max_queued` responses of a tenant may wait at once."""
        self._db = db
        self.max_queued = max_queued
        self._turns = Coalesced(self._append, lambda item: _size(item[1]))
        self._jobs = Coalesced(self._enqueue, lambda item: _size(item[1].turn))

    async def append(self, caller: Caller, turn: Turn) -> None:
        """Store a turn as `lifecycle.append` does; on return it is committed. Repeating it is harmless.

        The turn names no items (`Turn.aliases`).

        Raises:
            Unavailable: Postgres is away.
        """
        await self._turns.do(caller.tenant_id, (caller, turn))

    async def enqueue(self, caller: Caller, job: NewJob) -> bool:
        """Store a queued response as `enqueue` does; on return it is committed. False if the queue is full.

        Raises:
            Unavailable: Postgres is away.
        """
        return await self._jobs.do(caller.tenant_id, (caller, job))

    async def _append(self, batch: Sequence[tuple[Caller, Turn]]) -> Sequence[None]:
        async with self._db.autocommit(_tenant(batch)) as tx:
            await lifecycle.append_each(tx, [(turn, caller.key_id) for caller, turn in batch])
        return [None] * len(batch)

    async def _enqueue(self, batch: Sequence[tuple[Caller, NewJob]]) -> Sequence[bool]:
        async with self._db.begin(_tenant(batch)) as tx:
            count = await put_in_queue(tx, [job for _, job in batch], max_queued=self.max_queued)
        return [place < count for place in range(len(batch))]


def _size(turn: Turn) -> int:
    return len(turn.input_blob) + len(turn.output_blob) + len(turn.body)


def _tenant(batch: Sequence[tuple[Caller, object]]) -> Caller:
    """Whose batch it is, by no key of theirs: each of them has its own, or none."""
    return Caller(batch[0][0].tenant_id)


async def put_in_queue(tx: Tx, jobs: Sequence[NewJob], *, max_queued: int) -> int:
    """Queue as many as there is room for, with what their streams say first; so many of the first."""
    count = await lifecycle.enqueue(tx, jobs, max_queued=max_queued)
    for job in jobs[:count]:
        if job.frames:
            await events.put(tx, job.turn.id, SHOWN_BY_QUEUEING - 1, job.frames)
    return count
