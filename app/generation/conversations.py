"""What is done to a conversation beside running responses in it: items added, taken out, forked.

Each is one transaction under a lock of the conversation's row, so it neither interleaves with another
nor with a response; while a response runs, what writes is refused. What adds something is given its
transaction, because the `Idempotency-Key` that keeps it from being added twice belongs into the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from uuid import UUID

from app import ids
from app.domain import calls, compaction, tokens
from app.domain.audit import Action, content_digest
from app.domain.conversation import Conversation
from app.domain.gates import Gated
from app.domain.items import NO_ITEMS, InputItems, aliases, split
from app.domain.response import Status
from app.domain.tenancy import Caller
from app.domain.turn import Continuation, Place, Turn
from app.errors import NotFound
from app.generation.accept import client_ids, refuse_duplicates
from app.generation.history import locked, not_found
from app.store import conversation_items, conversations, lifecycle, lineage, outbox
from app.store.conversation_items import Last, StoredItem
from app.store.conversations import Line
from app.store.db import Database, ReadTx, Tx

_BODY = b"{}"
"""Of a turn that is no response."""


async def create(tx: Tx, metadata: Mapping[str, str], turn_id: UUID, items: InputItems) -> Conversation:
    """Make a conversation with its first items, if there are any.

    Args:
        turn_id: the turn that the items were normalised for.
    """
    refuse_duplicates(client_ids(items.items, turn_id), (), param="items")
    conversation = Conversation(ids.new_uuid(), metadata)
    first = Place(conversation.id, 0)
    await conversations.insert(tx, conversation, first.next() if items.items else first)
    if items.items:
        await lifecycle.append_items(tx, _turn(turn_id, first, items, Last(Continuation(), 0)))
    await _note_items(tx, Action.CONVERSATION_CREATED, conversation.id, turn_id, items)
    return conversation


async def add_items(tx: Tx, conversation_id: UUID, turn_id: UUID, items: InputItems) -> None:
    """Append items as one turn.

    Raises:
        NotFound: there is no such conversation.
        Conflict: a response runs in it.
        InvalidRequest: it has an item of the same id.
    """
    brought = client_ids(items.items, turn_id)
    here = (await _locked(tx, conversation_id)).last
    known = await conversation_items.find(tx, here, brought) if brought else ()
    refuse_duplicates(brought, known, param="items")
    before = await conversation_items.last(tx, here)
    turn = _turn(turn_id, here.next(), items, before)
    if turn.continuation and turn.continuation.orphans:
        # Rare: outputs whose calls are not the last turn's. Only now is the history decoded.
        left = _paired([*await _history(tx, here), items.blob])
        turn = replace(turn, continuation=replace(left, is_compacted=turn.continuation.is_compacted))
    await lifecycle.append_items(tx, turn)
    await conversations.advance(tx, conversation_id)
    await _note_items(tx, Action.CONVERSATION_EXTENDED, conversation_id, turn_id, items)


async def remove_item(db: Database, caller: Caller, conversation_id: UUID, item_id: str) -> None:
    """Take an item out for all turns to come.

    Raises:
        NotFound: there is no such conversation, or no such item in it.
        Conflict: a response runs in it.
    """
    async with db.begin(caller) as tx:
        here = (await _locked(tx, conversation_id)).last
        found = await _found(tx, here, item_id)
        note = here.next()
        await conversation_items.remove(tx, conversation_id, [found], since_seq=note.seq)
        await lifecycle.append_items(tx, _note(note, await _measured(tx, note)))
        await conversations.advance(tx, conversation_id)
        await outbox.note(tx, Action.CONVERSATION_REDUCED, conversation_id, {"item": item_id})


async def fork(
    tx: Tx, conversation_id: UUID, metadata: Mapping[str, str], item_id: str | None
) -> Conversation:
    """Make a conversation of the items up to one of them, all by default, without copying any.

    What either conversation does later, the other does not see. Forking is reading: it waits for nobody.

    Raises:
        NotFound: there is no such conversation, or no such item in it.
    """
    line = await conversations.find(tx, conversation_id)
    if line is None:
        raise not_found(ids.conversation_id(conversation_id))
    cut = await _found(tx, line.last, item_id) if item_id else None
    conversation = Conversation(ids.new_uuid(), metadata)
    upto = _upto(line.last, cut)
    note = Place(conversation.id, upto.seq + 1, (*upto.forks, (upto.chain_id, upto.seq)))
    await conversations.insert(tx, conversation, note.next())
    await conversation_items.copy_removed(tx, line.last, conversation.id)
    if cut:
        await _cut_off(tx, upto, cut, conversation.id)
    await lifecycle.append_items(tx, _note(note, await _measured(tx, note)))
    source = {"source": ids.conversation_id(conversation_id), "item": item_id}
    await outbox.note(tx, Action.CONVERSATION_CREATED, conversation.id, source)
    return conversation


async def _note_items(
    tx: Tx, action: Action, conversation_id: UUID, turn_id: UUID, items: InputItems
) -> None:
    """Note what a client has put into a conversation, with the digest of the turn that holds it."""
    count = len(items.items)
    data = {"items": count, "turn": turn_id.hex} if count else {"items": 0}
    digest = content_digest(_BODY, items.blob) if count else None
    await outbox.note(tx, action, conversation_id, data, digest=digest)


async def _locked(tx: Tx, conversation_id: UUID) -> Line:
    line = await conversations.lock(tx, conversation_id)
    if line is None:
        raise not_found(ids.conversation_id(conversation_id))
    if not line.is_free:
        raise locked()
    return line


async def _found(tx: ReadTx, here: Place, item_id: str) -> StoredItem:
    found = await conversation_items.find(tx, here, [item_id])
    if item_id not in found:
        raise item_not_found(item_id)
    return found[item_id]


def item_not_found(item_id: str) -> NotFound:
    """The same words whether it never was, was taken out, or is in another conversation (behaviour 130)."""
    return NotFound(f"Item with id '{item_id}' not found in conversation.")


def _upto(last: Place, cut: StoredItem | None) -> Place:
    """The last place that a fork takes, on whichever line it is."""
    if cut is None or cut.turn.chain_id == last.chain_id:
        return replace(last, seq=cut.turn.seq if cut else last.seq)
    taken = [chain for chain, _ in last.forks].index(cut.turn.chain_id)
    return Place(cut.turn.chain_id, cut.turn.seq, last.forks[:taken])


async def _cut_off(tx: Tx, upto: Place, cut: StoredItem, fork: UUID) -> None:
    """Take the items behind the cut, in the same turn, out of the fork."""
    turn = await conversation_items.page(tx, upto, after=cut, newest_first=False, limit=MAX_TURN_ITEMS)
    await conversation_items.remove(tx, fork, turn, since_seq=0)


MAX_TURN_ITEMS = 1 << 20
"""More than any body can hold."""


async def _history(tx: ReadTx, here: Place) -> list[bytes]:
    """The items of every turn up to a place."""
    ancestry = await lineage.before(tx, None, here.next())
    return [blob for blob, _ in ancestry.turns] if ancestry else []


async def _measured(tx: ReadTx, here: Place) -> Last:
    """What a conversation leaves for the next turn, found by looking at all of it."""
    blobs = await _history(tx, here)
    return Last(_paired(blobs), sum(map(tokens.estimate, blobs)))


def _paired(blobs: Sequence[bytes]) -> Continuation:
    """What all items together leave open, and which outputs among them answer nothing."""
    waiting, orphans = calls.pair({}, chain.from_iterable(map(split, blobs)))
    return Continuation(waiting, orphans=orphans)


def _note(place: Place, left: Last) -> Turn:
    """A turn without items, so that nothing is decided by time: it says what the turns after it find."""
    turn = _turn(ids.new_uuid(), place, NO_ITEMS, left)
    return replace(turn, continuation=left.continuation)


def _turn(turn_id: UUID, place: Place, items: InputItems, before: Last) -> Turn:
    waiting, unexplained = calls.pair(before.continuation.open_calls, items.items)
    orphans = {**before.continuation.orphans, **unexplained}
    is_compacted = compaction.is_in(items.items)
    left = Continuation(waiting, orphans=orphans, is_compacted=is_compacted)
    return Turn(
        id=turn_id,
        parent=None,
        place=place,
        status=Status.COMPLETED,
        model="",
        input_blob=items.blob,
        input_count=len(items.items),
        input_gated=items.gated,
        output_blob=b"",
        output_count=0,
        output_gated=Gated.NONE,
        body=_BODY,
        continuation=left if waiting or orphans or is_compacted else None,
        context_tokens=before.tokens + tokens.estimate(items.blob),
        conversation=place.chain_id,
        aliases=aliases(items.items, turn_id, is_listed=True),
    )
