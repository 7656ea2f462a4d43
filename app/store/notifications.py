"""LISTEN on one connection per process, and wake whoever waits for a response here.

A notification is only a nudge: it may be lost while the connection is away, so whoever waits also
looks from time to time. After a reconnection everybody is woken, because something may have been missed.
"""

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import Any

import asyncpg
import structlog

log: structlog.stdlib.BoundLogger = structlog.get_logger()

RECONNECT_SECONDS = 1.0
KEEPALIVE_SECONDS = 10.0
ANSWER_SECONDS = 5


class Notifications:
    """Wake-ups by payload. `run` listens until it is cancelled."""

    def __init__(self, url: str, channel: str, *, on_any: Callable[[str], None] | None = None) -> None:
        """`on_any` hears every payload, for those who wait for all; it must not block."""
        self._url = url.replace("postgresql+asyncpg://", "postgresql://", 1)
        self._channel = channel
        self._on_any = on_any
        self._waiting: dict[str, set[asyncio.Event]] = {}

    @contextmanager
    def subscribed(self, payload: str) -> Generator[asyncio.Event]:
        """An event that is set whenever `payload` is notified. Subscribe first, then look (no gap)."""
        news = asyncio.Event()
        self._waiting.setdefault(payload, set()).add(news)
        try:
            yield news
        finally:
            others = self._waiting[payload]
            others.discard(news)
            if not others:
                del self._waiting[payload]

    async def run(self) -> None:
        """Listen, and again after every loss of the connection."""
        while True:
            try:
                await self._listen()
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                log.warning("notifications.lost", channel=self._channel, error=str(error))
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _listen(self) -> None:
        async with asyncio.timeout(ANSWER_SECONDS):
            connection: Any = await asyncpg.connect(self._url)
        is_lost = asyncio.Event()
        connection.add_termination_listener(lambda _: is_lost.set())
        try:
            await connection.add_listener(self._channel, self._heard)
            self._wake_everyone()
            while not is_lost.is_set():
                # A peer that is gone without a word is noticed by asking.
                await connection.execute("select 1", timeout=ANSWER_SECONDS)
                with suppress(TimeoutError):
                    await asyncio.wait_for(is_lost.wait(), KEEPALIVE_SECONDS)
        finally:
            connection.terminate()

    def _heard(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        name = str(payload)
        if self._on_any:
            self._on_any(name)
        for news in self._waiting.get(name, ()):
            news.set()

    def _wake_everyone(self) -> None:
        for waiting in self._waiting.values():
            for news in waiting:
                news.set()
