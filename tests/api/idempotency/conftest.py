"""Two processes on one database, and a worker."""

from collections.abc import Generator, Mapping

import httpx2
import pytest

from tests.api.conftest import client_of, upstreams
from tests.api.idempotency.repeating import LEASE_SECONDS
from tests.live import LiveServer
from tests.workers.processes import LiveBroker, LiveWorker


@pytest.fixture(scope="module")
def settings(broker: LiveBroker, upstream_port: int) -> Mapping[str, str]:
    return {
        "HOLDFAST_BROKER_URL": broker.url,
        "HOLDFAST_UPSTREAMS": upstreams(upstream_port),
        "HOLDFAST_LEASE_SECONDS": str(LEASE_SECONDS),
    }


@pytest.fixture(scope="module")
def first_server(quiet_database_url: str, settings: Mapping[str, str]) -> Generator[LiveServer]:
    with LiveServer(quiet_database_url, environment=settings) as live:
        yield live


@pytest.fixture(scope="module")
def second_server(quiet_database_url: str, settings: Mapping[str, str]) -> Generator[LiveServer]:
    """Another process on the same database."""
    with LiveServer(quiet_database_url, environment=settings) as live:
        yield live


@pytest.fixture(scope="module")
def worker(quiet_database_url: str, broker: LiveBroker) -> Generator[LiveWorker]:
    with LiveWorker(quiet_database_url, broker.url) as worker:
        yield worker


@pytest.fixture(scope="module")
def first(first_server: LiveServer) -> Generator[httpx2.Client]:
    with client_of(first_server) as client:
        yield client


@pytest.fixture(scope="module")
def second(second_server: LiveServer) -> Generator[httpx2.Client]:
    with client_of(second_server) as client:
        yield client
