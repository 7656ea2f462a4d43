"""/v1/conversations: create, read, list, describe, delete, fork; their items."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import orjson
from fastapi import APIRouter, Request, Response
from pydantic import TypeAdapter

from app import ids
from app.api import idempotency, openapi, pages
from app.api.deps import CallerDep, IncludeDep, ResourcesDep
from app.api.identifiers import conversation_cursor, conversation_key
from app.api.json_bodies import read_params
from app.api.metadata_filters import metadata_filters
from app.api.schemas import conversation as schemas
from app.api.scopes import READS, WRITES
from app.domain.audit import Action
from app.domain.conversation import Conversation
from app.domain.gates import hide
from app.domain.items import InputItems, join, normalise
from app.generation import conversations as generation
from app.generation.history import not_found
from app.store import conversation_items, conversations, outbox
from app.store.db import Tx

router = APIRouter(prefix="/v1/conversations", tags=["conversations"])


@router.post("", dependencies=WRITES, **openapi.CREATE_CONVERSATION)
async def create_conversation(request: Request, caller: CallerDep, it: ResourcesDep) -> Response:
    """Begin a conversation, with up to 20 items if there are any yet. The body may be empty."""
    params = await _params(request, it, schemas.CREATE, schemas.CreateConversation)
    turn_id, items = _normalised(params)

    async def write(tx: Tx) -> bytes:
        return _json(await generation.create(tx, params.get("metadata") or {}, turn_id, items))

    return await idempotency.once(request, params, caller, it, write)


@router.get("", dependencies=READS, **openapi.LIST_CONVERSATIONS)
async def list_conversations(
    request: Request,
    caller: CallerDep,
    it: ResourcesDep,
    limit: pages.Limit = 20,
    order: pages.Order = "desc",
    after: pages.After = None,
) -> Response:
    """List conversations, newest first; only those with all the given metadata. An extension of ours.

    The order is that of creation; the cursor is exact even for conversations of one microsecond.
    """
    wanted, cursor = metadata_filters(request), conversation_cursor(after)
    async with it.db.read(caller) as tx:
        found = await conversations.page(
            tx, limit=limit + 1, newest_first=order == "desc", after=cursor, metadata=wanted
        )
    page = found[:limit]
    objects = [_json(conversation) for conversation in page]
    names = [ids.conversation_id(conversation.id) for conversation in page]
    return pages.envelope(objects, names, has_more=len(found) > limit)


@router.get("/{conversation_id}", dependencies=READS, **openapi.GET_CONVERSATION)
async def get_conversation(conversation_id: str, caller: CallerDep, it: ResourcesDep) -> Response:
    """Read a conversation without its items."""
    key = conversation_key(conversation_id)
    async with it.db.read(caller) as tx:
        found = await conversations.get(tx, key)
    answer = _found(found, conversation_id)
    it.readings.note(caller, Action.CONVERSATION_READ, key)
    return answer


@router.post("/{conversation_id}", dependencies=WRITES, **openapi.UPDATE_CONVERSATION)
async def update_conversation(
    request: Request, conversation_id: str, caller: CallerDep, it: ResourcesDep
) -> Response:
    """Replace the whole metadata of a conversation; null empties it."""
    key = conversation_key(conversation_id)
    params = await _params(request, it, schemas.UPDATE, schemas.UpdateConversation)
    metadata = params["metadata"] or {}
    async with it.db.begin(caller) as tx:
        answer = _found(await conversations.update(tx, key, metadata), conversation_id)
        await outbox.note(tx, Action.CONVERSATION_UPDATED, key, {"metadata": len(metadata)})
    return answer


@router.delete("/{conversation_id}", dependencies=WRITES, **openapi.DELETE_CONVERSATION)
async def delete_conversation(
    conversation_id: str, caller: CallerDep, it: ResourcesDep
) -> dict[str, str | bool]:
    """Delete a conversation. Responses that were made in it stay, and so do its forks."""
    key = conversation_key(conversation_id)
    async with it.db.begin(caller) as tx:
        if not await conversations.delete(tx, key):
            raise not_found(conversation_id)
        await outbox.note(tx, Action.CONVERSATION_DELETED, key)
    return {"id": conversation_id, "object": "conversation.deleted", "deleted": True}


@router.post("/{conversation_id}/fork", dependencies=WRITES, **openapi.FORK_CONVERSATION)
async def fork_conversation(
    request: Request, conversation_id: str, caller: CallerDep, it: ResourcesDep
) -> Response:
    """Begin a conversation with the items of this one, up to and including `item_id`. An extension of ours.

    Nothing is copied, and what either does later the other does not see. The metadata is not taken over.
    A response that runs in it meanwhile does not hinder this.
    """
    key = conversation_key(conversation_id)
    params = await _params(request, it, schemas.FORK, schemas.ForkConversation)

    async def write(tx: Tx) -> bytes:
        return _json(await generation.fork(tx, key, params.get("metadata") or {}, params.get("item_id")))

    return await idempotency.once(request, params, caller, it, write)


@router.post("/{conversation_id}/items", dependencies=WRITES, **openapi.ADD_ITEMS)
async def add_items(
    request: Request, conversation_id: str, caller: CallerDep, it: ResourcesDep, include: IncludeDep
) -> Response:
    """Append up to 20 items to a conversation; all of them, or none. Refused while a response runs in it."""
    key = conversation_key(conversation_id)
    params = await _params(request, it, schemas.ADD, schemas.AddItems)
    turn_id, items = _normalised(params)

    async def write(tx: Tx) -> bytes:
        await generation.add_items(tx, key, turn_id, items)
        return bytes(_listed(items.items, include, has_more=False).body)

    return await idempotency.once(request, params, caller, it, write)


@router.get("/{conversation_id}/items", dependencies=READS, **openapi.LIST_ITEMS)
async def list_items(
    conversation_id: str,
    caller: CallerDep,
    it: ResourcesDep,
    include: IncludeDep,
    limit: pages.Limit = 20,
    order: pages.Order = "desc",
    after: pages.After = None,
) -> Response:
    """List the items of a conversation. Their order is their places', whatever the clocks said."""
    key = conversation_key(conversation_id)
    async with it.db.read(caller) as tx:
        line = await conversations.find(tx, key)
        if line is None:
            raise not_found(conversation_id)
        cursor = None if after is None else await conversation_items.cursor(tx, line.last, after)
        if after is not None and cursor is None:
            raise pages.unknown_cursor(after)
        found = await conversation_items.page(
            tx, line.last, after=cursor, newest_first=order == "desc", limit=limit + 1
        )
    it.readings.note(caller, Action.CONVERSATION_READ, key, {"part": "items"})
    return _listed([stored.item for stored in found[:limit]], include, has_more=len(found) > limit)


@router.get("/{conversation_id}/items/{item_id}", dependencies=READS, **openapi.GET_ITEM)
async def get_item(
    conversation_id: str, item_id: str, caller: CallerDep, it: ResourcesDep, include: IncludeDep
) -> Response:
    """Read one item of a conversation."""
    key = conversation_key(conversation_id)
    async with it.db.read(caller) as tx:
        line = await conversations.find(tx, key)
        if line is None:
            raise not_found(conversation_id)
        found = await conversation_items.find(tx, line.last, [item_id])
    if item_id not in found:
        raise generation.item_not_found(item_id)
    it.readings.note(caller, Action.CONVERSATION_READ, key, {"part": "items", "item": item_id})
    return Response(join(hide([found[item_id].item], include)), media_type="application/json")


@router.delete("/{conversation_id}/items/{item_id}", dependencies=WRITES, **openapi.DELETE_ITEM)
async def delete_item(conversation_id: str, item_id: str, caller: CallerDep, it: ResourcesDep) -> Response:
    """Take an item out of a conversation, which is answered. Refused while a response runs in it.

    Turns to come are not given it; responses that were given it keep it, and so do forks.
    """
    key = conversation_key(conversation_id)
    await generation.remove_item(it.db, caller, key, item_id)
    async with it.db.read(caller) as tx:
        return _found(await conversations.get(tx, key), conversation_id)


async def _params(
    request: Request, it: ResourcesDep, adapter: TypeAdapter[Any], declared: type
) -> dict[str, Any]:
    return await read_params(request, it, adapter, declared, items="items")


def _normalised(params: Mapping[str, Any]) -> tuple[UUID, InputItems]:
    """The items of a body in the form in which they are kept, and the turn that they will be."""
    turn_id = ids.new_uuid()
    return turn_id, normalise(params.get("items") or [], turn_id, param="items")


def _listed(items: Any, include: frozenset[str], *, has_more: bool) -> Response:
    objects = [join([item]) for item in hide(items, include)]
    return pages.envelope(objects, [item["id"] for item in items], has_more=has_more)


def _json(conversation: Conversation) -> bytes:
    return orjson.dumps(
        {
            "id": ids.conversation_id(conversation.id),
            "object": "conversation",
            "created_at": ids.created_at(conversation.id),
            "metadata": dict(conversation.metadata),
        }
    )


def _answer(conversation: Conversation) -> Response:
    return Response(_json(conversation), media_type="application/json")


def _found(conversation: Conversation | None, conversation_id: str) -> Response:
    if conversation is None:
        raise not_found(conversation_id)
    return _answer(conversation)
