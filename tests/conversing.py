"""Conversations in the test's own process: made, read and looked at below the API."""

from typing import Any
from uuid import UUID

from app import ids
from app.domain.items import normalise
from app.domain.tenancy import Caller
from app.generation import conversations as generation
from app.store import conversation_items, conversations
from app.store.db import Database
from tests.background import execute


async def a_conversation(db: Database, caller: Caller, *items: Any) -> str:
    """The id of a conversation of these items; a text is a user's message."""
    put = [{"role": "user", "content": item} if isinstance(item, str) else item for item in items]
    turn_id = ids.new_uuid()
    async with db.begin(caller) as tx:
        made = await generation.create(tx, {}, turn_id, normalise(put, turn_id))
    return ids.conversation_id(made.id)


def key_of(name: str) -> UUID:
    key = ids.parse_conversation_id(name)
    assert key
    return key


async def add(db: Database, caller: Caller, name: str, text: str) -> None:
    """Append a user's message."""
    await add_items(db, caller, name, {"role": "user", "content": text})


async def add_items(db: Database, caller: Caller, name: str, *items: dict[str, Any]) -> None:
    """Append items as one turn."""
    turn_id = ids.new_uuid()
    async with db.begin(caller) as tx:
        await generation.add_items(tx, key_of(name), turn_id, normalise(list(items), turn_id))


async def items_of(db: Database, caller: Caller, name: str) -> list[dict[str, Any]]:
    """All items, oldest first."""
    async with db.read(caller) as tx:
        line = await conversations.find(tx, key_of(name))
        assert line
        found = await conversation_items.page(tx, line.last, after=None, newest_first=False, limit=1000)
    return [each.item for each in found]


async def said_in(db: Database, caller: Caller, name: str) -> list[str]:
    """What messages say, and what else there is by its type."""
    items = await items_of(db, caller, name)
    return [item["content"][0]["text"] if item["type"] == "message" else item["type"] for item in items]


async def is_locked(db: Database, caller: Caller, name: str) -> bool:
    async with db.read(caller) as tx:
        line = await conversations.find(tx, key_of(name))
    assert line
    return not line.is_free


async def holder(database_url: str, name: str) -> UUID | None:
    """The response that has the lock, whether or not its lease is over."""
    [[found]] = await execute(
        database_url, "select running_id from conversations where id = $1", key_of(name)
    )
    return found


async def take_away(database_url: str, name: str) -> None:
    """Give the lock to a response that nobody knows, as when its lease ran out."""
    statement = (
        "update conversations set running_id = $1, lease_until = now() + interval '1 minute' where id = $2"
    )
    await execute(database_url, statement, ids.new_uuid(), key_of(name))
