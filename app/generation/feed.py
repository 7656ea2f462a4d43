"""From the engine to one listener: events wait here until the connection can take them."""

import asyncio
from collections.abc import Sequence

from app.domain.events import Event

MAX_WAITING_BYTES = 1 << 20
"""A listener this far behind makes the engine wait, and with it the upstream."""


class Feed:
    """An ordered, bounded hand-over of events. One writer, one reader, one event loop.

    Bare futures, and a timer of the loop: an `asyncio.Event` and a timeout around it would cost each delta of
    a stream more than to encode it does.
    """

    def __init__(self, max_waiting_bytes: int | None = None) -> None:
        """`max_waiting_bytes`, where it is not the usual bound: how far behind makes the writer wait."""
        self._max_waiting_bytes = MAX_WAITING_BYTES if max_waiting_bytes is None else max_waiting_bytes
        self._is_abandoned = False
        self._events: list[Event] = []
        self._waiting_bytes = 0
        self._is_closed = False
        self.is_streaming = False
        """Whether the client's stream has begun before any event: an error must then travel in it."""
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None

    async def publish(self, events: Sequence[Event]) -> None:
        """Hand events over, waiting while the reader is too far behind."""
        self.put(events)
        if self._waiting_bytes > self._max_waiting_bytes:
            self._writer = asyncio.get_running_loop().create_future()
            await self._writer

    def put(self, events: Sequence[Event]) -> None:
        """Hand the last events over, which wait for nobody: what ends must not hang on a reader."""
        if events and not self._is_abandoned:
            self._events += events
            for event in events:
                self._waiting_bytes += len(event.data)
            _wake(self._reader)

    def abandon(self) -> None:
        """Say that nobody reads any more: what waits is dropped, and no writer waits from now on."""
        self._is_abandoned = True
        self._events, self._waiting_bytes = [], 0
        _wake(self._writer)

    def close(self) -> None:
        """Say that nothing more will come."""
        self._is_closed = True
        _wake(self._reader)

    async def take(self) -> list[Event]:
        """Everything that waits, as soon as there is something; empty means the end."""
        while not self._events and not self._is_closed:
            await self._news(None)
        return self._taken()

    async def take_within(self, patience_seconds: float) -> list[Event] | None:
        """The same, but None where nothing came for that long."""
        if not self._events and not self._is_closed:
            await self._news(patience_seconds)
            if not self._events and not self._is_closed:
                return None
        return self._taken()

    def _taken(self) -> list[Event]:
        events, self._events = self._events, []
        self._waiting_bytes = 0
        _wake(self._writer)
        return events

    async def _news(self, patience_seconds: float | None) -> None:
        loop = asyncio.get_running_loop()
        self._reader = reader = loop.create_future()
        timer = loop.call_later(patience_seconds, _wake, reader) if patience_seconds is not None else None
        try:
            await reader
        finally:
            if timer:
                timer.cancel()


def _wake(waiting: asyncio.Future[None] | None) -> None:
    if waiting and not waiting.done():
        waiting.set_result(None)
