"""Law L7 in the store: another tenant's rows are as if they were not there, in every function."""

import importlib
import inspect
import pkgutil
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

import app.store
from app import ids
from app.domain.audit import Action, Checkpoint, Head, Note, Record
from app.domain.conversation import Conversation, Lock
from app.domain.facts import Term, Usage
from app.domain.idempotency import IdempotencyKey, KeyClaim
from app.domain.jobs import Claim, Ending, Mode, NewJob
from app.domain.prompts import Prompt
from app.domain.response import Status
from app.domain.search import Filters
from app.domain.signing import Signer
from app.domain.tenancy import Caller
from app.domain.turn import Continuation, Place, Turn
from app.domain.webhooks import DeliveryClaim, Outcome, State
from app.generation.ledger import Ledger
from app.store import (
    attempts,
    audit,
    branches,
    contents,
    conversation_items,
    conversation_locks,
    conversations,
    day_stats,
    entries,
    events,
    exports,
    facts,
    idempotency,
    items,
    lifecycle,
    lineage,
    outbox,
    prompts,
    rate_limits,
    relatives,
    responses,
    search,
    stats,
    surroundings,
    webhook_deliveries,
    webhook_endpoints,
)
from app.store.codec import CODEC, compress
from app.store.db import Database, ReadTx, Tx
from app.store.tables import OF_TENANTS
from app.store.webhook_endpoints import Changes
from tests.store.turns import a_turn, add, context, put, rows

Look = Callable[[Tx, Turn], Awaitable[object]]


async def enqueue(tx: Tx, turn: Turn) -> int:
    turn = replace(turn, status=Status.QUEUED)
    return await lifecycle.enqueue(
        tx, [NewJob(turn, mode=Mode.BACKGROUND, priority=0, event_count=0, request=b"{}")], max_queued=1
    )


async def put_in_queue(tx: Tx, turn: Turn) -> int:
    turn = replace(turn, status=Status.QUEUED)
    job = NewJob(turn, Mode.BACKGROUND | Mode.STREAMED, 0, 2, b"{}", frames=b"event: x\n\n")
    return await entries.put_in_queue(tx, [job], max_queued=1)


async def finish(tx: Tx, turn: Turn) -> bool:
    claim = Claim(tx.tenant_id, turn.id, 1)
    ended = await lifecycle.finish(tx, Ending(claim, turn, event_count=5, shape=None, ttl_seconds=1))
    return ended is not None


async def finish_each(tx: Tx, turn: Turn) -> bool:
    claim = Claim(tx.tenant_id, turn.id, 1)
    [ended] = await lifecycle.finish_each(tx, [Ending(claim, turn, event_count=5, shape=None, ttl_seconds=1)])
    return ended is not None


async def end(tx: Tx, turn: Turn) -> None:
    nothing = {"body": compress(b'{"model":"m"}'), "request": compress(b"{}"), "items": compress(b"")}
    row = {"id": turn.id, "codec": CODEC, "conversation_id": None, **nothing}
    await lifecycle.end(tx, row, Status.CANCELLED, event_count=2, ttl_seconds=1, error=None)


def use_limits(tx: Tx) -> Awaitable[object]:
    return rate_limits.use(tx, requests=timedelta(seconds=1), tokens=timedelta(seconds=1))


LOOKS: dict[str, tuple[Look, object]] = {
    "responses.get": (lambda tx, turn: responses.get(tx, turn.id), None),
    "responses.delete": (lambda tx, turn: responses.delete(tx, turn.id), False),
    "responses.status": (lambda tx, turn: responses.status(tx, turn.id), None),
    "responses.shape": (lambda tx, turn: responses.shape(tx, turn.id), None),
    "lifecycle.append": (lifecycle.append, None),
    "lifecycle.append_each": (lambda tx, turn: lifecycle.append_each(tx, [(turn, None)]), None),
    "lifecycle.enqueue": (enqueue, 1),
    "entries.put_in_queue": (put_in_queue, 1),
    "lineage.ancestry": (lambda tx, turn: lineage.ancestry(tx, turn.id), None),
    "lineage.before": (lambda tx, turn: lineage.before(tx, turn.id, turn.place.next()), None),
    "items.find": (lambda tx, turn: items.find(tx, [ids.item_id("message", turn.id, 0)]), {}),
}
"""Each function of the store, applied to a turn, and what a stranger gets to see."""

OF_RUNS: dict[str, tuple[Look, object]] = {
    "lifecycle.lock": (lambda tx, turn: lifecycle.lock(tx, turn.id), None),
    "lifecycle.finish": (finish, False),
    "lifecycle.finish_each": (finish_each, False),
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


async def hooked(db: Database, caller: Caller) -> Turn:
    """A turn whose id is also that of an endpoint, and of an event that is being delivered there."""
    turn = a_turn()
    async with db.begin_system() as tx:
        await tx._driver.execute(
            f"""
            insert into webhook_endpoints (tenant_id, id, event_types, name, url, secret_hint, secret)
            values ({caller.tenant_id}, '{turn.id}', '{{response.completed}}', 'n', 'https://x', 'h', 's');
            insert into webhook_deliveries (tenant_id, endpoint_id, event_id, event_type, attempt, tries)
            values ({caller.tenant_id}, '{turn.id}', '{turn.id}', 'response.completed', 1, 1);
            insert into webhook_attempts (tenant_id, endpoint_id, event_id, attempt)
            values ({caller.tenant_id}, '{turn.id}', '{turn.id}', 1)
            """
        )
    return turn


async def unhooked(db: Database, caller: Caller) -> Turn:
    """The same with an attempt that has ended, so that it may be replayed."""
    turn = await hooked(db, caller)
    async with db.begin_system() as tx:
        await tx._driver.fetch("update webhook_attempts set ended_at = now() where event_id = $1", turn.id)
    return turn


async def hooks(db: Database, caller: Caller) -> list[object]:
    """All that is kept of this tenant's webhooks."""
    async with db.begin_system() as tx:
        return [
            await tx._driver.fetch(f"select * from {table} where tenant_id = $1", caller.tenant_id)
            for table in OF_TENANTS
            if table.startswith("webhook_")
        ]


async def create_endpoint(tx: Tx, _: Turn) -> bool:
    given = Changes("name", "https://example.com", ["response.failed"])
    made = await webhook_endpoints.create(tx, ids.new_uuid(), given, sealed=b"s", secret_hint="h", most=99)
    return made is not None


def delivering(tx: Tx, turn: Turn) -> DeliveryClaim:
    return DeliveryClaim(tx.tenant_id, turn.id, turn.id, 1)


OF_WEBHOOKS: dict[str, tuple[Look, object]] = {
    "webhook_endpoints.create": (create_endpoint, True),
    "webhook_endpoints.get": (lambda tx, turn: webhook_endpoints.get(tx, turn.id), None),
    "webhook_endpoints.page": (lambda tx, _: webhook_endpoints.page(tx, after=None, limit=9), []),
    "webhook_endpoints.update": (
        lambda tx, turn: webhook_endpoints.update(tx, turn.id, Changes(name="other")),
        None,
    ),
    "webhook_endpoints.rotate": (
        lambda tx, turn: webhook_endpoints.rotate(tx, turn.id, sealed=b"t", secret_hint="i", keeps_old=True),
        None,
    ),
    "webhook_endpoints.delete": (lambda tx, turn: webhook_endpoints.delete(tx, turn.id), False),
    "webhook_endpoints.target": (lambda tx, turn: webhook_endpoints.target(tx, turn.id), None),
    "webhook_deliveries.settle": (
        lambda tx, turn: webhook_deliveries.settle(
            tx,
            delivering(tx, turn),
            Outcome("delivered", 200),
            state=State.DELIVERED,
            pause_seconds=None,
            rest_seconds=1,
        ),
        False,
    ),
    "webhook_deliveries.hand_back": (
        lambda tx, turn: webhook_deliveries.hand_back(tx, delivering(tx, turn)),
        None,
    ),
    "webhook_deliveries.get": (lambda tx, turn: webhook_deliveries.get(tx, turn.id, turn.id), None),
    "webhook_deliveries.attempts_of": (
        lambda tx, turn: webhook_deliveries.attempts_of(tx, turn.id, turn.id),
        [],
    ),
    "webhook_deliveries.page": (
        lambda tx, turn: webhook_deliveries.page(tx, turn.id, limit=9, newest_first=True),
        [],
    ),
}
"""The same for an endpoint, to which an event is being delivered."""

OF_REPLAYS: dict[str, tuple[Look, object]] = {
    "webhook_deliveries.replay": (
        lambda tx, turn: webhook_deliveries.replay(tx, turn.id, turn.id),
        False,
    ),
}
"""The same for a delivery that waits."""


PROMPT = "pmpt_mine"


def prompt_of(turn: Turn) -> Prompt:
    """A prompt whose key is known from a turn; its id every tenant may have."""
    return Prompt(turn.id, PROMPT, "", {}, latest=1, pinned=None)


async def keep_prompt(tx: Tx, turn: Turn) -> bool:
    return await prompts.create(tx, replace(prompt_of(turn), key=ids.new_uuid()), {}) is not None


def change_prompt(tx: Tx, turn: Turn) -> Awaitable[object]:
    return prompts.update(tx, replace(prompt_of(turn), name="changed"))


OF_PROMPTS: dict[str, tuple[Look, object]] = {
    "prompts.create": (keep_prompt, True),
    "prompts.extend": (lambda tx, _: prompts.extend(tx, PROMPT, {}), None),
    "prompts.find": (lambda tx, _: prompts.find(tx, PROMPT), None),
    "prompts.is_deleted": (lambda tx, _: prompts.is_deleted(tx, PROMPT), None),
    "prompts.lock": (lambda tx, _: prompts.lock(tx, PROMPT), None),
    "prompts.update": (change_prompt, None),
    "prompts.delete": (lambda tx, _: prompts.delete(tx, PROMPT), None),
    "prompts.page": (lambda tx, _: prompts.page(tx, limit=9, newest_first=True, after=None), []),
    "prompts.versions": (
        lambda tx, turn: prompts.versions(tx, turn.id, limit=9, newest_first=True, after=None),
        [],
    ),
}
"""The same for a prompt."""


PLACE = Checkpoint(1 << 40, datetime(2026, 11, 21, tzinfo=UTC), b"hash")
NOTE = Note(PLACE.at, Action.KEY_REVOKED, None, None, None, "{}")
TODAY = datetime.now(UTC).date()


def days(turn: Turn) -> stats.Asked:
    return stats.Asked(TODAY - timedelta(days=1), TODAY + timedelta(days=2), model=turn.model)


def known(turn: Turn) -> facts.Found:
    """What might be found of a turn."""
    names = ("previous_id", "fork_chains", "conversation_id", "finished_at", "status_before")
    row = dict.fromkeys(names) | {"id": turn.id, "chain_id": turn.id, "model": "other"}
    row |= {"seq": 0, "status": 2, "attempt": 0, "mode": 0}
    return facts.Found(row, Usage(), {(Term.TOOL, "tool", "")}, "words", {})


async def lock_head(tx: Tx) -> object:
    """Without the time, which is nobody's secret."""
    locked = await audit.lock_head(tx)
    return locked.head, locked.unsigned


def find(turn: Turn, **changes: Any) -> Filters:
    return Filters(model=turn.model, **changes)


async def knows(tx: Tx, turn: Turn) -> bool:
    return bool(await facts.read(tx, [turn.id], {}))


async def weighs(tx: Tx, turn: Turn) -> bool:
    """Whether it knows how large the response is, by which it would part it from others."""
    return bool(await tx.fetch(facts._sizes, ids=[turn.id]))


async def whole_count(tx: Tx, turn: Turn) -> int:
    return (await day_stats.whole(tx, days(turn))).count


OF_TRAILS: dict[str, tuple[Look, object]] = {
    "outbox.note": (lambda tx, turn: outbox.note(tx, Action.RESPONSE_DELETED, turn.id), None),
    "outbox.note_many": (
        lambda tx, turn: outbox.note_many(tx, [(Action.RESPONSE_READ, turn.id, {})]),
        None,
    ),
    "audit.is_pending": (lambda tx, _: audit.is_pending(tx), False),
    "audit.pending": (lambda tx, _: audit.pending(tx), 0),
    "audit.head": (lambda tx, _: audit.head(tx), Head()),
    "audit.state": (lambda tx, _: audit.state(tx), audit.State(Head(), (0, None), 0, (0, None))),
    "audit.last_data": (lambda tx, _: audit.last_data(tx, Action.RESPONSE_CREATED, "{"), None),
    "audit.page": (lambda tx, _: audit.page(tx, limit=9, newest_first=True), []),
    "audit.checkpoints": (lambda tx, _: audit.checkpoints(tx, after=0, limit=9), []),
    "contents.find": (lambda tx, turn: contents.find(tx, [turn.id]), {}),
    "facts.read": (knows, False),
    "facts.portions": (weighs, False),
    "search.find": (lambda tx, turn: search.find(tx, find(turn), limit=9), search.Page([], has_more=False)),
    "search.recent": (lambda tx, _: search.recent(tx, limit=9), search.Page([], has_more=False)),
    "search.find_whole": (
        lambda tx, turn: search.find_whole(tx, find(turn), limit=9),
        search.Page([], has_more=False),
    ),
    "stats.groups": (lambda tx, turn: stats.groups(tx, days(turn), "day"), []),
    "day_stats.whole": (whole_count, 0),
    "day_stats.day_counts": (
        lambda tx, turn: day_stats.day_counts(tx, days(turn), "status", [Status.COMPLETED]),
        [],
    ),
    "branches.child_counts": (lambda tx, turn: branches.child_counts(tx, [turn.id], most=9), {}),
    "branches.places_before": (
        lambda tx, turn: branches.places_before(tx, turn.id, ids.new_uuid(), places=0),
        None,
    ),
    "relatives.get": (lambda tx, turn: relatives.get(tx, turn.id), None),
    "relatives.ancestors": (lambda tx, turn: relatives.ancestors(tx, turn.id, below=9, limit=9), []),
    "relatives.children": (lambda tx, turn: relatives.children(tx, turn.id, after=None, limit=9), []),
    "surroundings.standing": (lambda tx, turn: surroundings.standing(tx, turn.id), None),
    "surroundings.items_at": (
        lambda tx, turn: surroundings.items_at(tx, (turn.place.chain_id, turn.place.seq)),
        None,
    ),
    "surroundings.glances": (lambda tx, turn: surroundings.glances(tx, [turn.id], most_bytes=99), {}),
    "surroundings.responses_among": (lambda tx, turn: surroundings.responses_among(tx, [turn.id]), set()),
    "exports.last_id": (lambda tx, _: exports.last_id(tx), None),
    "exports.waiting": (lambda tx, _: exports.waiting(tx), exports.Waiting(exports._NONE, 0)),
    "exports.endings": (lambda tx, turn: exports.endings(tx, [turn.id]), {}),
    "exports.checkpoint_before": (
        lambda tx, _: exports.checkpoint_before(tx, datetime(3026, 1, 1, tzinfo=UTC)),
        None,
    ),
}
"""The same for what is known of a response, and for what was done."""

OF_THE_LEDGER: dict[str, tuple[Look, object]] = {
    "audit.lock_head": (lambda tx, _: lock_head(tx), (Head(), 0)),
    "audit.take": (lambda tx, _: audit.take(tx, limit=9), []),
    "audit.append": (
        lambda tx, _: audit.append(tx, [Record(tx.tenant_id, 1 << 40, NOTE, b"before", b"hash")]),
        None,
    ),
    "audit.checkpoint": (lambda tx, _: audit.checkpoint(tx, PLACE), None),
    "facts.put": (lambda tx, turn: facts.put(tx, [known(turn)], {}), None),
    "facts.count": (lambda tx, turn: facts.count(tx, [known(turn)]), None),
    "facts.forget": (lambda tx, turn: facts.forget(tx, [turn.id]), None),
}
"""What no request may do: the ledger acts for a tenant, but not as one."""


async def recorded(db: Database, caller: Caller) -> Turn:
    """A turn between two others, of which facts and records are made; and something that was noted since."""
    first = await add(db, caller)
    turn = await add(db, caller, parent=first)
    await add(db, caller, parent=turn)
    ledger = Ledger(db, Signer(bytes(32)))
    await ledger.settle(caller)
    async with db.begin_system() as tx:
        mine = tx.of(caller.tenant_id)
        locked = await audit.lock_head(mine)
        await audit.checkpoint(mine, Checkpoint(locked.head.seq, locked.now, locked.head.hash))
        await outbox.note(mine, Action.RESPONSE_CREATED, first.id)
    return turn


async def trail(db: Database, caller: Caller) -> list[object]:
    """All that the tables hold of a tenant's trail and of what is found."""
    async with db.begin_system() as tx:
        return [
            await tx._driver.fetch(
                f"select * from {table} t where tenant_id = $1 order by t::text", caller.tenant_id
            )
            for table in OF_TENANTS
            if table.startswith("audit_") or table in SEARCHED
        ]


SEARCHED = {"response_facts", "response_terms", "response_words", "response_stats"}


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
    looked = LOOKS | OF_RUNS | OF_CONVERSATIONS | OF_KEYS | OF_TRAILS | OF_THE_LEDGER
    looked |= OF_WEBHOOKS | OF_REPLAYS | OF_PROMPTS
    assert of_a_tenant() == set(looked)


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


async def check_for_its_owner_alone(
    db: Database,
    caller: Caller,
    stranger: Caller,
    turn: Turn,
    which: tuple[Look, object],
    held: Callable[[], Awaitable[object]],
) -> None:
    """A stranger is told nothing and changes nothing of what is held; its owner is, or does."""
    look, nothing = which
    before = await held()
    async with db.begin(stranger) as tx:
        assert await look(tx, turn) == nothing
    assert await held() == before
    async with db.begin(caller) as tx:
        seen = await look(tx, turn)
    assert seen != nothing or await held() != before, "its owner may"


@pytest.mark.parametrize("name", OF_RUNS)
async def test_a_stranger_neither_sees_nor_disturbs_a_run(
    db: Database, caller: Caller, stranger: Caller, name: str
) -> None:
    turn = await running(db, caller)
    await check_for_its_owner_alone(
        db, caller, stranger, turn, OF_RUNS[name], lambda: everything(db, caller, turn)
    )


@pytest.mark.parametrize("name", OF_CONVERSATIONS)
async def test_a_stranger_neither_sees_nor_disturbs_a_conversation(
    db: Database, caller: Caller, stranger: Caller, name: str
) -> None:
    turn = await talking(db, caller)
    await check_for_its_owner_alone(
        db, caller, stranger, turn, OF_CONVERSATIONS[name], lambda: tables(db, caller)
    )


@pytest.mark.parametrize("name", OF_KEYS)
async def test_a_stranger_neither_sees_nor_disturbs_a_key(
    db: Database, caller: Caller, stranger: Caller, name: str
) -> None:
    turn = a_turn()
    claim, _ = OF_KEYS["idempotency.claim"]
    async with db.begin(caller) as tx:
        await claim(tx, turn)
    await check_for_its_owner_alone(db, caller, stranger, turn, OF_KEYS[name], lambda: keys(db, caller))


@pytest.mark.parametrize("name", OF_WEBHOOKS | OF_REPLAYS)
async def test_a_stranger_neither_sees_nor_disturbs_a_webhook(
    db: Database, caller: Caller, stranger: Caller, name: str
) -> None:
    turn = await (unhooked if name in OF_REPLAYS else hooked)(db, caller)
    await check_for_its_owner_alone(
        db, caller, stranger, turn, (OF_WEBHOOKS | OF_REPLAYS)[name], lambda: hooks(db, caller)
    )


@pytest.mark.parametrize("name", OF_PROMPTS)
async def test_a_stranger_neither_sees_nor_disturbs_a_prompt(
    db: Database, caller: Caller, stranger: Caller, name: str
) -> None:
    turn = await prompted(db, caller)
    await check_for_its_owner_alone(
        db, caller, stranger, turn, OF_PROMPTS[name], lambda: templates(db, caller)
    )


@pytest.mark.parametrize("name", OF_TRAILS)
async def test_a_stranger_neither_sees_nor_disturbs_a_trail(
    db: Database, caller: Caller, stranger: Caller, name: str
) -> None:
    turn = await recorded(db, caller)
    await check_for_its_owner_alone(db, caller, stranger, turn, OF_TRAILS[name], lambda: trail(db, caller))


@pytest.mark.parametrize("name", OF_THE_LEDGER)
async def test_settling_for_one_leaves_others_alone(
    db: Database, caller: Caller, stranger: Caller, name: str
) -> None:
    turn = await recorded(db, caller)
    before = await trail(db, caller)
    look, nothing = OF_THE_LEDGER[name]
    async with db.begin_system() as tx:
        assert await look(tx.of(stranger.tenant_id), turn) == nothing
    assert await trail(db, caller) == before
    async with db.begin_system() as tx:
        seen = await look(tx.of(caller.tenant_id), turn)
    assert seen != nothing or await trail(db, caller) != before, "its own are"


@pytest.mark.parametrize("name", OF_THE_LEDGER)
async def test_no_request_may_settle(db: Database, caller: Caller, name: str) -> None:
    turn = await recorded(db, caller)
    look, _ = OF_THE_LEDGER[name]
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with db.begin(caller) as tx:
            await look(tx, turn)


async def prompted(db: Database, caller: Caller) -> Turn:
    """The turn that names a prompt of two versions by its key."""
    turn = a_turn()
    async with db.begin(caller) as tx:
        await prompts.create(tx, prompt_of(turn), {"instructions": "secret"})
        await prompts.extend(tx, PROMPT, {})
    return turn


async def templates(db: Database, caller: Caller) -> list[object]:
    """What is kept of this tenant's prompts."""
    async with db.read(caller) as tx:
        return [
            await tx._driver.fetch(
                f"select * from {table} where tenant_id = $1 order by 2, 3, 4", caller.tenant_id
            )
            for table in ("prompts", "prompt_versions")
        ]


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
