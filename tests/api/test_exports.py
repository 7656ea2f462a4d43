"""GET /v1/responses/export over a socket: what it says, who may ask, and what becomes of it when cut off."""

import asyncio
import io
import socket
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import urlencode

import httpx2
import orjson
import pytest
from pyarrow import parquet

from app.domain.keys import Key
from app.domain.tenancy import Scope
from app.generation import export_check
from tests.api.asking import create, invalid, refusal
from tests.api.connection import Connection
from tests.api.running import soon
from tests.exporting import kept, names, objects
from tests.keys import client_with, new_key
from tests.live import LiveServer
from tests.waiting import patience

EXPORT = "/v1/responses/export"
LARGE = "A long story. " * 40_000


@pytest.fixture(scope="module")
def narrow(quiet_database_url: str) -> Generator[LiveServer]:
    """A server with one connection to its database: whoever held it would hold up everybody.

    With a key before it starts, so that it lets nobody in without one.
    """
    asyncio.run(new_key(quiet_database_url, "somebody"))
    environment = {"HOLDFAST_POOL_SIZE": "1", "HOLDFAST_MAX_OPEN_STREAMS": "2"}
    with LiveServer(quiet_database_url, environment=environment) as live:
        yield live


@contextmanager
def tenant(server: LiveServer, database_url: str, name: str) -> Generator[tuple[httpx2.Client, Key]]:
    """A client that may do everything for a tenant of this test's own."""
    key = asyncio.run(new_key(database_url, name, Scope.ADMIN))
    with client_with(server, key) as client:
        yield client, key


@pytest.fixture
def own(
    narrow: LiveServer, quiet_database_url: str, request: pytest.FixtureRequest
) -> Generator[tuple[httpx2.Client, Key]]:
    with tenant(narrow, quiet_database_url, request.node.name) as found:
        yield found


@pytest.fixture
def client(own: tuple[httpx2.Client, Key]) -> httpx2.Client:
    return own[0]


def exported(client: httpx2.Client, **query: Any) -> bytes:
    answer = client.get(EXPORT, params=query)
    assert answer.status_code == 200, answer.text
    return answer.content


@asynccontextmanager
async def asking(port: int, key: Key, **query: str) -> AsyncGenerator[Connection]:
    """An export that is asked for, and of which only the head has been read."""
    # Small buffers, so that little is under way that nobody has read.
    connected = socket.socket()
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    connected.connect(("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=connected, limit=1 << 16)
    writer.write(f"GET {EXPORT}?{urlencode(query)} HTTP/1.1\r\nhost: x\r\n".encode())
    writer.write(f"authorization: Bearer {key.text}\r\n\r\n".encode())
    connection = Connection(reader, writer)
    try:
        async with patience():
            await connection.head()
        yield connection
    finally:
        await connection.hang_up(rudely=True)


def states(client: httpx2.Client) -> list[str]:
    """What the trail says has become of exports, oldest first."""
    found = client.get("/v1/audit/records", params={"action": "responses.exported", "order": "asc"})
    return [orjson.loads(record["data"])["state"] for record in found.json()["data"]]


class TestLines:
    def test_it_is_what_the_routes_of_one_response_say(self, client: httpx2.Client) -> None:
        made = [create(client, f"number {n}") for n in range(3)]
        answer = client.get(EXPORT)
        assert answer.headers["content-type"] == "application/x-ndjson"
        assert answer.headers["content-disposition"].startswith('attachment; filename="exp_')
        said = objects(answer.content, "export.response")
        assert [each["response"] for each in said] == made
        for each in said:
            items = client.get(f"/v1/responses/{each['response']['id']}/input_items").json()
            assert each["input"] == items["data"]
        verdict = export_check.verify(answer.content.splitlines(keepends=True))
        assert verdict.proven == 3

    def test_filters_are_those_of_the_list(self, client: httpx2.Client) -> None:
        for n in range(4):
            create(client, f"number {n}", metadata={"odd": str(n % 2)}, user=f"user {n}")
        for query in (
            {"metadata[odd]": "1"},
            {"q": "number"},
            {"user": "user 2"},
            {"user": "nobody"},
            {"created_after": "2020-01-01T00:00:00+00:00"},
            {"created_before": "1600000000"},
            {"tool": "none", "status": "completed"},
        ):
            listed = client.get("/v1/responses", params={**query, "order": "asc"}).json()["data"]
            raw = exported(client, **query)
            assert names(raw) == [each["id"] for each in listed]
            assert objects(raw)[0]["filters"].keys() == {name.partition("[")[0] for name in query}

    def test_the_trail_tells_who_asked_for_what(self, own: tuple[httpx2.Client, Key]) -> None:
        client, key = own
        exported(client, model="offline")
        found = client.get("/v1/audit/records", params={"action": "responses.exported"}).json()["data"]
        ended, begun = (orjson.loads(record["data"]) for record in found)
        assert {record["key_id"] for record in found} == {f"hf_{key.id.hex}"}
        assert (begun["state"], begun["filters"]) == ("begun", {"model": "offline"})
        assert (ended["state"], ended["responses"]) == ("ended", 0)

    def test_another_tenants_are_not_in_it(
        self, narrow: LiveServer, quiet_database_url: str, client: httpx2.Client
    ) -> None:
        create(client)
        with tenant(narrow, quiet_database_url, "a stranger") as (stranger, _):
            raw = exported(stranger)
            assert names(raw) == []
            _, cursor = kept(exported(client))
            answer = stranger.get(EXPORT, params={"resume": cursor})
            assert refusal(answer) == invalid(
                "Invalid 'resume': it is not a cursor of an export.", param="resume"
            )

    @pytest.mark.parametrize(
        ("scope", "status"),
        [(Scope.READ, 403), (Scope.WRITE, 403), (Scope.AUDIT, 200), (Scope.ADMIN, 200)],
    )
    async def test_it_is_for_keys_that_audit(
        self, narrow: LiveServer, quiet_database_url: str, scope: Scope, status: int
    ) -> None:
        key = await new_key(quiet_database_url, "scoped", scope)
        with client_with(narrow, key) as client:
            assert client.get(EXPORT).status_code == status
            assert client.get(EXPORT, params={"format": "parquet"}).status_code == status


class TestRefusals:
    @pytest.mark.parametrize(
        ("query", "param"),
        [
            ({"format": "csv"}, "format"),
            ({"resume": "x"}, "resume"),
            ({"resume": ""}, "resume"),
            ({"resume": "A" * 5000}, "resume"),
            ({"format": "parquet", "resume": "x"}, "resume"),
            ({"created_after": "yesterday"}, "created_after"),
            ({"root": "x"}, "root"),
            ({"status": "odd"}, "status"),
            ({"models": "x"}, "models"),
        ],
    )
    def test_what_is_wrong_is_named(self, client: httpx2.Client, query: dict[str, str], param: str) -> None:
        found = refusal(client.get(EXPORT, params=query))
        assert (found.status, found.param) == (400, param)

    def test_a_cursor_goes_with_its_filters(self, client: httpx2.Client) -> None:
        _, cursor = kept(exported(client, model="offline"))
        answer = client.get(EXPORT, params={"model": "another", "resume": cursor})
        assert refusal(answer) == invalid(
            "Invalid 'resume': it belongs to an export with other filters.", param="resume"
        )


class TestParquet:
    def test_it_reads_back(self, client: httpx2.Client) -> None:
        made = [create(client, f"number {n}", metadata={"n": str(n)}) for n in range(3)]
        answer = client.get(EXPORT, params={"format": "parquet"})
        assert answer.headers["content-type"] == "application/vnd.apache.parquet"
        rows = parquet.read_table(io.BytesIO(answer.content)).to_pylist()
        assert [row["id"] for row in rows] == [each["id"] for each in made]
        assert [orjson.loads(row["output"]) for row in rows] == [each["output"] for each in made]
        assert states(client) == ["begun", "ended"]


class TestCutOff:
    @pytest.fixture
    def much(self, client: httpx2.Client) -> list[str]:
        """More than fits between a server and a client that does not read."""
        return [create(client, LARGE)["id"] for _ in range(24)]

    async def test_a_slow_reader_keeps_nobody_waiting_and_who_hangs_up_stops_it(
        self, narrow: LiveServer, own: tuple[httpx2.Client, Key], much: list[str]
    ) -> None:
        client, key = own
        async with asking(narrow.port, key):
            assert client.get(f"/v1/responses/{much[0]}").status_code == 200
            assert create(client)["status"] == "completed"
            assert states(client) == ["begun"]
            async with asking(narrow.port, key):
                assert client.get(EXPORT).status_code == 429
        await soon(lambda: client.get(EXPORT, params={"model": "x"}).status_code == 200)
        assert states(client)[:2] == ["begun", "begun"]
        assert states(client).count("ended") == 1

    async def test_killed_in_the_middle_and_resumed_it_is_the_same(
        self, narrow: LiveServer, own: tuple[httpx2.Client, Key], much: list[str]
    ) -> None:
        client, key = own
        said = b""
        async with asking(narrow.port, key) as connection:
            while said.count(b"\n") < 12:
                said += await connection.chunk()
            narrow.restart(kill=True)
            with pytest.raises(asyncio.IncompleteReadError):
                await connection.rest()
        first, beginning = kept(b"".join(said.splitlines(keepends=True)[:2]))
        whole = first + exported(client, resume=beginning)
        before, cursor = kept(said)
        assert len(before) > len(first)
        assert before + exported(client, resume=cursor) == whole
        assert names(whole) == much
        assert export_check.verify(whole.splitlines(keepends=True)).proven == len(much)
