"""WebSockets as uvicorn speaks them, with bounds on what a client may leave behind: half a message, pings
that it never reads the answers to, a connection that it does not read at all.
"""

import asyncio
from http import HTTPStatus
from typing import Any, cast

import orjson
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.datastructures import Headers
from websockets.frames import CloseCode
from websockets.http11 import Response
from websockets.server import ServerProtocol

from app import ids
from app.errors import RequestError

MIB = 1024 * 1024

LINGER_SECONDS = 1.5
"""How long a closed connection may take to hand over what is still to be read of it."""


class _Handshake(ServerProtocol):
    """Refuses a bad handshake in the envelope of every other error (law L10)."""

    def reject(self, status: int, text: str) -> Response:
        answer = super().reject(status, text)
        answer.body = _envelope(status, text)
        del answer.headers["Content-Length"], answer.headers["Content-Type"]
        told = {
            "content-length": str(len(answer.body)),
            "content-type": "application/json",
            "x-request-id": ids.request_id(),
        }
        answer.headers.update(Headers(told))
        return answer


class BoundedSocket(WebSocketsSansIOProtocol):
    """One connection. Subclasses made by `bounded` say how slow a message may be.

    How large it may be is uvicorn's `ws_max_size`: what is larger closes the connection with 1009.
    """

    message_seconds: float

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Have no message begun."""
        super().__init__(*args, **kwargs)
        self.conn = _Handshake(max_size=self.config.ws_max_size, logger=self.logger)
        self._patience: asyncio.TimerHandle | None = None
        self._partial_mib = 0

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.handshake_exc and not self.handshake_initiated:
            self._refuse_head()
            return
        partial = len(self.conn.reader.buffer) + sum(map(len, self.frames))
        if not partial or self.transport.is_closing():
            self._stop_waiting()
        elif self._patience is None or partial // MIB > self._partial_mib:
            # As with a body: large ones may take long, and none may trickle.
            self._wait_for_message()
        self._partial_mib = partial // MIB

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    async def send(self, message: Any) -> None:
        """Take a refusal for the end of a handshake: uvicorn logs it as an error of the application."""
        await super().send(message)
        self.handshake_complete |= self.close_sent

    def shutdown(self) -> None:
        """Leave it to the application to end what runs here; it closes the connection then."""
        if not self.handshake_complete or self.close_sent:
            super().shutdown()

    def handle_ping(self) -> None:
        """Answer, unless the client has left so many answers unread that they would pile up."""
        answer = b"".join(self.conn.data_to_send())
        if self.writable.is_set():
            self.transport.write(answer)

    def handle_parser_exception(self) -> None:
        """Say what was wrong, and hear the client out for a moment: if it is still sending, an early close
        would reset the connection, and what it was told would be lost (RFC 6455, section 7.1.1).
        """
        if self.close_sent or not (sent := self.conn.close_sent):
            return
        self.queue.put_nowait({"type": "websocket.disconnect", "code": sent.code, "reason": sent.reason})
        self.close_sent = True
        self.transport.write(b"".join(self.conn.data_to_send()))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.close_timer = self.loop.call_later(LINGER_SECONDS, self.transport.close)

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        super().on_task_complete(task)
        # A client that reads nothing would keep what was written, and the connection, for ever.
        self.loop.call_later(LINGER_SECONDS, self.transport.abort)

    def _refuse_head(self) -> None:
        """Say what uvicorn leaves unsaid: the library takes fewer and shorter headers, and no body."""
        reason = f"Failed to open a WebSocket connection: {self.conn.handshake_exc}."
        self.handshake_initiated = self.handshake_complete = self.close_sent = True
        self.transport.write(self.conn.reject(HTTPStatus.BAD_REQUEST, reason).serialize())
        self.transport.close()

    def _wait_for_message(self) -> None:
        self._stop_waiting()
        self._patience = self.loop.call_later(self.message_seconds, self._message_is_late)

    def _stop_waiting(self) -> None:
        if self._patience:
            self._patience.cancel()
            self._patience = None

    def _message_is_late(self) -> None:
        self._patience = None
        if self.transport.is_closing() or self.close_sent:
            return
        if self.read_paused:
            # It is we who do not read.
            self._wait_for_message()
            return
        self.conn.fail(CloseCode.POLICY_VIOLATION, "The message did not arrive in time.")
        # It ends as a connection does whose client broke the protocol.
        self.handle_parser_exception()


def bounded(*, message_seconds: float) -> type[asyncio.Protocol]:
    """The protocol with this bound; uvicorn wants a class."""
    return cast(
        "type[asyncio.Protocol]",
        type(BoundedSocket.__name__, (BoundedSocket,), {"message_seconds": message_seconds}),
    )


def _envelope(status: int, text: str) -> bytes:
    error = RequestError(text.strip(), code="invalid_handshake")
    error.status = HTTPStatus(status)
    return orjson.dumps(error.envelope())
