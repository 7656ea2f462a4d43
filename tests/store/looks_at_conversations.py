"""Each function of the store that is for conversations, applied to one in which a response runs."""

from collections.abc import Awaitable
from uuid import UUID

from app import ids
from app.domain.conversation import Conversation, Lock
from app.domain.tenancy import Caller
from app.domain.turn import Continuation, Place, Turn
from app.store import (
    conversation_items,
    conversation_locks,
    conversations,
    items,
    lifecycle,
)
from app.store.db import Database, Tx
from tests.store.looks import Look
from tests.store.turns import a_turn

HOLDER = ids.new_uuid()


def next_turn(turn: Turn) -> Turn:
    """What the response that holds the conversation would append."""
    return a_turn(id=HOLDER, place=turn.place.next(), conversation=turn.conversation)


def here(turn: Turn) -> UUID:
    assert turn.conversation
    return turn.conversation


def take(tx: Tx, turn: Turn) -> Awaitable[object]:
    lock = Lock(tx.tenant_id, here(turn), ids.new_uuid())
    return conversation_locks.take(tx, lock, lease_seconds=60, budget=None)


async def remove(tx: Tx, turn: Turn) -> None:
    gone = conversation_items.StoredItem(turn.place, turn.id, 1, {})
    await conversation_items.remove(tx, here(turn), [gone], since_seq=1)


OF_CONVERSATIONS: dict[str, tuple[Look, object]] = {
    "conversations.insert": (
        lambda tx, turn: conversations.insert(tx, Conversation(ids.new_uuid(), {}), turn.place),
        None,
    ),
    "conversations.get": (lambda tx, turn: conversations.get(tx, here(turn)), None),
    "conversations.update": (lambda tx, turn: conversations.update(tx, here(turn), {"a": "c"}), None),
    "conversations.delete": (lambda tx, turn: conversations.delete(tx, here(turn)), False),
    "conversations.page": (
        lambda tx, turn: conversations.page(tx, limit=9, newest_first=True, after=None, metadata={"a": "b"}),
        [],
    ),
    "conversations.find": (lambda tx, turn: conversations.find(tx, here(turn)), None),
    "conversations.lock": (lambda tx, turn: conversations.lock(tx, here(turn)), None),
    "conversations.advance": (lambda tx, turn: conversations.advance(tx, here(turn)), None),
    "conversation_items.last": (
        lambda tx, turn: conversation_items.last(tx, turn.place),
        conversation_items.Last(Continuation(), 0),
    ),
    "conversation_items.find": (
        lambda tx, turn: conversation_items.find(
            tx, turn.place, [ids.item_id("message", turn.id, 1), "msg_mine"]
        ),
        {},
    ),
    "conversation_items.cursor": (
        lambda tx, turn: conversation_items.cursor(tx, turn.place, ids.item_id("message", turn.id, 1)),
        None,
    ),
    "conversation_items.page": (
        lambda tx, turn: conversation_items.page(tx, turn.place, after=None, newest_first=True, limit=9),
        [],
    ),
    "conversation_items.remove": (remove, None),
    "conversation_items.copy_removed": (
        lambda tx, turn: conversation_items.copy_removed(tx, turn.place, ids.new_uuid()),
        None,
    ),
    "conversation_locks.take": (take, None),
    "conversation_locks.read": (
        lambda tx, turn: conversation_locks.read(tx, here(turn), budget=None),
        None,
    ),
    "conversation_locks.promise": (
        lambda tx, turn: conversation_locks.promise(tx, here(turn), HOLDER),
        False,
    ),
    "conversation_locks.give_back": (
        lambda tx, turn: conversation_locks.give_back(tx, here(turn), HOLDER),
        None,
    ),
    "conversation_locks.release": (lambda tx, turn: conversation_locks.release(tx, here(turn), HOLDER), None),
    "items.name": (lambda tx, turn: items.name(tx, turn.id, [(1, "msg_too")], is_listed=True), None),
    "lifecycle.append_items": (lambda tx, turn: lifecycle.append_items(tx, next_turn(turn)), None),
    "lifecycle.append_locked": (lambda tx, turn: lifecycle.append_locked(tx, next_turn(turn)), True),
}
"""The same for a conversation in which a response runs."""


async def talking(db: Database, caller: Caller) -> Turn:
    """The only turn of a locked conversation: an item of a client's own id, which was taken out, and another."""
    conversation = Conversation(ids.new_uuid(), {"a": "b"})
    place = Place(conversation.id, 0)
    turn = a_turn(place=place, conversation=conversation.id, context_tokens=5, aliases=((0, "msg_mine"),))
    gone = conversation_items.StoredItem(place, turn.id, 0, {})
    async with db.begin(caller) as tx:
        await conversations.insert(tx, conversation, place.next())
        await lifecycle.append_items(tx, turn)
        await conversation_items.remove(tx, conversation.id, [gone], since_seq=0)
        lock = Lock(caller.tenant_id, conversation.id, HOLDER)
        assert await conversation_locks.take(tx, lock, lease_seconds=60, budget=None)
    return turn


async def tables(db: Database, caller: Caller) -> list[object]:
    """What all tables of conversations hold of this tenant's."""
    async with db.read(caller) as tx:
        return [
            await tx._driver.fetch(
                f"select * from {table} where tenant_id = $1 order by 2, 3", caller.tenant_id
            )
            for table in ("responses", "conversations", "removed_items", "item_aliases")
        ]
