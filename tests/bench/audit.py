"""What the audit trail costs a create: the same server with the note in its statement, and without.

    python -m tests.bench.audit [--rounds 5] [--seconds 4] [--clients 16]

One API process and a durable embedded Postgres of its own; the offline model answers at once. The servers
take turns. In `noted` nobody settles, in `settled` a worker's loop settles all the while, in a process of
its own on the same cores. Take ratios: the machine is shared.
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import psutil
import sqlalchemy as sa
import uvloop
from sqlalchemy.dialects import postgresql as pg

from app.cli import main as cli
from app.embedded.postgres import EmbeddedPostgres
from app.generation.ledger import Ledger
from app.store import lifecycle, migrate
from app.store.db import Database
from app.store.statements import Statement
from app.store.tables import responses as t
from app.store.turn_rows import COLUMNS
from tests.bench import http_load
from tests.live import LiveServer

KINDS = ("plain", "noted", "settled")
BODY = b'{"model":"offline","input":"' + b"What was said, by whom, to whom, and when? " * 20 + b'"}'


class Plain(LiveServer):
    """The API with the insert that it would have without a trail."""

    module = "tests.bench.audit"


async def settle(database_url: str) -> None:
    """As a worker does, until the end."""
    db = await Database.connect(database_url, size=2)
    await Ledger(db).run()


@contextmanager
def settler(database_url: str) -> Generator[None]:
    command = [sys.executable, "-m", "tests.bench.audit", "settle", database_url]
    process = subprocess.Popen(command)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def without_notes() -> None:
    values = {name: sa.bindparam(name) for name in COLUMNS}
    insert = pg.insert(t).values(values).values(finished_at=sa.func.now()).on_conflict_do_nothing()
    lifecycle._insert = Statement(insert.returning(t.c.id))


async def measure(
    database_url: str, rounds: int, seconds: float, clients: int
) -> dict[str, list[http_load.Load]]:
    """Each kind in turn, as often as there are rounds."""
    servers = {"plain": Plain(database_url), "noted": LiveServer(database_url)}
    servers["settled"] = servers["noted"]
    for server in (servers["plain"], servers["noted"]):
        server.start()
    postgres = await http_load.server_of(database_url)
    found: dict[str, list[http_load.Load]] = {kind: [] for kind in KINDS}
    for place in range(rounds):
        for kind in KINDS[place % 3 :] + KINDS[: place % 3]:
            server = servers[kind]

            async def once(server: LiveServer = server, length: float = seconds) -> http_load.Load:
                watched = [psutil.Process(server.pid), postgres]
                return await http_load.run(
                    server.base_url,
                    lambda: ("POST", "/v1/responses", BODY),
                    clients=clients,
                    seconds=length,
                    watched=watched,
                )

            await once(length=0.5)
            if kind == "settled":
                with settler(database_url):
                    await asyncio.sleep(1.0)
                    found[kind].append(await once())
            else:
                found[kind].append(await once())
    for server in (servers["plain"], servers["noted"]):
        server.stop()
    return found


def main() -> None:
    if sys.argv[1:2] == ["api"]:
        without_notes()
        cli()
        return
    if sys.argv[1:2] == ["settle"]:
        uvloop.run(settle(sys.argv[2]))
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--clients", type=int, default=16)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)
        with EmbeddedPostgres(Path(folder) / "state") as postgres:
            migrate.upgrade(postgres.url)
            url = postgres.url.replace("+asyncpg", "", 1)
            found = uvloop.run(measure(url, arguments.rounds, arguments.seconds, arguments.clients))
    base = median(load.per_second for load in found["plain"])
    print("| | creates/s | ratio | CPU ms a create | p50 ms |\n| --- | --- | --- | --- | --- |")
    for kind, loads in found.items():
        rate = median(load.per_second for load in loads)
        cpu, p50 = (median(getattr(load, name) for load in loads) for name in ("cpu_ms", "p50_ms"))
        print(f"| {kind} | {rate:.0f} | {rate / base:.3f} | {cpu:.3f} | {p50:.1f} |")


if __name__ == "__main__":
    main()
