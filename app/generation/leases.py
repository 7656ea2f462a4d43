"""Keep the leases of what runs in this process, and stop what is no longer ours."""

import asyncio
import time
from collections.abc import Generator
from contextlib import contextmanager
from uuid import UUID

import structlog

from app.domain.jobs import Claim
from app.errors import Unavailable
from app.store import lifecycle
from app.store.db import Database

log: structlog.stdlib.BoundLogger = structlog.get_logger()

LEASE_LOST = "lease_lost"
"""The message of a cancellation by which a run learns that its response was cancelled or given away."""


class Leases:
    """One renewal a third of the lease for all runs together."""

    def __init__(self, db: Database, *, lease_seconds: float) -> None:
        self._db = db
        self._lease_seconds = lease_seconds
        self._held: dict[UUID, tuple[Claim, asyncio.Task[object]]] = {}
        self._renewed_at = time.monotonic()

    @contextmanager
    def kept(self, claim: Claim, task: "asyncio.Task[object]") -> Generator[None]:
        """Renew this claim for as long as the block lasts; `task` is cancelled if it is lost."""
        self._held[claim.response_id] = (claim, task)
        try:
            yield
        finally:
            self._held.pop(claim.response_id, None)

    def lose(self, response_id: UUID) -> None:
        """Stop the run of this response, if it is here: its row is not ours any more."""
        if held := self._held.pop(response_id, None):
            log.info("lease.lost", response_id=str(response_id))
            held[1].cancel(LEASE_LOST)

    async def run(self) -> None:
        """Renew until cancelled. Cut off from Postgres for a whole lease, stop: others may have begun."""
        while True:
            await asyncio.sleep(self._lease_seconds / 3)
            try:
                await self._renew()
            except Unavailable:
                if time.monotonic() - self._renewed_at > self._lease_seconds:
                    for response_id in list(self._held):
                        self.lose(response_id)

    async def _renew(self) -> None:
        claims = [claim for claim, _ in self._held.values()]
        asked_at = time.monotonic()
        if claims:
            async with self._db.begin_system() as tx:
                kept = await lifecycle.renew(tx, claims, lease_seconds=self._lease_seconds)
            for claim in claims:
                if claim.response_id not in kept:
                    self.lose(claim.response_id)
        self._renewed_at = asked_at
