"""One API process: uvicorn on a socket that is already open.

Run by itself, `python -m app.embedded.api_process LISTENER GO READY`, it takes inherited descriptors: the
listening socket and a pipe that gives it a byte when it may serve, both shared by all API processes, and
a pipe that it writes a byte to when it serves. It holds that one open while it lives, so its parent sees
the end of it as the end of the process. Waiting to be let go, it loads the application: the greater part
of a start, done while the database starts.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any, cast

import uvicorn

from app.api.front import Front
from app.embedded import socket_protocol
from app.embedded.acceptor import Acceptor
from app.embedded.errors import CannotStart
from app.embedded.http_protocol import bounded
from app.garbage import spare_the_collector
from app.main import create_app
from app.observability import configure_logging
from app.settings import Settings

BACKLOG = 2048


CLOSING_SECONDS = 15
"""What running requests may take beyond the grace, once their generations were told to end: longer than to
store those ends may take, and then to tell them.
"""


class _Server(uvicorn.Server):
    """Tells someone once it serves, and ends streams in words instead of cutting them off."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], object], grace_seconds: float) -> None:
        super().__init__(config)
        self._on_ready = on_ready
        self._grace_seconds = grace_seconds

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup([])
        for listener in sockets or ():
            self.servers.append(cast("asyncio.Server", Acceptor(listener, self._connection)))
        spare_the_collector()
        self._on_ready()

    def _connection(self) -> asyncio.Protocol:
        made = cast("Any", self.config.http_protocol_class)
        return made(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        app: Any = self.config.loaded_app
        drained = asyncio.ensure_future(app.state.resources.drain(self._grace_seconds))
        await super().shutdown(sockets)
        await drained


def listen(host: str, port: int) -> socket.socket:
    """Open the listening socket, before anything else is started. Port 0 picks a free one.

    Raises:
        CannotStart: the address is taken, or not ours.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # With the protocol named: asyncio turns Nagle's delay off for such sockets alone.
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise CannotStart(f"cannot listen on {host}: {error.strerror}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise CannotStart(f"cannot listen on {host} port {port}: {error.strerror}") from error
    return listener


def run(
    listener: socket.socket,
    settings: Settings,
    *,
    on_loaded: Callable[[], object] = lambda: None,
    on_ready: Callable[[], object],
) -> None:
    """Serve until SIGTERM or SIGINT, then let running requests end. A second SIGINT cuts them off.

    Args:
        on_loaded: Called before anything is opened; the database may be missing until it returns.
        on_ready: Called once requests are answered.
    """
    configure_logging(settings.log_level)
    config = uvicorn.Config(
        Front(create_app(settings)),
        loop="uvloop",
        http=bounded(max_header_bytes=settings.max_header_bytes, head_seconds=settings.body_timeout_seconds),
        ws=socket_protocol.bounded(message_seconds=settings.body_timeout_seconds),
        ws_max_size=settings.max_body_bytes,
        ws_ping_interval=settings.websocket_ping_seconds,
        ws_ping_timeout=settings.websocket_pong_seconds,
        # Compressed, a small message could become any number of bytes before its size is known.
        ws_per_message_deflate=False,
        backlog=BACKLOG,
        log_config=None,
        log_level=None,
        access_log=False,
        server_header=False,
        # Without it the loaded application is ours, as it was made.
        proxy_headers=False,
        timeout_graceful_shutdown=settings.shutdown_grace_seconds + CLOSING_SECONDS,
    )
    config.load()
    on_loaded()
    # After its own shutdown uvicorn raises the signal again, for whoever handled it before. To have
    # been asked to stop is no failure, so that handler does nothing.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    _Server(config, on_ready, settings.shutdown_grace_seconds).run(sockets=[listener])


def main() -> None:
    listener, go, ready = (int(argument) for argument in sys.argv[1:4])

    def on_loaded() -> None:
        if not os.read(go, 1):
            sys.exit("the parent is gone")

    def on_ready() -> None:
        # A parent that is gone will end us by other means.
        with contextlib.suppress(BrokenPipeError):
            os.write(ready, b"r")

    run(socket.socket(fileno=listener), Settings.load(), on_loaded=on_loaded, on_ready=on_ready)


if __name__ == "__main__":
    main()
