"""/v1/responses: create, read, cancel, delete, input items. `response_lists` has what is asked of many."""

from collections.abc import Iterator, Sequence
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from app.api import dialects, openapi, pages
from app.api.create import create
from app.api.deps import CallerDep, IncludeDep, ResourcesDep
from app.api.following import follow_stream
from app.api.identifiers import response_key, response_not_found
from app.api.json_bodies import as_json
from app.api.limits import open_stream
from app.api.scopes import READS, WRITES
from app.domain.audit import Action
from app.domain.gates import hide
from app.domain.items import join, split
from app.domain.jobs import Mode
from app.domain.response import TERMINAL
from app.domain.shown import shown
from app.domain.tenancy import Caller
from app.domain.turn import with_output
from app.errors import Conflict, InvalidRequest
from app.generation.cancel import cancel
from app.resources import Resources
from app.store import attempts, lifecycle, lineage, responses
from app.store.responses import StoredResponse

router = APIRouter(prefix="/v1/responses", tags=["responses"])


@router.post("", dependencies=WRITES, **openapi.CREATE)
async def create_response(request: Request, caller: CallerDep, it: ResourcesDep) -> Response:
    """Generate a response.

    The answer is the whole response, or a stream of events where `stream` is true. It is stored
    unless `store` is false, and can then be continued by `previous_response_id`.

    With an `Idempotency-Key` header, the same request is answered the same for a day, generating once.
    With `Holdfast-Dialect: openrouter` it is answered as OpenRouter's clients read it.
    """
    dialect = dialects.asked(request)
    return dialects.answer(await create(request, caller, it), dialect, it)


@router.get("/{response_id}", dependencies=READS, **openapi.GET)
async def get_response(
    request: Request,
    response_id: str,
    caller: CallerDep,
    it: ResourcesDep,
    include: IncludeDep,
    stream: Annotated[bool, Query(description="Follow the events of a background response.")] = False,
    starting_after: Annotated[int | None, Query(description="Only events beyond this number.")] = None,
    include_obfuscation: Annotated[bool, Query(description="Show the padding of deltas.")] = True,
) -> Response:
    """Read a stored response, exactly as `create` answered it, or follow its events.

    A stream begins after `starting_after`, has the same bytes as the first one had, and goes on live
    until the response has ended. Any number of readers may follow, in any process.
    """
    dialect = dialects.asked(request)
    if not stream:
        return dialects.answer(await read_response(response_id, caller, it, include), dialect, it)
    stored = await _read(response_id, caller, it)
    _check_streamable(stored)
    open_stream(caller, it)
    it.readings.note(caller, Action.RESPONSE_READ, stored.id, {"part": "events"})
    after = -1 if starting_after is None else starting_after
    followed = follow_stream(stored.id, caller, it, after=after, is_padded=include_obfuscation)
    return dialects.answer(followed, dialect, it)


async def read_response(
    response_id: str, caller: Caller, it: Resources, include: frozenset[str] = frozenset()
) -> Response:
    """A stored response, with the gated fields that `include` names."""
    stored = await _read(response_id, caller, it)
    it.readings.note(caller, Action.RESPONSE_READ, stored.id)
    output = shown(stored.output_blob, stored.output_gated, include)
    return Response(with_output(stored.body, output), media_type="application/json")


@router.delete("/{response_id}", dependencies=WRITES, **openapi.DELETE)
async def delete_response(response_id: str, caller: CallerDep, it: ResourcesDep) -> dict[str, str | bool]:
    """Delete a stored response. It cannot be read or continued any more; its descendants can."""
    key = response_key(response_id)
    async with it.db.begin(caller) as tx:
        row = await lifecycle.lock(tx, key)
        if row is None:
            raise response_not_found(response_id)
        if row["status"] not in TERMINAL:
            raise Conflict("Cannot delete an in-flight response.")
        await responses.delete(tx, key)
    return {"id": response_id, "object": "response", "deleted": True}


@router.post("/{response_id}/cancel", dependencies=WRITES, **openapi.CANCEL)
async def cancel_response(
    request: Request, response_id: str, caller: CallerDep, it: ResourcesDep
) -> Response:
    """Cancel a background response. The answer is final: no completion can follow it."""
    dialect = dialects.asked(request)
    key, ttl_seconds = response_key(response_id), it.settings.ephemeral_result_seconds
    if not await cancel(it.db, caller, key, ttl_seconds=ttl_seconds):
        raise response_not_found(response_id)
    await it.ring_deliveries()
    stored = await _read(response_id, caller, it)
    return dialects.answer(Response(stored.json(), media_type="application/json"), dialect, it)


@router.get("/{response_id}/attempts", dependencies=READS, **openapi.ATTEMPTS)
async def list_attempts(response_id: str, caller: CallerDep, it: ResourcesDep) -> Response:
    """List who tried to generate a background response, and how each attempt ended. An extension of ours."""
    stored = await _read(response_id, caller, it)
    async with it.db.read(caller) as tx:
        found = await attempts.list_of(tx, stored.id)
    it.readings.note(caller, Action.RESPONSE_READ, stored.id, {"part": "attempts"})
    return as_json({"object": "list", "data": found})


@router.get("/{response_id}/input_items", dependencies=READS, **openapi.INPUT_ITEMS)
async def list_input_items(
    response_id: str,
    caller: CallerDep,
    it: ResourcesDep,
    include: IncludeDep,
    limit: pages.Limit = 20,
    order: pages.Order = "desc",
    after: pages.After = None,
) -> Response:
    """List everything the model was given: the history with its outputs, then the new input."""
    stored = await _read(response_id, caller, it)
    if Mode.EPHEMERAL in stored.mode:
        # Kept for polling alone (behaviour 66); its history would be left out here.
        raise response_not_found(response_id)
    it.readings.note(caller, Action.RESPONSE_READ, stored.id, {"part": "input_items"})
    async with it.db.read(caller) as tx:
        ancestry = await lineage.ancestry(tx, stored.id)
    before = [blob for blob, _ in ancestry.turns[:-1]] if ancestry else []
    walk = _walk([*before, stored.input_blob], newest_first=order == "desc")
    page, has_more = pages.cut(walk, after=after, limit=limit)
    objects = [join([item]) for item in hide(page, include)]
    return pages.envelope(objects, [item["id"] for item in page], has_more=has_more)


async def _read(response_id: str, caller: CallerDep, it: ResourcesDep) -> StoredResponse:
    async with it.db.read(caller) as tx:
        stored = await responses.get(tx, response_key(response_id))
    if stored is None:
        raise response_not_found(response_id)
    return stored


def _walk(blobs: Sequence[bytes], *, newest_first: bool) -> Iterator[dict[str, object]]:
    """Items in order, decoding a turn only when the walk reaches it."""
    for blob in reversed(blobs) if newest_first else blobs:
        items = split(blob)
        yield from reversed(items) if newest_first else items


def _check_streamable(stored: StoredResponse) -> None:
    """Only what was created with both flags has events to follow (surface notes §8.6)."""
    for mode, flag in ((Mode.BACKGROUND, "background"), (Mode.STREAMED, "stream")):
        if mode not in stored.mode:
            raise InvalidRequest(
                f"This response cannot be streamed because it was not created with {flag}=true.",
                param="stream",
            )
