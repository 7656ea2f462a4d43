"""A worker that is told to stop: what was not shown goes back into the queue, what was shown ends (decision 14)."""

import asyncio
from collections.abc import Generator
from itertools import product
from typing import Any

import pytest

from tests.waiting import happened
from tests.workers.processes import HOLDFAST_WORKER, LiveBroker
from tests.workers.stage import Site, site, visiting, working

HANDED_BACK = (("queued", ["handed_back"], 1), ("completed", ["handed_back", "completed"], 2))
ENDED = (("failed", ["failed"], 1),) * 2
FINISHED = (("completed", ["completed"], 1),) * 2
CASES: dict[tuple[str, bool], Any] = {
    ("asked", False): HANDED_BACK,
    ("asked", True): HANDED_BACK,
    ("begun", True): HANDED_BACK,
    ("shown", True): ENDED,
    ("ready", False): FINISHED,
    ("ready", True): FINISHED,
}
"""Where the upstream halts, as JSON or as a stream: what is found once the worker has ended, and after the next."""


@pytest.fixture
def place(database_url: str, broker: LiveBroker) -> Generator[Site]:
    with site(database_url, broker, shutdown_grace_seconds="2") as it:
        yield it


async def test_a_worker_that_stops_finishes_hands_back_or_fails_what_it_has(place: Site) -> None:
    """Whoever follows stays connected, and reads one stream to its end."""
    place.crew.command = HOLDFAST_WORKER
    async with visiting(place) as visit:
        asked = {
            (halt, stream, store): visit.ask(f"{halt} {stream} {store}", stream, store, background=True)
            for (halt, stream), store in product(CASES, (True, False))
        }
        async with working(place.crew) as worker:
            await visit.under_way()
            stopped = asyncio.ensure_future(asyncio.to_thread(worker.stop))
            await happened(lambda: worker.said("worker.stopping") == 1)
            visit.upstream.may_finish.set()
            assert await stopped == 0
            left = {cell: await visit.standing(each) for cell, each in asked.items()}
            # What was handed back is taken up at once, long before its lease would have ended.
            await asyncio.to_thread(worker.start)
            await visit.all_ended()
            found = {cell: await visit.outcome(each) for cell, each in asked.items()}
    assert left == {cell: CASES[cell[:2]][0] for cell in asked}
    assert found == {cell: CASES[cell[:2]][1] for cell in asked}
