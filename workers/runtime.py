"""What the task threads of a worker process share: one event loop in a thread of its own, and its handles.

Tasks hand it coroutines and wait. Hundreds of runs so cost one loop, one pool of connections to
Postgres and one of connections to each upstream, as in an API process.
"""

import asyncio
import os
import signal
from collections.abc import Coroutine
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from threading import Thread

import structlog
import uvloop

from app.errors import Unavailable
from app.generation import recover
from app.generation.background import Background
from app.resources import Resources, open_worker
from app.settings import Settings

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Runtime:
    """Opened and closed by the signals of the worker, used by its tasks."""

    _resources: Resources
    _background: Background
    _life: Future[None]

    def __init__(self) -> None:
        """Open nothing yet."""
        self._loop = uvloop.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="runtime", daemon=True)
        self._closing = asyncio.Event()
        self._is_draining = False
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

    def run(self, coroutine: Coroutine[object, object, None]) -> None:
        """Run in the loop; called by a task, whose thread waits for it."""
        self._submit(coroutine).result()

    def begin_drain(self, after_seconds: float | None = None) -> None:
        """Claim nothing more, and after this time hand back or end what runs. Returns at once.

        Once all runs have ended so have the tasks, and Celery goes on with its own shutdown. Repeating it
        with less time cuts the first short.

        Args:
            after_seconds: By default `shutdown_grace_seconds`.
        """
        self._is_draining = True
        grace_seconds = self._resources.settings.shutdown_grace_seconds
        self._submit(self._background.drain(grace_seconds if after_seconds is None else after_seconds))

    def close(self) -> None:
        """Hand back what still runs, and close everything. Called once no task is left."""
        self._loop.call_soon_threadsafe(self._closing.set)
        self._life.result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def generate(self) -> None:
        """Generate whichever response is first in its turn, if there is one."""
        try:
            await self._background.generate_all()
        except Unavailable:
            # Nothing was claimed, and the reaper rings once Postgres is back.
            log.warning("store.unavailable")
        if self._is_draining:
            # It may have been handed back, or not even begun. A bell too many only finds nothing.
            await self._resources.ring("")

    async def reap(self) -> None:
        """Return or end what was lost, and ring for what has waited too long."""
        try:
            count = await self._round()
        except Unavailable:
            log.warning("store.unavailable")
        except Exception:
            # A bug in a round must not end the rounds, nor the process with all that runs in it.
            log.exception("reaper.crashed")
        else:
            if self._resources.bell:
                await self._resources.bell.ring_many(count)

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
        async with open_worker(settings) as (self._resources, self._background):
            self._background.on_give_up = self._end
            opened.set_result(None)
            while not self._closing.is_set():
                await self.reap()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._closing.wait(), settings.reap_interval_seconds)

    def _submit(self, coroutine: Coroutine[object, object, None]) -> Future[None]:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)


runtime = Runtime()
"""The one of this process."""
