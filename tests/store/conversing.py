"""Conversations for tests of the store: each item is told by a word, each writer does what a request would."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import orjson

from app import ids
from app.domain import tokens
from app.domain.conversation import Lock, Reading
from app.domain.items import aliases, join, normalise, split
from app.domain.jobs import Mode, NewJob
from app.domain.response import Status
from app.domain.tenancy import Caller
from app.domain.turn import Ancestry, Turn
from app.generation import conversations as doing
from app.store import conversation_items, conversation_locks, conversations, lifecycle
from app.store.conversation_items import StoredItem
from app.store.conversations import Line
from app.store.db import Database
from tests.background import execute
from tests.store.turns import a_turn

Item = dict[str, Any]


def an_item(word: str, **fields: Any) -> Item:
    return {"role": "user", "content": word, **fields}


def a_message(word: str, turn_id: UUID, place: int) -> Item:
    """The same as it is stored."""
    name = ids.item_id("message", turn_id, place)
    content = [{"type": "input_text", "text": word}]
    return {"id": name, "type": "message", "status": "completed", "role": "user", "content": content}


def words(items: Sequence[Item]) -> list[str]:
    return [item["content"][0]["text"] for item in items]


async def made(db: Database, caller: Caller, *said: str | Item) -> UUID:
    """A conversation with these as its first items."""
    turn_id = ids.new_uuid()
    items = [an_item(each) if isinstance(each, str) else each for each in said]
    async with db.begin(caller) as tx:
        made = await doing.create(tx, {}, turn_id, normalise(items, turn_id))
    return made.id


async def say(db: Database, caller: Caller, conversation_id: UUID, *said: str | Item) -> list[str]:
    """Add items as one turn; their ids."""
    turn_id = ids.new_uuid()
    items = normalise([an_item(each) if isinstance(each, str) else each for each in said], turn_id)
    async with db.begin(caller) as tx:
        await doing.add_items(tx, conversation_id, turn_id, items)
    return [item["id"] for item in items.items]


async def take_out(db: Database, caller: Caller, conversation_id: UUID, item_id: str) -> None:
    await doing.remove_item(db, caller, conversation_id, item_id)


async def fork(db: Database, caller: Caller, conversation_id: UUID, item_id: str | None = None) -> UUID:
    async with db.begin(caller) as tx:
        return (await doing.fork(tx, conversation_id, {}, item_id)).id


async def take(
    db: Database,
    caller: Caller,
    conversation_id: UUID,
    *,
    lease_seconds: float = 30,
    budget: int | None = None,
) -> tuple[Lock, Reading | None]:
    """Ask for the lock for a new response."""
    lock = Lock(caller.tenant_id, conversation_id, ids.new_uuid())
    async with db.autocommit(caller) as tx:
        reading = await conversation_locks.take(tx, lock, lease_seconds=lease_seconds, budget=budget)
    return lock, reading


async def taken(db: Database, caller: Caller, conversation_id: UUID, **how: float) -> tuple[Lock, Ancestry]:
    """Take a lock that is free; and what was read with it."""
    lock, reading = await take(db, caller, conversation_id, **how)  # type: ignore[arg-type]
    assert reading is not None
    assert reading.is_free
    return lock, reading.ancestry


def answering(lock: Lock, ancestry: Ancestry, says: str = "hi", **changes: Any) -> Turn:
    """The response that has this lock, finished: a question and its answer."""
    asked, told = (a_message(f"{says}{mark}", lock.response_id, place) for place, mark in enumerate("?!"))
    counted = sum(tokens.estimate(join([item])) for item in (asked, told))
    turn = a_turn(
        id=lock.response_id,
        parent=None,
        place=ancestry.place.next(),
        input_blob=join([asked]),
        output_blob=join([told]),
        context_tokens=ancestry.tokens + counted,
        conversation=lock.conversation_id,
    )
    return replace(turn, **changes)


def asking(lock: Lock, ancestry: Ancestry, *items: Item, **changes: Any) -> Turn:
    """A response whose input are these items, which bring their ids."""
    given = normalise(list(items), lock.response_id)
    return replace(
        answering(lock, ancestry, **changes),
        input_blob=given.blob,
        input_count=len(given.items),
        aliases=aliases(given.items, lock.response_id, is_listed=True),
    )


async def append(db: Database, caller: Caller, turn: Turn) -> bool:
    async with db.begin(caller) as tx:
        return await lifecycle.append_locked(tx, turn)


async def respond(
    db: Database, caller: Caller, conversation_id: UUID, says: str = "hi", **changes: Any
) -> Turn:
    """A foreground response in the conversation."""
    lock, ancestry = await taken(db, caller, conversation_id)
    turn = answering(lock, ancestry, says, **changes)
    assert await append(db, caller, turn)
    return turn


async def line_of(db: Database, caller: Caller, conversation_id: UUID) -> Line:
    async with db.read(caller) as tx:
        found = await conversations.find(tx, conversation_id)
    assert found is not None
    return found


async def is_free(db: Database, caller: Caller, conversation_id: UUID) -> bool:
    return (await line_of(db, caller, conversation_id)).is_free


async def listed(
    db: Database,
    caller: Caller,
    conversation_id: UUID,
    *,
    after: StoredItem | None = None,
    newest_first: bool = False,
    limit: int = 1000,
) -> list[StoredItem]:
    here = (await line_of(db, caller, conversation_id)).last
    async with db.read(caller) as tx:
        return await conversation_items.page(tx, here, after=after, newest_first=newest_first, limit=limit)


async def found(db: Database, caller: Caller, conversation_id: UUID, *item_ids: str) -> dict[str, StoredItem]:
    here = (await line_of(db, caller, conversation_id)).last
    async with db.read(caller) as tx:
        return await conversation_items.find(tx, here, item_ids)


async def heard(db: Database, caller: Caller, conversation_id: UUID) -> list[str]:
    """The words that a next response would be given; a list of the items says the same."""
    async with db.read(caller) as tx:
        reading = await conversation_locks.read(tx, conversation_id, budget=None)
    assert reading is not None
    items = await listed(db, caller, conversation_id)
    assert given(reading.ancestry) == [stored.item for stored in items]
    return words(given(reading.ancestry))


def given(ancestry: Ancestry) -> list[Item]:
    """The items of a history."""
    return [item for blob, _ in ancestry.turns for item in split(blob)]


async def expire(database_url: str, conversation_id: UUID) -> None:
    """Let the lease of its lock end, as if its holder had been silent for so long."""
    statement = "update conversations set lease_until = now() - interval '1 second' where id = $1"
    await execute(database_url, statement, conversation_id)


async def enqueued(db: Database, caller: Caller, conversation_id: UUID, *, says: str = "hi") -> Turn:
    """A background response that waits in the queue with the conversation's lock."""
    lock, ancestry = await taken(db, caller, conversation_id)
    turn = answering(lock, ancestry, says, status=Status.QUEUED, output_blob=b"", output_count=0)
    body = {**orjson.loads(turn.body), "model": turn.model, "status": "queued", "service_tier": "auto"}
    turn = replace(turn, place=turn.place.elsewhere(turn.id), body=orjson.dumps(body))
    async with db.begin(caller) as tx:
        assert await conversation_locks.promise(tx, conversation_id, turn.id)
        assert await lifecycle.enqueue(
            tx,
            [
                NewJob(
                    turn,
                    mode=Mode.BACKGROUND,
                    priority=0,
                    event_count=0,
                    request=orjson.dumps({"model": turn.model}),
                )
            ],
            max_queued=100,
        )
    return turn


async def delete(db: Database, caller: Caller, conversation_id: UUID) -> None:
    async with db.begin(caller) as tx:
        assert await conversations.delete(tx, conversation_id)


async def lock_of(database_url: str, conversation_id: UUID) -> tuple[UUID | None, Any]:
    """The holder, and how long its lease lasts."""
    statement = "select running_id, lease_until, now() from conversations where id = $1"
    [(holder, until_when, now)] = await execute(database_url, statement, conversation_id)
    return holder, until_when - now if until_when else None
