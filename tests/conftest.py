"""Real parts for every test: Postgres with the real migrations, a live server, the real client."""

import logging
import os
import tempfile
from collections.abc import AsyncGenerator, Generator, Iterator
from functools import cache
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import structlog

from app.domain.tenancy import Caller
from app.embedded.postgres import EmbeddedPostgres
from app.observability import TALKATIVE
from app.store import migrate
from app.store.db import Database
from tests.background import empty_queue
from tests.live import LiveServer
from tests.migrations.databases import fetch, new_database
from tests.webhooks.receiving import Receiver, receiving
from tests.workers.processes import LiveBroker, broker_running

EXTERNAL = "TEST_DATABASE_URL"
"""An existing Postgres to run on instead of an embedded one; a database per worker is made in it."""


BROKERS = {"redis": "TEST_REDIS_URL", "rabbitmq": "TEST_AMQP_URL"}
"""Variables with URLs of brokers that the tests may use as if they were alone on them."""


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Generator[None]:
    """A command that a test runs in this process sets up logging for good, to a stream that is then closed:
    whatever is logged afterwards, by whatever test, would be a complaint on its standard error.
    """
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    levels = {name: logging.getLogger(name).level for name in TALKATIVE}
    yield
    root.handlers[:] = handlers
    for name, its_level in {"": level, **levels}.items():
        logging.getLogger(name).setLevel(its_level)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


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
def migrated(postgres_url: str) -> Generator[str]:
    """The name of a migrated database to make others like: a tenth of the work of migrating each."""
    with new_database(postgres_url) as url:
        migrate.upgrade(url)
        yield urlsplit(url).path.removeprefix("/")


@pytest.fixture(scope="session")
def database_url(postgres_url: str, migrated: str) -> Generator[str]:
    """A migrated database of this worker's own."""
    with new_database(postgres_url, like=migrated) as url:
        yield url


@pytest.fixture(scope="module")
def quiet_database_url(postgres_url: str, migrated: str) -> Generator[str]:
    """A migrated database that nobody else uses: for workers, who take whatever is queued in theirs."""
    with new_database(postgres_url, like=migrated) as url:
        yield url


@pytest.fixture(scope="module")
def broker() -> Generator[LiveBroker]:
    with broker_running() as broker:
        yield broker


@pytest.fixture
async def receiver() -> AsyncGenerator[Receiver]:
    async with receiving() as it:
        yield it


@pytest.fixture
async def db(database_url: str) -> AsyncGenerator[Database]:
    database = await Database.connect(database_url, size=4)
    yield database
    await database.close()


@pytest.fixture
async def wide(database_url: str) -> AsyncGenerator[Database]:
    """For many at once."""
    database = await Database.connect(database_url, size=16)
    yield database
    await database.close()


@pytest.fixture
async def other_db(database_url: str) -> AsyncGenerator[Database]:
    """The pool of another process."""
    other = await Database.connect(database_url, size=3)
    yield other
    await other.close()


@pytest.fixture
async def nothing_queued(database_url: str) -> None:
    """Remove what other tests left unfinished: a queue belongs to nobody, and any worker would take it."""
    await empty_queue(database_url)


@pytest.fixture
def caller(database_url: str) -> Caller:
    """A tenant of this test's own, so that tests may commit and run beside each other."""
    return Caller(next(_new_tenants(database_url)))


@cache
def _new_tenants(database_url: str) -> Iterator[int]:
    """Made twenty at a time: a connection for each would cost more than most tests."""
    made = (
        "insert into tenants (name) select gen_random_uuid()::text from generate_series(1, 20) returning id"
    )
    return (int(str(row[0])) for _ in count() for row in fetch(database_url, made))


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
