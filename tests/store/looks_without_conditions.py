"""All that is asked of the store, by a transaction whose statements have forgotten whose rows these are."""

import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from app import ids
from app.domain import keys as domain_keys
from app.domain.audit import Action
from app.domain.conversation import Lock
from app.domain.response import Status
from app.domain.search import Filters
from app.domain.tenancy import Caller
from app.domain.turn import Turn
from app.store import (
    audit,
    conversation_items,
    conversation_locks,
    conversations,
    facts,
    items,
    lifecycle,
    lineage,
    prompts,
    search,
    search_statements,
    stats,
    webhook_deliveries,
)
from app.store.db import Database, Row, SystemTx, Tx
from app.store.statements import Statement
from app.store.tables import OF_TENANTS, metadata
from tests.store.looks import LOOKS, OF_KEYS, OF_RUNS, Look, running
from tests.store.looks_at_conversations import HOLDER, OF_CONVERSATIONS, here, talking
from tests.store.looks_at_trails import OF_THE_LEDGER, OF_TRAILS, days, recorded
from tests.store.looks_at_webhooks import OF_PROMPTS, OF_REPLAYS, OF_WEBHOOKS, hooked, prompted, unhooked
from tests.store.turns import a_turn, add

CONDITION = re.compile(r"(?:\w+\.)?tenant_id = (\$\d+::\w+)")
"""A comparison with the tenant that a transaction brings; those of columns with each other are no filter."""


def stripped(sql: str) -> str:
    """The statement of somebody who forgot whose rows these are; its parameters keep their types."""
    return CONDITION.sub(r"(\1 is not null)", sql)


class Careless(Tx):
    """A transaction whose statements have lost every condition on the tenant; and which ones it was given."""

    __slots__ = ("asked",)

    def __init__(self, driver: Any, tenant_id: int) -> None:
        super().__init__(driver, tenant_id)
        self.asked = list[Statement]()

    async def fetch(self, statement: Statement, **values: Any) -> Sequence[Row]:
        self.asked.append(statement)
        arguments = statement.arguments(values | {"tenant_id": self.tenant_id, "key_id": None})
        return await self._driver.fetch(stripped(statement.sql), *arguments)

    async def fetch_each(self, statement: Statement, rows: Sequence[Mapping[str, Any]]) -> Sequence[Row]:
        return [found for row in rows for found in await self.fetch(statement, **row)]


@asynccontextmanager
async def undone(db: Database, caller: Caller | None) -> AsyncGenerator[Any]:
    """A transaction, for one tenant or for all, that leaves nothing behind."""
    async with db.read(caller) if caller else db.begin_system() as tx:
        transaction: Any = tx._driver.transaction()
        await transaction.start()
        try:
            yield tx
        finally:
            await transaction.rollback()


HELD = (
    " union all ".join(
        f"select '{table}', t::text from {table} t where tenant_id = $1"
        for table in metadata.tables
        if table in OF_TENANTS
    )
    + " order by 1, 2"
)


async def held(tx: Tx | SystemTx, caller: Caller) -> list[object]:
    """All that the tables hold of a tenant, as whoever may see everything sees it."""
    await tx._driver.execute("reset role")
    return [*await tx._driver.fetch(HELD, caller.tenant_id)]


Maker = Callable[[Database, Caller], Awaitable[Turn]]


KEY = domain_keys.mint()


OTHERWISE: dict[str, tuple[Look, object]] = {
    "an ancestry of few tokens": (lambda tx, turn: lineage.ancestry(tx, turn.id, budget=9), None),
    "before, of few tokens": (
        lambda tx, turn: lineage.before(tx, turn.id, turn.place.next(), floor_tokens=0),
        None,
    ),
}
"""The statements that the looks above leave out: other orders, filters and budgets."""


OTHERWISE_TALKING: dict[str, tuple[Look, object]] = {
    "conversations, oldest first": (
        lambda tx, turn: conversations.page(tx, limit=9, newest_first=False, after=None, metadata={}),
        [],
    ),
    "conversations, newest first": (
        lambda tx, turn: conversations.page(tx, limit=9, newest_first=True, after=None, metadata={}),
        [],
    ),
    "conversations with metadata, oldest first": (
        lambda tx, turn: conversations.page(tx, limit=9, newest_first=False, after=None, metadata={"a": "b"}),
        [],
    ),
    "items, oldest first": (
        lambda tx, turn: conversation_items.page(tx, turn.place, after=None, newest_first=False, limit=9),
        [],
    ),
    "a reading of few tokens": (lambda tx, turn: conversation_locks.read(tx, here(turn), budget=9), None),
    "a lock with a reading of few tokens": (
        lambda tx, turn: conversation_locks.take(
            tx, Lock(tx.tenant_id, here(turn), ids.new_uuid()), lease_seconds=60, budget=9
        ),
        None,
    ),
    "an item by its client's id": (
        lambda tx, turn: tx.fetch(items._by_aliases, ids=["msg_mine"]),
        [],
    ),
    "whether an item was here": (
        lambda tx, turn: tx.fetch(
            conversation_items._was_here, conversation_id=here(turn), turn_id=turn.id, place=0
        ),
        [],
    ),
    "whether a turn is stored": (lambda tx, turn: tx.fetch(lifecycle._is_stored, id=turn.id), []),
    "whether a conversation is there": (lambda tx, turn: tx.fetch(lifecycle._is_alive, id=here(turn)), []),
    "attaching what ran in the background": (
        lambda tx, turn: tx.fetch(lifecycle._attach, id=turn.id, holder=HOLDER, conversation_id=here(turn)),
        [],
    ),
}


OTHERWISE_PROMPTED: dict[str, tuple[Look, object]] = {
    "prompts, oldest first": (
        lambda tx, _: prompts.page(tx, limit=9, newest_first=False, after=None),
        [],
    ),
    "versions of a prompt, oldest first": (
        lambda tx, turn: prompts.versions(tx, turn.id, limit=9, newest_first=False, after=None),
        [],
    ),
}


OTHERWISE_RECORDED: dict[str, tuple[Look, object]] = {
    **{
        f"records, {'newest' if newest else 'oldest'} first, by {by}": (
            lambda tx, turn, newest=newest, by=by, value=value: audit.page(
                tx, limit=9, newest_first=newest, by=by, value=turn.id if by == "subject" else value
            ),
            [],
        )
        for newest in (True, False)
        for by, value in (
            (None, None),
            ("action", Action.RESPONSE_CREATED),
            ("subject", None),
            ("key_id", KEY.id),
        )
    },
    "responses by all that is known, oldest first": (
        lambda tx, turn: search.find(
            tx, Filters(model=turn.model, is_background=False), limit=9, newest_first=False
        ),
        search.Page([], has_more=False),
    ),
    "all responses, oldest first": (
        lambda tx, _: search.recent(tx, limit=9, newest_first=False),
        search.Page([], has_more=False),
    ),
    "all responses": (lambda tx, _: search.find(tx, Filters(), limit=9), search.Page([], has_more=False)),
    "responses by their words": (
        lambda tx, _: search.find(tx, Filters(words="hi"), limit=9),
        search.Page([], has_more=False),
    ),
    "responses that run": (
        lambda tx, _: search.find(tx, Filters(status=Status.QUEUED), limit=9),
        search.Page([], has_more=False),
    ),
    "responses by a tool": (
        lambda tx, _: search.find(tx, Filters(tool="none"), limit=9),
        search.Page([], has_more=False),
    ),
    "a page of whole responses, oldest first": (
        lambda tx, turn: search.find_whole(tx, Filters(model=turn.model), limit=9, newest_first=False),
        search.Page([], has_more=False),
    ),
    "the oldest response": (lambda tx, _: tx.fetch(search_statements.ENDS[True]), []),
    "the newest response": (lambda tx, _: tx.fetch(search_statements.ENDS[False]), []),
    "what was recorded last": (
        lambda tx, _: tx.fetch(audit._last_recorded, action=Action.RESPONSE_CREATED, beginning="{"),
        [],
    ),
    "what has left no note": (
        lambda tx, _: tx.fetch(facts._adopt, floor=UUID(int=0), action=Action.RESPONSE_ADOPTED),
        [],
    ),
    "what has ended without a note": (
        lambda tx, _: tx.fetch(facts._adopt_ended, action=Action.RESPONSE_ADOPTED),
        [],
    ),
    "statistics by user": (lambda tx, turn: stats.groups(tx, days(turn), "user"), []),
}


OTHERWISE_TOLD: dict[str, tuple[Look, object]] = {
    "deliveries, oldest first": (
        lambda tx, turn: webhook_deliveries.page(tx, turn.id, limit=9, newest_first=False),
        [],
    ),
}


def refused(look: Look) -> Look:
    """A look that the role may not take."""

    async def looked(tx: Tx, turn: Turn) -> None:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with tx._driver.transaction():
                await look(tx, turn)

    return looked


async def unnoted(db: Database, caller: Caller) -> Turn:
    """A turn of an earlier release: no note was left with it."""
    turn = await add(db, caller)
    async with db.begin_system() as tx:
        await tx._driver.fetch("delete from audit_outbox where subject = $1", turn.id)
    return turn


async def with_key(db: Database, caller: Caller) -> Turn:
    """A turn whose request has claimed an idempotency key, and runs."""
    turn = a_turn()
    claim_key, _ = OF_KEYS["idempotency.claim"]
    async with db.begin(caller) as tx:
        await claim_key(tx, turn)
    return turn


async def ended_elsewhere(db: Database, caller: Caller) -> Turn:
    """A turn that an earlier release has ended: its facts do not know."""
    turn = await recorded(db, caller)
    async with db.begin_system() as tx:
        await tx._driver.execute(f"update response_facts set status = 0 where id = '{turn.id}'")
    return turn


MAKERS: dict[str, Maker] = {
    **dict.fromkeys(LOOKS | OTHERWISE, add),
    **dict.fromkeys(OF_KEYS, with_key),
    **dict.fromkeys(OF_PROMPTS | OTHERWISE_PROMPTED, prompted),
    **dict.fromkeys(OF_RUNS, running),
    **dict.fromkeys(OF_CONVERSATIONS | OTHERWISE_TALKING, talking),
    **dict.fromkeys(OF_TRAILS | OTHERWISE_RECORDED | OF_THE_LEDGER, recorded),
    **dict.fromkeys(OF_WEBHOOKS | OTHERWISE_TOLD, hooked),
    **dict.fromkeys(OF_REPLAYS, unhooked),
    "what has left no note": unnoted,
    "what has ended without a note": ended_elsewhere,
}


REFUSED: dict[str, tuple[Look, object]] = {
    name: (refused(look), None) for name, (look, _) in OF_THE_LEDGER.items()
}


ALL = (
    LOOKS
    | OF_KEYS
    | OF_PROMPTS
    | OTHERWISE_PROMPTED
    | OF_RUNS
    | OF_CONVERSATIONS
    | OTHERWISE
    | OTHERWISE_TALKING
    | OF_TRAILS
    | OTHERWISE_RECORDED
    | OF_WEBHOOKS
    | OTHERWISE_TOLD
    | OF_REPLAYS
    | REFUSED
)
