"""An upstream made of recorded bytes: a raw TCP server that answers what it is told and notes what it hears."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson


@dataclass(frozen=True, slots=True)
class Answer:
    """What one request is answered with."""

    body: bytes = b""
    status: int = 200
    content_type: str = "text/event-stream"
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    framing: Literal["chunked", "length", "close"] = "chunked"
    piece_bytes: int | None = None
    """Send the body in pieces of this size, each in a packet of its own."""
    ending: Literal["whole", "late", "drop", "stall", "mute", "reset"] = "whole"
    """`late` marks the end a moment later, `drop` closes before it, `stall` falls silent there.

    `mute` is silent from the start, and `reset` hangs up instead of answering.
    """


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked."""

    line: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


def json_answer(value: Any, status: int = 200, **headers: str) -> Answer:
    return Answer(
        orjson.dumps(value), status=status, content_type="application/json", headers=headers, framing="length"
    )


class Wire:
    """Plays its answers in order, the last one for ever."""

    def __init__(self, answers: Sequence[Answer]) -> None:
        self.answers = list(answers)
        self.requests: list[Request] = []
        self.connections = 0
        self.answered = asyncio.Event()
        """Set when the body of an answer has been written."""
        self.hung_up = asyncio.Event()
        """Set when a client leaves while it waits for a stalled answer."""
        self.url = ""
        self._tasks: set[asyncio.Task[Any]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection until either side ends it."""
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while (request := await _heard(reader)) is not None:
                self.requests.append(request)
                answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                if not await self._play(answer, reader, writer):
                    return
        except ConnectionError:
            self.hung_up.set()
        finally:
            writer.close()
            self._tasks.discard(task)

    async def end(self) -> None:
        """Hang up on everybody."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _play(self, answer: Answer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Say one answer; whether the connection may be used again."""
        if answer.ending == "reset":
            return False
        if answer.ending == "mute":
            return await self._wait(reader)
        writer.write(_head(answer))
        for piece in _pieces(answer):
            writer.write(piece)
            if answer.piece_bytes:
                await writer.drain()
                await asyncio.sleep(0)
        await writer.drain()
        self.answered.set()
        if answer.ending == "stall":
            return await self._wait(reader)
        if answer.ending == "drop" or answer.framing == "close":
            return False
        if answer.ending == "late":
            await asyncio.sleep(0.005)
        if answer.framing == "chunked":
            writer.write(b"0\r\n\r\n")
        return True

    async def _wait(self, reader: asyncio.StreamReader) -> bool:
        """Say nothing until the client hangs up."""
        await reader.read()
        self.hung_up.set()
        return False


@asynccontextmanager
async def wire(*answers: Answer) -> AsyncGenerator[Wire, None]:
    """A listening upstream on a loopback port; its `url` ends in `/v1`."""
    upstream = Wire(answers)
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    upstream.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield upstream
    finally:
        server.close()
        await upstream.end()
        await server.wait_closed()


async def unused_url() -> str:
    """The address of nobody: connections to it are refused."""
    async with wire(Answer()) as gone:
        return gone.url


async def _heard(reader: asyncio.StreamReader) -> Request | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
    except asyncio.IncompleteReadError:
        return None
    line, *rest = head.strip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (text.partition(":") for text in rest)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Request(line.rpartition(" ")[0], headers, body)


def _head(answer: Answer) -> bytes:
    framing = {
        "chunked": "transfer-encoding: chunked",
        "length": f"content-length: {len(answer.body) + (answer.ending == 'drop')}",
        "close": "connection: close",
    }[answer.framing]
    lines = [
        f"HTTP/1.1 {answer.status} Said",
        f"content-type: {answer.content_type}",
        framing,
        *(f"{name.replace('_', '-')}: {value}" for name, value in answer.headers.items()),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _pieces(answer: Answer) -> Sequence[bytes]:
    size = answer.piece_bytes or len(answer.body) or 1
    pieces = [answer.body[at : at + size] for at in range(0, len(answer.body), size)]
    if answer.framing != "chunked":
        return pieces
    return [b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces]
