"""Law L7 in the store: another tenant's rows are as if they were not there, in every function."""

import importlib
import inspect
import pkgutil
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

import app.store
from app import ids
from app.domain.conversation import Conversation, Lock
from app.domain.idempotency import IdempotencyKey, KeyClaim
from app.domain.jobs import Claim, Mode
from app.domain.response import Status
from app.domain.tenancy import Caller
from app.domain.turn import Continuation, Place, Turn
from app.store import (
    attempts,
    conversation_items,
    conversation_locks,
    conversations,
    events,
    idempotency,
    items,
    lifecycle,
    lineage,
    rate_limits,
    responses,
)
from app.store.codec import CODEC, compress
from app.store.db import Database, ReadTx, Tx
from tests.store.turns import a_turn, add, context, put, rows

Look = Callable[[Tx, Turn], Awaitable[object]]


async def enqueue(tx: Tx, turn: Turn) -> bool:
    turn = replace(turn, status=Status.QUEUED)
    return await lifecycle.enqueue(
        tx, turn, mode=Mode.BACKGROUND, priority=0, event_count=0, request=b"{}", max_queued=1
    )


async def finish(tx: Tx, turn: Turn) -> bool:
    claim = Claim(tx.tenant_id, turn.id, 1)
    return await lifecycle.finish(tx, claim, turn, event_count=5, shape=None, ttl_seconds=1)


async def end(tx: Tx, turn: Turn) -> None:
    nothing = {"body": compress(b'{"model":"m"}'), "request": compress(b"{}"), "items": compress(b"")}
    row = {"id": turn.id, "codec": CODEC, "conversation_id": None, **nothing}
    await lifecycle.end(tx, row, Status.CANCELLED, event_count=2, ttl_seconds=1, error=None)


def use_limits(tx: Tx) -> Awaitable[object]:
    return rate_limits.use(tx, requests=timedelta(seconds=1), tokens=timedelta(seconds=1))


LOOKS: dict[str, tuple[Look, object]] = {
    "responses.get": (lambda tx, turn: responses.get(tx, turn.id), None),
    "responses.delete": (lambda tx, turn: responses.delete(tx, turn.id), False),
    "responses.page": (
        lambda tx, turn: responses.page(tx, limit=9, newest_first=True, after=None, model=None),
        [],
    ),
    "responses.status": (lambda tx, turn: responses.status(tx, turn.id), None),
    "responses.shape": (lambda tx, turn: responses.shape(tx, turn.id), None),
    "lifecycle.append": (lifecycle.append, None),
    "lifecycle.enqueue": (enqueue, True),
    "lineage.ancestry": (lambda tx, turn: lineage.ancestry(tx, turn.id), None),
    "lineage.before": (lambda tx, turn: lineage.before(tx, turn.id, turn.place.next()), None),
    "items.find": (lambda tx, turn: items.find(tx, [ids.item_id("message", turn.id, 0)]), {}),
}
"""Each function of the store, applied to a turn, and what a stranger gets to see."""

OF_RUNS: dict[str, tuple[Look, object]] = {
    "lifecycle.lock": (lambda tx, turn: lifecycle.lock(tx, turn.id), None),
    "lifecycle.finish": (finish, False),
    "lifecycle.requeue": (
        lambda tx, turn: lifecycle.requeue(tx, Claim(tx.tenant_id, turn.id, 1), event_count=2),
        False,
    ),
    "lifecycle.put_off": (
        lambda tx, turn: lifecycle.put_off(tx, Claim(tx.tenant_id, turn.id, 1), seconds=60),
        None,
    ),
    "lifecycle.end": (end, None),
    "attempts.end": (
        lambda tx, turn: attempts.end(tx, Claim(tx.tenant_id, turn.id, 1), "mine now"),
        None,
    ),
    "attempts.list_of": (lambda tx, turn: attempts.list_of(tx, turn.id), []),
    "events.put": (lambda tx, turn: events.put(tx, turn.id, 9, b"event: x\n\n"), None),
    "events.read_after": (lambda tx, turn: events.read_after(tx, turn.id, -1), []),
    "events.read_all": (lambda tx, turn: events.read_all(tx, turn.id), b""),
    "events.count": (lambda tx, turn: events.count(tx, turn.id), 0),
    "rate_limits.use": (lambda tx, _: use_limits(tx), rate_limits.Used(1, 1)),
    "rate_limits.look": (lambda tx, _: rate_limits.look(tx), rate_limits.Used(0, 0)),
    "rate_limits.correct": (lambda tx, _: rate_limits.correct(tx, tokens=timedelta(seconds=1)), None),
}
"""The same for a response that is being generated."""


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


def keyed(tx: Tx, turn: Turn) -> KeyClaim:
    return KeyClaim(tx.tenant_id, "key", turn.id)


OF_KEYS: dict[str, tuple[Look, object]] = {
    "idempotency.claim": (
        lambda tx, turn: idempotency.claim(
            tx, IdempotencyKey("key", b"print"), turn.id, lease_seconds=60, retention_seconds=60
        ),
        None,
    ),
    "idempotency.find": (lambda tx, _: idempotency.find(tx, "key"), None),
    "idempotency.end": (lambda tx, turn: idempotency.end(tx, keyed(tx, turn)), False),
    "idempotency.release": (lambda tx, turn: idempotency.release(tx, keyed(tx, turn)), None),
    "idempotency.answer": (lambda tx, _: idempotency.answer(tx, "key", b"{}"), None),
}
"""The same for an idempotency key whose response is being made."""


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


async def running(db: Database, caller: Caller) -> Turn:
    """A turn that is being generated, with two events in its journal."""
    turn = a_turn()
    async with db.begin(caller) as tx:
        await enqueue(tx, turn)
        await events.put(tx, turn.id, 1, b"event: x\n\n" * 2)
        await use_limits(tx)
        claim = "update responses set status = 1, attempt = 1, lease_until = now() where id = $1"
        await tx._driver.fetch(claim, turn.id)
        attempt = (
            "insert into response_attempts (tenant_id, response_id, attempt, owner) values ($1, $2, 1, '')"
        )
        await tx._driver.fetch(attempt, caller.tenant_id, turn.id)
    return turn


async def everything(db: Database, caller: Caller, turn: Turn) -> list[object]:
    """What the tables hold of a turn of this tenant's."""
    async with db.read(caller) as tx:
        return [
            await tx._driver.fetch(
                f"select * from {table} where tenant_id = $1 and {key} = $2", caller.tenant_id, turn.id
            )
            for table, key in (
                ("responses", "id"),
                ("response_events", "response_id"),
                ("response_attempts", "response_id"),
                # Of the tenant itself: it has no turn to be looked up by.
                ("rate_limits", "$2::uuid"),
            )
        ]


def of_a_tenant() -> set[str]:
    """The functions of the store that take one tenant's transaction."""
    found = set[str]()
    for info in pkgutil.iter_modules(app.store.__path__):
        module = importlib.import_module(f"app.store.{info.name}")
        for name, function in inspect.getmembers(module, inspect.iscoroutinefunction):
            first: Any = next(iter(inspect.get_annotations(function).values()), None)
            if function.__module__ == module.__name__ and not name.startswith("_") and first in {ReadTx, Tx}:
                found.add(f"{info.name}.{name}")
    return found


def test_every_function_of_the_store_is_looked_at() -> None:
    assert of_a_tenant() == set(LOOKS) | set(OF_RUNS) | set(OF_CONVERSATIONS) | set(OF_KEYS)


@pytest.fixture
async def stranger(database_url: str, caller: Caller) -> Caller:
    db = await Database.connect(database_url, size=1)
    async with db.begin_system() as tx:
        found = await tx._driver.fetch(
            "insert into tenants (name) values (gen_random_uuid()::text) returning id"
        )
    await db.close()
    return Caller(found[0]["id"])


@pytest.mark.parametrize("name", LOOKS)
async def test_a_stranger_sees_and_changes_nothing(
    db: Database, caller: Caller, stranger: Caller, database_url: str, name: str
) -> None:
    turn = await add(db, caller, "secret")
    before = await rows(database_url, caller)
    look, nothing = LOOKS[name]
    async with db.begin(stranger) as tx:
        assert await look(tx, turn) == nothing
    assert await rows(database_url, caller) == before


@pytest.mark.parametrize("name", OF_RUNS)
async def test_a_stranger_neither_sees_nor_disturbs_a_run(
    db: Database, caller: Caller, stranger: Caller, name: str
) -> None:
    turn = await running(db, caller)
    before = await everything(db, caller, turn)
    look, nothing = OF_RUNS[name]
    async with db.begin(stranger) as tx:
        assert await look(tx, turn) == nothing
    assert await everything(db, caller, turn) == before
    async with db.begin(caller) as tx:
        seen = await look(tx, turn)
    assert seen != nothing or await everything(db, caller, turn) != before, "its owner may"


@pytest.mark.parametrize("name", OF_CONVERSATIONS)
async def test_a_stranger_neither_sees_nor_disturbs_a_conversation(
    db: Database, caller: Caller, stranger: Caller, name: str
) -> None:
    turn = await talking(db, caller)
    before = await tables(db, caller)
    look, nothing = OF_CONVERSATIONS[name]
    async with db.begin(stranger) as tx:
        assert await look(tx, turn) == nothing
    assert await tables(db, caller) == before
    async with db.begin(caller) as tx:
        seen = await look(tx, turn)
    assert seen != nothing or await tables(db, caller) != before, "its owner may"


@pytest.mark.parametrize("name", OF_KEYS)
async def test_a_stranger_neither_sees_nor_disturbs_a_key(
    db: Database, caller: Caller, stranger: Caller, name: str
) -> None:
    turn = a_turn()
    claim, _ = OF_KEYS["idempotency.claim"]
    async with db.begin(caller) as tx:
        await claim(tx, turn)
    before = await keys(db, caller)
    look, nothing = OF_KEYS[name]
    async with db.begin(stranger) as tx:
        assert await look(tx, turn) == nothing
    assert await keys(db, caller) == before
    async with db.begin(caller) as tx:
        seen = await look(tx, turn)
    assert seen != nothing or await keys(db, caller) != before, "its owner may"


async def keys(db: Database, caller: Caller) -> object:
    """What is kept of this tenant's keys."""
    async with db.read(caller) as tx:
        return await tx._driver.fetch("select * from idempotency_keys where tenant_id = $1", caller.tenant_id)


async def test_tenants_with_the_same_ids_do_not_meet(db: Database, caller: Caller, stranger: Caller) -> None:
    """Even where a key repeats: neither the place in a line nor the context is shared."""
    root = await add(db, caller, "mine")
    await put(db, stranger, a_turn("theirs", id=root.id, place=root.place))
    child = await add(db, caller, "my child", root)
    await put(db, stranger, a_turn("their child", id=child.id, place=child.place, parent=None))
    assert await context(db, caller, child) == ["mine", "my child"]
    assert await context(db, stranger, child) == ["theirs", "their child"]
