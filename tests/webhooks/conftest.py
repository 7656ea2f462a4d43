"""A database in which only what a test itself sends is delivered."""

import pytest

from tests.background import execute


@pytest.fixture(scope="module")
def database_url(quiet_database_url: str) -> str:
    return quiet_database_url


@pytest.fixture
async def no_endpoints(database_url: str) -> None:
    await execute(database_url, "delete from webhook_endpoints")
