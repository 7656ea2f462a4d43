"""What finding costs among a million stored responses: each filter, pairs, statistics and lineage.

    python -m tests.bench.search [--rows 1000000] [--grown] [--json]

A durable embedded Postgres is started in a temporary folder and filled by `search_rows`; which takes some
minutes. Every call is made as its route makes it, in the same transaction and by the same statements, on one
connection, and is measured in turns with `SELECT 1` on the same pool: take ratios. Beside it stand what drives
the plan, how many rows were looked at, and how many found. Bound: 100 times `SELECT 1` for a page.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any
from uuid import UUID

import asyncpg
import orjson
import uvloop

from app.domain.response import Status
from app.domain.search import Filters
from app.domain.tenancy import Caller
from app.embedded.postgres import EmbeddedPostgres
from app.generation.ledger import Ledger
from app.store import migrate, relatives, search, stats
from app.store.db import Database, ReadTx
from tests.bench import search_rows as rows
from tests.bench import search_words as words
from tests.bench.search_rows import Corpus, load
from tests.bench.storage import SELECT_1
from tests.store.explaining import Plan, explained

LIMIT = 20
ROUNDS = 15
BOUND = 100

Call = Callable[[Any], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to measure."""

    name: str
    call: Call
    is_transaction: bool = True
    is_bound: bool = True
    """Whether the bound is promised of it."""


def pages(corpus: Corpus) -> Iterator[Case]:
    """Lists: each filter, pairs, places, orders, and what a row carries."""
    for name, filters in {**alone(corpus), **pairs(corpus)}.items():
        yield page(name, filters)
    middle = corpus.some[len(corpus.some) // 2]
    common = Filters(model="gpt-5.4")
    yield page("model, deep", common, after=middle)
    yield page("model, oldest first", common, newest_first=False)
    yield page("model, oldest first, deep", common, newest_first=False, after=middle)
    yield page("model, include=input,output", common, is_whole=True)
    yield page("model, limit=100", common, limit=100)
    yield page("nothing", Filters())
    yield page("nothing, deep", Filters(), after=middle)
    yield page("nothing, include=input,output, limit=100", Filters(), is_whole=True, limit=100)
    for name in ("needle1000", "needle30000"):
        found = Filters(words=name)
        yield page(f"q={name}, deep", found, after=middle)
        yield page(f"q={name}, oldest first", found, newest_first=False)


def alone(corpus: Corpus) -> dict[str, Filters]:
    """Each filter by itself."""
    growth, some = corpus.growth, corpus.some
    middle = corpus.begin + (corpus.end - corpus.begin) / 2
    tree = growth.tree[0].id
    found = {
        f"model={name}": Filters(model=name) for name in ("gpt-5.4", "gpt-5.4-pro", rows.RETIRED, "none")
    }
    found |= {f"status={status.wire}": Filters(status=status) for status in Status}
    found |= {
        "created_after": Filters(created_after=middle),
        "created_before": Filters(created_before=middle),
        "conversation": Filters(conversation=corpus.conversation),
        "previous_response_id, 1 child": Filters(previous=growth.tree[-1].id),
        "previous_response_id, 1,000 children": Filters(previous=growth.wide.id if growth.wide else None),
        "root of itself": Filters(root=some[0]),
        "root of thousands": Filters(root=tree),
        "user, busy": Filters(user="user-0"),
        "user, quiet": Filters(user="user-19999"),
        "safety_identifier": Filters(safety_identifier="safe-user-9"),
        "metadata, 36 in 100": Filters(metadata={"tier": "production"}),
        "metadata, 8 in 1,000": Filters(metadata={"team": "team-7"}),
        "metadata, three pairs": Filters(
            metadata={"tier": "development", "team": "team-7", "ticket": "none"}
        ),
        "background=true": Filters(is_background=True),
        "background=false": Filters(is_background=False),
        "error_code": Filters(error_code="invalid_prompt"),
        "tool, common": Filters(tool="tool_1"),
        "tool, rare": Filters(tool="tool_30"),
        "has_attempts_over=0": Filters(attempts_over=0),
        "has_attempts_over=1": Filters(attempts_over=1),
        "has_attempts_over=5": Filters(attempts_over=5),
    }
    return found | {f"q={text}": Filters(words=text) for text in asked()}


def asked() -> Sequence[str]:
    """Words of every frequency, and every form of a question."""
    red, herring = words.PHRASE.split()
    return (
        "ba", *reversed(words.PLANTED), words.MISSING, f"{words.DAY} needle300000", "needle3000 needle10000",
        f'"{words.PHRASE}"', f"{red} {herring}", "needle1000 or needle100", f"{words.DAY} or needle10",
        f"needle10000 -{words.DAY}", "-ba", "-needle10",
    )  # fmt: skip


def pairs(corpus: Corpus) -> dict[str, Filters]:
    """Filters together: those that go well, and those where each is common and both are never true at once."""
    tenth = (corpus.end - corpus.begin) / 10
    return {
        "model + user": Filters(model="gpt-5.4", user="user-0"),
        "model + status=failed": Filters(model="gpt-5.4", status=Status.FAILED),
        "q=common + user": Filters(words="ba", user="user-100"),
        "q=needle30000 + model": Filters(words="needle30000", model="llama-4"),
        "q=needle3000 + a day": Filters(
            words="needle3000", created_after=corpus.end - 2 * tenth, created_before=corpus.end - 2 * tenth + timedelta(days=1)
        ),
        "tool + metadata": Filters(tool="tool_1", metadata={"team": "team-7"}),
        "background + user": Filters(is_background=True, user="user-3"),
        "unlucky: model=retired + lately": Filters(model=rows.RETIRED, created_after=corpus.end - tenth),
        "unlucky: error_code + status=completed": Filters(error_code="server_error", status=Status.COMPLETED),
        "unlucky: background=false + has_attempts_over=1": Filters(is_background=False, attempts_over=1),
        "unlucky: tool + status=failed": Filters(tool="tool_1", status=Status.FAILED),
        "unlucky: q=half of another model's + model": Filters(words=words.LOCAL, model="gpt-5.4"),
        "unlucky: q=long ago, newest first": Filters(words=words.FORMERLY),
        "unlucky: q=two common, never together": Filters(words=f"{words.DAY} {words.NIGHT}"),
        "unlucky: q=common + status=failed, never": Filters(words="needle300000 -ba", status=Status.FAILED),
    }  # fmt: skip


def page(
    name: str,
    filters: Filters,
    *,
    limit: int = LIMIT,
    newest_first: bool = True,
    after: UUID | None = None,
    is_whole: bool = False,
) -> Case:
    """One page as the list reads it."""
    find = search.find_whole if is_whole else search.find
    return Case(
        name,
        lambda tx: find(tx, filters, limit=limit, newest_first=newest_first, after=after),
        is_bound="unlucky" not in name,
    )


def counts(corpus: Corpus) -> Iterator[Case]:
    """Statistics over all of the time, and over one day."""
    first, end = corpus.begin.date(), corpus.end.date() + timedelta(days=1)
    middle = first + (end - first) / 2
    for by in ("model", "status", "day", "user"):
        for name, begin, stop in (
            ("all", first, end),
            ("a month", end - timedelta(days=30), end),
            ("a day", middle, middle + timedelta(days=1)),
        ):
            yield _counted(f"stats by {by}, {name}", stats.Asked(begin, stop), by)
    yield _counted("stats by day, of a busy user", stats.Asked(first, end, user="user-0"), "day")
    yield _counted("stats by model, of one status", stats.Asked(first, end, status=Status.FAILED), "model")


def _counted(name: str, wanted: stats.Asked, by: stats.GroupBy) -> Case:
    return Case(name, lambda tx: stats.groups(tx, wanted, by), is_bound=False)


def families(corpus: Corpus) -> Iterator[Case]:
    """Lineage as its route reads it."""
    growth = corpus.growth
    deep, wide = growth.deep, growth.wide
    for name, key in (
        ("at the end of a deep chain", deep and deep.id),
        ("of one with 1,000 children", wide and wide.id),
        ("in a tree of thousands", growth.tree[len(growth.tree) // 2].id),
        ("of the tree's root", growth.tree[0].id),
    ):
        if key:
            yield Case(f"lineage {name}", lambda tx, key=key: family(tx, key), is_transaction=False)


async def family(tx: ReadTx, key: UUID) -> Sequence[object]:
    """The statements of the route."""
    found = await relatives.get(tx, key)
    if found is None:
        raise LookupError(key)
    own = found[0]
    above = await relatives.ancestors(tx, key, below=own.depth, limit=LIMIT + 1)
    below = await relatives.children(tx, key, after=None, limit=LIMIT + 1)
    beside = await relatives.children(tx, own.previous, after=None, limit=LIMIT + 2) if own.previous else ()
    return [*above, *below, *beside]


async def measure(url: str, corpus: Corpus) -> list[dict[str, Any]]:
    """A row of figures for each case."""
    caller, db = Caller(corpus.tenants[0]), await Database.connect(url, size=1)
    ledger, table = Ledger(db), list[dict[str, Any]]()
    for case in (*pages(corpus), *counts(corpus), *families(corpus)):
        took, ones = list[float](), list[float]()
        begun = time.monotonic()
        for number in range(ROUNDS + 1):
            one, it = await _timed(db, caller, ledger, None), await _timed(db, caller, ledger, case)
            if number:
                ones.append(one)
                took.append(it)
            if number and time.monotonic() - begun > 20:
                break
        plans = await plans_of(db, caller, case)
        table.append(
            {
                "case": case.name,
                "ms": median(took) * 1e3,
                "select_1_ms": median(ones) * 1e3,
                "ratio": median(took) / median(ones),
                "is_bound": case.is_bound,
                "drives": ", ".join(dict.fromkeys(plan.driver for plan in plans if plan.driver)),
                "read": sum(plan.read for plan in plans),
                "found": sum(plan.found for plan in plans),
            }
        )
        print(as_line(table[-1]), file=sys.stderr, flush=True)
    await db.close()
    return table


async def _timed(db: Database, caller: Caller, ledger: Ledger, case: Case | None) -> float:
    """Seconds of a case with the look for what is not settled yet, or of `SELECT 1`."""
    start = time.perf_counter()
    if case is None:
        async with db.read(caller) as tx:
            await tx.fetch(SELECT_1)
        return time.perf_counter() - start
    await ledger.settle(caller)
    async with db.begin(caller) if case.is_transaction else db.read(caller) as tx:
        await case.call(tx)
    return time.perf_counter() - start


async def plans_of(db: Database, caller: Caller, case: Case) -> list[Plan]:
    """The plans of a case's statements."""
    return await explained(db, caller, case.call)


SIZES = """
    select c.relname::text as name, c.relkind = 'i' as is_index,
        pg_relation_size(c.oid) + case when c.reltoastrelid = 0 then 0 else pg_total_relation_size(c.reltoastrelid) end as bytes
    from pg_class c left join pg_index i on i.indexrelid = c.oid
    where coalesce(i.indrelid, c.oid) = any(
        '{responses,response_facts,response_terms,response_words,response_stats}'::regclass[]
    )
    order by coalesce(i.indrelid, c.oid)::regclass::text, c.relkind <> 'r', 1
"""


async def sizes(url: str, count: int) -> list[dict[str, Any]]:
    """Bytes a response of each table and index."""
    connection = await asyncpg.connect(url.replace("postgresql+asyncpg://", "postgresql://", 1))
    found = await connection.fetch(SIZES)
    await connection.close()
    return [
        {"name": row["name"], "is_index": row["is_index"], "bytes": row["bytes"] / count} for row in found
    ]


def as_line(row: Mapping[str, Any]) -> str:
    missed = " **missed**" if row["is_bound"] and row["ratio"] > BOUND else ""
    return (
        f"| {row['case']} | {row['ms']:.2f} | {row['ratio']:.0f}{missed} | {row['drives']} "
        f"| {row['read']:,} | {row['found']:,} |"
    )


def as_text(table: Sequence[Mapping[str, Any]], bytes_of: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: the cases, and the sizes."""
    one = median(row["select_1_ms"] for row in table)
    lines = [f"`SELECT 1` took {one * 1000:.0f} µs.", ""]
    lines += [
        "| case | ms | times `SELECT 1` | driven by | rows read | found |",
        "| --- | --: | --: | --- | --: | --: |",
    ]
    lines += [as_line(row) for row in table]
    lines += ["", "| table or index | bytes a response |", "| --- | --: |"]
    return "\n".join([*lines, *(f"| {row['name']} | {row['bytes']:.0f} |" for row in bytes_of)])


async def run(url: str, count: int, *, is_grown: bool) -> dict[str, Any]:
    connection = await asyncpg.connect(url.replace("postgresql+asyncpg://", "postgresql://", 1))
    corpus = await load(connection, count, is_grown=is_grown)
    await connection.close()
    return {"cases": await measure(url, corpus), "bytes": await sizes(url, count)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000, help="how many responses")
    parser.add_argument(
        "--grown", action="store_true", help="load with the indexes in place: slow, and sizes as in use"
    )
    parser.add_argument("--json", action="store_true", help="print figures as JSON instead of tables")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as folder:
        # Root's server runs as another user, who must be able to reach the folder.
        Path(folder).chmod(0o711)
        postgres = EmbeddedPostgres(Path(folder) / "state")
        url = postgres.start()
        try:
            migrate.upgrade(url)
            found = uvloop.run(run(url, arguments.rows, is_grown=arguments.grown))
        finally:
            postgres.stop()
    print(orjson.dumps(found).decode() if arguments.json else as_text(found["cases"], found["bytes"]))


if __name__ == "__main__":
    main()
