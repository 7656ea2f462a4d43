"""Deliver what is due: claim, send, write down what came of it, and look for more.

A delivery's row is its place in the queue (docs/decisions/0011 and 0028), and its attempt number fences what
is written. Sends run in the event loop of the process and not in the thread of the task that woke it, so a
silent endpoint holds nothing that a response waits for.
"""

import asyncio
import math
import random
import time
from collections import Counter
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import structlog

from app import ids
from app.domain.seals import CannotOpen, Seals
from app.domain.tenancy import Caller, last_served
from app.domain.webhooks import SLOW_SECONDS, DeliveryJob, Outcome, Standing, State, pause_seconds
from app.errors import Unavailable
from app.store import webhook_claims, webhook_deliveries
from app.store.db import Database
from app.store.webhook_claims import Room
from app.webhooks import signing_secrets
from app.webhooks.sending import Sender

log: structlog.stdlib.BoundLogger = structlog.get_logger()

LEASE_MARGIN_SECONDS = 30.0
"""Beyond its time limit: an attempt has ended, and that is written down, before another may have it."""

ROOM = {Standing.ANSWERING: 1.0, Standing.NEW: 0.75, Standing.FAILING: 0.5}
"""Which part of what a process sends at once may be to endpoints of this standing, or of a worse one."""

TENANT_SHARE = {Standing.ANSWERING: 1 / 4, Standing.NEW: 1 / 16, Standing.FAILING: 1 / 16}
"""Which part of it may be one tenant's; to those of its endpoints that answer, and to all its others."""


OTHERS_SECONDS = 0.1
"""The pause after there was nothing to send to endpoints that are new or fail. What resting ones are owed is
due all the time, and to look at it whenever something else was sent would hold that up."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What an operator decides of deliveries. Durations in seconds."""

    retry_seconds: float = 5.0
    give_up_seconds: float = 72 * 3600.0
    retention_seconds: float = 30 * 86400.0
    concurrency: int = 64
    endpoint_concurrency: int = 4
    slow_seconds: float = SLOW_SECONDS


class Deliveries:
    """The webhooks that one process sends."""

    def __init__(self, db: Database, sender: Sender, seals: Seals, policy: Policy) -> None:
        self._db = db
        self._sender = sender
        self._seals = seals
        self._policy = policy
        self._sending = dict[asyncio.Task[None], DeliveryJob]()
        self._awake = asyncio.Event()
        self._is_draining = False
        self._last_tenant_id = 0
        self._pause_of_others: asyncio.TimerHandle | None = None
        self._is_pause_too_long = False

    @property
    def is_draining(self) -> bool:
        """Whether it claims nothing any more: what is due has to be another process's."""
        return self._is_draining

    def wake(self) -> None:
        """Look whether anything is due. Returns at once."""
        self._awake.set()

    async def run(self) -> None:
        """Claim and send whenever somebody wakes us, until cancelled."""
        while True:
            await self._awake.wait()
            self._awake.clear()
            try:
                await self._fill()
            except Unavailable:
                # What was claimed ends with its lease, and the reaper wakes us once Postgres is back.
                log.warning("store.unavailable")
            except Exception:
                # A bug in one round must not end all those that follow.
                log.exception("webhooks.crashed")

    async def reap(self) -> None:
        """Give up what is for nobody any more, and forget what is old."""
        async with self._db.begin_system() as tx:
            await webhook_deliveries.give_up(tx)
            await webhook_deliveries.forget(tx, retention_seconds=self._policy.retention_seconds)

    async def drain(self, after_seconds: float) -> None:
        """Claim nothing more; let what is under way go on for this long, then hand it back."""
        self._is_draining = True
        if self._sending:
            await asyncio.wait(self._sending, timeout=after_seconds)
        for task in (left := set(self._sending)):
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=10)

    async def _fill(self) -> None:
        """Take on what may be sent, to those that answer first."""
        async with self._db.begin_system() as tx:
            # Most of the time there is nothing, and that is one look into an index.
            if not await webhook_claims.count_due(tx, limit=1):
                return
        while not self._is_draining and (jobs := await self._claim_best()):
            for job in jobs:
                self._start(job)

    async def _claim_best(self) -> list[DeliveryJob]:
        """What is due to those that answer, if there is anything and room; else to the next."""
        if jobs := await self._claim(self._room(Standing.ANSWERING)):
            return jobs
        if self._pause_of_others:
            self._is_pause_too_long = True
            return []
        for standing in (Standing.NEW, Standing.FAILING):
            if jobs := await self._claim(self._room(standing)):
                return jobs
        self._pause_of_others = asyncio.get_running_loop().call_later(OTHERS_SECONDS, self._end_pause)
        return []

    def _end_pause(self) -> None:
        """Look again if anybody woke us meanwhile."""
        self._pause_of_others = None
        if self._is_pause_too_long:
            self._is_pause_too_long = False
            self.wake()

    async def _claim(self, room: Room) -> list[DeliveryJob]:
        if room.limit <= 0:
            return []
        async with self._db.begin_system() as tx:
            jobs = await webhook_claims.claim(
                tx,
                room,
                lease_seconds=self._sender.rules.timeout_seconds + LEASE_MARGIN_SECONDS,
                give_up_seconds=self._policy.give_up_seconds,
                last_tenant_id=self._last_tenant_id,
            )
        if jobs:
            self._last_tenant_id = last_served([job.claim.tenant_id for job in jobs], self._last_tenant_id)
        return jobs

    def _room(self, standing: Standing) -> Room:
        """What is left of the room for endpoints of this standing, and of each tenant's and endpoint's share.

        Those of worse standing count in the room of better ones and not the other way round, so whoever
        answers never waits for who does not.
        """
        most = self._policy.concurrency
        busy = [job for job in self._sending.values() if job.standing <= standing]
        is_answering = standing is Standing.ANSWERING
        shared = [job for job in busy if (job.standing is Standing.ANSWERING) == is_answering]
        return Room(
            standing,
            limit=min(most - len(self._sending), math.ceil(most * ROOM[standing]) - len(busy)),
            most_of_tenant=math.ceil(most * TENANT_SHARE[standing]),
            most_of_endpoint=self._policy.endpoint_concurrency if is_answering else 1,
            by_tenant=Counter(job.claim.tenant_id for job in shared),
            by_endpoint=Counter(job.claim.endpoint_id for job in self._sending.values()),
        )

    def _start(self, job: DeliveryJob) -> None:
        task = asyncio.ensure_future(self._attend(job))
        self._sending[task] = job
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        job = self._sending.pop(task)
        if not task.cancelled() and (error := task.exception()):
            # The lease ends by itself, and then it is tried again.
            log.error("webhook.abandoned", event_id=job.event.name, exc_info=error)
        self.wake()

    async def _attend(self, job: DeliveryJob) -> None:
        """Try once. Told to stop, give the delivery back: it is not its receiver's fault."""
        try:
            outcome = await self._send(job)
        except asyncio.CancelledError:
            await _to_its_end(self._safely(self._hand_back(job)))
            raise
        await _to_its_end(self._safely(self._settle(job, outcome)))

    async def _send(self, job: DeliveryJob) -> Outcome:
        claim = job.claim
        try:
            secrets = signing_secrets.opened(self._seals, claim.tenant_id, claim.endpoint_id, job.sealed)
        except CannotOpen:
            # Unsigned it would be worth nothing to its receiver.
            return Outcome("secret_sealed")
        started_at = time.monotonic()
        outcome = await self._sender.send(job.url, job.event, secrets)
        return replace(outcome, is_slow=time.monotonic() - started_at > self._policy.slow_seconds)

    async def _settle(self, job: DeliveryJob, outcome: Outcome) -> None:
        state, pause = self._next(job, outcome)
        async with self._db.begin(Caller(job.claim.tenant_id)) as tx:
            is_ours = await webhook_deliveries.settle(
                tx,
                job.claim,
                outcome,
                state=state,
                pause_seconds=pause,
                rest_seconds=self._policy.retry_seconds,
            )
        log.info(
            "webhook.delivered" if outcome.is_delivered else "webhook.failed",
            event_id=job.event.name,
            webhook_endpoint_id=ids.webhook_endpoint_id(job.claim.endpoint_id),
            attempt=job.claim.attempt,
            reason=outcome.reason,
            status_code=outcome.status_code,
            retry_seconds=None if pause is None else round(pause, 3),
            is_late=not is_ours,
        )

    def _next(self, job: DeliveryJob, outcome: Outcome) -> tuple[State, float | None]:
        if outcome.is_delivered:
            return State.DELIVERED, None
        if outcome.is_gone:
            return State.FAILED, None
        pause = pause_seconds(job.tries, first_seconds=self._policy.retry_seconds, chance=random.random())  # noqa: S311 - spreads load
        pause = max(pause, outcome.asked_seconds or 0.0)
        if job.waited_seconds + pause > self._policy.give_up_seconds:
            return State.FAILED, None
        return State.PENDING, pause

    async def _hand_back(self, job: DeliveryJob) -> None:
        async with self._db.begin(Caller(job.claim.tenant_id)) as tx:
            await webhook_deliveries.hand_back(tx, job.claim)

    async def _safely(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Unavailable:
            # It is tried again once its lease is over: at least once, not once.
            log.warning("store.unavailable")


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Writing down takes milliseconds: whoever is told to stop meanwhile does that first."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise


@asynccontextmanager
async def open_deliveries(deliveries: Deliveries) -> AsyncGenerator[Deliveries]:
    """Deliver beside whatever else a worker does; on leaving, hand back what is under way."""
    running = asyncio.ensure_future(deliveries.run())
    try:
        yield deliveries
    finally:
        await deliveries.drain(0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
