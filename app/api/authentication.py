"""Who is asking, before anything else: key, route, body (behaviour 143).

A path that does not exist is refused like one that does, so that nobody without a key learns which do.
"""

import structlog
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api import dialects
from app.api.errors import render
from app.api.keyring import Keyring
from app.errors import ServiceError

log: structlog.stdlib.BoundLogger = structlog.get_logger()

GUARDED = "/v1"


class Authentication:
    """Put the caller into the scope's state, or answer 401. The body of a refused request is not read.

    An upgrade is answered over HTTP like any other request: nobody without a key gets a WebSocket.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Routes ask for the caller that is set here: whatever is not guarded cannot act for anybody.
        if scope["type"] not in {"http", "websocket"} or not is_guarded(scope["path"]):
            await self._app(scope, receive, send)
            return
        keyring: Keyring = scope["app"].state.keyring
        try:
            caller = await keyring.caller(key_in(Headers(scope=scope)))
        except ServiceError as error:
            log.info("request.refused", code=error.code, status=error.status)
            refusal = dialects.error(HTTPConnection(scope), render(error))
            await refusal(scope, receive, send)
            return
        if caller.key_id:
            structlog.contextvars.bind_contextvars(tenant_id=caller.tenant_id, key_id=caller.key_id.hex)
        scope.setdefault("state", {})["caller"] = caller
        await self._app(scope, receive, send)


def is_guarded(path: str) -> bool:
    return path == GUARDED or path.startswith(f"{GUARDED}/")


def key_in(headers: Headers) -> str | None:
    """What stands after `Bearer`; None without it. Of two headers nobody could say which one counts."""
    values = headers.getlist("authorization")
    scheme, _, key = (values[0] if len(values) == 1 else "").strip().partition(" ")
    return key.strip() or None if scheme.lower() == "bearer" else None
