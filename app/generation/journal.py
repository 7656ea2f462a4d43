"""Store the events of background streams before anyone sees them: one writer per process for all streams.

Between two flushes the events of all streams gather; a flush is one statement and one commit. A stream
that has lost its claim is fenced off by that statement, and its run is told.
"""

import asyncio
from collections.abc import Callable, Sequence

import structlog

from app.domain.events import Event
from app.domain.jobs import Claim
from app.errors import LeaseLost, Unavailable
from app.store import events as stored_events
from app.store.db import Database
from app.store.events import Batch

log: structlog.stdlib.BoundLogger = structlog.get_logger()

FLUSH_SECONDS = 0.02
"""How long events gather: ten to thirty per row for a usual model, and too short to be noticed."""

MAX_WAITING_BYTES = 1 << 20
RETRY_SECONDS = 0.5


class Entry:
    """The journal of one running response. A listener of its engine, like `Feed`."""

    is_streaming = True

    def __init__(self, claim: Claim, writer: "Journal") -> None:
        self.claim = claim
        self._writer = writer
        self.frames: list[bytes] = []
        self.last_seq = -1
        self.waiting_bytes = 0
        self.is_lost = False
        self.written = asyncio.Event()
        self.written.set()

    async def publish(self, events: Sequence[Event]) -> None:
        """Hand events over; wait only where Postgres is a megabyte behind."""
        self.put(events)
        if self.waiting_bytes > MAX_WAITING_BYTES:
            await self.written.wait()

    def put(self, events: Sequence[Event]) -> None:
        """Hand the last events over, which wait for nobody."""
        if not events or self.is_lost:
            return
        for event in events:
            frame = event.frame
            self.frames.append(frame)
            self.waiting_bytes += len(frame)
        self.last_seq = events[-1].sequence_number
        self.written.clear()
        self._writer.has_work.set()

    async def flushed(self) -> None:
        """Wait until everything is stored.

        Raises:
            LeaseLost: it never will be: the claim does not stand any more.
        """
        await self.written.wait()
        if self.is_lost:
            raise LeaseLost

    def lose(self) -> None:
        """Say that nothing more will be stored, to whoever waits for it."""
        self.is_lost = True
        self.written.set()

    def close(self) -> None:
        """Nothing to do: whoever finishes the response has waited for `flushed`."""


class Journal:
    """Gathers and writes. `run` writes until it is cancelled."""

    def __init__(self, db: Database, *, on_lost: Callable[[Claim], None]) -> None:
        """`on_lost` hears of each claim whose events may no longer be written."""
        self._db = db
        self._on_lost = on_lost
        self._entries: dict[Claim, Entry] = {}
        self.has_work = asyncio.Event()

    def open(self, claim: Claim) -> Entry:
        entry = self._entries[claim] = Entry(claim, self)
        return entry

    def forget(self, claim: Claim) -> None:
        self._entries.pop(claim, None)

    async def run(self) -> None:
        try:
            while True:
                await self.has_work.wait()
                await asyncio.sleep(FLUSH_SECONDS)
                self.has_work.clear()
                await self._flush()
        finally:
            # However it ends, no run may wait for ever.
            for entry in self._entries.values():
                entry.lose()

    async def _flush(self) -> None:
        full = [entry for entry in self._entries.values() if entry.frames]
        taken = [(entry, _take(entry)) for entry in full]
        kept = await self._store([batch for _, batch in taken]) if taken else set[Claim]()
        for entry, batch in taken:
            if batch.claim not in kept:
                entry.lose()
                self._on_lost(batch.claim)
            elif not entry.frames:
                entry.waiting_bytes = 0
                entry.written.set()

    async def _store(self, batches: Sequence[Batch]) -> set[Claim]:
        """Write, for however long Postgres is away; the claims whose batches are stored."""
        while True:
            try:
                async with self._db.begin_system() as tx:
                    return await stored_events.append(tx, batches)
            except Unavailable:
                # The runs go on until their leases are lost; a batch is known by its number, so
                # writing it twice stores it once.
                log.warning("journal.unavailable", streams=len(batches))
                await asyncio.sleep(RETRY_SECONDS)
            except Exception:
                log.exception("journal.refused", streams=len(batches))
                return await self._store_each(batches)

    async def _store_each(self, batches: Sequence[Batch]) -> set[Claim]:
        """Write one by one what Postgres has refused together, so that a bad stream ends alone."""
        if len(batches) == 1:
            return set()
        return {claim for batch in batches for claim in await self._store([batch])}


def _take(entry: Entry) -> Batch:
    frames, entry.frames = entry.frames, []
    entry.waiting_bytes = 0
    return Batch(entry.claim, entry.last_seq, b"".join(frames))
