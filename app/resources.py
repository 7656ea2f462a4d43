"""Process-wide handles: opened once, closed in reverse, and the tasks that run between."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import aiohttp
import structlog

from app.domain.compaction_seals import MemorySeals
from app.domain.conversation import Lock
from app.domain.facts import Price
from app.domain.idempotency import KeyClaim
from app.domain.seals import Seals
from app.domain.signing import Signer
from app.effective_settings import told
from app.errors import ServiceError, Unavailable
from app.generation.background import Background, Policy, open_background
from app.generation.compaction import Compaction
from app.generation.engine import SHUTDOWN
from app.generation.leases import Leases
from app.generation.ledger import Ledger, settling
from app.generation.memory_budget import Budget
from app.generation.open_streams import OpenStreams
from app.generation.rate_limits import Limits
from app.generation.reading import Readings
from app.generation.settings_trail import note_settings
from app.providers.base import Provider
from app.providers.offline import Offline
from app.providers.openai_chat import OpenAIChat
from app.providers.openai_responses import OpenAIResponses
from app.providers.registry import Entry, Registry
from app.providers.upstream import Upstream, open_session
from app.settings import Settings, key_of
from app.settings import Upstream as UpstreamSettings
from app.store import conversation_locks, idempotency
from app.store.db import Database
from app.store.entries import Entries
from app.store.events import CHANNEL
from app.store.notifications import Notifications
from app.wakeups import Bell
from app.webhooks.delivering import Deliveries, open_deliveries
from app.webhooks.delivering import Policy as WebhookPolicy
from app.webhooks.sending import Rules, Sender

log: structlog.stdlib.BoundLogger = structlog.get_logger()

_T = TypeVar("_T")

CLOSING_SECONDS = 10.0
"""How long runs that were told to stop may take to store what they have."""


class Resources:
    """What a process shares between requests. `open_resources` makes and closes it."""

    def __init__(self, settings: Settings, db: Database, registry: Registry, bell: Bell | None) -> None:
        self.settings = settings
        self.db = db
        self.registry = registry
        self.bell = bell
        self.limits = _limits(settings)
        self.open_streams = OpenStreams(settings.max_open_streams)
        self.open_sockets = OpenStreams(settings.websocket_max_open, what="WebSockets")
        self.socket_budget = Budget(settings.websocket_total_memory_bytes)
        self.seals = seals_of(settings)
        self.compaction = Compaction(_memory_seals(settings))
        self.ledger = Ledger(db, signer_of(settings), prices_of(settings))
        self.readings = Readings(db)
        self.webhooks = sender_of(settings)
        self.stopping = asyncio.Event()
        """Set once the server stops: what lives as long as its client takes nothing new from then on."""
        self.drained = asyncio.Event()
        """Set once all that ran then has ended, or has been given up."""
        self.entries = Entries(db, max_queued=settings.max_queued)
        self._url = _url(settings)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._has_stopped = False
        self._listening: asyncio.Task[None] | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._locks = Leases(db, conversation_locks.renew, lease_seconds=settings.lease_seconds)
        self._renewing_claims: asyncio.Task[None] | None = None
        self._claims = Leases(db, idempotency.renew, lease_seconds=settings.lease_seconds)
        self._notifications = Notifications(self._url, CHANNEL)

    @property
    def notifications(self) -> Notifications:
        """What followers wait for; the connection behind it is opened for the first of them."""
        if self._listening is None or self._listening.done():
            self._listening = asyncio.ensure_future(self._notifications.run())
        return self._notifications

    @property
    def locks(self) -> Leases[Lock]:
        """The conversations that are locked by what runs here; renewed from the first of them on."""
        if self._renewing is None or self._renewing.done():
            self._renewing = asyncio.ensure_future(self._locks.run())
        return self._locks

    @property
    def claims(self) -> Leases[KeyClaim]:
        """The idempotency keys of what runs here; renewed from the first of them on."""
        if self._renewing_claims is None or self._renewing_claims.done():
            self._renewing_claims = asyncio.ensure_future(self._claims.run())
        return self._claims

    async def ring(self, response_id: str) -> None:
        """Wake a worker. Losing the bell costs time, never work."""
        if self.bell:
            await self.bell.ring(response_id)

    async def ring_deliveries(self) -> None:
        """Wake a worker for webhooks. Losing the bell costs time, never an event."""
        if self.bell:
            await self.bell.ring_deliveries()

    async def stop_loops(self) -> None:
        """Stop what runs beside the requests of this process."""
        loops = [loop for loop in (self._listening, self._renewing, self._renewing_claims) if loop]
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)

    def spawn(self, coroutine: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        """Run beside the request, kept from the garbage collector until it ends."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._attend(task)
        task.add_done_callback(self._ended)
        return task

    def _attend(self, task: asyncio.Task[Any]) -> None:
        """What begins after all others were told to end is told so too."""
        self._tasks.add(task)
        if self._has_stopped:
            asyncio.get_running_loop().call_soon(task.cancel, SHUTDOWN)

    @contextmanager
    def attended(self) -> Generator[None]:
        """Let `drain` wait for the task that is in this block, and end it, as if it had been spawned."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("only a task can be attended")
        self._attend(task)
        try:
            yield
        finally:
            self._tasks.discard(task)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        """Look at the outcome, so that a failure that nobody awaits is not reported as forgotten."""
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) and not isinstance(error, ServiceError):
            log.error("task.crashed", exc_info=error)

    async def drain(self, after_seconds: float) -> None:
        """Let running generations go on for this long, then end them as failed, told to their clients."""
        self.stopping.set()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=after_seconds)
        self._has_stopped = True
        for task in (stopped := set(self._tasks)):
            task.cancel(SHUTDOWN)
        if stopped:
            await asyncio.wait(stopped, timeout=CLOSING_SECONDS)
        self.drained.set()


@asynccontextmanager
async def open_resources(settings: Settings, *, process: str = "api") -> AsyncGenerator[Resources]:
    """Open what a process needs; on leaving, end what still runs and close everything in reverse.

    Args:
        process: what kind of process it is, for the record of its settings.

    Raises:
        Unavailable: Postgres cannot be reached.
    """
    db = await Database.connect(
        _url(settings),
        size=settings.pool_size,
        statement_cache=settings.statement_cache,
    )
    try:
        await _note_settings(db, settings, process)
        async with open_session() as session:
            registry = Registry([_entry(upstream, session) for upstream in settings.effective_upstreams])
            bell = Bell(settings.broker_url.get_secret_value()) if settings.broker_url else None
            resources = Resources(settings, db, registry, bell)
            try:
                yield resources
            finally:
                await resources.drain(0)
                await resources.stop_loops()
                await resources.readings.flush()
                await resources.webhooks.close()
                await registry.close()
                if bell:
                    await bell.close()
    finally:
        await db.close()


@dataclass(frozen=True, slots=True)
class Worker:
    """What a worker process works with."""

    resources: Resources
    background: Background
    deliveries: Deliveries


@asynccontextmanager
async def open_worker(settings: Settings) -> AsyncGenerator[Worker]:
    """What a worker process needs: the same handles, and the background work on them."""
    policy = Policy(
        lease_seconds=settings.lease_seconds,
        max_attempts=settings.max_attempts,
        rerun=settings.rerun,
        max_run_seconds=settings.max_run_seconds,
        event_retention_seconds=settings.event_retention_seconds,
        idempotency_retention_seconds=settings.idempotency_retention_seconds,
        ephemeral_result_seconds=settings.ephemeral_result_seconds,
        queued_too_long_seconds=settings.queued_too_long_seconds,
        pads=settings.stream_obfuscation,
        max_at_once=settings.worker_concurrency,
        max_running=settings.max_running,
        limits=_limits(settings),
    )
    async with (
        open_resources(settings, process="worker") as resources,
        open_deliveries(_deliveries(resources)) as deliveries,
        open_background(
            resources.db,
            resources.registry,
            policy,
            _url(settings),
            seals=resources.seals,
            ring=partial(resources.ring, ""),
            ring_deliveries=partial(send_deliveries, deliveries, resources),
            compaction=resources.compaction,
        ) as background,
        settling(resources.ledger),
    ):
        yield Worker(resources, background, deliveries)


async def send_deliveries(deliveries: Deliveries, resources: Resources) -> None:
    """Have what is due sent from here, where that is still done; else by whoever hears the bell.

    What was queued in this process needs no bell: that would wait where there is no room for responses.
    """
    if deliveries.is_draining:
        await resources.ring_deliveries()
    else:
        deliveries.wake()


async def _note_settings(db: Database, settings: Settings, process: str) -> None:
    """A database that can be read alone is no reason not to serve what is in it."""
    try:
        await note_settings(db, process, told(settings))
    except Unavailable:
        log.warning("settings.not_noted")


def _deliveries(it: Resources) -> Deliveries:
    policy = WebhookPolicy(
        retry_seconds=it.settings.webhook_retry_seconds,
        give_up_seconds=it.settings.webhook_give_up_seconds,
        retention_seconds=it.settings.webhook_retention_seconds,
        concurrency=it.settings.webhook_concurrency,
        endpoint_concurrency=it.settings.webhook_endpoint_concurrency,
    )
    return Deliveries(it.db, it.webhooks, it.seals, policy)


def sender_of(settings: Settings) -> Sender:
    """Who sends webhooks with these settings."""
    rules = Rules(
        allowed_networks=settings.webhook_allowed_networks,
        timeout_seconds=settings.webhook_timeout_seconds,
    )
    return Sender(rules)


def _limits(settings: Settings) -> Limits:
    return Limits(settings.requests_per_minute, settings.tokens_per_minute)


def _url(settings: Settings) -> str:
    if settings.database_url is None:
        raise ValueError("database_url is not set")
    return settings.database_url.get_secret_value()


def seals_of(settings: Settings) -> Seals:
    """What opens and seals secrets with these settings."""
    old = [key_of(key) for key in settings.seal_keys_old]
    return Seals(key_of(settings.seal_key) if settings.seal_key else None, old)


def _memory_seals(settings: Settings) -> MemorySeals:
    old = [key_of(key) for key in settings.seal_keys_old]
    return MemorySeals(key_of(settings.seal_key) if settings.seal_key else None, old)


def signer_of(settings: Settings) -> Signer:
    """Who vouches for trails with these settings."""
    old = [key_of(key) for key in settings.seal_keys_old]
    return Signer(key_of(settings.seal_key) if settings.seal_key else None, old)


def prices_of(settings: Settings) -> dict[str, Price]:
    """What models cost where their upstreams do not say, by patterns of their names."""
    return {
        pattern: Price(price.input, price.output, price.cached_input)
        for upstream in settings.effective_upstreams
        for pattern, price in upstream.prices.items()
    }


def _entry(settings: UpstreamSettings, session: aiohttp.ClientSession) -> Entry:
    provider = _provider(settings, session)
    return Entry(
        provider,
        settings.models,
        settings.aliases,
        settings.context_window_tokens,
        compacts_itself=settings.compaction == "upstream",
    )


def _provider(settings: UpstreamSettings, session: aiohttp.ClientSession) -> Provider:
    if settings.protocol == "offline":
        return Offline(settings.name)
    upstream = Upstream(
        name=settings.name,
        base_url=settings.base_url or "",
        api_key=settings.api_key.get_secret_value() if settings.api_key else None,
        timeout_seconds=settings.timeout_seconds,
        max_retries=settings.max_retries,
        max_tokens_field=settings.max_tokens_field,
    )
    adapter = OpenAIChat if settings.protocol == "chat_completions" else OpenAIResponses
    return adapter(session, upstream)
