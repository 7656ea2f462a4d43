"""No secret is in an answer, a log, a row or the journal, whatever becomes of a request that brings it.

The upstream here repeats all that it was sent in its errors, as some do.
"""

import asyncio
import http.server
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, ClassVar

import asyncpg
import httpx2
import orjson
import pytest

from app.store.codec import CODEC, decompress
from tests.api.conftest import client_of
from tests.api.upstream import BEGINNING, RESPONSE, REST, event
from tests.live import LiveServer, free_port
from tests.waiting import wait_until
from tests.workers.processes import LiveWorker, broker_running

PLANTED = "PLANTED"
UPSTREAM_KEY = "sk-PLANTED-upstream-key"
SEAL_KEY = "UExBTlRFRFBMQU5URURQTEFOVEVEUExBTlRFRFBMQU4="
POLICY = {
    "type": "allowlist",
    "allowed_domains": ["example.com"],
    "domain_secrets": [{"domain": "example.com", "name": "KEY", "value": "PLANTED-domain"}],
}
MCP = {
    "type": "mcp",
    "server_label": "s",
    "server_url": "https://user:PLANTED-password@example.com/mcp?key=PLANTED-query",
    "authorization": "PLANTED-authorization",
    "headers": {"x-key": "Bearer PLANTED-header"},
}
TOOLS = [MCP, {"type": "shell", "environment": {"type": "container_auto", "network_policy": POLICY}}]
FATES = ["fine", "refused", "broken", "midway"]


class Repeating(http.server.BaseHTTPRequestHandler):
    """Does what the model's name says, and quotes the request in every error."""

    asked: ClassVar[list[tuple[str, bytes]]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        asked: Any = orjson.loads(body)
        self.asked.append((self.headers["authorization"], body))
        words = f"I was sent {body.decode()} with {self.headers['authorization']}"
        error = {"message": words, "type": "invalid_request_error", "code": None, "param": None}
        status = {"refused": 400, "broken": 500}.get(asked["model"], 200)
        if status != 200:
            self._answer(status, "application/json", orjson.dumps({"error": error}))
        elif not asked["stream"]:
            failed = {**RESPONSE, "status": "failed", "error": {"code": "server_error", "message": words}}
            self._answer(
                200, "application/json", orjson.dumps(failed if asked["model"] == "midway" else RESPONSE)
            )
        else:
            rest = event("error", **error) if asked["model"] == "midway" else REST
            self._answer(200, "text/event-stream", BEGINNING + rest)

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name in the base class
        """Say nothing."""


@dataclass
class Site:
    """An API and a worker, and where to look for what they have left behind."""

    api: httpx2.Client
    server: LiveServer
    worker: LiveWorker
    database_url: str


@contextmanager
def repeating() -> Generator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", free_port()), Repeating)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def site(quiet_database_url: str) -> Generator[Site]:
    with repeating() as port, broker_running() as broker:
        upstream = {
            "name": "up",
            "protocol": "responses",
            "base_url": f"http://127.0.0.1:{port}/v1",
            "api_key": UPSTREAM_KEY,
            "max_retries": 0,
        }
        shared = {"log_level": "debug", "seal_key": SEAL_KEY, "upstreams": orjson.dumps([upstream]).decode()}
        variables = {f"HOLDFAST_{name.upper()}": value for name, value in shared.items()}
        with (
            LiveServer(
                quiet_database_url, environment=variables | {"HOLDFAST_BROKER_URL": broker.url}
            ) as server,
            LiveWorker(quiet_database_url, broker.url, **shared) as worker,
            client_of(server) as api,
        ):
            yield Site(api, server, worker, quiet_database_url)


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize("in_background", [False, True])
@pytest.mark.parametrize("model", FATES)
def test_the_upstream_alone_is_told(
    site: Site, model: str, *, in_background: bool, is_streamed: bool
) -> None:
    Repeating.asked.clear()
    body = {"model": model, "input": "hi", "tools": TOOLS, "background": in_background, "stream": is_streamed}
    answer = site.api.post("/v1/responses", json=body)
    seen = [answer.text]
    if in_background:
        seen += ended(site, answer.text)
    [(key, asked)] = Repeating.asked
    assert key == f"Bearer {UPSTREAM_KEY}"
    assert orjson.loads(asked)["tools"] == TOOLS
    plain = {"fine": 200, "refused": 400, "broken": 502, "midway": 200 if is_streamed else 500}
    assert answer.status_code == (200 if in_background else plain[model])
    seen += [site.server.log, site.worker.log, *asyncio.run(all_values(site.database_url))]
    assert not [text for text in seen if PLANTED in text or SEAL_KEY in text]


def test_the_rows_are_seen_whole_and_no_ended_response_has_sealed_ones(site: Site) -> None:
    body = {"model": "fine", "input": "hi", "tools": TOOLS, "background": True}
    ended(site, site.api.post("/v1/responses", json=body).text)
    assert any("server_label" in value for value in asyncio.run(all_values(site.database_url)))
    assert not asyncio.run(_fetch(site.database_url, "select 1 from responses where secrets is not null"))


def ended(site: Site, said: str) -> list[str]:
    """Wait for the end of a background response: all that can be read of it then."""
    first = said.partition("data: ")[2].partition("\n")[0] if said.startswith("event") else said
    found: Any = orjson.loads(first)
    path = f"/v1/responses/{found.get('response', found)['id']}"
    wait_until(lambda: site.api.get(path).json()["status"] not in {"queued", "in_progress"})
    return [site.api.get(f"{path}{tail}").text for tail in ("", "/input_items", "/attempts", "?stream=true")]


async def all_values(database_url: str) -> list[str]:
    """Every value of every row of every table, unfolded where it was compressed."""
    tables = await _fetch(
        database_url, "select table_name from information_schema.tables where table_schema = 'public'"
    )
    rows = [row for table in tables for row in await _fetch(database_url, f'select * from "{table[0]}"')]
    return [_text(value) for row in rows for value in row]


def _text(value: Any) -> str:
    if not isinstance(value, bytes):
        return str(value)
    with suppress(ValueError):  # it was not compressed
        value = decompress(value, CODEC)
    return value.decode(errors="replace")


async def _fetch(database_url: str, query: str) -> list[Any]:
    connection: Any = await asyncpg.connect(database_url)
    try:
        return await connection.fetch(query)
    finally:
        await connection.close()
