"""`x-request-id` on every answer, errors and streams included, and in every log line (behaviour 142)."""

import time

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import ids
from app.api.errors import render
from app.errors import ServiceError

log: structlog.stdlib.BoundLogger = structlog.get_logger()

_FIRST = frozenset({"http.response.start", "websocket.http.response.start", "websocket.accept"})
"""Messages of ASGI that carry the headers of an answer: a WebSocket's is refused or accepted."""


class Correlation:
    """Add headers to the first message of each answer; nothing is buffered."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        began, name, has_begun = time.perf_counter(), ids.request_id(), False
        structlog.contextvars.bind_contextvars(request_id=name)

        async def send_with_headers(message: Message) -> None:
            nonlocal has_begun
            if message["type"] in _FIRST:
                has_begun = True
                spent_ms = str(round((time.perf_counter() - began) * 1000)).encode()
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-request-id", name.encode()),
                    (b"openai-version", b"2020-10-01"),
                    (b"openai-processing-ms", spent_ms),
                    *scope.get("state", {}).get("answer_headers", ()),
                ]
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except Exception:
            # A bug of ours: the log has it, the client gets a shape it can read. Here and not in an
            # exception handler, because Starlette runs those for 500 outside every middleware.
            log.exception("request.crashed")
            if has_begun:
                raise
            await render(ServiceError())(scope, receive, send_with_headers)
