"""What storing costs: bytes and WAL a turn, appends, and loading contexts of 1, 100 and 1,000 turns.

    python -m tests.bench.storage [--database-url URL] [--json]

Each turn is a message of about 1 KB and an answer of about 1 KB, written and read by the store's own
functions on one connection. Two texts are used, because the dictionary's training text would flatter
it: `prose` is sentences of docstrings of the standard library, which the dictionary has not seen, and
`salad` is the words of that prose in random order, which compresses worse than any language. All
reads of one table take turns in the same run on the same pool; take ratios, not milliseconds.

Without a URL a durable embedded Postgres is started in a temporary folder. WAL is read from the whole
server, so give the URL of an idle one; what is written into its database stays there.
"""

import argparse
import ast
import random
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any
from uuid import UUID

import asyncpg
import orjson
import sqlalchemy as sa
import uvloop

from app import ids
from app.domain.echo import echo
from app.domain.gates import Gated
from app.domain.items import join, normalise
from app.domain.response import Draft, Status, snapshot
from app.domain.tenancy import Caller
from app.domain.turn import Place, Turn
from app.embedded.postgres import EmbeddedPostgres
from app.store import lifecycle, lineage, migrate
from app.store.db import Database
from app.store.statements import Statement

DEPTHS = (1, 100, 1000)
TURNS = 1000
"""Turns written for each depth: 1,000 chains of one, ten of 100, one of 1,000."""
ROUNDS = 30
LOADS = {1: 20, 100: 10, 1000: 3}
"""How often a round loads a context of each depth."""
ITEM_CHARACTERS = 900
"""With its id, type and role around it, an item of this much text has about 1 KB."""

SELECT_1 = Statement(sa.select(sa.literal_column("1")))

Say = Callable[[], str]


def prose() -> list[str]:
    """Sentences of docstrings, each once."""
    found = set[str]()
    for path in sorted(Path(ast.__file__).parent.glob("*.py"))[::4]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (
                text := ast.get_docstring(node)
            ):
                found.update(part.strip() + "." for part in " ".join(text.split()).split(". "))
    return sorted(part for part in found if 30 < len(part) < 300 and part.isascii())


def texts(rng: random.Random) -> dict[str, Say]:
    """What says about `ITEM_CHARACTERS` of each text."""
    sentences = prose()
    words = " ".join(sentences).split()

    def speaker(parts: Sequence[str]) -> Say:
        count = round(ITEM_CHARACTERS * len(parts) / len(" ".join(parts)))
        return lambda: " ".join(rng.sample(parts, count))

    return {"prose": speaker(sentences), "salad": speaker(words)}


def turn(say: Say, parent: Turn | None) -> Turn:
    """A finished turn, in the very form that a request's has."""
    new_id, params = ids.new_uuid(), {"model": "offline"}
    if parent:
        params["previous_response_id"] = ids.response_id(parent.id)
    draft = Draft(new_id, "offline", params, normalise(say(), new_id), echo(params, model="offline"))
    part = {"type": "output_text", "text": say(), "annotations": [], "logprobs": []}
    answer = {
        "id": ids.item_id("message", draft.id, 1),
        "type": "message",
        "status": "completed",
        "role": "assistant",
        "content": [part],
    }
    usage = {"input_tokens": 200, "output_tokens": 200, "total_tokens": 400}
    seconds = ids.created_at(draft.id) + 2
    body = snapshot(draft, status=Status.COMPLETED, usage=usage, completed_at=seconds)
    return Turn(
        id=draft.id,
        parent=parent.id if parent else None,
        place=parent.place.next() if parent else Place(draft.id, 0),
        status=Status.COMPLETED,
        model=draft.model,
        input_blob=draft.input.blob,
        input_count=1,
        input_gated=Gated.NONE,
        output_blob=join([answer]),
        output_count=1,
        output_gated=Gated.NONE,
        body=orjson.dumps(body),
    )


async def write(
    db: Database, caller: Caller, say: Say, depth: int, turns: int
) -> tuple[list[UUID], list[float], int]:
    """So many turns in chains of `depth`: the last id of each chain, seconds an append, bytes before zstd."""
    tips, seconds, plain = list[UUID](), list[float](), 0
    for _ in range(turns // depth):
        last: Turn | None = None
        for _ in range(depth):
            last = turn(say, last)
            plain += len(last.body) + len(last.input_blob) + len(last.output_blob)
            start = time.perf_counter()
            async with db.begin(caller) as tx:
                await lifecycle.append(tx, last)
            seconds.append(time.perf_counter() - start)
        if last:
            tips.append(last.id)
    return tips, seconds, plain


SIZES = """
    select pg_relation_size('responses') as heap, pg_indexes_size('responses') as indexes,
           (select pg_total_relation_size(reltoastrelid) from pg_class where oid = 'responses'::regclass) as toast,
           pg_total_relation_size('responses') as total
"""
COLUMNS = """
    select avg(pg_column_size(body))::float as body_column, avg(pg_column_size(items))::float as items_column
    from responses where tenant_id = $1
"""


@dataclass(frozen=True)
class Chains:
    """A tenant whose chains all have one depth, and what writing them has cost."""

    depth: int
    caller: Caller
    tips: Sequence[UUID]
    """The last id of each chain."""
    figures: Mapping[str, float]
    """Bytes and microseconds a turn."""


async def write_chains(db: Database, connection: Any, say: Say, depth: int, *, turns: int = TURNS) -> Chains:
    """Write them, and see what the server has to say about their size."""
    new_tenant = "insert into tenants (name) values (gen_random_uuid()::text) returning id"
    caller = Caller(await connection.fetchval(new_tenant))
    # Right after a checkpoint every depth pays for its first full-page images alike.
    await connection.execute("vacuum responses")
    await connection.execute("checkpoint")
    before = await connection.fetchrow(SIZES)
    lsn = await connection.fetchval("select pg_current_wal_insert_lsn()")
    tips, seconds, plain = await write(db, caller, say, depth, turns)
    wal = await connection.fetchval("select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), $1)", lsn)
    await connection.execute("vacuum (analyze) responses")
    after = await connection.fetchrow(SIZES)
    sizes = {name: (after[name] - before[name]) / turns for name in after.keys()}  # noqa: SIM118 - a record
    columns = await connection.fetchrow(COLUMNS, caller.tenant_id)
    figures = {"plain": plain / turns, **columns, **sizes, "wal": float(wal) / turns}
    return Chains(depth, caller, tips, figures | spread("append", seconds))


def spread(name: str, seconds: Sequence[float]) -> dict[str, float]:
    cut = quantiles(seconds, n=100)
    return {f"{name}_p50_us": cut[49] * 1e6, f"{name}_p99_us": cut[98] * 1e6}


async def load(db: Database, chains: Sequence[Chains], rng: random.Random) -> dict[int, list[float]]:
    """Seconds of each load by depth, 0 being `SELECT 1`; all of them take turns."""
    seconds: dict[int, list[float]] = {depth: [] for depth in (0, *DEPTHS)}
    for round_number in range(ROUNDS + 1):
        took = {it.depth: [await _load_one(db, it, rng) for _ in range(LOADS[it.depth])] for it in chains}
        took[0] = [await _select_1(db) for _ in range(LOADS[1])]
        # The first round warms caches and prepares statements.
        for depth in took if round_number else ():
            seconds[depth] += took[depth]
    return seconds


async def _load_one(db: Database, chains: Chains, rng: random.Random) -> float:
    tip = rng.choice(chains.tips)
    start = time.perf_counter()
    async with db.read(chains.caller) as tx:
        await lineage.ancestry(tx, tip)
    return time.perf_counter() - start


async def _select_1(db: Database) -> float:
    start = time.perf_counter()
    async with db.read(Caller(0)) as tx:
        await tx.fetch(SELECT_1)
    return time.perf_counter() - start


async def measure(url: str) -> list[dict[str, Any]]:
    """A column of figures for each text and depth."""
    rng, table = random.Random(7), list[dict[str, Any]]()
    db = await Database.connect(url, size=1)
    connection = await asyncpg.connect(url.replace("postgresql+asyncpg://", "postgresql://", 1))
    for text, say in texts(rng).items():
        chains = [await write_chains(db, connection, say, depth) for depth in DEPTHS]
        seconds = await load(db, chains, rng)
        one, first = median(seconds[0]), median(seconds[1])
        for it in chains:
            median_load = median(seconds[it.depth])
            table.append(
                {
                    "text": text,
                    "depth": it.depth,
                    **it.figures,
                    **spread("load", seconds[it.depth]),
                    "load/depth 1": median_load / first,
                    "load/select 1": median_load / one,
                    "append/select 1": it.figures["append_p50_us"] / 1e6 / one,
                    "select_1_p50_us": one * 1e6,
                }
            )
    await connection.close()
    await db.close()
    return table


def as_text(table: Sequence[Mapping[str, Any]]) -> str:
    """One column for each text and depth. Sizes are bytes a turn, times microseconds."""
    lines = [f"{name:20}" + "".join(f"{_cell(row[name]):>12}" for row in table) for name in table[0]]
    return "\n".join(lines)


def _cell(value: str | float) -> str:
    if isinstance(value, float):
        return f"{value:,.2f}" if value < 10 else f"{value:,.0f}"
    return str(value)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--database-url", help="an idle Postgres to measure on, its schema is brought up to date"
    )
    parser.add_argument("--json", action="store_true", help="print figures as JSON instead of a table")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as folder:
        # Root's server runs as another user, who must be able to reach the folder.
        Path(folder).chmod(0o711)
        postgres = None if arguments.database_url else EmbeddedPostgres(Path(folder) / "state")
        url = postgres.start() if postgres else arguments.database_url
        try:
            migrate.upgrade(url)
            table = uvloop.run(measure(url))
        finally:
            if postgres:
                postgres.stop()
    sys.stdout.write((orjson.dumps(table).decode() if arguments.json else as_text(table)) + "\n")


if __name__ == "__main__":
    main()
