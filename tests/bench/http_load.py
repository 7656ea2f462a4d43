"""Requests as fast as a server answers them: raw HTTP/1.1 over kept connections, one request at a time each.

The client costs CPU on the cores that it measures, so it does next to nothing: bytes are sent as they are,
and of an answer is looked at where it ends, and whether it is the right one. What is not ends the run:
a refusal is faster than an answer, and no figure may be made of it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from statistics import median
from typing import cast
from urllib.parse import urlsplit

import asyncpg
import psutil

PATIENCE_SECONDS = 60.0
"""What the last requests of a span may take beyond it. A server that hangs is a failure too."""

Check = Callable[[int, bytes], bool]
"""Whether a status and a body are what was asked for."""

Request = tuple[str, str, bytes]


class BadAnswer(Exception):
    """A server answered something else than what was to be measured."""


class Connection(asyncio.Protocol):
    """One kept connection."""

    def __init__(self, base_url: str, key: str = "unused") -> None:
        url = urlsplit(base_url)
        self._address = url.hostname or "127.0.0.1", url.port or 80
        self._head = (
            f"Host: {self._address[0]}:{self._address[1]}\r\nAuthorization: Bearer {key}\r\n"
            "Content-Type: application/json\r\n"
        ).encode()
        self._transport: asyncio.WriteTransport | None = None
        self._waiter: asyncio.Future[tuple[int, bytes]] | None = None
        self._buffer = bytearray()
        self._body_at = -1
        self._length: int | None = None
        self.first_byte_at = 0.0
        """When the last answer began."""

    async def open(self) -> None:
        """Connect, where that has not been done."""
        if self._transport is None:
            await asyncio.get_running_loop().create_connection(lambda: self, *self._address)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._waiter and not self._waiter.done():
            self._waiter.set_exception(ConnectionError("closed by the server"))

    async def request(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """The status and the whole body, as it came."""
        await self.open()
        assert self._transport
        self._buffer.clear()
        self._body_at, self._length, self.first_byte_at = -1, None, 0.0
        self._waiter = asyncio.get_running_loop().create_future()
        self._transport.write(
            b"%s %s HTTP/1.1\r\n%sContent-Length: %d\r\n\r\n%s"
            % (method.encode(), path.encode(), self._head, len(body), body)
        )
        return await self._waiter

    def close(self) -> None:
        if self._transport:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        if not self._buffer:
            self.first_byte_at = time.perf_counter()
        buffer = self._buffer
        buffer += data
        if self._body_at < 0 and not self._read_head():
            return
        if self._length is not None:
            if len(buffer) - self._body_at >= self._length:
                self._finish()
        elif buffer.endswith(b"0\r\n\r\n"):
            self._finish()

    def _read_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = bytes(self._buffer[:end]).lower()
        self._body_at = end + 4
        at = head.find(b"content-length:")
        if at >= 0:
            self._length = int(head[at + 15 :].split(b"\r\n", 1)[0])
        return True

    def _finish(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result((int(self._buffer[9:12]), bytes(self._buffer[self._body_at :])))


@dataclass
class Load:
    """What a span of load came to."""

    seconds: float = 0.0
    took: list[float] = field(default_factory=list[float])
    """Seconds of each request."""
    first_bytes: list[float] = field(default_factory=list[float])
    """Seconds to the first byte of each answer."""
    cpu_seconds: float = 0.0
    """Of the processes that were watched."""
    events: int = 0
    """Of streams, where these are counted."""
    counted: int = 0
    """How many requests there were, where only of some is known what they took."""

    @property
    def count(self) -> int:
        return self.counted or len(self.took)

    @property
    def per_second(self) -> float:
        return self.count / self.seconds

    @property
    def cpu_ms(self) -> float:
        """CPU milliseconds a request."""
        return 1000 * self.cpu_seconds / self.count

    @property
    def p50_ms(self) -> float:
        return 1000 * median(self.took)

    @property
    def p99_ms(self) -> float:
        return 1000 * sorted(self.took)[int(0.99 * len(self.took))]

    @property
    def first_byte_ms(self) -> float:
        """The median."""
        return 1000 * median(self.first_bytes)


class Client:
    """One of those who ask at once."""

    def __init__(self, number: int, connection: Connection, load: Load, until: float, check: Check) -> None:
        self.number = number
        """Counted from 0."""
        self._connection = connection
        self._load = load
        self._until = until
        self._check = check

    @property
    def is_over(self) -> bool:
        """Whether the time is up."""
        return time.perf_counter() >= self._until

    async def ask(self, method: str, path: str, body: bytes = b"") -> bytes:
        """The body of the answer, which is counted.

        Raises:
            BadAnswer: it is not what the check wants.
        """
        began = time.perf_counter()
        status, answer = await self._connection.request(method, path, body)
        ended = time.perf_counter()
        if not self._check(status, answer):
            raise BadAnswer(f"{method} {path}: {status} {answer[:500].decode(errors='replace')}")
        self._load.took.append(ended - began)
        self._load.first_bytes.append(self._connection.first_byte_at - began)
        return answer

    async def follow(self, method: str, path: str, body: bytes = b"") -> None:
        """The same for a stream, whose events are counted."""
        events = (await self.ask(method, path, body)).count(b"event: ")
        self._load.events += events


def is_ok(status: int, body: bytes) -> bool:
    del body
    return status == 200


async def put(
    base_url: str,
    each: Callable[[Client], Awaitable[None]],
    *,
    clients: int,
    seconds: float,
    watched: Iterable[psutil.Process] = (),
    check: Check = is_ok,
) -> Load:
    """Let so many clients do what `each` does, until they find that the time is up.

    Raises:
        BadAnswer: and nothing that was measured counts.
        TimeoutError: an answer does not come.
    """
    load, connections = Load(), [Connection(base_url) for _ in range(clients)]
    processes = list(watched)
    try:
        await asyncio.gather(*(connection.open() for connection in connections))
        cpu, began = cpu_of(processes), time.perf_counter()
        async with asyncio.timeout(seconds + PATIENCE_SECONDS), asyncio.TaskGroup() as group:
            for number, connection in enumerate(connections):
                client = Client(number, connection, load, began + seconds, check)
                group.create_task(_done(each, client))
        load.seconds, load.cpu_seconds = time.perf_counter() - began, cpu_of(processes) - cpu
    finally:
        for connection in connections:
            connection.close()
    return load


async def run(
    base_url: str,
    requests: Callable[[], Request],
    *,
    clients: int,
    seconds: float,
    watched: Iterable[psutil.Process] = (),
    check: Check = is_ok,
) -> Load:
    """Ask with so many clients at once for so long; each at least once.

    Raises:
        BadAnswer: and nothing that was measured counts.
        TimeoutError: an answer does not come.
    """

    async def each(client: Client) -> None:
        await client.ask(*requests())
        while not client.is_over:
            await client.ask(*requests())

    return await put(base_url, each, clients=clients, seconds=seconds, watched=watched, check=check)


async def _done(each: Callable[[Client], Awaitable[None]], client: Client) -> None:
    await each(client)


def cpu_of(processes: Iterable[psutil.Process]) -> float:
    """CPU seconds of these process trees, those of children that have ended included."""
    total = 0.0
    for root in processes:
        for process in (root, *root.children(recursive=True)):
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system + times.children_user + times.children_system
    return total


async def server_of(database_url: str) -> psutil.Process:
    """The Postgres server behind a URL, by the parent of the process that answers there."""
    connection = await asyncpg.connect(database_url)
    process = psutil.Process(await connection.fetchval("select pg_backend_pid()")).parent()
    await connection.close()
    assert process
    return process
