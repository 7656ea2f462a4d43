"""Generate what was queued: claim, run the one engine, and look after what others left behind."""

import asyncio
import os
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast
from uuid import UUID

import orjson
import structlog

from app import ids
from app.domain import tokens
from app.domain.compaction_seals import NO_SEALS as NO_MEMORY_SEALS
from app.domain.context import Context
from app.domain.jobs import SHOWN_BEFORE_OUTPUT, Claim, Job, Mode, Rerun
from app.domain.response import Draft, Status
from app.domain.seals import NO_SEALS, Seals
from app.domain.tenancy import Caller, last_served
from app.domain.turn import Ancestry
from app.errors import LeaseLost, ServiceError, Unavailable
from app.generation import engine, history, rate_limits, recover, sealing
from app.generation.accept import Accepted
from app.generation.compaction import Compaction
from app.generation.composer import Composer
from app.generation.journal import Entry, Journal
from app.generation.keeping import ClaimedRow
from app.generation.leases import LEASE_LOST, Leases
from app.generation.news import tell_followers
from app.generation.queueing import draft_of
from app.generation.rate_limits import UNLIMITED, Limits
from app.providers.registry import Registry
from app.store import attempts, events, leases, lifecycle, lineage, tenants
from app.store.db import Database, Tx
from app.store.endings import Endings
from app.store.fairness import CLAIMED_AT_ONCE, CLAIMED_BYTES
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
    max_at_once: int = 200
    """Responses that this process generates at once."""
    max_running: int | None = None
    """Of one tenant, over all processes."""
    limits: Limits = UNLIMITED


ENDING_SECONDS = 10.0
"""What the last claim may take when a process ends, and then those runs that have been told to end."""

NO_COMPACTION = Compaction(NO_MEMORY_SEALS)
"""Of a process without keys."""


class Background:
    """The background work of one process."""

    def __init__(
        self,
        db: Database,
        registry: Registry,
        policy: Policy,
        seals: Seals = NO_SEALS,
        *,
        ring: Callable[[], Awaitable[None]] | None = None,
        ring_deliveries: Callable[[], Awaitable[None]] | None = None,
        compaction: Compaction = NO_COMPACTION,
    ) -> None:
        """`ring` passes a bell on: whoever hears it looks what is queued."""
        self._db = db
        self._ring = ring or _ring_nowhere
        self._endings = Endings(db)
        self._ring_deliveries = ring_deliveries or _ring_nowhere
        self._seals = seals
        self._compaction = compaction
        self._tenants = dict[int, str]()
        self._registry = registry
        self._policy = policy
        self.leases = Leases(db, leases.renew, lease_seconds=policy.lease_seconds)
        self.journal = Journal(db, on_lost=self.leases.lose)
        self._owner = f"{socket.gethostname()}/{os.getpid()}"
        self._running: set[asyncio.Task[None]] = set()
        self._claiming: set[asyncio.Task[Any]] = set()
        self._answering = asyncio.Lock()
        self._room = asyncio.Event()
        self._has_room_again = False
        self._is_looking_again = False
        self._is_draining = False
        self._last_tenant_id = 0
        self.on_give_up: Callable[[], None] | None = None
        """Whom to tell when nothing can be generated here any more."""

    async def answer(self) -> None:
        """Answer a bell: begin what is queued, as much as there is room for. It runs on when this returns.

        A message that is delivered twice therefore generates once (law L6). When the process has to stop,
        what can be handed back is queued again.

        One bell stands for all that is queued. So it is rung again where there may be more than was begun,
        and once by whoever waits for room here, as others may have it.
        """
        try:
            if not await self._answered():
                await self._ring()
        except Unavailable:
            # What was claimed before runs. For the rest the reaper rings once Postgres is back.
            log.warning("store.unavailable")

    async def _answered(self) -> bool:
        """Whether nothing more is queued, or the bell hangs again already."""
        is_passed_on = False
        async with self._answering:
            while not self._is_draining:
                if self._is_full:
                    self._room.clear()
                    if not is_passed_on:
                        await self._ring()
                    is_passed_on = True
                    await self._room.wait()
                    continue
                wanted = min(CLAIMED_AT_ONCE, self._policy.max_at_once - len(self._running))
                if len(await self._begun(wanted)) < wanted:
                    return True
                if not self._is_full:
                    break
        return is_passed_on

    @property
    def _is_full(self) -> bool:
        return len(self._running) >= self._policy.max_at_once

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
        self._room.set()
        loop = asyncio.get_running_loop()
        end = loop.time() + after_seconds
        # What is being claimed as this begins becomes a run, with the same right to the time that is left.
        while (under_way := self._running | self._claiming) and (left_seconds := end - loop.time()) > 0:
            await asyncio.wait(under_way, timeout=left_seconds)
        if self._claiming:
            # Cut short, nobody would know whether it was won.
            await asyncio.wait(self._claiming, timeout=ENDING_SECONDS)
        # What has just been claimed is a run by now, and has begun: only so can it be told.
        await asyncio.sleep(0)
        for task in (left := set(self._running)):
            task.cancel(engine.SHUTDOWN)
        if left:
            await asyncio.wait(left, timeout=ENDING_SECONDS)

    def give_up(self) -> None:
        """Claim nothing more and stop everything: what the runs need beside them is gone."""
        self._is_draining = True
        self.leases.lose_all()
        if self.on_give_up:
            self.on_give_up()

    async def _begun(self, count: int) -> Sequence[asyncio.Task[None]]:
        """Claim up to so many and let them run. Whoever waits for that may leave: the claim is made to its
        end, and what it won runs.
        """
        return await asyncio.shield(self._watched(self._claimed(count)))

    def _watched(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        """A task that ends before this process does, uncancelled."""
        task = asyncio.ensure_future(work)
        self._claiming.add(task)
        task.add_done_callback(self._claiming.discard)
        return task

    async def _claimed(self, count: int) -> Sequence[asyncio.Task[None]]:
        runs = list[asyncio.Task[None]]()
        while len(runs) < count and (jobs := await self._claim(count - len(runs))):
            runs += [self._attended(job) for job in jobs]
            if self._policy.max_running is None and not _are_large(jobs):
                break
        return runs

    async def _claim(self, count: int) -> Sequence[Job]:
        # What claims within a limit waits for a lock first.
        block = self._db.autocommit_system if self._policy.max_running is None else self._db.begin_system
        async with block() as tx:
            jobs = await lifecycle.claim(
                tx,
                owner=self._owner,
                lease_seconds=self._policy.lease_seconds,
                last_tenant_id=self._last_tenant_id,
                count=count,
                max_running=self._policy.max_running,
            )
        if jobs:
            self._last_tenant_id = last_served([job.claim.tenant_id for job in jobs], self._last_tenant_id)
        return jobs

    def _attended(self, job: Job) -> asyncio.Task[None]:
        log.info("response.claimed", response_id=ids.response_id(job.claim.response_id))
        task = asyncio.ensure_future(self._attend(job))
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._room.set()
        if self._policy.max_running is not None:
            # A bell may have been answered while the tenant of this one had no room.
            self._has_room_again = True
            if not self._is_looking_again:
                self._is_looking_again = True
                self._watched(self._look_again())

    async def _look_again(self) -> None:
        """One look for all runs that end while it waits or looks."""
        try:
            while self._has_room_again:
                self._has_room_again = False
                await self.answer()
        except Exception:
            log.exception("worker.crashed")
        finally:
            self._is_looking_again = False

    async def _attend(self, job: Job) -> None:
        """Run a job under its lease. Its task is cancelled when the lease is lost."""
        # Whoever runs is in a task.
        with self.leases.kept(job.claim, cast("asyncio.Task[object]", asyncio.current_task())):
            try:
                await self._run(job)
            except Exception:
                # The lease ends by itself, and then the reaper decides.
                log.exception("response.abandoned", response_id=ids.response_id(job.claim.response_id))

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
        found = self._registry.resolve(draft.model)
        draft, route = self._compaction.prepared(draft, found, await self._tenant(job.claim.tenant_id))
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
                self._endings,
                job.claim,
                accepted,
                route.provider.name,
                entry=entry,
                ttl_seconds=self._policy.ephemeral_result_seconds,
                ring_deliveries=self._ring_deliveries,
            ),
            listener=entry,
            max_run_seconds=self._policy.max_run_seconds,
        )

    async def _tenant(self, tenant_id: int) -> str:
        """The name of a tenant, which never changes: looked up once."""
        if tenant_id not in self._tenants:
            async with self._db.begin_system() as tx:
                self._tenants = await tenants.names(tx)
        return self._tenants[tenant_id]

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
        await self._ring_deliveries()
        await tell_followers(self._db, [claim.response_id])


def _are_large(jobs: Sequence[Job]) -> bool:
    """Whether they may be fewer than there are because more would have been too large."""
    return sum(len(job.request) + len(job.input_blob) for job in jobs) >= CLAIMED_BYTES // 2


async def _ring_nowhere() -> None:
    """Where nobody is to be woken, the reaper finds what is due."""


@asynccontextmanager
async def open_background(
    db: Database,
    registry: Registry,
    policy: Policy,
    database_url: str,
    *,
    seals: Seals = NO_SEALS,
    ring: Callable[[], Awaitable[None]] | None = None,
    ring_deliveries: Callable[[], Awaitable[None]] | None = None,
    compaction: Compaction = NO_COMPACTION,
) -> AsyncGenerator[Background]:
    """Background work with everything that has to run beside it: renewals, the journal, cancellations."""
    background = Background(
        db, registry, policy, seals, ring=ring, ring_deliveries=ring_deliveries, compaction=compaction
    )
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
