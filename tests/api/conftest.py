"""The live server as a client sees it, and servers with other settings beside it."""

from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager

import httpx2
import orjson
import pytest

from tests.api.upstream import Upstream, upstream_at
from tests.live import LiveServer, free_port
from tests.waiting import PATIENCE_SECONDS


@pytest.fixture(scope="session")
def api(server: LiveServer) -> Generator[httpx2.Client]:
    """A client of the live server with the default settings; paths are from the root."""
    with client_of(server) as client:
        yield client


@pytest.fixture(scope="session")
def upstream_port() -> int:
    return free_port()


@pytest.fixture
async def upstream(upstream_port: int) -> AsyncGenerator[Upstream]:
    """What serves the model `wire` of the servers below, for one test."""
    async with upstream_at(upstream_port) as listening:
        yield listening


@pytest.fixture(scope="session")
def terse_server(database_url: str, upstream_port: int) -> Generator[LiveServer]:
    """Every default of the stream turned round, impatient, and with small bodies."""
    environment = {
        "HOLDFAST_SEND_DONE": "false",
        "HOLDFAST_STREAM_OBFUSCATION": "false",
        "HOLDFAST_KEEPALIVE_SECONDS": "0.1",
        "HOLDFAST_MAX_BODY_BYTES": "2000",
        "HOLDFAST_UPSTREAMS": upstreams(upstream_port),
    }
    with LiveServer(database_url, environment=environment) as live:
        yield live


@pytest.fixture(scope="session")
def terse(terse_server: LiveServer) -> Generator[httpx2.Client]:
    with client_of(terse_server) as client:
        yield client


@pytest.fixture(scope="session")
def finishing_server(database_url: str, upstream_port: int) -> Generator[LiveServer]:
    """Completes what it began, though the client has hung up."""
    environment = {
        "HOLDFAST_FOREGROUND_ON_DISCONNECT": "finish",
        "HOLDFAST_UPSTREAMS": upstreams(upstream_port),
    }
    with LiveServer(database_url, environment=environment) as live:
        yield live


def upstreams(port: int) -> str:
    """The offline model, and a model `wire` that the test plays itself."""
    wire = {"name": "wire", "protocol": "responses", "models": ["wire"], "max_retries": 0}
    offline = {"name": "offline", "protocol": "offline", "models": ["offline"]}
    return orjson.dumps([offline, {**wire, "base_url": f"http://127.0.0.1:{port}/v1"}]).decode()


@contextmanager
def client_of(server: LiveServer) -> Generator[httpx2.Client]:
    with httpx2.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=PATIENCE_SECONDS) as client:
        yield client
