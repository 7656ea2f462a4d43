"""Receivers of webhooks on loopback: they note what comes, and answer as they are told."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web

from tests.waiting import patience

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it came."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def event(self) -> Any:
        return orjson.loads(self.body)


@dataclass
class Receiver:
    """What came, oldest first, and what is answered: a status, or a coroutine's answer."""

    port: int = 0
    received: list[Received] = field(default_factory=list[Received])
    answers: list[int | Answer] = field(default_factory=list[int | Answer])
    """What the next ones are answered; 200 where there is nothing left."""
    came: asyncio.Condition = field(default_factory=asyncio.Condition)

    def url(self, path: str = "/hook", host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}{path}"

    async def wait_for(self, count: int) -> list[Received]:
        """Wait until so many came in all."""
        async with patience(), self.came:
            await self.came.wait_for(lambda: len(self.received) >= count)
        return self.received

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        answer = self.answers.pop(0) if self.answers else 200
        async with self.came:
            self.received.append(Received(request.path, dict(request.headers), body))
            self.came.notify_all()
        if isinstance(answer, int):
            return web.Response(status=answer, headers={"location": "/elsewhere"} if answer < 400 else {})
        return await answer(request)


@asynccontextmanager
async def receiving(**site: Any) -> AsyncGenerator[Receiver]:
    """A receiver on a free port; `site` may bring TLS."""
    receiver = Receiver()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", receiver.handle)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, **site).start()
    receiver.port = runner.addresses[0][1]
    try:
        yield receiver
    finally:
        await runner.cleanup()


async def hang(request: web.Request) -> web.StreamResponse:
    """Never answer; whoever gives up ends it."""
    del request
    await asyncio.Event().wait()
    return web.Response()
