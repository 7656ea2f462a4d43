"""/ui/responses: one response as a turn, its items, its JSON. `response_lists` has the list of them."""

import time
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from uuid import UUID

import orjson
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse

from app.api.deps import CallerDep, ResourcesDep
from app.api.identifiers import response_key, response_not_found
from app.api.scopes import READS
from app.domain.audit import Action
from app.domain.items import split
from app.domain.jobs import Mode
from app.domain.response import TERMINAL
from app.domain.tenancy import Caller
from app.errors import NotFound
from app.resources import Resources
from app.store import attempts, responses, surroundings
from app.store.responses import StoredResponse
from app.store.surroundings import Standing
from app.ui import addresses, summaries, turns, waterfall
from app.ui.pieces import Allowance
from app.ui.rendering import in_thread, text
from app.ui.summaries import summarise
from app.ui.words import minted_at

router = APIRouter(prefix="/responses")

RAW_CHARS = 1_000_000
"""Of JSON in a page; all of it can be had as a file."""


@router.get("/{response_id}", dependencies=READS)
async def show_response(
    request: Request,
    response_id: str,
    caller: CallerDep,
    it: ResourcesDep,
    first: Annotated[int, Query(alias="from", ge=0)] = 0,
) -> Response:
    """One response as a turn that can be read."""
    return await _shown(request, "response.html", await _read(response_id, caller, it), caller, it, first)


@router.get("/{response_id}/turn", dependencies=READS)
async def show_turn(
    request: Request, response_id: str, caller: CallerDep, it: ResourcesDep, seen: str = ""
) -> Response:
    """The same without the page around it, if the response is no longer as it was `seen`."""
    async with it.db.read(caller) as tx:
        status = await responses.status(tx, response_key(response_id))
    if status is not None and status not in TERMINAL and status.wire == seen:
        return Response(status_code=204)
    stored = await _read(response_id, caller, it)
    return await _shown(request, "_response.html", stored, caller, it, 0)


@router.get("/{response_id}/items/{place}", dependencies=READS)
async def show_item(
    request: Request, response_id: str, place: int, caller: CallerDep, it: ResourcesDep
) -> Response:
    """One item with all of its text, as it was written."""
    seen = await _seen(await _read(response_id, caller, it), caller, it)
    items = [*seen.given, *seen.made]
    if not 0 <= place < len(items):
        raise NotFound(f"The response has no item number {place}.")
    values = {"home": addresses.response(response_id), "name": response_id}

    def render() -> str:
        whole = turns.whole(items, place, before=seen.before, after=seen.after)
        return text(request, "item.html", entries=whole, **values)

    return HTMLResponse(await in_thread(render))


@router.get("/{response_id}/raw", dependencies=READS)
async def show_json(
    request: Request,
    response_id: str,
    caller: CallerDep,
    it: ResourcesDep,
    part: Literal["response", "input"] = "response",
) -> Response:
    """The response object, or its new input, as JSON in lines."""
    stored = await _read(response_id, caller, it)

    def render() -> str:
        whole = _json(stored, part, is_in_lines=True)
        return text(
            request,
            "raw.html",
            name=response_id,
            part=part,
            shown=whole[:RAW_CHARS].decode("utf-8", "ignore"),
            is_cut=len(whole) > RAW_CHARS,
            size=len(whole),
        )

    return HTMLResponse(await in_thread(render))


@router.get("/{response_id}/{part}.json", dependencies=READS)
async def download_json(
    response_id: str, part: Literal["response", "input"], caller: CallerDep, it: ResourcesDep
) -> Response:
    """The same as a file, as the API would give it."""
    stored = await _read(response_id, caller, it)
    content = _json(stored, part, is_in_lines=False)
    name = f"{response_id}.{part}.json"
    disposition = {"content-disposition": f'attachment; filename="{name}"'}
    return Response(content, media_type="application/json", headers=disposition)


async def _read(response_id: str, caller: Caller, it: Resources) -> StoredResponse:
    """The response, to be shown: so its reading is noted."""
    async with it.db.read(caller) as tx:
        stored = await responses.get(tx, response_key(response_id))
    if stored is None:
        raise response_not_found(response_id)
    it.readings.note(caller, Action.RESPONSE_READ, stored.id)
    return stored


@dataclass(frozen=True, slots=True)
class _Seen:
    """What is read for a turn: its items, and those of the turns beside it that belong to its calls."""

    standing: Standing | None
    given: list[dict[str, Any]]
    made: list[dict[str, Any]]
    before: list[dict[str, Any]]
    after: list[dict[str, Any]]


async def _seen(stored: StoredResponse, caller: Caller, it: Resources) -> _Seen:
    """Turns beside it are read only where a call or an output has its other half there."""
    given, made = await in_thread(_items, stored)
    wants_before, wants_after = turns.unpaired([*given, *made])
    async with it.db.read(caller) as tx:
        standing = await surroundings.standing(tx, stored.id)
        place = standing.before if standing and wants_before else None
        before = await surroundings.items_at(tx, place) if place else None
        after = await surroundings.items_at(tx, standing.after) if wants_after and standing else None
    for beside in (before, after):
        if beside:
            it.readings.note(caller, Action.RESPONSE_READ, beside[0], {"part": "items"})
    return _Seen(standing, given, made, before[1] if before else [], after[1] if after else [])


async def _shown(
    request: Request, template: str, stored: StoredResponse, caller: Caller, it: Resources, first: int
) -> Response:
    seen = await _seen(stored, caller, it)
    async with it.db.read(caller) as tx:
        tries = await attempts.list_of(tx, stored.id)

    def render() -> str:
        finished_at = seen.standing and seen.standing.finished_at
        summary, allowance = summarise(stored.id, orjson.loads(stored.body), finished_at), Allowance()
        return text(
            request,
            template,
            response=summary,
            turn=turns.read(
                seen.given, seen.made, before=seen.before, after=seen.after, first=first, allowance=allowance
            ),
            instructions=turns.instructions(summary.instructions, allowance),
            times=_times(stored.id, seen.standing, tries),
            is_live=Mode.STREAMED in stored.mode,
            is_kept=Mode.EPHEMERAL not in stored.mode,
            can_cancel=summaries.can_cancel(stored.status, stored.mode),
            first=first,
        )

    return HTMLResponse(await in_thread(render))


def _times(response_id: UUID, standing: Standing | None, tries: list[dict[str, Any]]) -> waterfall.Waterfall:
    finished = standing.finished_at.timestamp() if standing and standing.finished_at else None
    return waterfall.draw(minted_at(response_id), finished, tries, now=time.time())


def _items(stored: StoredResponse) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    return split(stored.input_blob), split(stored.output_blob)


def _json(stored: StoredResponse, part: str, *, is_in_lines: bool) -> bytes:
    content = stored.json() if part == "response" else b"[%b]" % stored.input_blob
    return orjson.dumps(orjson.loads(content), option=orjson.OPT_INDENT_2) if is_in_lines else content
