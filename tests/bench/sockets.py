"""Many WebSockets with lanes, some of which nobody reads, and a restart midway; counts at the end.

    python -m tests.bench.sockets [--sockets 500] [--lanes 4] [--seconds 60] [--deaf 10]

A real server on an embedded Postgres of its own, with the offline model, for so many seconds before the
restart and as many after it. It ends with exit code 1 if a promise of decision 32 was broken: memory grows,
lanes mix, a turn that began has no end, a create is refused by a server that neither stops nor lacks time,
or a stored response is neither complete nor failed nor what its client was told.

Memory is judged in the second half of each life of the process: in the first one it fills up with
connections, histories and what bursts leave behind. A line is laid through the samples of that half, and may
rise by no more than a few hundredths from its beginning to its end.
"""

import argparse
import asyncio
import contextlib
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import psutil
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from app import ids
from app.domain.response import Status
from app.embedded.postgres import EmbeddedPostgres
from app.store import migrate
from tests.api.socketing import TERMINAL, deaf, url_of
from tests.background import execute
from tests.live import LiveServer

SETTINGS = {"HOLDFAST_MAX_OPEN_STREAMS": "100000", "HOLDFAST_SHUTDOWN_GRACE_SECONDS": "5"}
PAUSES_MS = (500, 1000, 2000, 3000)
"""Between ten words: turns of 5 to 30 s, so that lanes that began together do not end together."""
LONG = "::words 5000 0"
"""More than the buffers of a connection take, whoever does not read them."""
DEPTH = 5
"""How long a chain becomes before its lane starts afresh."""
GROWTH = 0.03
"""By what part memory may grow during the second half of a process's life."""
SAMPLES = 40
"""Without so many in that half, half a second apart, it is not judged."""
STOPS, LACKS = "The server is shutting down.", "refused for want of time"


@dataclass
class Tally:
    """What all clients saw."""

    ends: Counter[str] = field(default_factory=Counter[str])
    wrongs: Counter[str] = field(default_factory=Counter[str])
    closings: Counter[str] = field(default_factory=Counter[str])
    """Codes with which the server closed."""
    frames: int = 0
    firsts: list[float] = field(default_factory=list[float])
    """Seconds from a create to its first frame, where it had not to wait for its lane."""
    told: dict[str, str] = field(default_factory=dict[str, str])
    """Stored responses whose end was heard: id to status."""


class Lane:
    """One turn after the other, each continuing the last one."""

    def __init__(self, name: str, client: str, *, is_stored: bool, tally: Tally) -> None:
        self.name, self.is_stored, self._client, self._tally = name, is_stored, client, tally
        self.parent: str | None = None
        self.is_new_connection = True
        self._depth = self._number = 0
        self._tag, self._id, self._next, self._asked_at = "", "", 0, 0.0
        self.is_waiting = False

    def ask(self) -> str:
        """The frame of the next turn; of three, one is quick and says what it was given."""
        self._number += 1
        self._tag, self._id, self._next = f"{self._client}/{self.name}/{self._number}", "", 0
        self.is_waiting, self._asked_at = True, time.monotonic()
        frame: dict[str, Any] = {
            "type": "response.create",
            "stream_id": self.name,
            "model": "offline",
            "input": self._tag
            if self._number % 3 == 0
            else f"{self._tag}\n::words 10 {random.choice(PAUSES_MS)}",
            "store": self.is_stored,
            "metadata": {"tag": self._tag},
        }
        if self.parent:
            frame["previous_response_id"] = self.parent
        return orjson.dumps(frame).decode()

    def hear(self, frame: dict[str, Any]) -> bool:
        """Judge a frame; whether it ends the turn."""
        kind, wrongs = frame["type"], self._tally.wrongs
        if kind == "error":
            self._end_in_error(frame)
            return True
        if not self.is_waiting or frame["sequence_number"] != self._next:
            wrongs["out of order"] += 1
        if self._next == 0:
            self._tally.firsts.append(time.monotonic() - self._asked_at)
            self._id = frame["response"]["id"]
        self._next += 1
        if "response" in frame and (
            frame["response"]["id"] != self._id or frame["response"]["metadata"] != {"tag": self._tag}
        ):
            wrongs["another lane's response"] += 1
        if "item_id" in frame and self._id.removeprefix("resp_") not in frame["item_id"]:
            wrongs["another lane's item"] += 1
        if kind not in TERMINAL:
            return False
        self._end(frame["response"])
        return True

    def cut(self) -> None:
        """The connection ended."""
        if self.is_waiting and self._id:
            self._tally.wrongs["begun and never ended"] += 1
        elif self.is_waiting:
            self._tally.ends["not looked at any more"] += 1
        self.is_waiting, self.is_new_connection = False, True

    def _end(self, response: dict[str, Any]) -> None:
        self.is_waiting, status = False, response["status"]
        self._tally.ends[status] += 1
        if self.is_stored:
            self._tally.told[response["id"]] = status
        said = "".join(part["text"] for item in response["output"] for part in item["content"])
        if status == "completed" and self._number % 3 == 0 and self._tag not in said:
            self._tally.wrongs["another lane's words"] += 1
        if self.parent and self.is_new_connection and not self.is_stored:
            self._tally.wrongs["continued what nobody should know"] += 1
        self.is_new_connection = False
        self._depth = (self._depth + 1) % DEPTH
        self.parent = response["id"] if status == "completed" and self._depth else None

    def _end_in_error(self, frame: dict[str, Any]) -> None:
        self.is_waiting, code = False, frame["error"]["code"]
        message = frame["error"]["message"]
        if code == "service_unavailable":
            code = "told that the server stops" if message == STOPS else LACKS
        self._tally.ends[code] += 1
        is_lost = code == "previous_response_not_found" and self.is_new_connection and not self.is_stored
        if not is_lost and frame["status"] != 503:
            self._tally.wrongs[f"refused: {message[:80]}"] += 1
        self.parent, self.is_new_connection = None, False


class Client:
    """One socket after the other, for as long as the test lasts."""

    def __init__(self, number: int, lanes: int, tally: Tally) -> None:
        named = [(f"lane-{place}", place % 2 == 1) for place in range(lanes)]
        self._lanes = {
            name: Lane(name, f"client-{number}", is_stored=is_stored, tally=tally)
            for name, is_stored in named
        }
        self._tally = tally

    async def live(self, server: LiveServer, over: asyncio.Event) -> None:
        await asyncio.sleep(random.uniform(0, 3))
        while not over.is_set():
            with contextlib.suppress(OSError, InvalidStatus):
                async with connect(url_of(server), proxy=None, compression=None, max_size=None) as socket:
                    await self._talk(socket, over)
            for lane in self._lanes.values():
                lane.cut()
            await asyncio.sleep(random.uniform(0.2, 1))

    async def _talk(self, socket: ClientConnection, over: asyncio.Event) -> None:
        try:
            for lane in self._lanes.values():
                await self._ask(socket, lane)
            while any(lane.is_waiting for lane in self._lanes.values()):
                frame = orjson.loads(await socket.recv())
                self._tally.frames += 1
                lane = self._lanes[frame["stream_id"]]
                # Who is told that the server stops has no use in asking it again.
                if lane.hear(frame) and not over.is_set() and not self._is_farewell(frame):
                    await self._ask(socket, lane)
        except ConnectionClosed as closed:
            self._tally.closings[str(closed.rcvd.code if closed.rcvd else 1006)] += 1

    @staticmethod
    async def _ask(socket: ClientConnection, lane: Lane) -> None:
        # The library will not send once the end has come in, though much before it is not read yet.
        with contextlib.suppress(ConnectionClosed):
            await socket.send(lane.ask())

    @staticmethod
    def _is_farewell(frame: dict[str, Any]) -> bool:
        return frame["type"] == "error" and frame["error"]["message"] == STOPS


class Memory:
    """Of the process that serves: one list of samples for each life of it, up to its order to stop."""

    def __init__(self) -> None:
        self.lives: dict[int, list[int]] = {}
        self.is_stopping = False

    async def watch(self, server: LiveServer) -> None:
        while True:
            if not self.is_stopping:
                resident = psutil.Process(server.pid).memory_info().rss
                self.lives.setdefault(server.pid, []).append(resident)
            await asyncio.sleep(0.5)

    def judge(self, wrongs: Counter[str]) -> None:
        for samples in self.lives.values():
            half = samples[len(samples) // 2 :]
            if len(half) < SAMPLES:
                print(f"memory    {mb(max(samples))} at most; the life was too short to judge it")
                continue
            line = statistics.linear_regression(range(len(half)), half)
            growth = line.slope * len(half) / line.intercept
            print(
                f"memory    start {mb(samples[0])}, middle {mb(half[0])}, end {mb(half[-1])}, "
                f"most {mb(max(samples))}; second half {growth:+.1%}"
            )
            if growth > GROWTH:
                wrongs["memory grew"] += 1


def mb(size: int) -> str:
    return f"{size / 1e6:.0f} MB"


@asynccontextmanager
async def unread(server: LiveServer, count: int, lanes: int) -> AsyncGenerator[None]:
    """Clients that ask and never read."""
    async with AsyncExitStack() as stack:
        for _ in range(count):
            client = await stack.enter_async_context(deaf(server))
            for _ in range(3):
                for place in range(lanes):
                    await client.create(LONG, stream_id=f"lane-{place}", metadata={"tag": "deaf"})
        yield


async def run(server: LiveServer, database_url: str, arguments: argparse.Namespace) -> Tally:
    tally, memory, seconds = Tally(), Memory(), arguments.seconds
    over = asyncio.Event()
    hearing = arguments.sockets - arguments.deaf
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(memory.watch(server))
        clients = [
            group.create_task(Client(number, arguments.lanes, tally).live(server, over))
            for number in range(hearing)
        ]
        async with unread(server, arguments.deaf, arguments.lanes):
            await asyncio.sleep(seconds)
            memory.is_stopping = True
            await restarted(server)
            memory.is_stopping = False
        async with unread(server, arguments.deaf, arguments.lanes):
            await asyncio.sleep(seconds)
        watching.cancel()
        over.set()
        await asyncio.wait(clients)
    await asyncio.to_thread(server.stop)
    memory.judge(tally.wrongs)
    await judge_stored(database_url, tally)
    return tally


async def restarted(server: LiveServer) -> None:
    began = time.monotonic()
    await asyncio.to_thread(server.stop)
    stopped = time.monotonic()
    await asyncio.to_thread(server.start)
    print(
        f"restart   ended after {stopped - began:.1f} s, served again after {time.monotonic() - stopped:.1f} s"
    )


async def judge_stored(database_url: str, tally: Tally) -> None:
    """Every stored response has an end, and the one that its client was told."""
    rows = await execute(database_url, "select id, status from responses")
    stored = {ids.response_id(row["id"]): Status(row["status"]).wire for row in rows}
    print("stored   ", dict(Counter(stored.values())))
    for status in stored.values():
        if status in {"queued", "in_progress"}:
            tally.wrongs["stored without an end"] += 1
    for name, status in tally.told.items():
        if stored.get(name) != status:
            tally.wrongs[f"told {status}, stored {stored.get(name)}"] += 1


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.sockets", description=__doc__)
    parser.add_argument("--sockets", type=int, default=500)
    parser.add_argument("--lanes", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=60, help="before the restart, and after it")
    parser.add_argument("--deaf", type=int, help="how many of them never read; a tenth")
    arguments = parser.parse_args()
    if arguments.deaf is None:
        arguments.deaf = arguments.sockets // 10
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)
        with EmbeddedPostgres(Path(folder) / "state", durable=False) as postgres:
            url = postgres.url.replace("+asyncpg", "", 1)
            migrate.upgrade(url)
            with LiveServer(url, environment=SETTINGS) as server:
                tally = asyncio.run(run(server, url, arguments))
                if "crashed" in server.log:
                    tally.wrongs["the log has a crash"] += 1
    return told(tally, arguments)


def told(tally: Tally, arguments: argparse.Namespace) -> int:
    print("turns    ", dict(tally.ends))
    print(f"frames    {tally.frames}, {tally.frames / arguments.seconds / 2:.0f} a second")
    firsts = statistics.quantiles(tally.firsts, n=100)
    print(f"first     p50 {firsts[49] * 1000:.0f} ms, p99 {firsts[98] * 1000:.0f} ms")
    print("closed   ", dict(tally.closings))
    print("broken   ", dict(tally.wrongs) or "nothing")
    return 1 if tally.wrongs or not tally.ends["completed"] else 0


if __name__ == "__main__":
    sys.exit(main())
