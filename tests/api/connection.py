"""HTTP by hand over a socket: what came in which chunk, and hanging up at will."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import orjson

from tests.waiting import patience


class Connection:
    """The answer to one request, read piece by piece."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.status = 0
        self.headers = dict[str, str]()

    async def head(self) -> None:
        """Read the status and the headers."""
        line, *rest = (await self._reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        self.status = int(line.split()[1])
        self.headers = {
            name.lower(): value.strip() for name, _, value in (text.partition(":") for text in rest)
        }

    async def chunk(self) -> bytes:
        """The next chunk of a chunked body; empty at its end."""
        size = int(await self._reader.readuntil(b"\r\n"), 16)
        return (await self._reader.readexactly(size + 2))[:-2]

    async def rest(self) -> list[bytes]:
        """All chunks that are still to come."""
        chunks = list[bytes]()
        while chunk := await self.chunk():
            chunks.append(chunk)
        return chunks

    async def until(self, text: bytes) -> bytes:
        """Chunks up to the one with this text in it."""
        said = b""
        while text not in said:
            chunk = await self.chunk()
            assert chunk, said
            said += chunk
        return said

    async def hang_up(self, *, rudely: bool = False) -> None:
        """Close the connection, or reset it."""
        if rudely:
            self._writer.transport.abort()
        self._writer.close()
        await self._writer.wait_closed()


@asynccontextmanager
async def post(
    port: int, body: dict[str, Any], *, headers: Mapping[str, str] | None = None
) -> AsyncGenerator[Connection]:
    """Ask for a response; nothing of the answer is read yet. Whatever is done with it has an end."""
    async with patience():
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        content = orjson.dumps(body)
        more = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items()).encode()
        writer.write(b"POST /v1/responses HTTP/1.1\r\nhost: x\r\n%s" % more)
        writer.write(b"content-length: %d\r\n\r\n" % len(content))
        writer.write(content)
        connection = Connection(reader, writer)
        try:
            yield connection
        finally:
            await connection.hang_up()
