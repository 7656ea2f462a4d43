"""`kill -9` while responses stand at every point of their run, all at once (decision 14)."""

import asyncio
import signal
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import product
from typing import Any

import asyncpg
import pytest

from tests.waiting import happened
from tests.workers.processes import LiveBroker
from tests.workers.stage import Asked, Site, Tap, Visit, site, visiting, working

QUICK = {"reap_interval_seconds": "0.3", "queued_too_long_seconds": "0.5"}

AGAIN = ("completed", ["lost", "completed"], 2)
FAILED = ("failed", ["failed"], 1)
DONE = ("completed", ["completed"], 1)
POINTS: dict[tuple[str, bool], tuple[str, Any]] = {
    # The upstream has the request and says nothing.
    ("after the claim", False): ("asked", AGAIN),
    ("after the claim", True): ("asked", AGAIN),
    ("after the last claim", False): ("asked", FAILED),
    ("after the last claim", True): ("asked", FAILED),
    # The first batch holds `response.in_progress`, which shows nothing of the output.
    ("after the first append", True): ("begun", AGAIN),
    ("after output was shown", True): ("shown", FAILED),
    # The statement that finishes it waits for a lock, or for the one before it.
    ("before the finish", False): ("later", AGAIN),
    ("before the finish", True): ("later", FAILED),
    # It is committed, and no follower was told; without followers nothing comes after the commit.
    ("after the finish", False): ("ready", DONE),
    ("after the finish", True): ("ready", DONE),
}
"""For each kill point, as JSON or as a stream, where the upstream halts and what decision 14 promises."""


JOURNALLED = "exists (select 1 from response_events e where e.response_id = r.id and e.last_seq {})"
FINISHING = "from pg_stat_activity where wait_event_type = 'Lock' and query like '%stream_shape%'"

EXPIRED = "update responses set lease_until = now() - interval '1 second' where status = 1"


@pytest.fixture(scope="module")
def place(database_url: str, broker: LiveBroker) -> Generator[Site]:
    with site(database_url, broker, **QUICK) as it:
        yield it


async def test_a_worker_that_is_killed_loses_nothing_and_doubles_nothing_at_any_point_of_a_run(
    place: Site,
) -> None:
    async with visiting(place) as visit, Tap(place.database_url) as tap:
        asked = {
            (point, stream, store): visit.ask(
                f"{halt} {point} {stream} {store}", stream, store, background=True
            )
            for ((point, stream), (halt, _)), store in product(POINTS.items(), (True, False))
        }
        by_point = {point: [asked[cell] for cell in asked if cell[0] == point] for point, _ in POINTS}
        # As if two workers had been killed over it.
        await visit.until_all("status = 0", by_point["after the last claim"])
        await visit.execute("update responses r set attempt = 2", by_point["after the last claim"])
        killed = place.worker(tap.url, pool_size="20")
        async with working(killed), locked_rows(visit) as lock:
            await stand(visit, by_point, tap, lock)
            await asyncio.to_thread(killed.stop, signal.SIGKILL)
            # Postgres has not noticed, and would finish what it was told once it may.
            await visit.connection.execute(f"select pg_terminate_backend(pid) {FINISHING}")
        # As if it had been silent for so long.
        await visit.connection.execute(EXPIRED)
        async with working(place.crew):
            await visit.all_ended()
        found = {cell: await visit.outcome(each) for cell, each in asked.items()}
    assert found == {cell: POINTS[cell[:2]][1] for cell in asked}


async def stand(visit: Visit, asked: Mapping[str, Sequence[Asked]], tap: Tap, lock: Any) -> None:
    """Bring each response to its point."""
    await happened(lambda: all(visit.upstream.calls[each.text] for each in visit.asked))
    await visit.until_all(JOURNALLED.format("= 2"), asked["after the first append"])
    await visit.until_all(JOURNALLED.format("> 2"), asked["after output was shown"])
    finishing, finished = asked["before the finish"], asked["after the finish"]
    await visit.until_all("status = 1", [*finishing, *finished])
    tap.texts |= {str(each.key).encode() for each in finished}
    visit.upstream.may_finish.set()
    await visit.until_all("status = 2", finished)
    await happened(lambda: tap.unheard == sum(each.is_streamed for each in finished))
    # It keeps rows from being updated, and lets the journal be written.
    await lock.fetch("select 1 from responses where id = any($1) for share", [each.key for each in finishing])
    visit.upstream.may_go_on.set()
    # They end together: the others wait for the first.
    await visit.until(f"select count(*) = 1 {FINISHING}")


@asynccontextmanager
async def locked_rows(visit: Visit) -> AsyncGenerator[Any]:
    """A connection that keeps until the end of the block what it has locked."""
    connection: Any = await asyncpg.connect(visit.database_url)
    try:
        async with connection.transaction():
            yield connection
    finally:
        await connection.close()
