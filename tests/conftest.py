"""Real parts for every test: Postgres with the real migrations, a live server, the real client."""

import asyncio
import os
import tempfile
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import asyncpg
import pytest

from app.domain.tenancy import Caller
from app.embedded.postgres import EmbeddedPostgres
from app.store import migrate
from app.store.db import Database
from tests.live import LiveServer
from tests.workers.processes import broker_running

EXTERNAL = "TEST_DATABASE_URL"
"""An existing Postgres to run on instead of an embedded one; a database per worker is made in it."""


BROKERS = {"redis": "TEST_REDIS_URL", "rabbitmq": "TEST_AMQP_URL"}
"""Variables with URLs of brokers that the tests may use as if they were alone on them."""


@pytest.fixture(scope="session")
def postgres_url() -> Generator[str]:
    """A Postgres server for this worker."""
    if external := os.environ.get(EXTERNAL):  # noqa: TID251 - the test run's own knob
        yield external
        return
    with tempfile.TemporaryDirectory() as folder:
        # Root's server runs as another user, who must be able to reach it.
        Path(folder).chmod(0o711)
        with EmbeddedPostgres(Path(folder) / "state", durable=False) as postgres:
            yield postgres.url.replace("+asyncpg", "", 1)


@pytest.fixture(scope="session")
def database_url(postgres_url: str, worker_id: str) -> Generator[str]:
    """A migrated database of this worker's own."""
    name = f"holdfast_test_{worker_id}_{os.getpid()}"
    url = _sibling(postgres_url, name)
    asyncio.run(_execute(postgres_url, f'create database "{name}"'))
    migrate.upgrade(url)
    yield url
    asyncio.run(_execute(postgres_url, f'drop database "{name}" with (force)'))


@pytest.fixture(scope="module")
def quiet_database_url(postgres_url: str, request: pytest.FixtureRequest) -> Generator[str]:
    """A migrated database that nobody else uses: for workers, who take whatever is queued in theirs."""
    name = f"holdfast_test_{os.getpid()}_{abs(hash(request.node.nodeid))}"
    url = _sibling(postgres_url, name)
    asyncio.run(_execute(postgres_url, f'create database "{name}"'))
    migrate.upgrade(url)
    yield url
    asyncio.run(_execute(postgres_url, f'drop database "{name}" with (force)'))


@pytest.fixture
async def db(database_url: str) -> AsyncGenerator[Database]:
    database = await Database.connect(database_url, size=4)
    yield database
    await database.close()


@pytest.fixture
async def caller(database_url: str) -> Caller:
    """A tenant of this test's own, so that tests may commit and run beside each other."""
    connection = await asyncpg.connect(database_url)
    tenant_id = await connection.fetchval(
        "insert into tenants (name) values (gen_random_uuid()::text) returning id"
    )
    await connection.close()
    return Caller(tenant_id)


@pytest.fixture(scope="session")
def server(database_url: str) -> Generator[LiveServer]:
    """`holdfast api` as a process of its own, with the offline model."""
    with LiveServer(database_url) as live:
        yield live


@pytest.fixture(scope="module", params=["embedded", *BROKERS])
def broker_url(request: pytest.FixtureRequest) -> Generator[str]:
    if request.param == "embedded":
        with broker_running() as broker:
            yield broker.url
        return
    url = os.environ.get(BROKERS[request.param])  # noqa: TID251 - the test run's own knob
    if not url:
        pytest.skip(f"{BROKERS[request.param]} is not set")
    yield url


def _sibling(url: str, name: str) -> str:
    """The same server, another database."""
    head, _, query = url.partition("?")
    scheme, _, rest = head.partition("://")
    place = rest.split("/", 1)[0]
    return f"{scheme}://{place}/{name}" + (f"?{query}" if query else "")


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
