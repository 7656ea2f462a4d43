"""HTTP/1.1 as uvicorn reads it, with bounds on what comes before a request: the head's size and its time.

Its parser takes a head of any length for any time. Refusals are in the envelope of every other error.
"""

import asyncio
from http import HTTPStatus
from typing import Any, cast

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app import ids
from app.api.hang_ups import WHEN_GONE, Callback
from app.errors import InvalidRequest, RequestError

SOCKET_PATH = b"/v1/responses"


class HeadTooLarge(RequestError):
    """The request's URL and headers are too large."""

    status = 431


class HeadTooSlow(RequestError):
    """The request did not arrive in time."""

    status = 408


class BoundedProtocol(HttpToolsProtocol):
    """One connection. Subclasses made by `bounded` say how large and how slow a head may be."""

    # Outside of the instance's dictionary, which uvicorn's own attributes nearly fill: with one too many it
    # shares its keys with no other connection's any more, and takes 1.2 KB more.
    __slots__ = ("_head_bytes", "_is_in_head", "_patience", "_refusal", "_when_gone")

    max_header_bytes: int
    head_seconds: float

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Know of no request yet."""
        super().__init__(*args, **kwargs)
        self._patience: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._is_in_head = False
        self._refusal: RequestError | None = None
        self._when_gone: dict[object, Callback] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)
        for callback in list(self._when_gone.values()):
            callback()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._patience is None and not self._is_answering:
            # Also what is left of a body that was answered before its end: it may not trickle for ever.
            self._wait_for_head()
        super().data_received(data)
        if self._is_in_head:
            self._head_bytes += len(data)
            if self._head_bytes > self.max_header_bytes:
                self._refuse(self._too_large())

    def on_message_begin(self) -> None:
        self._is_in_head, self._head_bytes = True, 0
        super().on_message_begin()
        scope = cast("dict[str, Any]", self.scope)
        scope["extensions"] = {WHEN_GONE: self._call_when_gone}

    def on_headers_complete(self) -> None:
        # A head that came in one piece with its end has not been counted yet.
        if (
            len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
            > self.max_header_bytes
        ):
            self._refusal = self._too_large()
            raise self._refusal
        self._is_in_head = False
        self._stop_waiting()
        super().on_headers_complete()

    def _call_when_gone(self, callback: Callback) -> Callback:
        """Remember whom to tell that the connection is lost; gives back how to forget it again."""
        token = object()
        self._when_gone[token] = callback
        if self.transport.is_closing():
            # Those who are told already are gone from the list, or were taken back meanwhile.
            self.loop.call_soon(lambda: token in self._when_gone and callback())
        return lambda: self._when_gone.pop(token, None)

    def _should_upgrade(self) -> bool:
        """Only where there is a WebSocket: everywhere else the header asks for nothing, as HTTP allows."""
        is_there = self.url.partition(b"?")[0] == SOCKET_PATH and self.scope["method"] == "GET"
        return is_there and super()._should_upgrade()

    def handle_websocket_upgrade(self) -> None:
        """Hand the connection over, unless an answer is still being written to it."""
        if self._is_answering:
            self._refuse(InvalidRequest("An upgrade cannot be pipelined.", code="invalid_http"))
            return
        super().handle_websocket_upgrade()

    def send_400_response(self, msg: str) -> None:
        """Answer what the parser refused: it is no HTTP, or `on_headers_complete` said no."""
        self._refuse(self._refusal or InvalidRequest(msg, code="invalid_http"))

    @property
    def _is_answering(self) -> bool:
        """Whether a request is being answered."""
        cycle = cast("RequestResponseCycle | None", self.cycle)
        return cycle is not None and not cycle.response_complete

    def _too_large(self) -> RequestError:
        message = f"The request's URL and headers are larger than {self.max_header_bytes} bytes."
        return HeadTooLarge(message, code="headers_too_large")

    def _wait_for_head(self) -> None:
        self._patience = self.loop.call_later(self.head_seconds, self._head_is_late)

    def _stop_waiting(self) -> None:
        if self._patience:
            self._patience.cancel()
            self._patience = None

    def _head_is_late(self) -> None:
        self._patience = None
        if self._is_in_head:
            self._refuse(HeadTooSlow(code="request_timeout"))
        elif not self.transport.is_closing():
            self.transport.close()

    def _refuse(self, error: RequestError) -> None:
        """Say why and hang up. Where another answer has begun, there is no place to say anything."""
        if self.transport.is_closing():
            return
        if not self._is_answering or not self.cycle.response_started:
            self.transport.write(_answer(error))
        self.transport.close()


def bounded(*, max_header_bytes: int, head_seconds: float) -> type[BoundedProtocol]:
    """The protocol with these bounds; uvicorn wants a class."""
    return type(
        BoundedProtocol.__name__,
        (BoundedProtocol,),
        {"max_header_bytes": max_header_bytes, "head_seconds": head_seconds},
    )


def _answer(error: RequestError) -> bytes:
    body = orjson.dumps(error.envelope())
    head = (
        f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
        f"x-request-id: {ids.request_id()}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body
