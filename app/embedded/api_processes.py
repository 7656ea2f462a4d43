"""The API processes of one server: started together, replaced when one dies, stopped together."""

import os
import select
import socket
import sys
import time
from collections.abc import Mapping
from typing import Self

import structlog

from app.embedded import api_process
from app.embedded.errors import CannotStart
from app.embedded.guarded import Guarded, stop_all

KILL_AFTER_SECONDS = 20
"""Beyond the grace that running requests get: closing pools and the last commits."""

log = structlog.get_logger(__name__)


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
        # By the end of a pipe that gives a byte when the process serves, and ends when it ends.
        self._running: dict[int, Guarded] = {}
        # Each process takes one byte out of this pipe before it serves.
        self._pipe = self._go, self._let_go = os.pipe()

    def __enter__(self) -> Self:
        """Start all of them. They load, and wait to be let go."""
        try:
            for _ in range(self._count):
                self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def serve(self) -> None:
        """Let them go and return once all of them serve.

        Raises:
            CannotStart: one ended instead.
        """
        os.write(self._let_go, b"g" * self._count)
        for ready_fd in self._running:
            self._wait_until_ready(ready_fd)

    def watch(self, *others: int, until: float | None = None) -> set[int]:
        """Replace what dies, until one of the descriptors `others` becomes readable: those that are.

        Args:
            until: Return then at the latest; monotonic seconds.

        Raises:
            CannotStart: a replacement did not come up.
        """
        while True:
            patience = None if until is None else max(0.0, until - time.monotonic())
            ended, _, _ = select.select([*self._running, *others], [], [], patience)
            if not ended or set(ended) & set(others):
                return set(ended) & set(others)
            for ready_fd in ended:
                self._replace(ready_fd)

    def close(self) -> None:
        """Take no more connections, let the running requests end, stop the processes. Idempotent."""
        # Our own copy goes first: with it open, clients would queue for nobody.
        self._listener.close()
        try:
            stop_all(self._running.values())
        finally:
            for descriptor in (*self._running, *self._pipe):
                os.close(descriptor)
            self._running.clear()
            self._pipe = ()

    def _start(self) -> int:
        ready_fd, serves = os.pipe()
        listener = self._listener.fileno()
        process = Guarded(
            [sys.executable, "-m", api_process.__name__, str(listener), str(self._go), str(serves)],
            stop=self._stop,
            abandon=(("SIGKILL", 5.0),),
            pass_fds=(listener, self._go, serves),
            environment=self._environment,
        )
        os.close(serves)
        self._running[ready_fd] = process
        return ready_fd

    def _wait_until_ready(self, ready_fd: int) -> None:
        if not os.read(ready_fd, 1):
            raise CannotStart("the API did not start; the lines above say why")

    def _replace(self, ready_fd: int) -> None:
        dead = self._running.pop(ready_fd)
        os.close(ready_fd)
        log.error("api.died", exit_code=dead.wait())
        dead.close()
        replacement = self._start()
        os.write(self._let_go, b"g")
        self._wait_until_ready(replacement)
        log.info("api.replaced")
