"""GET /v1/responses with an upgrade: WebSocket mode. Everything is refused over HTTP until it is accepted."""

from urllib.parse import urlsplit

from fastapi import APIRouter, WebSocket
from starlette.datastructures import Headers

from app.api import dialects
from app.api.headers import IDEMPOTENCY_KEY, conversation_wait_seconds, on_open_tool_calls
from app.api.scopes import WRITES
from app.api.socket_session import Session
from app.errors import Forbidden, InvalidRequest
from app.resources import Resources

router = APIRouter()


@router.websocket("/v1/responses", dependencies=WRITES)
async def open_socket(socket: WebSocket) -> None:
    """Create responses over one connection, many beside each other."""
    it: Resources = socket.app.state.resources
    headers = Headers(scope=socket.scope)
    _check_origin(headers)
    _check_choices(headers, it)
    dialects.asked(socket)
    tenant_id: int = socket.state.caller.tenant_id
    it.open_sockets.open(tenant_id)
    try:
        await Session(socket, it).serve()
    finally:
        it.open_sockets.close(tenant_id)


def _check_origin(headers: Headers) -> None:
    """Keep other sites' pages out: browsers let any page open a WebSocket, and say from where.

    A page cannot send a key, but a server without keys would take it for its owner.
    """
    for origin in headers.getlist("origin"):
        try:
            is_own = urlsplit(origin).netloc.lower() == headers.get("host", "").lower()
        except ValueError:
            is_own = False
        if not is_own:
            raise Forbidden("WebSockets are not opened from pages of other sites.", code="foreign_origin")


def _check_choices(headers: Headers, it: Resources) -> None:
    """Headers stand for every create of the connection, so they are refused before there is any."""
    conversation_wait_seconds(headers, it.settings.conversation_wait_seconds)
    on_open_tool_calls(headers, it.settings.on_open_tool_calls)
    if IDEMPOTENCY_KEY in headers:
        raise InvalidRequest(
            f"Unsupported header: '{IDEMPOTENCY_KEY}' stands for one request, and a WebSocket makes many. "
            "Send 'idempotency_key' in 'response.create' instead.",
            code="unsupported_parameter",
            param=IDEMPOTENCY_KEY,
        )
