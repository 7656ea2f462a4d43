"""A database that no other worker serves."""

import pytest


@pytest.fixture(scope="module")
def database_url(quiet_database_url: str) -> str:
    return quiet_database_url
