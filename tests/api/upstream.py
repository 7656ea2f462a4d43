"""An upstream that begins an answer and goes on only when it is told to: a raw TCP server."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import orjson

MESSAGE: dict[str, Any] = {
    "id": "msg_upstream",
    "type": "message",
    "role": "assistant",
    "status": "completed",
    "content": [{"type": "output_text", "text": "Hello there", "annotations": []}],
}
RESPONSE: dict[str, Any] = {
    "id": "resp_upstream",
    "object": "response",
    "status": "completed",
    "model": "wire",
    "output": [MESSAGE],
    "usage": {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
}


def event(kind: str, **fields: Any) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), orjson.dumps({"type": kind, **fields}))


PLACE = {"item_id": MESSAGE["id"], "output_index": 0, "content_index": 0}
BEGINNING = b"".join([
    event("response.created", response={**RESPONSE, "status": "in_progress", "output": [], "usage": None}),
    event("response.output_item.added", output_index=0, item={**MESSAGE, "status": "in_progress", "content": []}),
    event("response.output_text.delta", **PLACE, delta="Hello"),
])  # fmt: skip
REST = b"".join([
    event("response.output_text.delta", **PLACE, delta=" there"),
    event("response.output_item.done", output_index=0, item=MESSAGE),
    event("response.completed", response=RESPONSE),
])  # fmt: skip


class Upstream:
    """Answers one request on each connection, and closes it."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        """Set when a request has come in whole."""
        self.asks = 0
        """How many have."""
        self.hung_up = asyncio.Event()
        """Set when the server closes the connection before the answer is finished."""
        self.may_begin = asyncio.Event()
        self.may_begin.set()
        self.may_finish = asyncio.Event()
        self.status = 200
        self.tasks = set[asyncio.Task[Any]]()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self.tasks.add(task)
        try:
            is_streamed = orjson.loads(await _body(reader))["stream"]
            self.asks += 1
            self.asked.set()
            if await self._left_before(self.may_begin, reader):
                return
            kind = b"text/event-stream" if is_streamed and self.status == 200 else b"application/json"
            writer.write(
                b"HTTP/1.1 %d Said\r\ncontent-type: %s\r\nconnection: close\r\n\r\n" % (self.status, kind)
            )
            if self.status != 200:
                writer.write(
                    b'{"error":{"message":"Overloaded.","type":"server_error","code":null,"param":null}}'
                )
                return
            writer.write(BEGINNING if is_streamed else b"")
            if not await self._left_before(self.may_finish, reader):
                writer.write(REST if is_streamed else orjson.dumps(RESPONSE))
        finally:
            writer.close()

    async def _left_before(self, permission: asyncio.Event, reader: asyncio.StreamReader) -> bool:
        """Whether the server hung up before this was permitted."""
        permitted = asyncio.ensure_future(permission.wait())
        left = asyncio.ensure_future(reader.read(1))
        await asyncio.wait({permitted, left}, return_when=asyncio.FIRST_COMPLETED)
        has_left = not permitted.done()
        permitted.cancel()
        left.cancel()
        await asyncio.wait({permitted, left})
        if has_left:
            self.hung_up.set()
        return has_left


@asynccontextmanager
async def upstream_at(port: int) -> AsyncGenerator[Upstream]:
    upstream = Upstream()
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", port)
    try:
        yield upstream
    finally:
        server.close()
        for task in upstream.tasks:
            task.cancel()
        await asyncio.gather(*upstream.tasks, return_exceptions=True)
        await server.wait_closed()


async def _body(reader: asyncio.StreamReader) -> bytes:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
    return await reader.readexactly(int(length))
