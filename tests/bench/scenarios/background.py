"""Background responses: accepting them, doing a thousand, waiting with a thousand."""

import asyncio
import time
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from typing import Any

import asyncpg
import uvloop

from app.domain.response import Status
from tests.bench import http_load
from tests.bench.answers import Script
from tests.bench.exchanges import create, is_completed, is_queued
from tests.bench.http_load import Client, cpu_of
from tests.bench.measuring import HOLDFAST, Series, Setup
from tests.bench.spans import CPU, RATE, Bench, Figures, figures
from tests.bench.stack import Part, Stack

CLIENTS = 16
JOBS = 1000
"""As many as a tenant may have waiting."""
WAIT_SECONDS = 10
PATIENCE_SECONDS = 120.0
FOREGROUND = "the same in the foreground"
RSS, AT_ONCE, RESTING = "RSS MB", "waiting at once", "RSS at rest, MB"
WORKER_CPU = "worker CPU ms"

_STATE = "select status, count(*) as count, max(finished_at) as last from responses group by status"
_IS_LEFT = "select exists (select from responses where finished_at is null)"


@contextmanager
def accepting(bench: Bench) -> Generator[Setup]:
    """Without a worker: what queueing costs, the queue growing from nothing to its limit in each span."""
    jobs = bench.few(JOBS, 50)

    def accept(seconds: float) -> Figures:
        bench.stack.reset()
        return figures(_accepted(bench.stack, jobs, Script(), seconds))

    yield Setup([Series(HOLDFAST, accept), _foreground(bench)])


@contextmanager
def doing(bench: Bench) -> Generator[Setup]:
    """From the first request to the last commit, through one worker."""
    jobs = bench.few(JOBS, 50)
    with bench.stack.working() as worker:
        yield Setup([Series(HOLDFAST, partial(_done, bench.stack, worker, jobs)), _foreground(bench)])


@contextmanager
def waiting(bench: Bench) -> Generator[Setup]:
    """How much memory a worker has in which so many jobs wait for their model."""
    jobs, seconds = bench.few(JOBS, 50), bench.few(WAIT_SECONDS, 1)
    with bench.stack.working(worker_concurrency=str(jobs)) as worker:

        def span(_: float) -> Figures:
            return _waited(bench.stack, worker, jobs, Script(latency_ms=1000 * seconds))

        yield Setup([Series(HOLDFAST, span, is_warmed=False)], is_once=True)


def _accepted(stack: Stack, jobs: int, script: Script, seconds: float = PATIENCE_SECONDS) -> http_load.Load:
    """Up to so many, queued by 16 clients."""
    left, request = iter(range(jobs)), create(script, background=True)

    async def each(client: Client) -> None:
        for _ in left:
            await client.ask(*request)
            if client.is_over:
                return

    return uvloop.run(
        http_load.put(
            stack.api.base_url,
            each,
            clients=CLIENTS,
            seconds=seconds,
            watched=stack.watched,
            check=is_queued,
        )
    )


def _done(stack: Stack, worker: Part, jobs: int, _: float) -> Figures:
    stack.reset()
    watched = [*stack.watched, worker.process]
    began, cpu, worker_cpu = time.time(), cpu_of(watched), cpu_of([worker.process])
    accepted = _accepted(stack, jobs, Script())
    assert len(accepted.took) == jobs
    last = uvloop.run(_last_end(stack, jobs))
    return {
        RATE: jobs / (last - began),
        CPU: 1000 * (cpu_of(watched) - cpu) / jobs,
        WORKER_CPU: 1000 * (cpu_of([worker.process]) - worker_cpu) / jobs,
    }


async def _last_end(stack: Stack, jobs: int) -> float:
    """Wait until all have ended; when the last did, by the clock of this machine.

    On one connection: what we ask of Postgres costs CPU that is counted.
    """
    connection: Any = await asyncpg.connect(stack.url)
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await connection.fetchval(_IS_LEFT):  # noqa: ASYNC110 - other processes
                await asyncio.sleep(0.05)
        found = await connection.fetch(_STATE)
    finally:
        await connection.close()
    counts = {row["status"]: row["count"] for row in found}
    assert counts == {Status.COMPLETED: jobs}, f"not all were completed: {counts}"
    return found[0]["last"].timestamp()


def _waited(stack: Stack, worker: Part, jobs: int, script: Script) -> Figures:
    """The most that the worker had, and how many jobs it was waiting with at once."""
    resting = worker.process.memory_info().rss
    _accepted(stack, jobs, script)
    most, at_once, process = 0, 0, worker.process
    end = time.monotonic() + PATIENCE_SECONDS
    while (counts := _counts(stack)).get(Status.COMPLETED, 0) < jobs:
        most, at_once = max(most, process.memory_info().rss), max(at_once, counts.get(Status.IN_PROGRESS, 0))
        assert time.monotonic() < end, f"not all were completed: {counts}"
        time.sleep(0.1)
    return {RSS: most / 1e6, AT_ONCE: float(at_once), RESTING: resting / 1e6}


def _counts(stack: Stack) -> dict[int, int]:
    return {row["status"]: row["count"] for row in stack.execute(_STATE)}


def _foreground(bench: Bench) -> Series:
    return Series(FOREGROUND, bench.holdfast(create(Script()), clients=CLIENTS, check=is_completed))
