"""From the engine to one listener: events wait here until the connection can take them."""

import asyncio
from collections.abc import Sequence

from app.domain.events import Event

MAX_WAITING_BYTES = 1 << 20
"""A listener this far behind makes the engine wait, and with it the upstream."""


class Feed:
    """An ordered, bounded hand-over of events. One writer, one reader, one event loop."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._waiting_bytes = 0
        self._is_closed = False
        self.is_streaming = False
        """Whether the client's stream has begun before any event: an error must then travel in it."""
        self._has_news = asyncio.Event()
        self._has_room = asyncio.Event()
        self._has_room.set()

    async def publish(self, events: Sequence[Event]) -> None:
        """Hand events over, waiting while the reader is too far behind."""
        self.put(events)
        if self._waiting_bytes > MAX_WAITING_BYTES:
            self._has_room.clear()
            await self._has_room.wait()

    def put(self, events: Sequence[Event]) -> None:
        """Hand the last events over, which wait for nobody: what ends must not hang on a reader."""
        if events:
            self._events.extend(events)
            self._waiting_bytes += sum(len(event.data) for event in events)
            self._has_news.set()

    def close(self) -> None:
        """Say that nothing more will come."""
        self._is_closed = True
        self._has_news.set()

    async def take(self) -> list[Event]:
        """Everything that waits, as soon as there is something; empty means the end."""
        await self._has_news.wait()
        events, self._events = self._events, []
        self._waiting_bytes = 0
        self._has_room.set()
        if not self._is_closed:
            self._has_news.clear()
        return events
