"""What decision 14 promises when the API, Postgres, a broker or the way to one of them fails under its clients.
Real processes, real signals; how workers end is in `test_kill_points` and `test_graceful_stop`."""

import asyncio
import signal
from collections.abc import Generator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from app.embedded.postgres import EmbeddedPostgres
from app.store import migrate
from app.wakeups import Bell
from tests.waiting import happened
from tests.workers.processes import LiveBroker, LiveWorker, broker_running
from tests.workers.stage import Asked, Site, Tap, Visit, kept, site, visiting, working

QUICK = {
    "lease_seconds": "3",
    "reap_interval_seconds": "0.3",
    "queued_too_long_seconds": "0.5",
    "shutdown_grace_seconds": "2",
}
BOTH = (True, False)

BROKEN = ("broken", None, None)
ENDS: dict[tuple[str, bool], Any] = {
    ("asked", False): (503, "server_error", None),
    ("asked", True): (503, "server_error", None),
    ("shown", True): (200, "response.failed", "failed"),
    ("ready", False): (200, "completed", "completed"),
    ("ready", True): (200, "response.completed", "completed"),
}
"""What clients of an API that stops find: status, how the answer ends, and what is stored unless `store` is false."""


UNDISTURBED = ("completed", ["completed"], 1)

CUT_OFF = {
    ("asked", False): ("completed", ["lost", "completed"], 2),
    ("asked", True): ("completed", ["lost", "completed"], 2),
    ("shown", True): ("failed", ["failed"], 1),
}


@pytest.fixture(scope="module")
def place(database_url: str, broker: LiveBroker) -> Generator[Site]:
    with site(database_url, broker, **QUICK) as it, it.crew:
        yield it


@pytest.mark.parametrize("kills", BOTH, ids=["killed", "stopped"])
async def test_an_api_that_ends_takes_only_its_own_responses_with_it(place: Site, *, kills: bool) -> None:
    """Background responses run on, and their followers go on behind the last event that they saw."""
    async with visiting(place) as visit:
        rows_before = await visit.foreground_rows()
        here = {
            (halt, stream, store): visit.ask(f"{halt} {stream} {store}", stream, store)
            for (halt, stream), store in product(ENDS, BOTH)
        }
        behind = in_background(visit, "later")
        await visit.under_way()
        await end(place, visit, kills=kills)
        visit.upstream.may_go_on.set()
        await asyncio.gather(*[each.resume(visit.client) for each in behind if each.is_streamed])
        found = {cell: await visit.told(each) for cell, each in here.items()}
        rows = await visit.foreground_rows() - rows_before
        await visit.all_ended(behind)
        outcomes = [await visit.outcome(each) for each in behind]
    assert rows == sum(stored is not None for _, _, stored in found.values())
    assert found == {cell: BROKEN if kills else kept(ENDS[cell[:2]], store=cell[2]) for cell in here}
    assert outcomes == [UNDISTURBED] * len(behind)


async def end(place: Site, visit: Visit, *, kills: bool) -> None:
    """End the API and start it again. Upstreams that are `ready` finish while it stops."""
    stopped = asyncio.ensure_future(asyncio.to_thread(place.api.stop, kill=kills))
    await happened(place.is_closed)
    visit.upstream.may_finish.set()
    await stopped
    await asyncio.to_thread(place.api.start)


async def test_a_broker_that_is_killed_takes_nothing_with_it(place: Site, broker: LiveBroker) -> None:
    async with visiting(place) as visit:
        here = [visit.ask(f"ready {stream}", stream, True) for stream in BOTH]
        behind = in_background(visit, "ready")
        await visit.under_way()
        await asyncio.to_thread(broker.kill)
        # Nothing rings for these but the reaper.
        late = in_background(visit, "nowhere")
        await visit.until_all("status = 0", late)
        visit.upstream.may_finish.set()
        await visit.all_ended(behind)
        await asyncio.to_thread(broker.start)
        found = [await visit.told(each) for each in here]
        await visit.all_ended()
        outcomes = [await visit.outcome(each) for each in (*behind, *late)]
    assert found == [ENDS["ready", stream] for stream in BOTH]
    assert outcomes == [UNDISTURBED] * 8


@pytest.fixture
def restartable() -> Generator[tuple[EmbeddedPostgres, Site]]:
    """A Postgres of the test's own, and a site on it; on a broker of its own, where no other worker takes bells."""
    with TemporaryDirectory(prefix="holdfast-test-") as folder, broker_running() as broker:
        # Root's server runs as another user, who must be able to reach it.
        Path(folder).chmod(0o711)
        with EmbeddedPostgres(Path(folder) / "state", durable=False) as postgres:
            url = postgres.url.replace("+asyncpg", "", 1)
            migrate.upgrade(url)
            with site(url, broker) as place, place.crew:
                yield postgres, place


async def test_a_restarted_postgres_costs_time_and_nothing_else(
    restartable: tuple[EmbeddedPostgres, Site],
) -> None:
    """Everything ends while it is away, and is kept once it is back."""
    postgres, place = restartable
    async with visiting(place) as visit:
        here = {
            (stream, store): visit.ask(f"ready {stream} {store}", stream, store)
            for stream, store in product(BOTH, BOTH)
        }
        behind = in_background(visit, "ready")
        await visit.under_way()
        await asyncio.to_thread(postgres.stop)
        visit.upstream.may_finish.set()
        await happened(lambda: "store.unavailable" in place.api.log)
        await asyncio.to_thread(postgres.start)
        await visit.connect()
        await visit.all_ended(behind)
        found = {cell: await visit.told(each) for cell, each in here.items()}
        outcomes = [await visit.outcome(each) for each in behind]
    assert found == {cell: kept(ENDS["ready", cell[0]], store=cell[1]) for cell in here}
    assert outcomes == [UNDISTURBED] * len(behind)


async def test_a_worker_that_is_cut_off_stops_itself_and_another_goes_on(place: Site) -> None:
    """Nothing passes any more between it and Postgres, for longer than its lease."""
    async with (
        visiting(place) as visit,
        Tap(place.database_url) as tap,
        working(place.worker(tap.url)) as cut_off,
    ):
        with paused(place.crew):
            asked = {
                (halt, stream): visit.ask(f"{halt} {stream}", stream, True, background=True)
                for halt, stream in CUT_OFF
            }
            await visit.under_way()
            tap.fall_silent()
        await visit.all_ended()
        await happened(lambda: cut_off.said("lease.lost") == len(asked))
        found = {cell: await visit.outcome(each) for cell, each in asked.items()}
    assert found == CUT_OFF


@contextmanager
def paused(worker: LiveWorker) -> Generator[None]:
    """It claims nothing until the end of the block."""
    worker.send(signal.SIGSTOP)
    try:
        yield
    finally:
        worker.send(signal.SIGCONT)


async def test_a_message_that_is_delivered_three_times_generates_once(
    place: Site, broker: LiveBroker
) -> None:
    async with visiting(place) as visit:
        behind = in_background(visit, "later")
        await visit.until_all("status < 2", behind)
        bell = Bell(broker.url)
        for each in behind * 3:
            await bell.ring(each.id)
        await bell.close()
        await visit.under_way()
        visit.upstream.may_go_on.set()
        await visit.all_ended()
        outcomes = [await visit.outcome(each) for each in behind]
    assert outcomes == [UNDISTURBED] * len(behind)


async def test_clocks_that_differ_change_nothing(place: Site) -> None:
    """A worker whose clock is an hour ahead neither takes another's work for lost nor forgets a result early."""
    with TemporaryDirectory() as folder:
        (Path(folder) / "sitecustomize.py").write_text(AHEAD)
        ahead = place.worker()
        ahead.environment["PYTHONPATH"] = folder
        async with visiting(place) as visit, working(ahead):
            behind = in_background(visit, "later")
            await visit.under_way()
            # Several rounds of both reapers lie before a renewal.
            until = await visit.connection.fetchval("select max(lease_until) from responses")
            await visit.until_all(f"lease_until > '{until}'", behind)
            visit.upstream.may_go_on.set()
            await visit.all_ended()
            outcomes = [await visit.outcome(each) for each in behind]
    assert outcomes == [UNDISTURBED] * len(behind)


AHEAD = """
import time
_now, _now_ns = time.time, time.time_ns
time.time = lambda: _now() + 3600
time.time_ns = lambda: _now_ns() + 3600 * 10**9
"""


def in_background(visit: Visit, halt: str) -> list[Asked]:
    """One of each kind, streamed or not and kept or not."""
    return [
        visit.ask(f"{halt} behind {stream} {store}", stream, store, background=True)
        for stream, store in product(BOTH, BOTH)
    ]
