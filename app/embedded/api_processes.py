"""The API processes of one server: started together, replaced when one dies, stopped together."""

import os
import select
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import structlog

from app.embedded import api_process
from app.embedded.errors import CannotStart
from app.embedded.guarded import Guarded, stop_all

KILL_AFTER_SECONDS = 10
"""Beyond the grace that running requests get: closing pools and the last commits."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Api:
    process: Guarded
    ready_fd: int
    """Gives a byte when the process serves, and ends when it ends."""


class ApiProcesses:
    """Several processes that accept from one socket."""

    def __init__(
        self, listener: socket.socket, count: int, *, environment: Mapping[str, str], grace_seconds: float
    ) -> None:
        """Start nothing yet.

        Args:
            environment: Of the processes; they read their settings from it.
            grace_seconds: What running requests get when we stop.
        """
        self._listener = listener
        self._count = count
        self._environment = environment
        self._stop = (("SIGTERM", grace_seconds + KILL_AFTER_SECONDS), ("SIGKILL", 5.0))
        self._running: dict[int, _Api] = {}

    def __enter__(self) -> Self:
        """Return once all of them serve."""
        try:
            for _ in range(self._count):
                self._start()
            for api in list(self._running.values()):
                self._wait_until_ready(api)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def watch(self, *others: int) -> None:
        """Replace what dies, until one of the descriptors `others` becomes readable.

        Raises:
            CannotStart: a replacement did not come up.
        """
        while True:
            ended, _, _ = select.select([*self._running, *others], [], [])
            if set(ended) & set(others):
                return
            for ready_fd in ended:
                self._replace(ready_fd)

    def stop(self) -> None:
        """Take no more connections, then let the running requests end. Idempotent."""
        # Our own copy goes first: with it open, clients would queue for nobody.
        self._listener.close()
        try:
            stop_all(api.process for api in self._running.values())
        finally:
            for ready_fd in self._running:
                os.close(ready_fd)
            self._running.clear()

    def _start(self) -> _Api:
        ready_fd, serves = os.pipe()
        listener = self._listener.fileno()
        process = Guarded(
            [sys.executable, "-m", api_process.__name__, str(listener), str(serves)],
            stop=self._stop,
            abandon=(("SIGKILL", 5.0),),
            pass_fds=(listener, serves),
            environment=self._environment,
        )
        os.close(serves)
        self._running[ready_fd] = api = _Api(process, ready_fd)
        return api

    def _wait_until_ready(self, api: _Api) -> None:
        if not os.read(api.ready_fd, 1):
            raise CannotStart("the API did not start; the lines above say why")

    def _replace(self, ready_fd: int) -> None:
        dead = self._running.pop(ready_fd)
        os.close(ready_fd)
        log.error("api.died", exit_code=dead.process.wait())
        dead.process.close()
        self._wait_until_ready(self._start())
        log.info("api.replaced")
