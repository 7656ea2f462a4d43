"""Bytes that a turn takes, and bytes of WAL, at three depths: its row, its trail, what it is found by."""

import random
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import asyncpg
import uvloop

from tests.bench.filling import connected, settle
from tests.bench.measuring import Series, Setup
from tests.bench.spans import Bench, Figures, Span
from tests.bench.storage import TURNS, texts, write_chains

DEPTHS = (1, 100, 1000)
JSON, ROW, ROW_WAL = "JSON bytes", "bytes of the row", "WAL bytes of the append"
SETTLED_WAL = "WAL bytes of settling"
TABLES = {
    "bytes of its note, until settled": ("audit_outbox",),
    "bytes of its trail": ("audit_records", "audit_heads", "audit_checkpoints"),
    "bytes of its facts": ("response_facts", "response_stats"),
    "bytes of its terms": ("response_terms",),
    "bytes of its words": ("response_words",),
}
_SIZE = "select sum(pg_total_relation_size(name::regclass)) from unnest($1::text[]) as name"


@contextmanager
def storing(bench: Bench) -> Generator[Setup]:
    turns = bench.few(TURNS, 20)

    def at(depth: int) -> Span:
        def span(_: float) -> Figures:
            # Each begins with empty indexes: what is written to them depends on how much is in them.
            bench.stack.reset()
            return uvloop.run(_stored(bench.stack.url, min(depth, turns), turns))

        return span

    series = [Series(f"depth {depth:,}", at(depth), is_warmed=False) for depth in DEPTHS]
    yield Setup(series, is_once=True)


async def _stored(url: str, depth: int, turns: int) -> Figures:
    say = texts(random.Random(7))["prose"]
    connection: Any = await asyncpg.connect(url)
    try:
        sizes = await _sizes(connection)
        async with connected(url, size=1) as db:
            row = (await write_chains(db, connection, say, depth, turns=turns)).figures
        noted = await _sizes(connection)
        lsn = await connection.fetchval("select pg_current_wal_insert_lsn()")
        await settle(url)
        wal = await connection.fetchval("select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), $1)", lsn)
        await connection.execute("vacuum (analyze)")
        settled = await _sizes(connection)
    finally:
        await connection.close()
    note, *rest = TABLES
    return {
        JSON: row["plain"],
        ROW: row["total"],
        ROW_WAL: row["wal"],
        note: (noted[note] - sizes[note]) / turns,
        **{name: (settled[name] - sizes[name]) / turns for name in rest},
        SETTLED_WAL: float(wal) / turns,
    }


async def _sizes(connection: Any) -> dict[str, float]:
    return {name: float(await connection.fetchval(_SIZE, list(tables))) for name, tables in TABLES.items()}
