"""The short way to the hot routes: create a response, read one, list the newest (docs/decisions/0027).

They are declared with FastAPI like all others, and stand in the OpenAPI document. But a framework that looks
for a route, solves its dependencies and keeps two exit stacks costs a request more than storing it does.
What is answered here is authenticated and correlated all the same, by the very functions that the routes
call, and in the dialect that is asked for. Whatever asks for more than the plain thing goes on to FastAPI.
"""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any
from urllib.parse import parse_qsl

from fastapi import FastAPI, Request, Response
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

from app.api import dialects
from app.api.authentication import Authentication
from app.api.correlation import Correlation
from app.api.create import create
from app.api.errors import answer
from app.api.pages import DIRECTIONS
from app.api.response_lists import recent_page
from app.api.responses import read_response
from app.api.scopes import check_scope
from app.domain.search import MAX_PAGE
from app.domain.tenancy import Caller, Scope
from app.errors import ServiceError
from app.resources import Resources

RESPONSES = "/v1/responses"
_ONE = f"{RESPONSES}/resp_"

Handler = Callable[[Request, Caller, Resources], Awaitable[Response]]


class Front:
    """Answer hot requests, and hand on the rest."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self.state = app.state
        # What the application has around its routes as well.
        self._hot = Correlation(Authentication(_answer))

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (found := _found(scope)):
            scope["app"], scope["hot"] = self._app, found
            await self._hot(scope, receive, send)
        else:
            await self._app(scope, receive, send)


async def _answer(scope: AsgiScope, receive: Receive, send: Send) -> None:
    needed, handler = scope["hot"]
    caller: Caller = scope["state"]["caller"]
    request, it = Request(scope, receive, send), scope["app"].state.resources
    try:
        check_scope(caller, needed)
        dialect = dialects.asked(request)
        response = dialects.answer(await handler(request, caller, it), dialect, it)
    except ServiceError as error:
        response = answer(request, error)
    await response(scope, receive, send)


def _found(scope: AsgiScope) -> tuple[Scope, Handler] | None:
    path: str = scope["path"]
    if scope["method"] == "POST":
        return (Scope.WRITE, create) if path == RESPONSES else None
    if scope["method"] != "GET":
        return None
    if path.startswith(_ONE) and not scope["query_string"] and "/" not in path[len(_ONE) :]:
        return Scope.READ, partial(_read, path[len(RESPONSES) + 1 :])
    if path == RESPONSES and (asked := _plain_page(scope["query_string"])) is not None:
        return Scope.READ, partial(_list, asked)
    return None


async def _read(name: str, _: Request, caller: Caller, it: Resources) -> Response:
    return await read_response(name, caller, it)


async def _list(asked: Mapping[str, Any], _: Request, caller: Caller, it: Resources) -> Response:
    return await recent_page(caller, it, **asked)


def _plain_page(query: bytes) -> Mapping[str, Any] | None:
    """What is asked of a list; None if that is anything that FastAPI had better look at, or refuse."""
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    asked: dict[str, Any] = dict(pairs)
    if len(asked) != len(pairs) or asked.keys() - {"limit", "order", "after"}:
        return None
    if asked.get("order", "desc") not in DIRECTIONS:
        return None
    if "limit" in asked:
        if asked["limit"] not in _LIMITS:
            return None
        asked["limit"] = _LIMITS[asked["limit"]]
    return asked


_LIMITS = {str(limit): limit for limit in range(1, MAX_PAGE + 1)}
