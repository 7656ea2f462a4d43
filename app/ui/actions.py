"""Cancelling and deleting a response, each asked about on a page of its own: that works without scripts."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from app.api.deps import CallerDep, ResourcesDep
from app.api.identifiers import response_key, response_not_found
from app.api.scopes import WRITES
from app.domain.response import TERMINAL, Status
from app.domain.tenancy import Caller
from app.errors import Conflict
from app.generation.cancel import cancel
from app.resources import Resources
from app.store import lifecycle, responses
from app.ui import addresses
from app.ui.rendering import page

router = APIRouter(prefix="/responses/{response_id}")


@router.get("/cancel", dependencies=WRITES)
async def ask_to_cancel(request: Request, response_id: str, caller: CallerDep, it: ResourcesDep) -> Response:
    """Ask whether to cancel; once it has ended there is nothing to ask."""
    if await _status(response_id, caller, it) in TERMINAL:
        return RedirectResponse(addresses.response(response_id), 303)
    return page(request, "cancel.html", name=response_id)


@router.post("/cancel", dependencies=WRITES)
async def cancel_response(response_id: str, caller: CallerDep, it: ResourcesDep) -> Response:
    """Cancel, as the API does. What has ended by now is shown as it is."""
    key, ttl_seconds = response_key(response_id), it.settings.ephemeral_result_seconds
    try:
        if not await cancel(it.db, caller, key, ttl_seconds=ttl_seconds):
            raise response_not_found(response_id)
        await it.ring_deliveries()
    except Conflict:
        if await _status(response_id, caller, it) not in TERMINAL:
            raise
    return RedirectResponse(addresses.response(response_id), 303)


@router.get("/delete", dependencies=WRITES)
async def ask_to_delete(request: Request, response_id: str, caller: CallerDep, it: ResourcesDep) -> Response:
    """Ask whether to delete."""
    if await _status(response_id, caller, it) not in TERMINAL:
        raise Conflict("Cannot delete an in-flight response.")
    return page(request, "delete.html", name=response_id)


@router.post("/delete", dependencies=WRITES)
async def delete_response(response_id: str, caller: CallerDep, it: ResourcesDep) -> Response:
    """Delete, as the API does."""
    key = response_key(response_id)
    async with it.db.begin(caller) as tx:
        row = await lifecycle.lock(tx, key)
        if row is None:
            raise response_not_found(response_id)
        if row["status"] not in TERMINAL:
            raise Conflict("Cannot delete an in-flight response.")
        await responses.delete(tx, key)
    return RedirectResponse(f"{addresses.HOME}?done=deleted", 303)


async def _status(response_id: str, caller: Caller, it: Resources) -> Status:
    async with it.db.read(caller) as tx:
        found = await responses.status(tx, response_key(response_id))
    if found is None:
        raise response_not_found(response_id)
    return found
