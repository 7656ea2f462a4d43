"""An HTTP server of the outside world, in a thread of its own beside whatever the test does."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager

from aiohttp import web

from tests.waiting import PATIENCE_SECONDS


@contextmanager
def served(app: web.Application) -> Generator[str]:
    """Its address, `http://HOST:PORT`, on the loopback interface, until the block ends."""
    loop, bound, url = asyncio.new_event_loop(), threading.Event(), list[str]()

    async def serve() -> AsyncGenerator[None]:
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url.append(f"http://127.0.0.1:{runner.addresses[0][1]}")
        bound.set()
        yield
        await runner.cleanup()

    serving = serve()

    def run() -> None:
        loop.run_until_complete(anext(serving))
        loop.run_forever()
        loop.run_until_complete(anext(serving, None))
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    bound.wait(PATIENCE_SECONDS)
    try:
        yield url[0]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
