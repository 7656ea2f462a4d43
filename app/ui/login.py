"""Logging in with a key, and out."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from app.api.deps import ResourcesDep
from app.api.keyring import Keyring
from app.domain.tenancy import Scope
from app.errors import Unauthenticated
from app.ui import addresses, sessions
from app.ui.forms import read_form
from app.ui.rendering import page

router = APIRouter()

_WRONG = "This key is not valid. It may have been mistyped, revoked, or expired."
_NO_READER = "This key may not read, so there is nothing that it could be shown."


@router.get("/login")
async def show_login(request: Request, next: str = addresses.HOME) -> Response:  # noqa: A002 - as it stands in the address
    """The form, or onward where nobody needs a key."""
    there = addresses.own(next)
    if await _needs_no_key(request):
        return RedirectResponse(there, 303)
    return page(request, "login.html", there=there, problem="")


@router.post("/login")
async def log_in(request: Request, it: ResourcesDep) -> Response:
    """Begin a session, and end the one that this browser may have had."""
    form = await read_form(request, it)
    there = addresses.own(form.get("next"))
    keyring: Keyring = request.app.state.keyring
    try:
        caller = await keyring.caller(form.get("key", "").strip())
    except Unauthenticated:
        return page(request, "login.html", status=401, there=there, problem=_WRONG)
    if not caller.may(Scope.READ):
        return page(request, "login.html", status=403, there=there, problem=_NO_READER)
    answer = RedirectResponse(there, 303)
    if caller.key_id is not None:
        await sessions.end(it.db, request.cookies.get(sessions.COOKIE))
        sessions.put_cookie(request, answer, await sessions.begin(it.db, caller))
    return answer


@router.post("/logout")
async def log_out(request: Request, it: ResourcesDep) -> Response:
    """End the session, here and in the browser."""
    await sessions.end(it.db, request.cookies.get(sessions.COOKIE))
    answer = RedirectResponse(f"{addresses.ROOT}/login", 303)
    sessions.remove_cookie(answer)
    return answer


async def _needs_no_key(request: Request) -> bool:
    keyring: Keyring = request.app.state.keyring
    try:
        await keyring.caller(None)
    except Unauthenticated:
        return False
    return True
