"""Events to bytes. The only encoder (law L1).

One frame is `event:` and one `data:` line, LF only, no `id:` (surface notes §8.1). Whatever is ready
is written at once: on one core that is worth six times any encoder.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import aclosing
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.domain.events import Event
from app.generation.feed import Feed

KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"

Spawn = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
"""How a task is begun that the server keeps, and ends when it stops."""

HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "connection": "keep-alive",
    "x-accel-buffering": "no",
}


def encode(events: Sequence[Event]) -> bytes:
    return b"".join(event.frame for event in events)


class EventStream(Response):
    """A streamed answer that leaves it to others to notice that the client is gone.

    Starlette's own would listen for that too, and stop reading a feed that has to be read to its end.
    """

    def __init__(self, body: AsyncGenerator[bytes], *, spawn: Spawn | None = None) -> None:
        """`spawn` is for streams that nobody else stops.

        A follower reads only for its client, and only for as long as the server lets its tasks run.
        """
        super().__init__(headers=HEADERS)
        del self.headers["content-length"]
        self._frames = body
        self._spawn = spawn

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        if self._spawn is None:
            await self._send(send)
            return
        sender = self._spawn(self._send(send))
        try:
            async with asyncio.TaskGroup() as group:
                watcher = group.create_task(_cancel_when_gone(receive, sender))
                sender.add_done_callback(lambda _: watcher.cancel())
        finally:
            sender.cancel()
        await asyncio.wait([sender])

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with aclosing(self._frames) as frames:
            async for frame in frames:
                await send({"type": "http.response.body", "body": frame, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _cancel_when_gone(receive: Receive, task: asyncio.Task[None]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    task.cancel()


async def said(events: Sequence[Event], *, sends_done: bool) -> AsyncGenerator[bytes]:
    """The body of a stream that is known to its end."""
    yield encode(events)
    if sends_done:
        yield DONE


async def replay(followed: AsyncGenerator[bytes], *, sends_done: bool) -> AsyncGenerator[bytes]:
    """The body of a followed stream: its frames, with a comment where there was nothing to say."""
    async with aclosing(followed) as batches:
        async for batch in batches:
            yield batch or KEEP_ALIVE
    if sends_done:
        yield DONE


async def frames(
    feed: Feed, *, first: Sequence[Event], keepalive_seconds: float, sends_done: bool
) -> AsyncGenerator[bytes]:
    """The body of a stream: `first`, then what the feed brings, with comments where it is silent.

    Args:
        sends_done: End with `data: [DONE]`, which OpenAI leaves out and Open Responses demands.
    """
    if first:
        yield encode(first)
    while (events := await _take(feed, keepalive_seconds)) != []:
        yield encode(events) if events else KEEP_ALIVE
    if sends_done:
        yield DONE


async def _take(feed: Feed, patience_seconds: float) -> list[Event] | None:
    """What the feed has, or None if it had nothing for that long. Giving up loses no event."""
    try:
        async with asyncio.timeout(patience_seconds):
            return await feed.take()
    except TimeoutError:
        return None
