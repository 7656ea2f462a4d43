"""Generate what was queued: claim, run the one engine, and look after what others left behind."""

import asyncio
import os
import socket
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

import orjson
import structlog

from app import ids
from app.domain import tokens
from app.domain.context import Context
from app.domain.jobs import SHOWN_BEFORE_OUTPUT, Claim, Job, Mode, Rerun
from app.domain.response import Draft, Status
from app.domain.seals import NO_SEALS, Seals
from app.domain.tenancy import Caller
from app.domain.turn import Ancestry
from app.errors import LeaseLost, ServiceError, Unavailable
from app.generation import engine, history, rate_limits, recover, sealing
from app.generation.accept import Accepted
from app.generation.composer import Composer
from app.generation.journal import Entry, Journal
from app.generation.keeping import ClaimedRow
from app.generation.leases import LEASE_LOST, Leases
from app.generation.news import tell_followers
from app.generation.queueing import draft_of
from app.generation.rate_limits import UNLIMITED, Limits
from app.providers.registry import Registry
from app.store import attempts, events, leases, lifecycle, lineage
from app.store.db import Database, Tx
from app.store.notifications import Notifications

log: structlog.stdlib.BoundLogger = structlog.get_logger()

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Policy:
    """What an operator decides of background work. Durations in seconds."""

    lease_seconds: float
    max_attempts: int
    rerun: Rerun
    max_run_seconds: float
    event_retention_seconds: float
    idempotency_retention_seconds: float
    ephemeral_result_seconds: float
    queued_too_long_seconds: float
    pads: bool
    max_running: int | None = None
    limits: Limits = UNLIMITED


class Background:
    """The background work of one process."""

    def __init__(self, db: Database, registry: Registry, policy: Policy, seals: Seals = NO_SEALS) -> None:
        self._db = db
        self._seals = seals
        self._registry = registry
        self._policy = policy
        self.leases = Leases(db, leases.renew, lease_seconds=policy.lease_seconds)
        self.journal = Journal(db, on_lost=self.leases.lose)
        self._owner = f"{socket.gethostname()}/{os.getpid()}"
        self._running: set[asyncio.Task[Any]] = set()
        self._is_draining = False
        self._last_tenant_id = 0
        self.on_give_up: Callable[[], None] | None = None
        """Whom to tell when nothing can be generated here any more."""

    async def generate(self) -> bool:
        """Claim a queued response and generate it to its end; False if none was queued that may run.

        A message that is delivered twice therefore generates once (law L6). When the process has to
        stop, what can be handed back is queued again.
        """
        if self._is_draining:
            return False
        job = await self._watched(self._claim())
        if job is None:
            return False
        log.info("response.claimed", response_id=ids.response_id(job.claim.response_id))
        await self._attend(job)
        return True

    async def reap(self) -> int:
        """Return or end what expired leases left, forget what is old; how many bells are to be rung."""
        return await recover.reap(
            self._db,
            max_attempts=self._policy.max_attempts,
            rerun=self._policy.rerun,
            event_retention_seconds=self._policy.event_retention_seconds,
            idempotency_retention_seconds=self._policy.idempotency_retention_seconds,
            ephemeral_result_seconds=self._policy.ephemeral_result_seconds,
            queued_too_long_seconds=self._policy.queued_too_long_seconds,
        )

    async def drain(self, after_seconds: float) -> None:
        """Claim nothing more; let what runs go on for this long, then hand it back or end it."""
        self._is_draining = True
        if self._running:
            await asyncio.wait(self._running, timeout=after_seconds)
        # A claim that has just been won is a run by now, and has begun: only so can it be told.
        await asyncio.sleep(0)
        for task in (left := set(self._running)):
            task.cancel(engine.SHUTDOWN)
        if left:
            await asyncio.wait(left, timeout=10)

    def give_up(self) -> None:
        """Claim nothing more and stop everything: what the runs need beside them is gone."""
        self._is_draining = True
        self.leases.lose_all()
        if self.on_give_up:
            self.on_give_up()

    def _watched(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        """A task that `drain` waits for."""
        task = asyncio.ensure_future(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def generate_all(self) -> None:
        """Generate until nothing is left that may run. One bell may be the last of several responses whose
        bells rang while their tenant had `max_running` running.
        """
        while await self.generate() and self._policy.max_running is not None:
            pass

    async def _claim(self) -> Job | None:
        async with self._db.begin_system() as tx:
            job = await lifecycle.claim_next(
                tx,
                owner=self._owner,
                lease_seconds=self._policy.lease_seconds,
                last_tenant_id=self._last_tenant_id,
                max_running=self._policy.max_running,
            )
        if job:
            self._last_tenant_id = job.claim.tenant_id
        return job

    async def _attend(self, job: Job) -> None:
        """Run a job under its lease. Only this task is cancelled when the lease is lost."""
        task = self._watched(self._run(job))
        with self.leases.kept(job.claim, task):
            await asyncio.wait([task])
        if not task.cancelled() and (error := task.exception()):
            # The lease ends by itself, and then the reaper decides.
            log.error(
                "response.abandoned", response_id=ids.response_id(job.claim.response_id), exc_info=error
            )

    async def _run(self, job: Job) -> None:
        draft = draft_of(job.claim.response_id, job.request, job.input_blob)
        composer = self._composer(job, draft)
        entry = self.journal.open(job.claim) if Mode.STREAMED in job.mode else None
        try:
            run = engine.run(await self._prepare(job, draft, composer, entry))
            await rate_limits.settled(run, self._db, Caller(job.claim.tenant_id), self._policy.limits, draft)
        except asyncio.CancelledError as order:
            is_lost = LEASE_LOST in order.args
            await engine.uninterrupted(self._leave(job, composer, hands_back=not is_lost))
            raise
        except LeaseLost:
            await self._leave(job, composer, hands_back=False)
        except Unavailable:
            log.warning("store.unavailable", response_id=ids.response_id(job.claim.response_id))
        except ServiceError as error:
            # Before there was a run: the model is gone from the settings, its history cannot be carried, or
            # the secrets of its tools cannot be opened.
            await self._fail(job, error)
        finally:
            self.journal.forget(job.claim)

    def _composer(self, job: Job, draft: Draft) -> Composer:
        is_streamed = Mode.STREAMED in job.mode
        return Composer(
            draft,
            is_heard=is_streamed,
            pads=_pads(draft, self._policy),
            begins_at=job.event_count,
            # What was said in two attempts is not said again from one of them.
            keeps_shape=is_streamed and job.event_count <= SHOWN_BEFORE_OUTPUT,
        )

    async def _prepare(self, job: Job, draft: Draft, composer: Composer, entry: Entry | None) -> engine.Run:
        route = self._registry.resolve(draft.model)
        ancestry = history.fit(
            await self._history(job, draft, route.context_window_tokens), draft, route.context_window_tokens
        )
        accepted = Accepted(draft, ancestry)
        return engine.Run(
            provider=route.provider,
            accepted=accepted,
            context=Context(
                model=route.model,
                items=accepted.items(route.provider.name),
                params=sealing.opened(draft.params, job, self._seals),
                is_streamed=entry is not None,
            ),
            composer=composer,
            keeper=ClaimedRow(
                self._db,
                job.claim,
                accepted,
                route.provider.name,
                entry=entry,
                ttl_seconds=self._policy.ephemeral_result_seconds,
            ),
            listener=entry,
            max_run_seconds=self._policy.max_run_seconds,
        )

    async def _history(self, job: Job, draft: Draft, window_tokens: int | None) -> Ancestry | None:
        if not job.parent and not draft.conversation:
            return None
        budget, floor = history.read_budget(draft, window_tokens), None
        if budget is not None:
            floor = job.context_tokens - tokens.estimate(job.input_blob) - budget
        async with self._db.read(Caller(job.claim.tenant_id)) as tx:
            return await lineage.before(tx, job.parent, job.place, floor_tokens=floor)

    async def _leave(self, job: Job, composer: Composer, *, hands_back: bool) -> None:
        """Note what an attempt had made when it was stopped; queue the response again if that is asked."""
        claim = job.claim
        detail = orjson.dumps(composer.partial()) if composer.is_started else None
        try:
            async with self._db.begin(Caller(claim.tenant_id)) as tx:
                if hands_back and await lifecycle.lock(tx, claim.response_id):
                    await self._hand_back(tx, claim)
                await attempts.end(
                    tx,
                    claim,
                    "handed_back" if hands_back else LEASE_LOST,
                    upstream_id=composer.upstream_response_id,
                    detail=detail,
                )
        except Unavailable:
            log.warning("store.unavailable", response_id=ids.response_id(claim.response_id))

    async def _hand_back(self, tx: Tx, claim: Claim) -> None:
        """Queue a locked response again. A batch of events in flight is counted now, or fenced off."""
        shown = await events.count(tx, claim.response_id)
        if shown <= SHOWN_BEFORE_OUTPUT:
            await lifecycle.requeue(tx, claim, event_count=shown)

    async def _fail(self, job: Job, error: ServiceError) -> None:
        claim = job.claim
        async with self._db.begin_system() as tx:
            row = await lifecycle.lock(tx.of(claim.tenant_id), claim.response_id)
            if row and (row["status"], row["attempt"]) == (Status.IN_PROGRESS, claim.attempt):
                await recover.fail(tx, row, error.message, ttl_seconds=self._policy.ephemeral_result_seconds)
        await tell_followers(self._db, [claim.response_id])


@asynccontextmanager
async def open_background(
    db: Database, registry: Registry, policy: Policy, database_url: str, *, seals: Seals = NO_SEALS
) -> AsyncGenerator[Background]:
    """Background work with everything that has to run beside it: renewals, the journal, cancellations."""
    background = Background(db, registry, policy, seals)
    cancelled = Notifications(
        database_url, events.CANCELLED, on_any=lambda payload: background.leases.lose_response(UUID(payload))
    )
    loops = [
        asyncio.ensure_future(loop)
        for loop in (background.leases.run(), background.journal.run(), cancelled.run())
    ]

    def died(loop: asyncio.Future[None]) -> None:
        if not loop.cancelled():
            log.critical("background.died", exc_info=loop.exception())
            background.give_up()

    for loop in loops:
        loop.add_done_callback(died)
    try:
        yield background
    finally:
        await background.drain(0)
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)


def _pads(draft: Draft, policy: Policy) -> bool:
    asked = (draft.params.get("stream_options") or {}).get("include_obfuscation")
    return policy.pads if asked is None else asked
