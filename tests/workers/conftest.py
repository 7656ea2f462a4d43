"""Brokers: the embedded one, and those that the test run names."""

from collections.abc import Generator

import pytest

from tests.workers.processes import LiveBroker, broker_running


@pytest.fixture(scope="module")
def database_url(quiet_database_url: str) -> str:
    return quiet_database_url


@pytest.fixture(scope="module")
def broker() -> Generator[LiveBroker]:
    with broker_running() as broker:
        yield broker
