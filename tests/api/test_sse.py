"""The encoder of streams, without a server around it."""

import asyncio
from contextlib import suppress
from typing import Self

from starlette.types import Message

from app.api import sse
from app.domain.events import Event
from app.generation.feed import Feed


class Said(bytes):
    """Bytes that are counted until they are gone."""

    alive = 0

    def __new__(cls, data: bytes) -> Self:
        cls.alive += 1
        return super().__new__(cls, data)

    def __del__(self) -> None:
        Said.alive -= 1


class Client:
    """Takes what it is sent, and keeps none of it."""

    def __init__(self) -> None:
        self.received: asyncio.Queue[int] = asyncio.Queue()

    async def send(self, message: Message) -> None:
        if body := message.get("body"):
            self.received.put_nowait(len(body))

    async def receive(self) -> Message:
        return await asyncio.get_running_loop().create_future()


async def test_a_silent_stream_keeps_nothing_of_what_it_has_sent() -> None:
    feed, client = Feed(), Client()
    first = [Event("a", 0, Said(b"{}"))]
    stream = sse.EventStream(sse.frames(feed, first=first, keepalive_seconds=60, sends_done=False))
    stream.rewrite(Said)
    del first
    task = asyncio.ensure_future(stream({"type": "http"}, client.receive, client.send))
    await client.received.get()
    assert Said.alive == 0
    feed.put([Event("b", 1, Said(b"{}"))])
    await client.received.get()
    assert Said.alive == 0
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
