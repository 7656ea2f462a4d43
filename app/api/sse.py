"""Events to bytes. The only encoder (law L1).

One frame is `event:` and one `data:` line, LF only, no `id:` (surface notes §8.1). Whatever is ready
is written at once: on one core that is worth six times any encoder.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, aclosing, suppress

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.api.hang_ups import when_gone
from app.domain.events import Event
from app.generation.feed import Feed

KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"

Attended = Callable[[], AbstractContextManager[None]]
"""A block whose task the server ends when it stops."""

HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"connection", b"keep-alive"),
    (b"x-accel-buffering", b"no"),
)


def encode(events: Sequence[Event]) -> bytes:
    return b"".join(event.frame for event in events)


class EventStream(Response):
    """A streamed answer that leaves it to others to notice that the client is gone.

    Starlette's own would listen for that too, and stop reading a feed that has to be read to its end.
    """

    def __init__(self, body: AsyncGenerator[bytes], *, attended: Attended | None = None) -> None:
        """`attended` is for streams that nobody else stops.

        A follower reads only for its client, and only for as long as the server lets its tasks run.
        """
        super().__init__()
        self._frames = body
        self._attended = attended

    def init_headers(self, headers: Mapping[str, str] | None = None) -> None:  # noqa: ARG002 - Starlette's signature
        """Always the same ones, and no `content-length`."""
        self.raw_headers = list(HEADERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        task = asyncio.current_task()
        if self._attended is None or task is None:
            await self._send(send)
            return
        with self._attended(), when_gone(scope, task.cancel), suppress(asyncio.CancelledError):
            await self._send(send)

    def rewrite(self, change: Callable[[bytes], bytes]) -> None:
        """Let all that is sent be changed on its way. A piece that comes is one or more whole frames."""
        self._frames = _rewritten(self._frames, change)

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with aclosing(self._frames) as frames:
            async for frame in frames:
                await send({"type": "http.response.body", "body": frame, "more_body": True})
                del frame  # A silent stream keeps nothing of what it has sent.
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _rewritten(
    frames: AsyncGenerator[bytes], change: Callable[[bytes], bytes]
) -> AsyncGenerator[bytes]:
    async with aclosing(frames) as pieces:
        async for piece in pieces:
            yield change(piece)
            del piece  # As in `EventStream`.


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
    del first
    while (events := await feed.take_within(keepalive_seconds)) != []:
        yield encode(events) if events else KEEP_ALIVE
        del events  # As in `EventStream`.
    if sends_done:
        yield DONE
