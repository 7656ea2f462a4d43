"""A way to Postgres that can be closed and opened again: a TCP server in front of the real one."""

import asyncio
from typing import Self
from urllib.parse import parse_qs, urlsplit

from tests.live import free_port


class Gateway:
    """Passes bytes on while it is open. Closed, it refuses connections and drops the ones there were."""

    def __init__(self, database_url: str) -> None:
        self._target = urlsplit(database_url)
        self._port = free_port()
        self._server: asyncio.Server | None = None
        self._tasks = set[asyncio.Task[None]]()

    @property
    def url(self) -> str:
        """The same database by way of the gateway."""
        at = f"{self._target.username}:{self._target.password or ''}@127.0.0.1:{self._port}"
        return f"postgresql://{at}{self._target.path}"

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._pass_on, "127.0.0.1", self._port)

    async def close(self) -> None:
        if self._server is None:
            return
        server, self._server = self._server, None
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await server.wait_closed()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        try:
            there, back = await self._connect()
            try:
                async with asyncio.TaskGroup() as both:
                    both.create_task(_copy(reader, back))
                    both.create_task(_copy(there, writer))
            finally:
                back.close()
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """To a Unix socket where the URL names its folder, else over TCP."""
        folder = parse_qs(self._target.query).get("host", [""])[0]
        port = self._target.port or 5432
        if folder.startswith("/"):
            return await asyncio.open_unix_connection(f"{folder}/.s.PGSQL.{port}")
        return await asyncio.open_connection(folder or self._target.hostname, port)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()
