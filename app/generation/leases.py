"""Keep the leases of what runs in this process, and stop what is no longer ours."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Generic, Protocol, TypeVar
from uuid import UUID

import structlog

from app import ids
from app.errors import Unavailable
from app.store.db import Database, SystemTx

log: structlog.stdlib.BoundLogger = structlog.get_logger()

LEASE_LOST = "lease_lost"
"""The message of a cancellation by which a run learns that its response was cancelled or given away."""

MAX_RENEWALS = 3
"""Renewals under way at once: one that Postgres never answers must not keep the others back."""


class _Held:
    """A run, and the alarm that stops it when its lease is over."""

    def __init__(self, task: "asyncio.Task[object]", stop: Callable[[], None]) -> None:
        self.task = task
        self._stop = stop
        self._since = 0.0
        self._alarm: asyncio.TimerHandle | None = None

    def renewed(self, since: float, lease_seconds: float) -> None:
        """Put the alarm off; answers may come in any order."""
        if since > self._since:
            self.let_go()
            seconds = since + lease_seconds - time.monotonic()
            self._alarm = asyncio.get_running_loop().call_later(seconds, self._stop)
            self._since = since

    def let_go(self) -> None:
        if self._alarm:
            self._alarm.cancel()


class Leased(Protocol):
    """What a run holds for a time: the claim of a response, or the lock of a conversation."""

    @property
    def response_id(self) -> UUID: ...


_L = TypeVar("_L", bound=Leased)


class Renew(Protocol[_L]):
    """Prolong these leases in one statement; those among them that still stand."""

    def __call__(
        self, tx: SystemTx, leased: Sequence[_L], /, *, lease_seconds: float
    ) -> Awaitable[set[_L]]: ...


class Leases(Generic[_L]):
    """One renewal a third of the lease for all runs together."""

    def __init__(self, db: Database, renew: Renew[_L], *, lease_seconds: float) -> None:
        self._db = db
        self._prolong = renew
        self._lease_seconds = lease_seconds
        # By claim: an attempt that lost its lease may still be winding up when the next one runs here.
        self._held: dict[_L, _Held] = {}

    @contextmanager
    def kept(self, claim: _L, task: "asyncio.Task[object]") -> Generator[None]:
        """Renew this lease for as long as the block lasts; `task` is cancelled if it is lost."""
        held = self._held[claim] = _Held(task, partial(self.lose, claim))
        held.renewed(time.monotonic(), self._lease_seconds)
        try:
            yield
        finally:
            held.let_go()
            self._held.pop(claim, None)

    def lose(self, claim: _L) -> None:
        """Stop this run, if it is here: what it held is not ours any more."""
        if held := self._held.pop(claim, None):
            held.let_go()
            log.info("lease.lost", response_id=ids.response_id(claim.response_id))
            held.task.cancel(LEASE_LOST)

    def lose_response(self, response_id: UUID) -> None:
        """Stop whatever runs here for this response."""
        for claim in [claim for claim in self._held if claim.response_id == response_id]:
            self.lose(claim)

    def lose_all(self) -> None:
        """Stop everything that runs under a lease here."""
        for claim in list(self._held):
            self.lose(claim)

    async def run(self) -> None:
        """Renew until cancelled.

        Who is cut off from Postgres hears nothing, not even an error. So each lease has an alarm, which
        only a renewal puts off: once it is over, others may have begun.
        """
        renewals = set[asyncio.Task[None]]()
        try:
            while True:
                await asyncio.sleep(self._lease_seconds / 3)
                if self._held and len(renewals) < MAX_RENEWALS:
                    renewal = asyncio.ensure_future(self._renew())
                    renewals.add(renewal)
                    renewal.add_done_callback(renewals.discard)
        finally:
            for renewal in renewals:
                renewal.cancel()

    async def _renew(self) -> None:
        claims, asked_at = list[_L](), time.monotonic()
        try:
            async with self._db.begin_system() as tx:
                # Only now: what has been given up while this waited for a connection must not live on.
                claims = list(self._held)
                kept = await self._prolong(tx, claims, lease_seconds=self._lease_seconds)
        except Unavailable:
            log.warning("lease.unavailable", claims=len(claims))
            return
        for claim in claims:
            if claim not in kept:
                self.lose(claim)
            elif held := self._held.get(claim):
                held.renewed(asked_at, self._lease_seconds)
