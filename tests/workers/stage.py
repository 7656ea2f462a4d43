"""Real processes in front of an upstream that halts where a test wants it to, and their clients."""

import asyncio
import socket
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import asyncpg
import httpx2
import orjson

from app import ids
from tests import grammar
from tests.api.upstream import BEGINNING
from tests.live import LiveServer, free_port
from tests.store.proxy import Proxy
from tests.waiting import PATIENCE_SECONDS, happened, patience
from tests.workers.processes import LiveBroker, LiveWorker
from tests.workers.staged_upstream import CREATED, HALTS, StagedUpstream

Json = dict[str, Any]


class Tap(Proxy):
    """A way to Postgres on which a client is not heard any more from the first mention of a text on."""

    def __init__(self, database_url: str) -> None:
        super().__init__(database_url)
        self.texts = set[bytes]()
        self.unheard = 0
        """How many connections have come to that."""

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            await self._passes.wait()
            if any(text in data for text in self.texts):
                self.unheard += 1
                await source.read()
                break
            target.write(data)
            await target.drain()
        target.close()


class Asked:
    """One response, as the client sees it that has asked for it."""

    def __init__(self, client: httpx2.AsyncClient, text: str, params: Json) -> None:
        self.text, self.params = text, params
        self.is_streamed, self.is_stored = params["stream"], params["store"]
        self.status = 0
        self.answer: Json = {}
        self.events: list[Json] = []
        self.is_broken = False
        """Whether the connection ended before the answer did."""
        self.task = asyncio.ensure_future(self._ask(client))

    @property
    def id(self) -> str:
        return (self.events[0]["response"] if self.events else self.answer).get("id", "")

    @property
    def key(self) -> Any:
        """As Postgres knows it."""
        return ids.parse_response_id(self.id)

    @property
    def halt(self) -> str:
        return self.text.split()[0]

    def heard(self, kind: str) -> bool:
        return any(event["type"] == kind for event in self.events)

    async def _ask(self, client: httpx2.AsyncClient) -> None:
        body = {"model": "wire", "input": self.text, **self.params}
        try:
            async with client.stream("POST", "/responses", json=body) as answer:
                self.status = answer.status_code
                await self._read(answer)
        except httpx2.TransportError:
            self.is_broken = True

    async def _read(self, answer: httpx2.Response) -> None:
        if not answer.headers["content-type"].startswith("text/event-stream"):
            self.answer = orjson.loads(await answer.aread())
            return
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                self.events.append(orjson.loads(line.removeprefix("data: ")))

    async def resume(self, client: httpx2.AsyncClient) -> None:
        """Go on behind the last event, as after a broken connection."""
        query = {"stream": "true", "starting_after": self.events[-1]["sequence_number"]}
        async with client.stream("GET", f"/responses/{self.id}", params=query) as answer:
            await self._read(answer)


class Site:
    """An API and workers on a database and a broker; the model `wire` is served by the test itself."""

    def __init__(self, database_url: str, broker: LiveBroker, **settings: str) -> None:
        """`settings` are of both. `crew` is a worker, started by whoever wants one."""
        self.port = free_port()
        self.database_url = database_url
        self._broker = broker
        self.settings = {"upstreams": self._upstreams(), "follow_poll_seconds": "0.3", **settings}
        environment = {f"HOLDFAST_{name.upper()}": value for name, value in self.settings.items()}
        self.api = LiveServer(database_url, environment={**environment, "HOLDFAST_BROKER_URL": broker.url})
        self.crew = self.worker()

    def _upstreams(self) -> str:
        """`hasty` is the same upstream as `wire`, asked without patience."""
        url = f"http://127.0.0.1:{self.port}/v1"
        wire = {"protocol": "responses", "max_retries": 0, "base_url": url}
        hasty = {**wire, "name": "hasty", "models": ["hasty"], "timeout_seconds": 0.5}
        offline = {"name": "offline", "protocol": "offline", "models": ["offline"]}
        return orjson.dumps([{**wire, "name": "wire", "models": ["wire"]}, hasty, offline]).decode()

    def is_closed(self) -> bool:
        """Whether the API takes no more connections, as from the beginning of its shutdown."""
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.api.port)) != 0

    def worker(self, database_url: str | None = None, **settings: str) -> LiveWorker:
        """A worker that is not started yet."""
        return LiveWorker(
            database_url or self.database_url, self._broker.url, **{**self.settings, **settings}
        )


class Visit:
    """What one test does at a site: its upstream, its client, its connection to the database."""

    def __init__(self, client: httpx2.AsyncClient, upstream: StagedUpstream, database_url: str) -> None:
        self.client, self.upstream, self.database_url = client, upstream, database_url
        self.asked: list[Asked] = []
        self.connection: Any = None

    async def connect(self) -> None:
        """Anew, if Postgres was restarted meanwhile."""
        self.connection = await asyncpg.connect(self.database_url)

    def ask(self, text: str, stream: bool, store: bool, **params: Any) -> Asked:  # noqa: FBT001 - a cell's axes
        asked = Asked(self.client, text, {"stream": stream, "store": store, **params})
        self.asked.append(asked)
        return asked

    async def until(self, statement: str, *arguments: object) -> None:
        """Wait for a statement to say true."""
        async with patience():
            while not await self.connection.fetchval(statement, *arguments):  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.02)

    async def until_all(self, statement: str, asked: Sequence[Asked]) -> None:
        """Wait until a condition on `responses r` holds for these; each has been told its id by then."""
        await happened(lambda: all(each.id for each in asked))
        count = f"select count(*) = $2 from responses r where r.id = any($1::uuid[]) and ({statement})"
        await self.until(count, [each.key for each in asked], len(asked))

    async def under_way(self) -> None:
        """Wait until the upstream was asked everything, and clients have heard what it has said."""
        await happened(lambda: all(self.upstream.calls[each.text] for each in self.asked))
        shown = [each for each in self.asked if each.is_streamed and HALTS[each.halt] == BEGINNING]
        begun = [each for each in self.asked if each.is_streamed and HALTS[each.halt] == CREATED]
        await happened(lambda: all(each.heard("response.output_text.delta") for each in shown))
        await happened(lambda: all(each.heard("response.in_progress") for each in begun))

    async def execute(self, statement: str, asked: Sequence[Asked]) -> None:
        """A statement on `responses r`, for these alone."""
        await self.connection.execute(f"{statement} where r.id = any($1)", [each.key for each in asked])

    async def all_ended(self, asked: Sequence[Asked] | None = None) -> None:
        """Wait until all these have an outcome in their rows, and everyone who asked has been told."""
        asked = asked or self.asked
        await self.until_all("status > 1", asked)
        await asyncio.gather(*[each.task for each in asked])

    async def fetch(self, path: str) -> Json:
        answer = await self.client.get(f"/responses/{path}")
        return answer.json() if answer.status_code == 200 else {"status": answer.status_code}

    async def standing(self, asked: Asked) -> tuple[str, list[str | None], int]:
        """Its status, how its attempts ended, and how often the upstream was asked."""
        attempts = (await self.fetch(f"{asked.id}/attempts"))["data"]
        status: str = (await self.fetch(asked.id))["status"]
        return status, [each["reason"] for each in attempts], self.upstream.calls[asked.text]

    async def outcome(self, asked: Asked) -> tuple[str, list[str | None], int]:
        """The same of what has ended; who followed it was told the same, in one stream without a gap."""
        if asked.is_streamed:
            assert grammar.check(asked.events) == await self.fetch(asked.id), asked.text
        return await self.standing(asked)

    async def told(self, asked: Asked) -> tuple[Any, Any, Any]:
        """What a client of the foreground was told, and what it finds under the id that it was told."""
        await asyncio.wait([asked.task])
        stored = (await self.fetch(asked.id))["status"] if asked.id else None
        stored = None if stored == 404 else stored
        if asked.is_broken:
            return "broken", None, stored
        if asked.events:
            grammar.check(asked.events)
            return asked.status, asked.events[-1]["type"], stored
        error = asked.answer.get("error")
        return asked.status, (error or {}).get("type") or asked.answer["status"], stored

    async def foreground_rows(self) -> int:
        """How many responses are stored that were not generated by workers."""
        return await self.connection.fetchval("select count(*) from responses where mode = 0")


def kept(outcome: tuple[Any, Any, Any], *, store: bool) -> tuple[Any, Any, Any]:
    """What `told` says of a response that may not be stored."""
    return outcome if store else (*outcome[:2], None)


@asynccontextmanager
async def visiting(site: Site) -> AsyncGenerator[Visit]:
    upstream = StagedUpstream()
    listener = await asyncio.start_server(upstream.serve, "127.0.0.1", site.port)
    async with httpx2.AsyncClient(base_url=site.api.base_url, timeout=PATIENCE_SECONDS) as client:
        visit = Visit(client, upstream, site.database_url)
        await visit.connect()
        try:
            yield visit
        finally:
            tasks = [*upstream.tasks, *(each.task for each in visit.asked)]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            listener.close()
            await visit.connection.close()


@contextmanager
def site(database_url: str, broker: LiveBroker, **settings: str) -> Generator[Site]:
    it = Site(database_url, broker, **settings)
    with it.api:
        yield it


@asynccontextmanager
async def working(worker: LiveWorker) -> AsyncGenerator[LiveWorker]:
    """Start and end it in threads, because what it talks to lives in this one."""
    try:
        await asyncio.to_thread(worker.start)
        yield worker
    finally:
        await asyncio.to_thread(worker.__exit__)
