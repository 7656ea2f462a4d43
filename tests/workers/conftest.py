"""Brokers: the embedded one, and those that the test run names."""

import os
from collections.abc import Generator

import pytest

from tests.workers.processes import LiveBroker, broker_running

EXTERNAL = {"redis": "TEST_REDIS_URL", "rabbitmq": "TEST_AMQP_URL"}
"""Variables with URLs of brokers that the tests may use as if they were alone on them."""


@pytest.fixture(scope="module")
def database_url(quiet_database_url: str) -> str:
    return quiet_database_url


@pytest.fixture(scope="module")
def broker() -> Generator[LiveBroker]:
    with broker_running() as broker:
        yield broker


@pytest.fixture(scope="module", params=["embedded", *EXTERNAL])
def broker_url(request: pytest.FixtureRequest) -> Generator[str]:
    if request.param == "embedded":
        with broker_running() as broker:
            yield broker.url
        return
    url = os.environ.get(EXTERNAL[request.param])  # noqa: TID251 - the test run's own knob
    if not url:
        pytest.skip(f"{EXTERNAL[request.param]} is not set")
    yield url
