"""A receiver over a socket, and a database in which only what a test itself sends is delivered."""

from collections.abc import AsyncGenerator

import pytest

from tests.background import execute
from tests.webhooks.receiving import Receiver, receiving


@pytest.fixture(scope="module")
def database_url(quiet_database_url: str) -> str:
    return quiet_database_url


@pytest.fixture
async def no_endpoints(database_url: str) -> None:
    await execute(database_url, "delete from webhook_endpoints")


@pytest.fixture
async def receiver() -> AsyncGenerator[Receiver]:
    async with receiving() as it:
        yield it
