"""A server with keys and two tenants, and a worker for what wants one."""

import asyncio
from collections.abc import Generator
from dataclasses import dataclass

import httpx2
import pytest

from app.domain.keys import Key
from app.domain.tenancy import Scope
from tests.keys import IMPATIENT, client_with, new_key
from tests.live import LiveServer
from tests.migrations.databases import new_database
from tests.ui.visiting import visiting
from tests.workers.processes import LiveBroker, LiveWorker, broker_running


@dataclass(frozen=True, slots=True)
class Site:
    """A server whose page needs a key, and keys to it."""

    server: LiveServer
    broker: LiveBroker
    database_url: str
    writer: Key
    reader: Key
    stranger: Key


@pytest.fixture(scope="session")
def site(postgres_url: str, migrated: str) -> Generator[Site]:
    """Its queue is served only where a test brings a worker."""
    with new_database(postgres_url, like=migrated) as url, broker_running() as broker:
        writer, reader, stranger = asyncio.run(keys(url))
        environment = {**IMPATIENT, "HOLDFAST_BROKER_URL": broker.url}
        with LiveServer(url, environment=environment) as server:
            yield Site(server, broker, url, writer, reader, stranger)


async def keys(database_url: str) -> tuple[Key, Key, Key]:
    return (
        await new_key(database_url, "ours", Scope.WRITE),
        await new_key(database_url, "ours", Scope.READ),
        await new_key(database_url, "theirs", Scope.WRITE),
    )


@pytest.fixture(scope="module")
def api(site: Site) -> Generator[httpx2.Client]:
    """Our tenant's client of the API."""
    with client_with(site.server, site.writer) as client:
        yield client


@pytest.fixture(scope="module")
def browser(site: Site) -> Generator[httpx2.Client]:
    """Our tenant's browser, logged in with a key that writes."""
    with visiting(site.server, site.writer) as client:
        yield client


@pytest.fixture(scope="module")
def worker(site: Site) -> Generator[LiveWorker]:
    with LiveWorker(site.database_url, site.broker.url) as running:
        yield running
