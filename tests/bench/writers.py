"""Many writers on one conversation while APIs and workers are killed at random; counts at the end.

    python -m tests.bench.writers [--seconds 60] [--writers 20] [--seed 1]

Two APIs and two workers as real processes, on an embedded Postgres and Valkey of its own, with the
offline model. Each writer takes turns in the foreground (whole and streamed) and in the background,
cancels some, and adds items. It ends with exit code 1 if a promise of decision 16 was broken.
"""

import argparse
import asyncio
import collections
import contextlib
import random
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import orjson

from app import ids
from app.embedded.postgres import EmbeddedPostgres
from app.store import migrate
from tests.bench.writers_judge import Asked, Report, judge
from tests.live import LiveServer
from tests.workers.processes import LiveBroker, LiveWorker

LEASE_SECONDS = 2.0
SETTINGS = {
    "lease_seconds": str(LEASE_SECONDS),
    "reap_interval_seconds": "0.5",
    "queued_too_long_seconds": "1",
    "max_attempts": "50",
    "shutdown_grace_seconds": "1",
}
STUCK_SECONDS = LEASE_SECONDS + 4
"""No foreground lock may last longer: a run, which takes 0.15 s of an idle machine, and then its lease."""
KINDS = ("whole", "stream", "background", "cancelled", "items")
ENDED = frozenset({"completed", "incomplete", "failed", "cancelled"})
FATES = {"completed": "kept", "incomplete": "kept", "failed": "none", "cancelled": "none"}

WATCH = """
select c.running_id, r.status, case when c.lease_until = 'infinity' then 'Infinity'
    else extract(epoch from c.lease_until - clock_timestamp())::float8 end as left_seconds
from conversations c left join responses r on r.id = c.running_id where c.id = $1
"""


class Shared:
    """What all writers of one conversation know, and what they have asked for."""

    def __init__(self, name: str, bases: Sequence[str], session: aiohttp.ClientSession) -> None:
        self.name, self.session = name, session
        self._bases = bases
        self.asked: list[Asked] = []
        self.locked = 0
        self.longest_wait = 0.0

    async def post(self, rng: random.Random, path: str, body: Any, **headers: str) -> tuple[int, Any]:
        """Status and JSON of one of the APIs; a stream's last event in its place."""
        url = f"{rng.choice(self._bases)}{path}"
        async with self.session.post(url, json=body, headers=headers) as answer:
            if answer.content_type != "text/event-stream":
                return answer.status, orjson.loads(await answer.read())
            lines = [line async for line in answer.content if line.startswith(b"data: {")]
        return answer.status, orjson.loads(lines[-1][6:])

    async def get(self, rng: random.Random, path: str) -> Any:
        async with self.session.get(f"{rng.choice(self._bases)}{path}") as answer:
            return orjson.loads(await answer.read())


class Writer:
    """One client, which does one thing after the other."""

    def __init__(self, shared: Shared, number: int, seed: int) -> None:
        self._shared, self._number = shared, number
        self._rng = random.Random(f"{seed}/{number}")

    async def write(self, until: float) -> None:
        """Ask for turns until the time is over; each has words of its own."""
        count = 0
        while time.monotonic() < until:
            count += 1
            kind = self._rng.choice(KINDS)
            asked = Asked(f"writer {self._number} turn {count} ({kind})", kind)
            began = time.monotonic()
            asked.fate = await self._insist(asked, until)
            self._shared.longest_wait = max(self._shared.longest_wait, time.monotonic() - began)
            self._shared.asked.append(asked)

    async def _insist(self, asked: Asked, until: float) -> str:
        """Ask until the conversation is free for it."""
        while True:
            try:
                fate = await (self._add if asked.kind == "items" else self._create)(asked)
            except aiohttp.ClientConnectorError:
                # That API is just being started again, and has heard nothing.
                await asyncio.sleep(0.1)
                continue
            except (aiohttp.ClientError, ConnectionError, TimeoutError, orjson.JSONDecodeError, IndexError):
                # The API was killed: whether it had committed is not known here.
                await asyncio.sleep(0.1)
                return "unknown"
            if fate != "locked":
                return fate
            self._shared.locked += 1
            if time.monotonic() > until:
                return "none"
            await asyncio.sleep(self._rng.uniform(0.02, 0.2))

    async def _add(self, asked: Asked) -> str:
        items = [{"role": "user", "content": text} for text in asked.texts]
        path = f"/conversations/{self._shared.name}/items"
        status, answer = await self._shared.post(self._rng, path, {"items": items})
        return _refused(answer) if status != 200 else "kept"

    async def _create(self, asked: Asked) -> str:
        is_background = asked.kind in {"background", "cancelled"}
        body = {
            "model": "offline",
            "input": f"{asked.text}\n::sleep {self._rng.uniform(0, 0.15):.3f}",
            "conversation": self._shared.name,
            "background": is_background,
            "stream": asked.kind == "stream",
        }
        wait = {"Holdfast-Conversation-Wait": self._rng.choice(["0", "2"])}
        status, answer = await self._shared.post(self._rng, "/responses", body, **wait)
        if status != 200:
            return _refused(answer)
        if asked.kind == "stream":
            return FATES.get(answer["type"].removeprefix("response."), "unknown")
        asked.response_id = answer["id"]
        return await self._followed(asked, answer) if is_background else FATES[answer["status"]]

    async def _followed(self, asked: Asked, response: Mapping[str, Any]) -> str:
        """Poll a background response to its end, through whatever API answers."""
        if asked.kind == "cancelled":
            await asyncio.sleep(self._rng.uniform(0, 0.2))
            with contextlib.suppress(aiohttp.ClientError, ConnectionError):
                await self._shared.post(self._rng, f"/responses/{asked.response_id}/cancel", None)
        while response["status"] not in ENDED:
            await asyncio.sleep(0.05)
            with contextlib.suppress(aiohttp.ClientError, ConnectionError):
                response = await self._shared.get(self._rng, f"/responses/{asked.response_id}")
        return FATES[response["status"]]


def _refused(answer: Mapping[str, Any]) -> str:
    """The fate of what was not answered with 200: refused while another runs, or over."""
    error = answer["error"]
    if error["code"] == "conversation_locked" and error["type"] == "invalid_request_error":
        return "locked"
    return "unknown" if error["type"] == "server_error" else "none"


class Watch:
    """Looks at the lock all the time: who has it, how long, and for how long it would outlive its holder."""

    def __init__(self) -> None:
        self.longest = {"foreground": 0.0, "background": 0.0}
        self.broken: list[str] = []
        self.looks = 0

    async def look(self, url: str, name: str) -> None:
        """Until it is cancelled."""
        connection: Any = await asyncpg.connect(url)
        key, holder, since, kind = ids.parse_conversation_id(name), None, 0.0, "foreground"
        try:
            while True:
                row = await connection.fetchrow(WATCH, key)
                now, running = time.monotonic(), row["running_id"] if (row["left_seconds"] or 0) > 0 else None
                if running != holder:
                    holder, since = running, now
                if holder:
                    kind = "foreground" if row["status"] is None else "background"
                    self.longest[kind] = max(self.longest[kind], now - since)
                    self._judge(row, kind, now - since)
                self.looks += 1
                await asyncio.sleep(0.02)
        finally:
            await connection.close()

    def _judge(self, row: Any, kind: str, held_seconds: float) -> None:
        if kind == "background":
            if row["status"] > 1:
                self.broken.append(f"a lock of a response that has ended: {row['running_id']}")
            return
        if LEASE_SECONDS + 0.1 < row["left_seconds"] < float("inf"):
            self.broken.append(f"a lease of {row['left_seconds']:.1f} s")
        if held_seconds > STUCK_SECONDS:
            self.broken.append(f"a lock for {held_seconds:.1f} s")


async def _kill(
    rng: random.Random, apis: Sequence[LiveServer], workers: Sequence[LiveWorker], until: float
) -> collections.Counter[str]:
    """Every other second something dies, and comes back; what died how often."""
    kills = collections.Counter[str]()
    while (pause := rng.uniform(0.5, 1.5)) < until - time.monotonic():
        await asyncio.sleep(pause)
        what = rng.choice(["worker", "worker", "worker, in peace", "api", "api"])
        kills[what] += 1
        if what == "api":
            await asyncio.to_thread(rng.choice(apis).restart, kill=True)
            continue
        worker = rng.choice(workers)
        await asyncio.to_thread(worker.stop, signal.SIGKILL if what == "worker" else signal.SIGTERM)
        await asyncio.to_thread(worker.start)
    return kills


async def contend(url: str, broker_url: str, *, seconds: float, writers: int, seed: int) -> Report:
    """Let writers loose on one conversation in a migrated database that nobody else uses."""
    environment = {f"HOLDFAST_{name.upper()}": value for name, value in SETTINGS.items()}
    environment["HOLDFAST_BROKER_URL"] = broker_url
    with ExitStack() as stack:
        apis = [stack.enter_context(LiveServer(url, environment=environment)) for _ in range(2)]
        workers = [stack.enter_context(LiveWorker(url, broker_url, **SETTINGS)) for _ in range(2)]
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
            bases = [api.base_url for api in apis]
            async with session.post(f"{bases[0]}/conversations", json={}) as answer:
                shared = Shared((await answer.json())["id"], bases, session)
            watch = Watch()
            watching = asyncio.ensure_future(watch.look(url, shared.name))
            until = time.monotonic() + seconds
            async with asyncio.TaskGroup() as group:
                killing = group.create_task(_kill(random.Random(seed), apis, workers, until))
                for number in range(writers):
                    group.create_task(Writer(shared, number, seed).write(until))
            report = await judge(url, f"{bases[0]}/conversations/{shared.name}", session, shared.asked)
            watching.cancel()
            await asyncio.wait([watching])
            return _with_counts(report, shared, watch, killing.result())


def _with_counts(report: Report, shared: Shared, watch: Watch, kills: "collections.Counter[str]") -> Report:
    report.broken += watch.broken
    if not watch.looks:
        report.broken.append("nobody watched the lock")
    report.counts["killed"] = dict(kills)
    report.counts["refused as locked"] = shared.locked
    report.counts["longest wait of a writer, s"] = round(shared.longest_wait, 1)
    report.counts["longest lock, s"] = {kind: round(held, 2) for kind, held in watch.longest.items()}
    return report


async def bench(seconds: float, writers: int, seed: int) -> int:
    """On a Postgres and a broker of its own; the exit code."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        await asyncio.to_thread(folder.chmod, 0o711)
        url = stack.enter_context(EmbeddedPostgres(folder / "state")).url
        await asyncio.to_thread(migrate.upgrade, url)
        broker = stack.enter_context(LiveBroker(folder / "state"))
        plain = url.replace("+asyncpg", "")
        report = await contend(plain, broker.url, seconds=seconds, writers=writers, seed=seed)
    for what, count in report.counts.items():
        print(f"{what}: {count}")
    print(f"broken promises: {len(report.broken)}", *report.broken[:20], sep="\n  ")
    return 1 if report.broken else 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--writers", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    known = parser.parse_args()
    sys.exit(asyncio.run(bench(known.seconds, known.writers, known.seed)))


if __name__ == "__main__":
    main()
