"""What a process of the API holds: at rest, and for each open stream in which nothing happens."""

import asyncio
import time
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial

import psutil
import uvloop

from tests.bench import http_load
from tests.bench.answers import Script
from tests.bench.exchanges import CREATE, body, create, is_completed
from tests.bench.http_load import Connection
from tests.bench.measuring import Series, Setup
from tests.bench.spans import Bench, Figures, repeating
from tests.bench.stack import Part

STREAMS = 1000
IDLE = Script(deltas=2, characters=20, gap_ms=600_000)
"""It says that it begins, and then nothing for longer than anybody looks."""
AT_REST, PER_STREAM = "RSS of an API process, MB", "KB per open stream"
SERVED_SECONDS, PAUSE_SECONDS = 1.0, 1.0


@contextmanager
def remembering(bench: Bench) -> Generator[Setup]:
    yield Setup([Series("Holdfast", partial(_measured, bench), is_warmed=False)])


def _measured(bench: Bench, _: float) -> Figures:
    """On a server of its own, which has done nothing before but some creates."""
    count = bench.few(STREAMS, 50)
    with bench.stack.serving() as api:
        warm = repeating(create(Script()))
        uvloop.run(http_load.put(api.base_url, warm, clients=16, seconds=SERVED_SECONDS, check=is_completed))
        time.sleep(PAUSE_SECONDS)
        before = _resident(api)
        during = uvloop.run(_with_open_streams(api, count))
    return {
        AT_REST: max(before.values()) / 1e6,
        PER_STREAM: (sum(during.values()) - sum(before.values())) / count / 1e3,
    }


async def _with_open_streams(api: Part, count: int) -> dict[psutil.Process, int]:
    """What the processes hold once each stream has begun."""
    connections = [Connection(api.base_url) for _ in range(count)]
    request = body(IDLE, stream=True)
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        streams = [group.create_task(each.request("POST", CREATE, request)) for each in connections]
        while not all(each.first_byte_at for each in connections):  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.05)
        await asyncio.sleep(PAUSE_SECONDS)
        found = _resident(api)
        for stream, connection in zip(streams, connections, strict=True):
            stream.cancel()
            connection.close()
    return found


def _resident(api: Part) -> dict[psutil.Process, int]:
    return {each: each.memory_info().rss for each in api.api_processes}
