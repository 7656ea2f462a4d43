"""A model server without a model, in a process of its own: `python -m tests.bench.upstream`.

A raw protocol on uvloop, tens of thousands of answers a second, so that what is measured is the server in
front of it. It says where it listens, on a free port. `POST …` answers as the script that the model's name
is (see `answers`), as JSON or as a stream; `GET …/last` gives back the last body that it was sent.
"""

import asyncio
import itertools
import os
from collections.abc import Callable, Iterator
from typing import cast

import orjson
import uvloop

from tests.bench.answers import ID, Answer, answer_of

_MODEL = b'"model":"'
_STREAMED = b'"stream":true'
PARAMETERS_BYTES = 4096
"""Where the model's name and `stream` are looked for: before the input, which may be long."""

_HEAD = b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_STREAM_END = b"0\r\n\r\n"


class Canned:
    """What the connections share."""

    def __init__(self) -> None:
        self._run = os.urandom(6).hex()
        self._numbers = itertools.count()
        self.last = b""

    def fresh_id(self) -> bytes:
        """One that no answer had, as long as its placeholder."""
        return f"{self._run}{next(self._numbers):028x}".encode()


class Answering(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self, canned: Canned) -> None:
        self._canned = canned
        self._buffer = bytearray()
        self._body_at = self._needed = 0
        self._later: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._later:
            self._later.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._needed:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._buffer[:end]).lower()
            _, _, length = head.partition(b"content-length:")
            self._body_at = end + 4
            self._needed = self._body_at + int(length.split(b"\r\n", 1)[0] or 0)
        if len(self._buffer) >= self._needed:
            line, body = bytes(self._buffer[:80]), bytes(self._buffer[self._body_at : self._needed])
            self._buffer.clear()
            self._needed = 0
            self._answer(line, body)

    def _answer(self, line: bytes, body: bytes) -> None:
        if not line.startswith(b"POST"):
            is_last = b"/last " in line
            self._send_json(200, self._canned.last if is_last else b'{"object":"list","data":[]}')
            return
        self._canned.last = body
        parameters = body[:PARAMETERS_BYTES]
        _, _, model = parameters.partition(_MODEL)
        answer = answer_of(model.partition(b'"')[0].decode())
        if answer is None:
            self._send_json(404, orjson.dumps({"error": {"message": "no such script", "type": "not_found"}}))
        elif answer.script.latency_ms:
            pause = answer.script.latency_ms / 1000
            is_streamed = _STREAMED in parameters
            self._call_later(pause, lambda: self._say(answer, is_streamed=is_streamed))
        else:
            self._say(answer, is_streamed=_STREAMED in parameters)

    def _say(self, answer: Answer, *, is_streamed: bool) -> None:
        fresh = self._canned.fresh_id()
        if not is_streamed:
            self._send_json(200, answer.json.replace(ID, fresh))
        elif answer.script.gap_ms:
            self._transport.write(_STREAM_HEAD)
            frames = (frame.replace(ID, fresh) for frame in answer.frames)
            self._go_on(frames, answer.script.gap_ms / 1000)
        else:
            self._transport.write(_STREAM_HEAD + answer.stream.replace(ID, fresh) + _STREAM_END)

    def _go_on(self, frames: Iterator[bytes], pause: float) -> None:
        frame = next(frames, None)
        if frame is None:
            self._transport.write(_STREAM_END)
            return
        self._transport.write(frame)
        self._call_later(pause, lambda: self._go_on(frames, pause))

    def _call_later(self, seconds: float, call: Callable[[], None]) -> None:
        self._later = asyncio.get_running_loop().call_later(seconds, call)

    def _send_json(self, status: int, body: bytes) -> None:
        self._transport.write(_HEAD % (status, b"OK" if status == 200 else b"Not Found", len(body), body))


async def serve() -> None:
    canned = Canned()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Answering(canned), "127.0.0.1", 0, backlog=4096)
    port: int = server.sockets[0].getsockname()[1]
    print(f"serving on http://127.0.0.1:{port}/v1", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve())
