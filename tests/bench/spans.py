"""Measuring one thing for a while, in the ways in which scenarios do it."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import psutil
import uvloop

from tests.bench import http_load, pgbench
from tests.bench.exchanges import NOTHING
from tests.bench.http_load import Check, Client, Load, Request, cpu_of, is_ok
from tests.bench.stack import Part, Stack

RATE, CPU, P50, P99 = "per s", "CPU ms", "p50 ms", "p99 ms"
FIRST_BYTE, EVENTS = "first byte ms", "events per CPU s"

Figures = dict[str, float]
"""By name; the name ends in the unit."""

Span = Callable[[float], Figures]
"""Measure for about so many seconds."""

Each = Callable[[Client], Awaitable[None]]
"""What one of the clients does until the time is up."""


@dataclass(frozen=True)
class Bench:
    """On what, how thoroughly, and how it is measured there."""

    stack: Stack
    rounds: int
    seconds: float
    """Length of a span."""
    is_brief: bool
    """Whether it only has to be seen to work."""

    def few(self, whole: int, brief: int) -> int:
        """How much of something to prepare."""
        return brief if self.is_brief else whole

    def holdfast(
        self, each: Each | Request, *, clients: int, check: Check, is_streamed: bool = False
    ) -> Span:
        """The server, at the cost of its processes and of Postgres."""
        it = self.stack
        return _over_http(it.api, each, clients, check, watched=it.watched, is_streamed=is_streamed)

    def upstream(
        self, each: Each | Request, *, clients: int, check: Check, is_streamed: bool = False
    ) -> Span:
        """The same of the upstream itself, whose CPU does not count."""
        return _over_http(self.stack.upstream, each, clients, check, is_streamed=is_streamed)

    def nothing(self, method: str, body: bytes, *, clients: int) -> Span:
        """The no-op route, at the cost of its processes."""
        it = self.stack.noop
        return _over_http(it, (method, NOTHING, body), clients, is_ok, watched=[it.process])

    def postgres(self, script: pgbench.Script, *, clients: int) -> Span:
        """The database by itself, asked by pgbench, whose own CPU does not count."""
        it = self.stack
        return lambda seconds: figures(
            pgbench.run(it.url, script, clients=clients, seconds=seconds, server=it.server)
        )


def figures(load: Load, *, has_cpu: bool = True, is_streamed: bool = False) -> Figures:
    """What a load came to, under the names of the table."""
    found = {RATE: load.per_second, P50: load.p50_ms, P99: load.p99_ms}
    if has_cpu:
        found[CPU] = load.cpu_ms
    if is_streamed:
        found[FIRST_BYTE] = load.first_byte_ms
    if load.events and load.cpu_seconds:
        found[EVENTS] = load.events / load.cpu_seconds
    return found


def _over_http(
    part: Part,
    each: Each | Request,
    clients: int,
    check: Check,
    *,
    watched: Sequence[psutil.Process] = (),
    is_streamed: bool = False,
) -> Span:
    work = repeating(each) if isinstance(each, tuple) else each

    def span(seconds: float) -> Figures:
        load = uvloop.run(
            http_load.put(part.base_url, work, clients=clients, seconds=seconds, watched=watched, check=check)
        )
        return figures(load, has_cpu=bool(watched), is_streamed=is_streamed)

    return span


def repeating(request: Request) -> Each:
    """Ask the same again and again, but once at least."""

    async def each(client: Client) -> None:
        await client.ask(*request)
        while not client.is_over:
            await client.ask(*request)

    return each


async def repeated(
    works: Sequence[Callable[[], Awaitable[object]]], seconds: float, server: psutil.Process
) -> Load:
    """Do each of `works` again and again, all at once, in this process, whose CPU counts with the server's."""
    load = Load()

    async def each(work: Callable[[], Awaitable[object]], until: float) -> None:
        while (began := time.perf_counter()) < until:
            await work()
            load.took.append(time.perf_counter() - began)

    cpu, began = cpu_of([server]) + time.process_time(), time.perf_counter()
    await asyncio.gather(*(each(work, began + seconds) for work in works))
    load.seconds = time.perf_counter() - began
    load.cpu_seconds = cpu_of([server]) + time.process_time() - cpu
    return load
