"""Following background streams: a hundred readers of one, and one reader each of a hundred."""

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from urllib.parse import urlsplit

import orjson
import uvloop

from tests.bench import http_load
from tests.bench.answers import Script
from tests.bench.exchanges import CREATE, body, is_streamed
from tests.bench.http_load import Client, cpu_of
from tests.bench.measuring import Series, Setup
from tests.bench.spans import Bench, Figures
from tests.bench.stack import Part

FOLLOWERS = 100
SCRIPT = Script(deltas=200, characters=1800, gap_ms=20)
BRIEF_SCRIPT = Script(deltas=20, characters=180, gap_ms=20)
COST, WORKER_COST, PASSED_ON = "CPU µs an event", "worker CPU µs an event", "events per s"


@contextmanager
def following(bench: Bench) -> Generator[Setup]:
    count = bench.few(FOLLOWERS, 10)
    with bench.stack.working() as worker:
        one, many = (partial(_followed, bench, worker, streams, count) for streams in (1, count))
        yield Setup(
            [
                Series(f"{FOLLOWERS} followers of one stream", one, is_warmed=False),
                Series(f"{FOLLOWERS} streams with a follower each", many, is_warmed=False),
            ]
        )


def _followed(bench: Bench, worker: Part, streams: int, followers: int, _: float) -> Figures:
    script = BRIEF_SCRIPT if bench.is_brief else SCRIPT
    bench.stack.reset()
    worker_cpu = cpu_of([worker.process])
    load = uvloop.run(_follow(bench, script, streams, followers))
    worker_seconds = cpu_of([worker.process]) - worker_cpu
    return {
        PASSED_ON: load.events / load.seconds,
        COST: 1e6 * load.cpu_seconds / load.events,
        WORKER_COST: 1e6 * worker_seconds / (streams * script.events),
    }


async def _follow(bench: Bench, script: Script, streams: int, followers: int) -> http_load.Load:
    """From the moment on in which all streams have begun, until all have ended."""
    stack, request = bench.stack, body(script, background=True, stream=True)
    ids = await asyncio.gather(*(_begun(stack.api.base_url, request) for _ in range(streams)))

    async def each(client: Client) -> None:
        await client.follow("GET", f"{CREATE}/{ids[client.number % streams]}?stream=true")

    return await http_load.put(
        stack.api.base_url,
        each,
        clients=followers,
        seconds=0,
        watched=stack.watched,
        check=is_streamed(script),
    )


async def _begun(base_url: str, request: bytes) -> str:
    """Create a stream and leave at its first event: the id of its response."""
    url = urlsplit(base_url)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    head = f"POST {CREATE} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(request)}\r\n\r\n".encode() + request)
    await reader.readuntil(b"\ndata: ")
    event = orjson.loads(await reader.readuntil(b"\n\n"))
    writer.close()
    return event["response"]["id"]
