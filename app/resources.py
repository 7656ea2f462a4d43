"""Process-wide handles: opened once, closed in reverse, and the tasks that run between."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import aiohttp
import structlog

from app.errors import ServiceError
from app.generation.engine import SHUTDOWN
from app.providers.base import Provider
from app.providers.offline import Offline
from app.providers.openai_chat import OpenAIChat
from app.providers.openai_responses import OpenAIResponses
from app.providers.registry import Entry, Registry
from app.providers.upstream import Upstream, open_session
from app.settings import Settings
from app.settings import Upstream as UpstreamSettings
from app.store.db import Database

log: structlog.stdlib.BoundLogger = structlog.get_logger()

_T = TypeVar("_T")

CLOSING_SECONDS = 10.0
"""How long runs that were told to stop may take to store what they have."""


class Resources:
    """What a process shares between requests. `open_resources` makes and closes it."""

    def __init__(self, settings: Settings, db: Database, registry: Registry) -> None:
        self.settings = settings
        self.db = db
        self.registry = registry
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, coroutine: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        """Run beside the request, kept from the garbage collector until it ends."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        """Look at the outcome, so that a failure that nobody awaits is not reported as forgotten."""
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) and not isinstance(error, ServiceError):
            log.error("task.crashed", exc_info=error)

    async def drain(self, after_seconds: float) -> None:
        """Let running generations go on for this long, then end them as failed, told to their clients."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=after_seconds)
        for task in (stopped := set(self._tasks)):
            task.cancel(SHUTDOWN)
        if stopped:
            await asyncio.wait(stopped, timeout=CLOSING_SECONDS)


@asynccontextmanager
async def open_resources(settings: Settings) -> AsyncGenerator[Resources]:
    """Open what a process needs; on leaving, end what still runs and close everything in reverse.

    Raises:
        Unavailable: Postgres cannot be reached.
    """
    if settings.database_url is None:
        raise ValueError("database_url is not set")
    db = await Database.connect(
        settings.database_url.get_secret_value(),
        size=settings.pool_size,
        statement_cache=settings.statement_cache,
    )
    try:
        async with open_session() as session:
            registry = Registry([_entry(upstream, session) for upstream in settings.effective_upstreams])
            resources = Resources(settings, db, registry)
            try:
                yield resources
            finally:
                await resources.drain(0)
                await registry.close()
    finally:
        await db.close()


def _entry(settings: UpstreamSettings, session: aiohttp.ClientSession) -> Entry:
    return Entry(_provider(settings, session), settings.models, settings.aliases)


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
