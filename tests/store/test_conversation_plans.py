"""What the statements of conversations read: never more of a long one than is asked for."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import orjson
import pytest

from app import ids
from app.domain.tenancy import Caller
from app.domain.turn import Place
from app.store import conversation_items, conversation_locks, conversations, items, lineage
from app.store.codec import CODEC, compress
from app.store.db import Database
from app.store.statements import Statement
from tests.background import execute
from tests.store.conversing import an_item, made
from tests.store.test_plans import Node, kinds, walk

TURNS = 5_000
TOKENS = 10
"""Of each turn."""

PLANT = """
    insert into responses (
        tenant_id, id, chain_id, conversation_id, seq, fork_chains, fork_seqs, status, finished_at, codec,
        model, input_count, output_count, input_bytes, input_gated, output_gated, body, items, context_tokens
    )
    select $1, gen_random_uuid(), $2, $2, n, $3, $4, 2, now(), $5, 'm', 1, 0, 100, 0, 0, $6, $6, (n + 1) * $7
    from generate_series($8::integer, $9::integer) n
    returning id, seq
"""
ROW = """
    insert into conversations (tenant_id, id, next_seq, fork_chains, fork_seqs, metadata)
    values ($1, $2, $3, $4, $5, '{}')
"""
REMOVALS = """
    insert into removed_items (tenant_id, conversation_id, turn_id, place, since_seq)
    select $1, $2, gen_random_uuid(), 0, 0 from generate_series(1, $3::integer)
"""
OTHERS = """
    with others as (
        insert into conversations (tenant_id, id, next_seq, metadata)
        select $1, gen_random_uuid(), 0, '{}' from generate_series(1, 3000) returning tenant_id, id
    )
    insert into removed_items (tenant_id, conversation_id, turn_id, place, since_seq)
    select tenant_id, id, gen_random_uuid(), n, 0 from others, generate_series(1, 10) n
"""
ALIASES = """
    insert into item_aliases (tenant_id, turn_id, place, item_id)
    select $1, gen_random_uuid(), 0, 'brought' || n from generate_series(1, $2::integer) n
"""


@dataclass(frozen=True)
class Long:
    """A conversation of many turns, in a table that has others; it was forked after half of them."""

    caller: Caller
    origin: UUID
    id: UUID
    here: Place
    tip: UUID

    @property
    def lines(self) -> dict[str, object]:
        return {"chains": [self.id, self.origin], "seqs": [TURNS - 1, TURNS // 2 - 1]}


@pytest.fixture(scope="module")
def database_url(quiet_database_url: str) -> str:
    """A database of its own: what others have left there would change how plans are made."""
    return quiet_database_url


@pytest.fixture(scope="module", autouse=True)
def long(database_url: str) -> Long:
    return asyncio.run(plant(database_url))


async def plant(database_url: str) -> Long:
    connection: Any = await asyncpg.connect(database_url)
    tenant_id = await connection.fetchval(
        "insert into tenants (name) values (gen_random_uuid()::text) returning id"
    )
    blob = compress(orjson.dumps({"id": "msg_1", "type": "message"}))

    async def line(name: UUID, first: int, last: int, forks: tuple[Any, Any]) -> Any:
        await connection.execute(ROW, tenant_id, name, last + 1, *forks)
        await connection.execute(REMOVALS, tenant_id, name, 50)
        return await connection.fetch(PLANT, tenant_id, name, *forks, CODEC, blob, TOKENS, first, last)

    await connection.execute(OTHERS, tenant_id)
    for _ in range(20):
        await line(ids.new_uuid(), 0, 50, (None, None))
    origin, name, middle = ids.new_uuid(), ids.new_uuid(), TURNS // 2
    await line(origin, 0, middle + 99, (None, None))
    rows = await line(name, middle, TURNS - 1, ([origin], [middle - 1]))
    await connection.execute(ALIASES, tenant_id, 3000)
    await connection.execute("analyze responses, conversations, removed_items, item_aliases")
    await connection.close()
    tip = next(row["id"] for row in rows if row["seq"] == TURNS - 1)
    return Long(Caller(tenant_id), origin, name, Place(name, TURNS - 1, ((origin, middle - 1),)), tip)


async def plan(db: Database, caller: Caller, statement: Statement, **values: object) -> Node:
    """The generic plan with what it really did; what it wrote is undone."""
    arguments = statement.arguments({"tenant_id": caller.tenant_id, **values})
    async with db.read(caller) as tx:
        await tx._driver.execute("begin")
        await tx._driver.execute(f"prepare probe as {statement.sql}")
        call = f"probe({', '.join(map(literal, arguments))})"
        found = await tx._driver.fetch(f"explain (analyze, timing off, format json) execute {call}")
        await tx._driver.execute("deallocate probe")
        await tx._driver.execute("rollback")
    return orjson.loads(next(iter(found[0].values())))[0]["Plan"]


def literal(value: object) -> str:
    if isinstance(value, list):
        return f"'{{{','.join(map(str, value))}}}'"
    return "null" if value is None else f"'{value}'"


def rows_read(node: Node, *tables: str) -> int:
    """How many rows of these tables were looked at, kept or not."""
    looked = (
        (it["Actual Rows"] + it.get("Rows Removed by Filter", 0)) * it["Actual Loops"]
        for it in walk(node)
        if it.get("Relation Name") in tables and it["Node Type"] != "ModifyTable"
    )
    return round(sum(looked))


def indexes(node: Node) -> set[str]:
    return {it["Index Name"] for it in walk(node) if "Index Name" in it and it["Actual Loops"]}


class TestBudget:
    """A context of ten turns, out of five thousand."""

    BUDGET = 10 * TOKENS
    ENOUGH = 3 * 12 + 2
    """Twice what is kept, once to find it and once to read it, and the tip; some of it on another line."""

    READS: Mapping[str, tuple[Statement, Mapping[str, object]]] = {
        "take": (
            conversation_locks._reads[True, True],
            {"budget": BUDGET, "holder": ids.new_uuid(), "lease": timedelta(seconds=1)},
        ),
        "read": (conversation_locks._reads[False, True], {"budget": BUDGET}),
        "chain": (lineage._ancestry[True], {"budget": BUDGET}),
        "before": (lineage._before[True], {"floor": TURNS * TOKENS - BUDGET}),
    }

    @pytest.mark.parametrize("name", READS)
    async def test_what_is_not_sent_is_not_read(self, db: Database, long: Long, name: str) -> None:
        statement, values = self.READS[name]
        key = long.tip if name == "chain" else long.id
        found = await plan(db, long.caller, statement, id=key, **long.lines, **values)
        assert rows_read(found, "responses") <= self.ENOUGH
        assert rows_read(found, "removed_items") <= self.ENOUGH
        assert found["Actual Rows"] <= 10 + 2
        assert {"uq_responses__line", "pk_removed_items"} <= indexes(found)
        assert "Seq Scan" not in kinds(found)

    async def test_a_budget_that_reaches_into_another_line_reads_it_in_part(
        self, db: Database, long: Long
    ) -> None:
        kept = TURNS // 2 + 10
        statement = conversation_locks._reads[False, True]
        found = await plan(db, long.caller, statement, id=long.id, budget=kept * TOKENS)
        assert found["Actual Rows"] <= kept + 2
        async with db.read(long.caller) as tx:
            reading = await conversation_locks.read(tx, long.id, budget=kept * TOKENS)
        assert reading is not None
        assert kept <= len(reading.ancestry.turns) <= kept + 1
        assert not reading.ancestry.is_whole

    async def test_a_refusal_reads_nothing(self, db: Database, database_url: str, long: Long) -> None:
        statement, values = self.READS["take"]
        busy = "update conversations set running_id = id, lease_until = 'infinity' where id = $1"
        await execute(database_url, busy, long.id)
        found = await plan(db, long.caller, statement, id=long.id, **values)
        await execute(database_url, busy.replace("= id", "= null").replace("'infinity'", "null"), long.id)
        assert rows_read(found, "removed_items") == 0
        assert rows_read(found, "responses") <= 1

    async def test_an_uncut_one_is_read_once(self, db: Database, long: Long) -> None:
        found = await plan(db, long.caller, conversation_locks._reads[False, False], id=long.id)
        assert rows_read(found, "responses") == TURNS
        assert found["Actual Rows"] == TURNS
        assert not kinds(found) & {"Seq Scan", "Sort", "Merge Join"}


class TestItems:
    async def test_a_page_reads_what_it_shows(self, db: Database, long: Long) -> None:
        for statement in conversation_items._pages.values():
            found = await plan(
                db,
                long.caller,
                statement,
                chain=long.id,
                first=TURNS // 2,
                last=TURNS - 1,
                limit=21,
                **long.lines,
            )
            assert rows_read(found, "responses") == 21
            assert rows_read(found, "removed_items") == 1, "whether there are any"
            assert {"uq_responses__line", "pk_removed_items"} <= indexes(found)
            assert "Seq Scan" not in kinds(found)

    async def test_items_are_found_by_their_turns(self, db: Database, long: Long) -> None:
        ours = [f"msg_{long.tip.hex}0000", f"msg_{ids.new_uuid().hex}0000"]
        turns = [long.tip, ids.new_uuid()]
        wanted = [*ours, "brought1", "brought2"]
        found = await plan(
            db, long.caller, conversation_items._find, wanted=wanted, ids=ours, turns=turns, **long.lines
        )
        assert rows_read(found, "responses") <= len(wanted)
        assert rows_read(found, "item_aliases") <= len(wanted), "one look for each name"
        assert {"pk_responses", "pk_item_aliases"} <= indexes(found)

    async def test_aliases_are_looked_up_by_their_names(self, db: Database, long: Long) -> None:
        found = await plan(db, long.caller, items._by_aliases, ids=["brought1", "brought2", "nobody"])
        assert rows_read(found, "item_aliases") <= 3, "one look for each name"
        assert rows_read(found, "responses") == 0
        assert "pk_item_aliases" in indexes(found)

    async def test_an_id_that_many_conversations_have_is_read_once(
        self, db: Database, caller: Caller
    ) -> None:
        for _ in range(5):
            await made(db, caller, an_item("a", id="mine"))
        found = await plan(db, caller, items._by_aliases, ids=["mine"])
        assert rows_read(found, "responses") == 1

    async def test_what_the_last_turn_leaves_is_one_row(self, db: Database, long: Long) -> None:
        found = await plan(db, long.caller, conversation_items._last, chain=long.id, seq=TURNS - 1)
        assert (rows_read(found, "responses"), indexes(found)) == (1, {"uq_responses__line"})

    async def test_a_fork_looks_at_the_removals_of_its_lines(self, db: Database, long: Long) -> None:
        found = await plan(db, long.caller, conversation_items._copy, fork=ids.new_uuid(), **long.lines)
        assert rows_read(found, "removed_items") == 100
        assert "ix_removed_items__conversation" in indexes(found)


class TestRows:
    @pytest.mark.parametrize(
        "statement", [conversations._get, conversations._find, conversations._delete, conversations._advance]
    )
    async def test_one_is_found_by_the_primary_key(
        self, db: Database, long: Long, statement: Statement
    ) -> None:
        found = await plan(db, long.caller, statement, id=long.id)
        assert (rows_read(found, "conversations"), indexes(found)) == (1, {"pk_conversations"})
