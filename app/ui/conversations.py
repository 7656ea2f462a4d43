"""/ui/conversations: the list, and one conversation to be read from its beginning or from its end."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse

from app import ids
from app.api import pages
from app.api.deps import CallerDep, ResourcesDep
from app.api.identifiers import conversation_cursor, conversation_key
from app.api.scopes import READS
from app.domain.audit import Action
from app.generation.conversations import item_not_found
from app.generation.history import not_found
from app.store import conversation_items, conversations, surroundings
from app.store.conversation_items import StoredItem
from app.ui import addresses, first_steps, turns
from app.ui.entries import Entry
from app.ui.pieces import Allowance
from app.ui.rendering import in_thread, page, text
from app.ui.words import minted_at

router = APIRouter(prefix="/conversations")

PAGE = 50

After = Annotated[str | None, Query()]


@dataclass(frozen=True, slots=True)
class Stretch:
    """Items of one turn that stand together on the page."""

    response: str
    """The response that they came from; empty for items that were added."""
    at: float
    entries: Sequence[Entry]


@router.get("", dependencies=READS)
async def list_conversations(
    request: Request, caller: CallerDep, it: ResourcesDep, after: After = None
) -> Response:
    """Conversations, newest first."""
    cursor = conversation_cursor(after)
    async with it.db.read(caller) as tx:
        found = await conversations.page(tx, limit=PAGE + 1, newest_first=True, after=cursor, metadata={})
    rows = [
        {
            "id": ids.conversation_id(each.id),
            "created_at": minted_at(each.id),
            "metadata": sorted(each.metadata.items()),
        }
        for each in found[:PAGE]
    ]
    steps = None if rows else first_steps.of_conversation(request, caller, it)
    return page(
        request, "conversations.html", rows=rows, after=after, has_more=len(found) > PAGE, first_steps=steps
    )


@router.get("/{conversation_id}", dependencies=READS)
async def show_conversation(
    request: Request,
    conversation_id: str,
    caller: CallerDep,
    it: ResourcesDep,
    after: After = None,
    order: Annotated[Literal["asc", "desc"], Query()] = "asc",
) -> Response:
    """One conversation with a page of its items, and where each came from."""
    key = conversation_key(conversation_id)
    async with it.db.read(caller) as tx:
        conversation, line = await conversations.get(tx, key), await conversations.find(tx, key)
        if conversation is None or line is None:
            raise not_found(conversation_id)
        cursor = None if after is None else await conversation_items.cursor(tx, line.last, after)
        if after is not None and cursor is None:
            raise pages.unknown_cursor(after)
        found = await conversation_items.page(
            tx, line.last, after=cursor, newest_first=order == "desc", limit=PAGE + 1
        )
        made = await surroundings.responses_among(tx, {stored.turn_id for stored in found})
    it.readings.note(caller, Action.CONVERSATION_READ, key)

    def render() -> str:
        return text(
            request,
            "conversation.html",
            name=conversation_id,
            created_at=minted_at(key),
            metadata=sorted(conversation.metadata.items()),
            is_free=line.is_free,
            stretches=_stretches(found[:PAGE], made, is_newest_first=order == "desc"),
            order=order,
            after=after,
            next_after=found[PAGE - 1].id if len(found) > PAGE else None,
        )

    return HTMLResponse(await in_thread(render))


@router.get("/{conversation_id}/items/{item_id:path}", dependencies=READS)
async def show_item(
    request: Request, conversation_id: str, item_id: str, caller: CallerDep, it: ResourcesDep
) -> Response:
    """One item with all of its text, as it was written."""
    key = conversation_key(conversation_id)
    async with it.db.read(caller) as tx:
        if (line := await conversations.find(tx, key)) is None:
            raise not_found(conversation_id)
        found = await conversation_items.find(tx, line.last, [item_id])
    if item_id not in found:
        raise item_not_found(item_id)
    it.readings.note(caller, Action.CONVERSATION_READ, key)
    values = {"home": addresses.conversation(conversation_id), "name": conversation_id}
    item = found[item_id].item
    return HTMLResponse(
        await in_thread(lambda: text(request, "item.html", entries=turns.whole([item]), **values))
    )


def _stretches(found: Sequence[StoredItem], made: set[UUID], *, is_newest_first: bool) -> list[Stretch]:
    """The items in their order, turn by turn; read together, so that calls find their answers."""
    items = list(reversed(found)) if is_newest_first else list(found)
    read = turns.read([stored.item for stored in items], [], allowance=Allowance(), most=PAGE)
    stretches = [
        Stretch(ids.response_id(turn_id) if turn_id in made else "", minted_at(turn_id), list(entries))
        for turn_id, entries in groupby(read.given, key=lambda entry: items[entry.place].turn_id)
    ]
    return stretches[::-1] if is_newest_first else stretches
