"""Webhooks while a third of their endpoints fail, hang or redirect, and while workers are killed at random.

    python -m tests.bench.webhooks [--deliveries 10000] [--rate 150] [--workers 2] [--seed 1] [--rounds alone,bad]

Real workers and signals on an embedded Postgres and Valkey of its own, receivers over sockets. Rounds of the
same events: to healthy endpoints alone; with half as many beside them that are healthy too, as a control;
with as many bad ones in their place, a third of all; and that with workers killed. It prints how long the
same healthy endpoints waited in each, and what became of all. Its exit code is 1 if an event was not
delivered, had two ids, was not signed, or anything came to an address that is not allowed.

Receivers are on 127.0.0.2, which is allowed. On 127.0.0.1, which is not, a trap counts connections: there
point two endpoints of each tenant, by its number and by its name, and every redirect.
"""

import argparse
import asyncio
import base64
import collections
import contextlib
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from uuid import UUID

from aiohttp import web
from standardwebhooks import Webhook

from app import ids
from app.domain.seals import Seals
from app.domain.tenancy import Caller
from app.domain.webhooks import EVENT_TYPES, State
from app.embedded.postgres import EmbeddedPostgres
from app.store import migrate
from app.store.db import Database
from app.store.webhook_endpoints import Changes
from app.wakeups import Bell
from app.webhooks import endpoints
from tests.background import cancel, enqueued, execute
from tests.builders import a_caller
from tests.workers.processes import LiveBroker, LiveWorker

KEY = bytes(range(32))
SEALS = Seals(KEY)
HERE, TRAP = "127.0.0.2", "127.0.0.1"
EVERYWHERE = (ip_network("127.0.0.0/8"),)
SETTINGS = {
    "seal_key": base64.b64encode(KEY).decode(),
    "webhook_allowed_networks": f'["{HERE}/32"]',
    "webhook_timeout_seconds": "3",
    "webhook_retry_seconds": "1",
    "reap_interval_seconds": "1",
    "shutdown_grace_seconds": "2",
}
TENANTS, HEALTHY, BAD = 10, 4, ("fail", "hang", "redirect")
PATIENCE_SECONDS = 900.0
CONTROL = ("more", "more", "more")
"""Healthy ones in place of `BAD`: what they cost the others is what any work costs them."""


@dataclass
class Hook:
    """An endpoint: whose, how it behaves, and what came there."""

    id: UUID
    caller: Caller
    secret: str
    manner: str
    came: dict[str, float] = field(default_factory=dict[str, float])
    """When each event came for the first time, by `webhook-id`."""
    count: int = 0


class Receivers:
    """One server for all endpoints, told apart by their paths; and the trap."""

    def __init__(self) -> None:
        self.hooks = dict[str, Hook]()
        self.is_bad = True
        """Whether those that are bad still are."""
        self.wrong = list[str]()
        self.trapped = 0
        self.port = self.trap_port = 0

    async def receive(self, request: web.Request) -> web.StreamResponse:
        hook, now = self.hooks[request.path], time.time()
        body = await request.read()
        event_id = request.headers["webhook-id"]
        try:
            told = Webhook(hook.secret).verify(body, dict(request.headers))
        except Exception as error:  # noqa: BLE001 - whatever it says, that is what is wrong
            self.wrong.append(f"{request.path}: {error!r}")
            told = {"id": event_id}
        if told["id"] != event_id:
            self.wrong.append(f"{request.path}: {event_id} carries {told['id']}")
        hook.count += 1
        if self.is_bad and hook.manner == "hang":
            await asyncio.sleep(3600)
        if self.is_bad and hook.manner == "fail":
            return web.Response(status=random.choice([400, 404, 429, 500, 503]))
        if self.is_bad and hook.manner == "redirect":
            location = {"location": f"http://{TRAP}:{self.trap_port}/"}
            return web.Response(status=random.choice([301, 302, 307, 308]), headers=location)
        hook.came.setdefault(event_id, now)
        return web.Response(status=204)

    async def trap(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.trapped += 1
        writer.close()


@asynccontextmanager
async def listening() -> AsyncGenerator[Receivers]:
    receivers, app = Receivers(), web.Application()
    app.router.add_post("/{path:.*}", receivers.receive)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, HERE, 0, backlog=1024).start()
    receivers.port = runner.addresses[0][1]
    trap = await asyncio.start_server(receivers.trap, TRAP, 0)
    receivers.trap_port = trap.sockets[0].getsockname()[1]
    try:
        yield receivers
    finally:
        trap.close()
        await runner.cleanup()


async def hooks_of(
    db: Database, receivers: Receivers, callers: Sequence[Caller], others: Sequence[str]
) -> None:
    """Endpoints of every tenant: healthy ones, half as many of these others, and two traps beside bad ones."""
    for caller in callers:
        manners = ["healthy"] * HEALTHY
        if others:
            # With each pair of tenants every manner comes up as often as the others, nearly.
            manners += [others[(caller.tenant_id * 2 + number) % 3] for number in range(HEALTHY // 2)]
        for number, manner in enumerate(manners):
            path = f"/{caller.tenant_id}/{number}"
            url = f"http://{HERE}:{receivers.port}{path}"
            receivers.hooks[path] = await hook(db, caller, url, manner)
        for host in (TRAP, "localhost") if others == BAD else ():
            url = f"http://{host}:{receivers.trap_port}/"
            receivers.hooks[f"{caller.tenant_id} {host}"] = await hook(db, caller, url, "trap")


async def hook(db: Database, caller: Caller, url: str, manner: str) -> Hook:
    async with db.begin(caller) as tx:
        given = Changes(manner, url, EVENT_TYPES)
        made, secret = await endpoints.create(tx, given, SEALS, most=99, allowed=EVERYWHERE)
    return Hook(made.id, caller, secret, manner)


async def end_responses(db: Database, bell: Bell, callers: Sequence[Caller], count: int, rate: float) -> None:
    """Background responses that end, so many in all and in a second, each told by a bell."""
    began = time.monotonic()
    for number in range(count):
        await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
        caller = callers[number % len(callers)]
        draft = await enqueued(db, caller)
        assert await cancel(db, caller, draft.id)
        await bell.ring_deliveries()


async def kill(rng: random.Random, workers: list[LiveWorker], kills: "collections.Counter[str]") -> None:
    """Every few seconds a worker dies, or is told to stop, and comes back."""
    while True:
        await asyncio.sleep(rng.uniform(2, 5))
        worker, number = rng.choice(workers), rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
        kills[number.name] += 1
        with contextlib.suppress(Exception):
            await asyncio.to_thread(worker.stop, number, seconds=40)
        await asyncio.to_thread(worker.start)


WAITING = """
select count(*) from webhook_deliveries d join webhook_endpoints e on e.id = d.endpoint_id
where d.state = 0 and e.name = any($1)
"""


async def until_delivered(url: str, *manners: str) -> bool:
    """Whether everything came to these in time."""
    end = time.monotonic() + PATIENCE_SECONDS
    while (await execute(url, WAITING, list(manners)))[0]["count"]:
        if time.monotonic() > end:
            return False
        await asyncio.sleep(0.25)
    return True


async def latencies(url: str, receivers: Receivers) -> list[float]:
    """How long healthy endpoints waited for each event after its response had ended, in seconds."""
    rows = await execute(
        url, "select endpoint_id, event_id, extract(epoch from created_at) as at from webhook_deliveries"
    )
    ended = {(row["endpoint_id"], ids.event_id(row["event_id"])): float(row["at"]) for row in rows}
    return [
        at - ended[hook.id, event_id]
        for hook in receivers.hooks.values()
        if hook.manner == "healthy"
        for event_id, at in hook.came.items()
    ]


async def judge(url: str, receivers: Receivers) -> tuple[collections.Counter[str], list[str]]:
    """What came of all, and every promise that was broken."""
    rows = await execute(url, "select * from webhook_deliveries")
    found, broken = collections.Counter[str](), list(receivers.wrong)
    by_id = {hook.id: hook for hook in receivers.hooks.values()}
    wanted = collections.defaultdict[UUID, set[str]](set)
    for row in rows:
        hook, event_id = by_id[UUID(int=row["endpoint_id"].int)], ids.event_id(row["event_id"])
        wanted[hook.id].add(event_id)
        found[f"{hook.manner}: {State(row['state']).word}"] += 1
        if hook.manner == "trap":
            if row["state"] == State.DELIVERED:
                broken.append(f"{event_id} was delivered to {TRAP}")
        elif event_id not in hook.came:
            broken.append(f"{event_id} did not come to {hook.manner}")
    strangers = [name for hook in by_id.values() for name in hook.came.keys() - wanted[hook.id]]
    broken += [f"{name} came to an endpoint that it was not for" for name in strangers]
    if receivers.trapped:
        broken.append(f"{receivers.trapped} connections to {TRAP}")
    attempts = await execute(url, "select reason, count(*) from webhook_attempts group by 1 order by 2 desc")
    print("  attempts:", {row["reason"]: row["count"] for row in attempts})
    received = sum(hook.count for hook in by_id.values() if hook.manner == "healthy")
    came = sum(len(hook.came) for hook in by_id.values() if hook.manner == "healthy")
    print(f"  healthy endpoints: {came} events in {received} requests")
    return found, broken


@dataclass(frozen=True)
class Bench:
    """What all rounds run on."""

    url: str
    broker: LiveBroker
    arguments: argparse.Namespace

    async def round(self, name: str, others: Sequence[str] = (), *, has_kills: bool = False) -> list[str]:
        """One round; what was broken."""
        arguments, rng = self.arguments, random.Random(self.arguments.seed)
        per_end = HEALTHY + HEALTHY // 2
        ends, rate = arguments.deliveries // per_end, arguments.rate / per_end
        db = await Database.connect(self.url, size=4)
        bell, kills = Bell(self.broker.url), collections.Counter[str]()
        await execute(self.url, "truncate webhook_endpoints cascade")
        callers = [await a_caller(self.url) for _ in range(TENANTS)]
        workers = [LiveWorker(self.url, self.broker.url, **SETTINGS) for _ in range(arguments.workers)]
        async with listening() as receivers:
            with contextlib.ExitStack() as stack:
                for worker in workers:
                    await asyncio.to_thread(stack.enter_context, worker)
                await hooks_of(db, receivers, callers, others)
                killing = asyncio.ensure_future(kill(rng, workers, kills)) if has_kills else None
                began = time.monotonic()
                await end_responses(db, bell, callers, ends, rate)
                done = await until_delivered(self.url, "healthy", *CONTROL)
                waits = await latencies(self.url, receivers)
                # Those that were bad are mended; and now they are owed all that they missed.
                receivers.is_bad = False
                done = await until_delivered(self.url, *BAD) and done
                took = time.monotonic() - began
                if killing:
                    killing.cancel()
                    await asyncio.wait([killing])
                print(f"{name}: {ends} ends of responses of {TENANTS} tenants, {took:.0f} s", dict(kills))
                found, broken = await judge(self.url, receivers)
        await bell.close()
        await db.close()
        print("  deliveries:", dict(sorted(found.items())))
        print(f"  healthy endpoints waited {told(waits)}", flush=True)
        return broken + ([] if done else [f"{name}: not everything was delivered in time"])


ROUNDS: Mapping[str, Callable[[Bench], Awaitable[list[str]]]] = {
    "alone": lambda it: it.round("healthy alone"),
    "control": lambda it: it.round("half as many healthy ones beside them", CONTROL),
    "bad": lambda it: it.round("a third bad", BAD),
    "killed": lambda it: it.round("a third bad, workers killed", BAD, has_kills=True),
}


def told(waits: list[float]) -> str:
    cuts = statistics.quantiles(waits, n=1000)
    return f"p50 {cuts[499] * 1e3:.1f} ms, p99 {cuts[989] * 1e3:.1f} ms, longest {max(waits) * 1e3:.1f} ms"


async def bench(arguments: argparse.Namespace) -> int:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        await asyncio.to_thread(folder.chmod, 0o711)
        url = stack.enter_context(EmbeddedPostgres(folder / "state")).url.replace("+asyncpg", "", 1)
        await asyncio.to_thread(migrate.upgrade, url)
        it = Bench(url, stack.enter_context(LiveBroker(folder / "state")), arguments)
        broken = list[str]()
        for name in arguments.rounds:
            broken += await ROUNDS[name](it)
    print(f"broken promises: {len(broken)}", *broken[:20], sep="\n  ")
    return 1 if broken else 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--deliveries", type=int, default=10_000, help="beside those to the traps")
    parser.add_argument("--rate", type=float, default=150, help="deliveries that are wanted in a second")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--rounds", type=lambda text: text.split(","), default=list(ROUNDS), help="all, one after the other"
    )
    sys.exit(asyncio.run(bench(parser.parse_args())))


if __name__ == "__main__":
    main()
