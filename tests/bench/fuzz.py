"""Hostile requests to every route of a live server: counts by status, the slowest, and its memory.

    python -m tests.bench.fuzz [--examples 100000] [--seed 1]

One API process on an embedded Postgres of its own, with the offline model. It ends with exit code 1 if an
answer was a 5xx or no envelope, if a request took longer than 20 seconds, or if the process's memory grew
by more than 64 MiB after the first tenth of the examples.
"""

import argparse
import collections
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx2
import orjson
import psutil
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded

from app.embedded.postgres import EmbeddedPostgres
from app.store import migrate
from tests.api.hostile import Request, Wire, requests
from tests.live import LiveServer

ROUND = 500
"""Examples of one run of hypothesis, which remembers all that it made: its own memory is not the subject."""

MAX_GROWTH_BYTES = 64 << 20


class Tally:
    """What came back."""

    def __init__(self) -> None:
        self.statuses = collections.Counter[int]()
        self.wrong: list[str] = []
        self.slowest = (0.0, "")

    def note(self, request: Request, status: int, body: bytes, seconds: float) -> None:
        """Count an answer, and keep what is wrong with it."""
        self.statuses[status] += 1
        self.slowest = max(
            self.slowest, (seconds, f"{request.method} {request.path[:80]} {request.body[:80]!r}")
        )
        if status >= 500 or (status >= 400 and body and not is_envelope(body)):
            self.wrong.append(f"{status} {body[:200]!r} for {request!r:.2000}")

    def hang(self, request: Request) -> None:
        self.wrong.append(f"no answer in time for {request!r:.2000}")


def is_envelope(body: bytes) -> bool:
    try:
        found: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    return isinstance(found, dict) and found.get("error", {}).keys() == {"message", "type", "param", "code"}


def stored(server: LiveServer) -> dict[str, str]:
    """Ids of real things, so that not all requests end at the first look."""
    with httpx2.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=20) as api:
        response = api.post("/v1/responses", json={"model": "offline", "input": "hi"}).json()
        given = {"items": [{"role": "user", "content": "hi"}]}
        conversation = api.post("/v1/conversations", json=given).json()["id"]
        items = api.get(f"/v1/conversations/{conversation}/items").json()["data"]
    return {"{response}": response["id"], "{conversation}": conversation, "{item}": items[0]["id"]}


def play(server: LiveServer, examples: int, seed: int, tally: Tally) -> None:
    """Send one round."""
    wire, known = Wire(server.port), stored(server)

    @seeded(seed)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=[
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
            HealthCheck.large_base_example,
        ],
    )
    @given(requests())
    def one(request: Request) -> None:
        began = time.monotonic()
        try:
            status, body = wire.ask(request, known)
        except TimeoutError:
            wire.close()
            tally.hang(request)
            return
        tally.note(request, status, body, time.monotonic() - began)

    one()
    wire.close()


def run(database_url: str, examples: int, seed: int) -> bool:
    """Play all rounds and say what came of them; whether all was well."""
    tally, sent, first = Tally(), 0, 0
    with LiveServer(database_url) as server:
        process = psutil.Process(server.pid)
        before = process.memory_info().rss
        while sent < examples:
            play(server, min(ROUND, examples - sent), seed + sent, tally)
            sent += min(ROUND, examples - sent)
            if not first and sent * 10 >= examples:
                first = process.memory_info().rss
        after = process.memory_info().rss
        crashed = server.log.count("request.crashed")
    show(tally, sent, (before, first, after), crashed)
    return not tally.wrong and not crashed and after - first < MAX_GROWTH_BYTES


def show(tally: Tally, sent: int, memory: tuple[int, int, int], crashed: int) -> None:
    before, first, after = (f"{size / (1 << 20):.0f} MiB" for size in memory)
    print(
        f"requests: {sent} asked for, {sum(tally.statuses.values())} answered; crashes in the log: {crashed}"
    )
    print("by status:", ", ".join(f"{status}: {count}" for status, count in sorted(tally.statuses.items())))
    print(f"slowest: {tally.slowest[0]:.3f} s, {tally.slowest[1]}")
    print(f"memory of the API: {before} at the start, {first} after a tenth, {after} at the end")
    for line in tally.wrong[:20]:
        print("WRONG:", line)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)
        with EmbeddedPostgres(Path(folder) / "state", durable=False) as postgres:
            migrate.upgrade(postgres.url)
            is_well = run(postgres.url.replace("+asyncpg", "", 1), options.examples, options.seed)
    return 0 if is_well else 1


if __name__ == "__main__":
    sys.exit(main())
