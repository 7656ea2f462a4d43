"""The outside world between us and Postgres: a proxy on a loopback port that goes away, or falls silent."""

import asyncio
from typing import Self
from urllib.parse import parse_qs, urlsplit

from tests.live import free_port


class Proxy:
    """Pass bytes on to the server behind `database_url`, until told otherwise."""

    def __init__(self, database_url: str) -> None:
        parts = urlsplit(database_url)
        self._host = parse_qs(parts.query).get("host", [parts.hostname or "127.0.0.1"])[0]
        self._server_port = parts.port or 5432
        self._user = f"{parts.username}:{parts.password or ''}"
        self._database = parts.path
        self._listener: asyncio.Server | None = None
        self._passes = asyncio.Event()
        self._pumps = set[asyncio.Task[None]]()
        self._writers = set[asyncio.StreamWriter]()
        self._port = free_port()

    @property
    def url(self) -> str:
        return f"postgresql://{self._user}@127.0.0.1:{self._port}{self._database}"

    async def come_back(self) -> None:
        self._passes.set()
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", self._port)

    async def go_away(self) -> None:
        """Refuse new connections and drop those that are open."""
        if self._listener:
            self._listener.close()
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.gather(*self._pumps, return_exceptions=True)
        self._writers.clear()
        self._pumps.clear()

    def fall_silent(self) -> None:
        """Keep connections open and pass nothing on."""
        self._passes.clear()

    async def __aenter__(self) -> Self:
        await self.come_back()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._passes.set()
        await self.go_away()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await self._connect()
        if not (self._listener and self._listener.is_serving()):
            # It has gone away meanwhile.
            for each in (writer, there_writer):
                each.transport.abort()
            return
        self._writers |= {writer, there_writer}
        self._pumps.add(asyncio.ensure_future(self._pump(reader, there_writer)))
        self._pumps.add(asyncio.ensure_future(self._pump(there_reader, writer)))

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._host.startswith("/"):
            return await asyncio.open_unix_connection(f"{self._host}/.s.PGSQL.{self._server_port}")
        return await asyncio.open_connection(self._host, self._server_port)

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            await self._passes.wait()
            target.write(data)
            await target.drain()
        target.close()
