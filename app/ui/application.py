"""The page as an application of its own, beside the API: its errors are pages, its callers have sessions."""

from fastapi import FastAPI
from fastapi.responses import RedirectResponse
from starlette.datastructures import State
from starlette.routing import Match, Mount
from starlette.types import Scope

from app.ui import (
    actions,
    addresses,
    assets,
    audit,
    conversations,
    errors,
    live,
    login,
    response_lists,
    responses,
    stats,
    trees,
)
from app.ui.headers import Headers
from app.ui.queries import Tidied
from app.ui.sessions import Sessions


def create_page(state: State) -> FastAPI:
    """The page.

    Args:
        state: the server's, with `resources` and `keyring` once its lifespan has begun.
    """
    page = FastAPI(title="Holdfast", openapi_url=None, redirect_slashes=False)
    page.state = state
    for each in (response_lists, trees, responses, actions, live, conversations, stats, audit, login, assets):
        page.include_router(each.router)
    page.add_api_route("/", _home, methods=["GET"])
    page.add_middleware(Tidied)
    page.add_middleware(Sessions)
    page.add_middleware(Headers)
    errors.install(page)
    return page


def mounted(state: State) -> Mount:
    """The page at its place."""
    return _Whole(addresses.ROOT, create_page(state), name="ui")


async def _home() -> RedirectResponse:
    return RedirectResponse(addresses.HOME, 303)


class _Whole(Mount):
    """A mount that its bare path, without a slash, belongs to as well."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] == "http" and scope["path"].removeprefix(scope.get("root_path", "")) == self.path:
            path = f"{scope['path']}/"
            match, child = super().matches({**scope, "path": path})
            return match, {**child, "path": path}
        return super().matches(scope)
