"""Reading what is stored: one response by its id, and pages of a list."""

import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from operator import truediv
from typing import Any
from uuid import UUID

import asyncpg
import uvloop

from app.domain.search import Filters
from app.domain.tenancy import Caller
from app.store import responses, search
from app.store.db import Database
from tests.bench.exchanges import CREATE, is_completed, is_page, read
from tests.bench.filling import connected, settle, write_chains
from tests.bench.http_load import Client
from tests.bench.measuring import HOLDFAST, Against, Series, Setup
from tests.bench.spans import CPU, P50, Bench, Figures, Span, figures, repeated

CLIENTS = 16
RESPONSES = 2000
CONNECTIONS = 8
"""As many as two processes of the server have by default."""
SELECT_1, STORE, NO_OP = "asyncpg, SELECT 1", "the store's function alone", "no-op route"
BY_MODEL, STORE_BY_MODEL = "Holdfast, by model", "the store's function alone, by model"
CPU_OF_SELECT_1, TIME_OF_SELECT_1 = "CPU / SELECT 1, x", "p50 / SELECT 1, x"
MODEL = "offline"
PAGE = 20

Work = Callable[[], Awaitable[object]]


@contextmanager
def retrieving(bench: Bench) -> Generator[Setup]:
    stored, rng = _fill(bench), random.Random(7)

    async def each(client: Client) -> None:
        await client.ask(*read(rng.choice(stored)))
        while not client.is_over:
            await client.ask(*read(rng.choice(stored)))

    async def get(db: Database) -> None:
        async with db.read(Caller()) as tx:
            assert await responses.get(tx, rng.choice(stored))

    ask = bench.holdfast(each, clients=CLIENTS, check=is_completed)
    yield Setup(
        [Series(HOLDFAST, ask), Series(STORE, _of_store(bench, get)), *_baselines(bench)],
        [Against(CPU_OF_SELECT_1, CPU, HOLDFAST, SELECT_1, truediv)],
    )


@contextmanager
def listing(bench: Bench) -> Generator[Setup]:
    _fill(bench)

    def page(query: str) -> Span:
        return bench.holdfast(("GET", CREATE + query, b""), clients=CLIENTS, check=is_page)

    def find(filters: Filters) -> Callable[[Database], Awaitable[None]]:
        async def one(db: Database) -> None:
            async with db.begin(Caller()) as tx:
                found = await search.find(tx, filters, limit=PAGE)
            assert len(found.found) == PAGE

        return one

    ours = (HOLDFAST, BY_MODEL, STORE, STORE_BY_MODEL)
    yield Setup(
        [
            Series(HOLDFAST, page("")),
            Series(BY_MODEL, page(f"?model={MODEL}")),
            Series(STORE, _of_store(bench, find(Filters()))),
            Series(STORE_BY_MODEL, _of_store(bench, find(Filters(model=MODEL)))),
            *_baselines(bench),
        ],
        [
            *(Against(CPU_OF_SELECT_1, CPU, each, SELECT_1, truediv) for each in ours),
            *(Against(TIME_OF_SELECT_1, P50, each, SELECT_1, truediv) for each in ours),
        ],
    )


def _fill(bench: Bench) -> list[UUID]:
    url = bench.stack.url
    stored = uvloop.run(write_chains(url, depth=1, count=bench.few(RESPONSES, 100)))
    uvloop.run(settle(url))
    bench.stack.settle_down()
    return stored


def _baselines(bench: Bench) -> Sequence[Series]:
    return [
        Series(SELECT_1, _in_process(bench, _selecting)),
        Series(NO_OP, bench.nothing("GET", b"", clients=CLIENTS)),
    ]


def _of_store(bench: Bench, work: Callable[[Database], Awaitable[object]]) -> Span:
    """What the server does without HTTP, on as many connections."""

    @asynccontextmanager
    async def working(url: str) -> AsyncGenerator[Sequence[Work]]:
        async with connected(url, size=CONNECTIONS) as db:
            yield [lambda: work(db)] * CLIENTS

    return _in_process(bench, working)


@asynccontextmanager
async def _selecting(url: str) -> AsyncGenerator[Sequence[Work]]:
    """A prepared `SELECT 1` on a connection for each client."""
    async with AsyncExitStack() as stack:
        works = list[Work]()
        for _ in range(CLIENTS):
            connection: Any = await asyncpg.connect(url)
            stack.push_async_callback(connection.close)
            works.append((await connection.prepare("select 1")).fetch)
        yield works


def _in_process(bench: Bench, working: Callable[[str], AbstractAsyncContextManager[Sequence[Work]]]) -> Span:
    stack = bench.stack

    async def measured(seconds: float) -> Figures:
        async with working(stack.url) as works:
            return figures(await repeated(works, seconds, stack.server))

    return lambda seconds: uvloop.run(measured(seconds))
