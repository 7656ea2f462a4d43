"""Who is reading: a cookie for a session, a session for a key, and the key is asked for each time."""

import asyncio
import secrets
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256

import structlog
from fastapi import Request, Response
from fastapi.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from app import ids
from app.api.keyring import Keyring
from app.domain.tenancy import Caller
from app.errors import ServiceError, Unauthenticated
from app.store import keys, sessions
from app.store.db import Database
from app.ui import addresses, origins
from app.ui.errors import answer
from app.ui.rendering import page

log: structlog.stdlib.BoundLogger = structlog.get_logger()

COOKIE = "holdfast_session"
LIFETIME = timedelta(hours=12)
TOKEN_BYTES = 32
_TOKEN_LENGTH = 43  # of 32 bytes in base64 without padding

_OPEN = ("/login", "/static/")
"""What begins with one of these needs nobody."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """Whoever is reading, and the words for them."""

    caller: Caller
    tenant: str = "default"
    key_name: str = ""

    @property
    def has_key(self) -> bool:
        return self.caller.key_id is not None

    @property
    def name(self) -> str:
        """What the key is called, or the beginning of it."""
        if self.key_name or self.caller.key_id is None:
            return self.key_name
        return ids.key_id(self.caller.key_id)[:11] + "…"


class Sessions:
    """Put the visitor and the caller into the scope's state, or lead to the login."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        # Whoever sends guesses holds one connection of the pool, however fast they come.
        self._turn = asyncio.Semaphore(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        try:
            origins.check(request.method, request.headers)
            if not scope["path"].removeprefix(scope["root_path"]).startswith(_OPEN):
                await self._let_in(request)
        except Unauthenticated:
            await _to_login(request)(scope, receive, send)
            return
        except ServiceError as error:
            log.info("request.refused", code=error.code, status=error.status)
            await answer(request, error)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    async def _let_in(self, request: Request) -> None:
        visitor = None
        # Whatever cannot be a token waits for nobody.
        if (token := request.cookies.get(COOKIE)) and _hash(token):
            async with self._turn:
                visitor = await find(request.app.state.resources.db, token)
        if visitor is None:
            keyring: Keyring = request.app.state.keyring
            visitor = Visitor(await keyring.caller(None))
        request.state.visitor, request.state.caller = visitor, visitor.caller
        if key_id := visitor.caller.key_id:
            structlog.contextvars.bind_contextvars(tenant_id=visitor.caller.tenant_id, key_id=key_id.hex)


async def find(db: Database, token: str) -> Visitor | None:
    """Whose session this is; None if it is nobody's any more, or its key has ended, which ends it too."""
    if (hashed := _hash(token)) is None:
        return None
    async with db.begin_system() as tx:
        if (session := await sessions.find(tx, hashed)) is None:
            return None
        if key := (await keys.find_valid(tx, [session.key_id])).get(session.key_id):
            return Visitor(key.caller, session.tenant, session.key_name)
        await sessions.end(tx, hashed)
    return None


async def begin(db: Database, caller: Caller) -> str:
    """A new session of a caller who has a key: what its cookie holds, which is not kept here."""
    if caller.key_id is None:
        raise ValueError("there is no key to begin a session with")
    token = secrets.token_urlsafe(TOKEN_BYTES)
    async with db.begin_system() as tx:
        await sessions.create(
            tx,
            _digest(token),
            tenant_id=caller.tenant_id,
            key_id=caller.key_id,
            lifetime=LIFETIME,
        )
    return token


async def end(db: Database, token: str | None) -> None:
    """End a session, if this is one."""
    if token and (hashed := _hash(token)):
        async with db.begin_system() as tx:
            await sessions.end(tx, hashed)


def put_cookie(request: Request, response: Response, token: str) -> None:
    """Scripts cannot read it, other sites cannot send it, and the API is never given it."""
    response.set_cookie(
        COOKIE,
        token,
        max_age=round(LIFETIME.total_seconds()),
        path=addresses.ROOT,
        secure=addresses.is_https(request),
        httponly=True,
        samesite="strict",
    )


def remove_cookie(response: Response) -> None:
    response.delete_cookie(COOKIE, path=addresses.ROOT, httponly=True, samesite="strict")


def _hash(token: str) -> bytes | None:
    """What is stored of a token; None for what cannot be one, which is not looked for."""
    return _digest(token) if len(token) == _TOKEN_LENGTH and token.isascii() else None


def _digest(token: str) -> bytes:
    return sha256(token.encode()).digest()


def _to_login(request: Request) -> Response:
    """The way to the login, in the form that whoever asks can follow."""
    there = addresses.login(request)
    if "hx-request" in request.headers:
        return Response(status_code=401, headers={"hx-redirect": there})
    if request.headers.get("accept", "").startswith("text/event-stream"):
        return Response(status_code=401)
    if request.method == "GET" and request.headers.get("sec-fetch-site") == "cross-site":
        # A strict cookie does not come along a link from elsewhere; from a page of ours it does.
        return page(request, "opening.html", there=addresses.own(there_and_query(request)))
    return RedirectResponse(there, 303)


def there_and_query(request: Request) -> str:
    """What was asked for, without the server's name."""
    return request.url.path + (f"?{request.url.query}" if request.url.query else "")
