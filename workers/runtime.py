"""What a worker process works with: one event loop in a thread of its own, and its handles.

Bells are answered in it. Hundreds of runs so cost one loop, one pool of connections to Postgres and one of
connections to each upstream, as in an API process.
"""

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from math import ceil
from threading import Thread

import structlog
import uvloop

from app.errors import Unavailable
from app.generation import recover
from app.generation.background import Background
from app.resources import Resources, open_worker, send_deliveries
from app.settings import Settings
from app.store.fairness import CLAIMED_AT_ONCE
from app.webhooks.delivering import Deliveries

log: structlog.stdlib.BoundLogger = structlog.get_logger()

Done = Callable[[], object]
"""Called once a bell has been answered, in any thread."""


class Runtime:
    """Opened and closed by the signals of the worker, used by its tasks."""

    _resources: Resources
    _background: Background
    _deliveries: Deliveries
    _life: Future[None]

    def __init__(self) -> None:
        """Open nothing yet."""
        self._loop = uvloop.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="runtime", daemon=True)
        self._closing = asyncio.Event()
        self._drains = list[Future[None]]()
        self._has_rung = False
        self.has_failed = False
        """Whether it ends because nothing could be generated here any more."""

    def open(self, settings: Settings) -> None:
        """Return once tasks may come. From now on the reaper makes its rounds.

        Raises:
            Unavailable: Postgres cannot be reached.
        """
        self._thread.start()
        opened: Future[None] = Future()
        self._life = self._submit(self._live(settings, opened))
        wait([opened, self._life], return_when=FIRST_COMPLETED)
        if not opened.done():
            self._life.result()

    def generate(self, done: Done) -> None:
        """Begin what is queued, as far as there is room; it runs on when that is done."""
        self._answer(self._background.answer(), done)

    def deliver(self, done: Done) -> None:
        """Have the webhooks sent that are due."""
        self._answer(send_deliveries(self._deliveries, self._resources), done)

    def reap(self, done: Done) -> None:
        """Return or end what was lost, and ring for what has waited too long."""
        self._answer(self._reap(), done)

    def begin_drain(self, after_seconds: float | None = None) -> None:
        """Claim nothing more, and after this time hand back or end what runs. Returns at once; `close` waits.

        Repeating it with less time cuts the first short.

        Args:
            after_seconds: By default `shutdown_grace_seconds`.
        """
        grace_seconds = self._resources.settings.shutdown_grace_seconds
        after_seconds = grace_seconds if after_seconds is None else after_seconds
        self._drains.append(self._submit(self._drain(after_seconds)))
        self._submit(self._deliveries.drain(after_seconds))

    async def _drain(self, after_seconds: float) -> None:
        await self._background.drain(after_seconds)
        # Something may have been handed back. A bell too many only finds nothing.
        await self._resources.ring("")

    def close(self) -> None:
        """Wait for what was drained, and close everything. Called once no bell is heard any more."""
        wait(self._drains)
        self._loop.call_soon_threadsafe(self._closing.set)
        self._life.result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _reap(self) -> None:
        await self._safely(self._reap_responses())
        await self._safely(self._reap_deliveries())

    async def _safely(self, work: Coroutine[object, object, None]) -> None:
        try:
            await work
        except Unavailable:
            log.warning("store.unavailable")
        except Exception:
            # A bug must not end the rounds of the reaper, nor the process with all that runs in it.
            log.exception("worker.crashed")

    async def _reap_responses(self) -> None:
        count = await self._round()
        if self._resources.bell:
            # Each is answered by so many; where there are more, whoever hears it rings again.
            await self._resources.bell.ring_many(ceil(count / CLAIMED_AT_ONCE))

    async def _reap_deliveries(self) -> None:
        await self._deliveries.reap()
        # Not by a bell: that would wait where there is no room for responses.
        self._deliveries.wake()

    async def _round(self) -> int:
        """Do the reaper's round; how many bells are to be rung after it."""
        count = await self._background.reap()
        if not self._has_rung:
            # A broker that was started with us knows of nothing that was queued before.
            count = await recover.count_queued(self._resources.db)
            self._has_rung = True
        return count

    def _end(self) -> None:
        """End the process, which would never claim again, with an exit code that asks for another one."""
        self.has_failed = True
        # Celery stops in good order from its main thread alone, where a signal is heard.
        os.kill(os.getpid(), signal.SIGTERM)

    async def _live(self, settings: Settings, opened: Future[None]) -> None:
        async with open_worker(settings) as worker:
            self._resources, self._background = worker.resources, worker.background
            self._deliveries = worker.deliveries
            self._background.on_give_up = self._end
            opened.set_result(None)
            while not self._closing.is_set():
                await self._reap()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._closing.wait(), settings.reap_interval_seconds)

    def _answer(self, work: Coroutine[object, object, None], done: Done) -> None:
        self._submit(self._safely(work)).add_done_callback(lambda _: done())

    def _submit(self, coroutine: Coroutine[object, object, None]) -> Future[None]:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)


runtime = Runtime()
"""The one of this process."""
