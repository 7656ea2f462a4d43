"""A raw WebSocket client: what is said in each lane, as it was said."""

import asyncio
import socket as sockets
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import orjson
from websockets.asyncio.client import ClientConnection, connect

from tests.api.asking import CREATE
from tests.api.conftest import client_of
from tests.live import LiveServer

Json = dict[str, Any]

HANDSHAKE = {
    "upgrade": "websocket",
    "connection": "Upgrade",
    "sec-websocket-version": "13",
    "sec-websocket-key": "AAAAAAAAAAAAAAAAAAAAAA==",
}
"""What a plain HTTP client sends to ask for a WebSocket."""

TERMINAL = {"response.completed", "response.incomplete", "response.failed", "error"}


class Wire:
    """Frames by lanes: whoever waits for one lane keeps what comes for the others."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self._kept = defaultdict[str | None, deque[Json]](deque)

    async def send(self, **frame: Any) -> None:
        await self.socket.send(orjson.dumps(frame).decode())

    async def create(self, given: Any = "hi", **params: Any) -> None:
        await self.send(**{"type": "response.create", "model": "offline", "input": given, **params})

    async def frame(self) -> Json:
        """The next one of any lane; text, as all are."""
        text = await self.socket.recv()
        assert isinstance(text, str)
        return orjson.loads(text)

    async def next(self, lane: str | None = None) -> Json:
        while not self._kept[lane]:
            frame = await self.frame()
            self._kept[frame.get("stream_id")].append(frame)
        return self._kept[lane].popleft()

    async def until(self, kind: str, lane: str | None = None) -> Json:
        while (frame := await self.next(lane))["type"] != kind:
            assert frame["type"] not in TERMINAL, frame
        return frame

    async def rest(self, lane: str | None = None) -> list[Json]:
        """A lane's frames up to the end of its response."""
        frames = [await self.next(lane)]
        while frames[-1]["type"] not in TERMINAL:
            frames.append(await self.next(lane))
        return frames

    async def response(self, given: Any = "hi", **params: Any) -> Json:
        """Create and wait for the end, which is no error."""
        await self.create(given, **params)
        end = (await self.rest(params.get("stream_id")))[-1]
        assert end["type"] != "error", end
        return end["response"]

    async def refused(self, given: Any = "hi", **params: Any) -> Json:
        """Create and be refused; the frame."""
        await self.create(given, **params)
        [frame] = await self.rest(params.get("stream_id"))
        check_error(frame)
        return frame


def check_error(frame: Json) -> None:
    """Exactly the documented keys, an integer status and a string code (behaviour 141)."""
    assert frame["type"] == "error"
    assert frame.keys() - {"stream_id", "sequence_number"} == {"type", "status", "error"}
    assert frame["error"].keys() == {"type", "code", "message", "param"}
    assert type(frame["status"]) is int
    assert isinstance(frame["error"]["code"], str)


def not_found(name: str) -> Json:
    """The documented error, as it stands in a frame."""
    return {
        "type": "invalid_request_error",
        "code": "previous_response_not_found",
        "message": f"Previous response with id '{name}' not found.",
        "param": "previous_response_id",
    }


@asynccontextmanager
async def wired(
    server: LiveServer, headers: Mapping[str, str] | None = None, **options: Any
) -> AsyncGenerator[Wire]:
    """A WebSocket of this server."""
    async with connect(
        url_of(server), additional_headers=headers, max_size=None, proxy=None, **options
    ) as socket:
        yield Wire(socket)


def url_of(server: LiveServer) -> str:
    return f"ws://127.0.0.1:{server.port}/v1/responses"


class Deaf:
    """Says things and hears nothing."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    async def create(self, given: Any = "hi", **params: Any) -> None:
        body = orjson.dumps({"type": "response.create", "model": "offline", "input": given, **params})
        await self.raw(b"\x81\xfe" + len(body).to_bytes(2) + b"\0" * 4 + body)

    async def raw(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()


@asynccontextmanager
async def deaf(server: LiveServer) -> AsyncGenerator[Deaf]:
    """A client that stops reading once it is connected: no library of WebSockets would."""
    plain = sockets.create_connection(("127.0.0.1", server.port))
    plain.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
    reader, writer = await asyncio.open_connection(sock=plain, limit=1024)
    writer.write(
        b"GET /v1/responses HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
        b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    assert b"101" in await reader.readline()
    try:
        yield Deaf(writer)
    finally:
        writer.transport.abort()


def knock(server: LiveServer, **headers: str) -> httpx2.Response:
    """Ask for a WebSocket as a plain HTTP client, to see what a refusal looks like."""
    with client_of(server) as client:
        return client.get(CREATE, headers={**HANDSHAKE, **headers})


def refusal(answer: httpx2.Response) -> tuple[int, Json]:
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"].startswith("req_")
    return answer.status_code, answer.json()["error"]


def upgrade() -> bytes:
    """The request, byte for byte."""
    head = "".join(f"{name}: {value}\r\n" for name, value in HANDSHAKE.items())
    return f"GET {CREATE} HTTP/1.1\r\nhost: x\r\n{head}\r\n".encode()
