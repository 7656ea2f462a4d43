"""What a turn costs in a conversation of 10 to 10,000 items: bytes, WAL, and the time to the first token.

    python -m tests.bench.conversations [--json]

The conversation is filled by the store's own functions, two items of about 1 KB a turn, as finished
requests fill it: lock and read, then append and free. At each size a server (`holdfast api`, offline
model) streams responses in it, and what is timed is the first delta of a stream: once with the whole
context, once with `truncation: "auto"` under a window of 8,000 tokens. The offline model decodes the
whole context to answer, which most of the first column is; a real upstream would be sent it instead.
A durable embedded Postgres is started in a temporary folder. Take ratios, not milliseconds.
"""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import asyncpg
import httpx2
import orjson
import uvloop

from app import ids
from app.domain import tokens
from app.domain.conversation import Conversation, Lock
from app.domain.tenancy import Caller
from app.domain.turn import Place
from app.embedded.postgres import EmbeddedPostgres
from app.store import conversation_locks, conversations, lifecycle, migrate
from app.store.db import Database
from tests.bench.storage import Say, as_text, texts, turn
from tests.live import LiveServer

SIZES = (10, 100, 1_000, 10_000)
"""In items; a turn is two."""
STREAMS = 15
SMALL_BUDGET = 1_000
"""Filling looks back no further than this, so that it takes minutes and not hours."""

CONFIG = """
[[upstreams]]
name = "whole"
protocol = "offline"
models = ["offline"]

[[upstreams]]
name = "small"
protocol = "offline"
models = ["small"]
context_window_tokens = 8000
"""

TOTAL = "select pg_total_relation_size('responses') + pg_total_relation_size('conversations')"


async def fill(db: Database, caller: Caller, say: Say, conversation: Conversation, turns: int) -> float:
    """Append so many turns; the median of the seconds that lock, read and append took."""
    seconds = list[float]()
    for _ in range(turns):
        one = turn(say, None)
        lock = Lock(caller.tenant_id, conversation.id, one.id)
        start = time.perf_counter()
        async with db.autocommit(caller) as tx:
            reading = await conversation_locks.take(tx, lock, lease_seconds=15, budget=SMALL_BUDGET)
        assert reading is not None
        assert reading.is_free
        before = reading.ancestry
        one = replace(
            one,
            place=before.place.next(),
            conversation=conversation.id,
            context_tokens=before.tokens + tokens.estimate(one.input_blob) + tokens.estimate(one.output_blob),
        )
        async with db.begin(caller) as tx:
            assert await lifecycle.append_locked(tx, one)
        seconds.append(time.perf_counter() - start)
    return median(seconds)


def first_delta(client: httpx2.Client, conversation: str, **params: Any) -> float:
    """Seconds to the first delta of a stream that reads the conversation and writes nothing."""
    body = {"input": "go on", "conversation": conversation, "stream": True, "store": False} | params
    start = time.perf_counter()
    with client.stream("POST", "/responses", json=body) as answer:
        for line in answer.iter_lines():
            if line.startswith("event: response.output_text.delta"):
                return time.perf_counter() - start
    raise AssertionError("a stream without a delta")


async def measure(url: str) -> list[dict[str, Any]]:
    """A row for each size."""
    table, filled = list[dict[str, Any]](), 0
    say = texts(random.Random(7))["prose"]
    db = await Database.connect(url, size=1)
    connection = await asyncpg.connect(url.replace("postgresql+asyncpg://", "postgresql://", 1))
    caller, conversation = Caller(), Conversation(ids.new_uuid(), {})
    async with db.begin(caller) as tx:
        await conversations.insert(tx, conversation, Place(conversation.id, 0))
    server = LiveServer(url, CONFIG)
    server.start()
    try:
        for size in SIZES:
            turns = size // 2 - filled
            before = await connection.fetchval(TOTAL)
            lsn = await connection.fetchval("select pg_current_wal_insert_lsn()")
            took = await fill(db, caller, say, conversation, turns)
            wal = await connection.fetchval("select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), $1)", lsn)
            await connection.execute("vacuum (analyze) responses")
            stored = await connection.fetchval(TOTAL) - before
            filled += turns
            table.append(
                {
                    "items": size,
                    "bytes/turn": stored / turns,
                    "wal/turn": float(wal) / turns,
                    "append_p50_us": took * 1e6,
                    **streams(server, conversation),
                }
            )
    finally:
        server.stop()
        await connection.close()
        await db.close()
    return [row | ratios(row, table[0]) for row in table]


def streams(server: LiveServer, conversation: Conversation) -> dict[str, float]:
    """The medians of both kinds of streams, which take turns."""
    name = ids.conversation_id(conversation.id)
    whole, cut = list[float](), list[float]()
    with httpx2.Client(base_url=server.base_url, timeout=60) as client:
        for number in range(STREAMS + 1):
            first = first_delta(client, name, model="offline")
            second = first_delta(client, name, model="small", truncation="auto")
            if number:
                whole.append(first)
                cut.append(second)
    return {"whole_first_ms": median(whole) * 1e3, "auto_first_ms": median(cut) * 1e3}


def ratios(row: Mapping[str, float], base: Mapping[str, float]) -> dict[str, float]:
    return {f"{name}/10": row[name] / base[name] for name in ("whole_first_ms", "auto_first_ms")}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print figures as JSON instead of a table")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as folder:
        Path(folder).chmod(0o711)
        postgres = EmbeddedPostgres(Path(folder) / "state")
        url = postgres.start()
        try:
            migrate.upgrade(url)
            table = uvloop.run(measure(url))
        finally:
            postgres.stop()
    sys.stdout.write((orjson.dumps(table).decode() if arguments.json else as_text(table)) + "\n")


if __name__ == "__main__":
    main()
