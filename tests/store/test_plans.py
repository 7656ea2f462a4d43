"""The plans of the hot reads, made once and kept as the pool makes them, on a table that has statistics."""

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg
import orjson
import pytest

from app.domain.tenancy import Caller
from app.store import items, lineage, responses
from app.store.db import Database, ReadTx
from app.store.statements import Statement

# A line of `length` turns. A fork of it may begin in the middle: then it says where it comes from.
PLANT = """
    with line as (select array(select gen_random_uuid() from generate_series(1, $2)) as ids)
    insert into responses (
        tenant_id, id, chain_id, seq, fork_chains, fork_seqs, status, finished_at, codec, model,
        input_count, output_count, input_bytes, input_gated, output_gated, body, items
    )
    select $1, ids[n], ids[1], $3 + n - 1, $4, $5, 2, now(), 1, case n % 50 when 0 then 'rare' else 'usual' end,
           1, 1, 100, 0, 0, decode(repeat(md5(n::text), 3), 'hex'), decode(repeat(md5(n::text), 30), 'hex')
    from line, generate_series(1, $2) n
    returning id, chain_id, seq
"""

Node = Mapping[str, Any]


@dataclass(frozen=True)
class Forest:
    """A tenant with turns of every kind, some thousands in all."""

    caller: Caller
    root: UUID
    tip_of_100: UUID
    tip_of_1000: UUID
    tip_of_forks: UUID


@pytest.fixture(scope="module")
def database_url(quiet_database_url: str) -> str:
    """A database of its own: what others have left there would change how plans are made."""
    return quiet_database_url


@pytest.fixture(scope="module")
def forest(database_url: str) -> Forest:
    return asyncio.run(plant(database_url))


async def plant(database_url: str) -> Forest:
    connection: Any = await asyncpg.connect(database_url)
    tenant_id = await connection.fetchval(
        "insert into tenants (name) values (gen_random_uuid()::text) returning id"
    )

    async def line(length: int, *, start: int = 0, forks: tuple[tuple[UUID, int], ...] = ()) -> Any:
        chains, seqs = [chain for chain, _ in forks] or None, [seq for _, seq in forks] or None
        found = await connection.fetch(PLANT, tenant_id, length, start, chains, seqs)
        return max(found, key=lambda row: row["seq"])

    root, *_ = [await line(1) for _ in range(500)]
    of_100, *_ = [await line(100) for _ in range(20)]
    of_1000 = await line(1000)
    tip, forks = await line(10), tuple[tuple[UUID, int], ...]()
    for start in range(5, 100, 5):
        forks = (*forks, (tip["chain_id"], start - 1))
        tip = await line(10, start=start, forks=forks)
    await connection.execute("analyze responses")
    await connection.close()
    return Forest(Caller(tenant_id), root["id"], of_100["id"], of_1000["id"], tip["id"])


IS_POLICY = "current_setting('holdfast.tenant_id'"
"""Row-level security, found to be one comparison before anything is read."""


async def plan(db: Database, caller: Caller, statement: Statement, **values: object) -> Node:
    async with db.read(caller) as tx:
        return await plan_in(tx, statement, **values)


async def plan_in(tx: ReadTx, statement: Statement, **values: object) -> Node:
    """The tree of the generic plan, with what it really did."""
    arguments = statement.arguments({"tenant_id": tx.tenant_id, **values})
    literals = ", ".join(literal(value) for value in arguments)
    await tx._driver.execute(f"prepare probe as {statement.sql}")
    explain = f"explain (analyze, timing off, format json) execute probe({literals})"
    found = await tx._driver.fetch(explain)
    await tx._driver.execute("deallocate probe")
    top = orjson.loads(next(iter(found[0].values())))[0]["Plan"]
    return top["Plans"][0] if IS_POLICY in top.get("One-Time Filter", "") else top


def literal(value: object) -> str:
    if isinstance(value, list):
        return "array[" + ", ".join(literal(part) for part in value) + "]::uuid[]"
    return str(value) if isinstance(value, int) else f"'{value}'"


def walk(node: Node) -> Iterator[Node]:
    yield node
    for child in node.get("Plans", ()):
        yield from walk(child)


def scans(node: Node) -> list[Node]:
    """The nodes that read the table."""
    return [it for it in walk(node) if it.get("Relation Name") == "responses"]


def kinds(node: Node) -> set[str]:
    """What was really done: a subplan that no row asked for is not, nor is the policy's comparison."""
    return {
        it["Node Type"]
        for it in walk(node)
        if it["Actual Loops"] and IS_POLICY not in it.get("One-Time Filter", "")
    }


async def test_plans_are_generic(db: Database, forest: Forest) -> None:
    """What is looked at below is what the pool's connections use: its parameters are not looked into."""
    found = await plan(db, forest.caller, responses._get, id=forest.root)
    assert "$1" in found["Index Cond"]


async def test_a_get_is_one_look_into_the_primary_key(db: Database, forest: Forest) -> None:
    found = await plan(db, forest.caller, responses._get, id=forest.tip_of_1000)
    assert [it["Node Type"] for it in walk(found)] == ["Index Scan"]
    assert found["Index Name"] == "pk_responses"
    assert found["Actual Rows"] == 1


@pytest.mark.parametrize(
    ("tip", "depth", "lines"),
    [("root", 1, 1), ("tip_of_100", 100, 1), ("tip_of_1000", 1000, 1), ("tip_of_forks", 105, 20)],
)
async def test_a_context_is_one_range_of_the_index_for_each_line(
    db: Database, forest: Forest, tip: str, depth: int, lines: int
) -> None:
    found = await plan(db, forest.caller, lineage._ancestry[False], id=getattr(forest, tip))
    by_index = {it.get("Index Name"): it for it in scans(found)}
    assert by_index.keys() == {"pk_responses", "uq_responses__line"}
    assert by_index["pk_responses"]["Actual Loops"] == 1
    line = by_index["uq_responses__line"]
    assert line["Actual Loops"] == lines
    # An average per line, which servers before 18 round to whole rows.
    assert abs(line["Actual Rows"] * lines - depth) < lines
    assert all(column in line["Index Cond"] for column in ("tenant_id", "chain_id", "seq"))
    assert not kinds(found) & {"Seq Scan", "Sort", "Hash Join", "Merge Join"}


async def test_a_table_of_few_long_lines_is_not_read_as_a_whole(db: Database, caller: Caller) -> None:
    """The planner expects eleven lines of a third of the table each, and would rather read it all once."""
    async with db.read(caller) as tx:
        await tx._driver.execute("begin")
        await tx._driver.execute("delete from responses")
        line, *_ = [await tx._driver.fetch(PLANT, caller.tenant_id, 1000, 0, None, None) for _ in range(3)]
        await tx._driver.execute("analyze responses")
        tip = max(line, key=lambda row: row["seq"])
        found = await plan_in(tx, lineage._ancestry[False], id=tip["id"])
        await tx._driver.execute("rollback")
    assert not kinds(found) & {"Seq Scan", "Hash Join", "Merge Join"}
    assert [it["Actual Rows"] for it in scans(found)] == [1, 1000]


async def test_items_are_found_by_the_primary_key(db: Database, forest: Forest) -> None:
    found = await plan(db, forest.caller, items._by_ids, ids=[forest.root, forest.tip_of_100])
    assert {it["Index Name"] for it in walk(found) if "Index Name" in it} == {"pk_responses"}
    assert "Seq Scan" not in kinds(found)


async def test_a_deletion_is_one_look_into_the_primary_key(db: Database, forest: Forest) -> None:
    note: dict[str, Any] = {"key_id": UUID(int=0), "digest": "", "data": "{}"}
    found = await plan(db, forest.caller, responses._delete, id=UUID(int=1), **note)
    assert [it["Index Name"] for it in scans(found) if "Index Name" in it] == ["pk_responses"]
