"""One socket, several processes: whoever idles takes the next connection."""

import asyncio
import socket
from collections.abc import Generator
from functools import partial

import pytest

from app.embedded.acceptor import Acceptor
from app.embedded.api_process import listen

CLIENTS = 16


@pytest.fixture
def listener() -> Generator[socket.socket]:
    with listen("127.0.0.1", 0) as listening:
        yield listening


class Greeter(asyncio.Protocol):
    """Says who it is."""

    def __init__(self, name: bytes) -> None:
        self._name = name

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(self._name)


async def test_connections_of_one_moment_are_shared(listener: socket.socket) -> None:
    """As by two processes: each has the socket, and a turn of its loop for each connection."""
    clients = [await asyncio.open_connection(*listener.getsockname()) for _ in range(CLIENTS)]
    with listener.dup() as other:
        acceptors = [
            Acceptor(each, partial(Greeter, name)) for each, name in ((listener, b"a"), (other, b"b"))
        ]
        heard = [await reader.readexactly(1) for reader, _ in clients]
        for acceptor in acceptors:
            acceptor.close()
            await acceptor.wait_closed()
    assert sorted(heard) == [b"a"] * (CLIENTS // 2) + [b"b"] * (CLIENTS // 2)
    for _, writer in clients:
        writer.close()
        await writer.wait_closed()


async def test_what_is_connected_outlives_its_end(listener: socket.socket) -> None:
    acceptor = Acceptor(listener, lambda: Greeter(b"x"))
    reader, writer = await asyncio.open_connection(*listener.getsockname())
    assert await reader.read(1) == b"x"
    acceptor.close()
    acceptor.close()
    await acceptor.wait_closed()
    # The kernel still takes a connection, for another process of the server; this one does not.
    late, late_writer = await asyncio.open_connection(*listener.getsockname())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await late.read(1)
    assert not reader.at_eof()
    for each in (writer, late_writer):
        each.close()
        await each.wait_closed()
