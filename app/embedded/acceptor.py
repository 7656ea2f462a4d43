"""Take connections from a socket that several processes share, one at a time.

An event loop's own server takes all that wait as soon as it wakes. A client that opens its pool at once would
so have all its connections in one process, for as long as it keeps them, and the others would idle beside it.
"""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import structlog

log = structlog.get_logger(__name__)

PAUSE_SECONDS = 0.1
"""Where the process has no descriptor left: those that are open have to end first."""


class Acceptor:
    """Stands where `asyncio.Server` would, as far as uvicorn asks."""

    def __init__(self, listener: socket.socket, protocol: Callable[[], asyncio.Protocol]) -> None:
        """Begin to accept; call it inside the loop."""
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._protocol = protocol
        self._joining: set[asyncio.Future[Any]] = set()
        self._is_closed = False
        listener.setblocking(False)
        self._watch()

    def close(self) -> None:
        """Accept nothing more; what is connected stays so."""
        if not self._is_closed:
            self._is_closed = True
            self._loop.remove_reader(self._listener)

    async def wait_closed(self) -> None:
        """Wait for those who are between the socket and their protocol."""
        if self._joining:
            await asyncio.wait(self._joining)

    def _watch(self) -> None:
        if not self._is_closed:
            self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        """One only: who is busy comes back late, and finds the rest taken by who is not."""
        try:
            connection = self._accepted()
        except (BlockingIOError, ConnectionAbortedError, InterruptedError):
            return  # Another process was first, or the client has gone.
        except OSError:
            log.exception("connection.refused")
            self._loop.remove_reader(self._listener)
            self._loop.call_later(PAUSE_SECONDS, self._watch)
            return
        joined = asyncio.ensure_future(self._loop.connect_accepted_socket(self._protocol, connection))
        self._joining.add(joined)
        joined.add_done_callback(self._joined)

    def _accepted(self) -> socket.socket:
        connection, _ = self._listener.accept()
        if connection.family != socket.AF_UNIX:
            with suppress(OSError):  # It may be gone already, which who reads from it will find.
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def _joined(self, joined: asyncio.Future[Any]) -> None:
        self._joining.discard(joined)
        if not joined.cancelled() and (error := joined.exception()):
            log.error("connection.lost", exc_info=error)
