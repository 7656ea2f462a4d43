"""Of whom these tests are."""

import pytest

from app.domain.tenancy import Caller
from tests.builders import a_caller


@pytest.fixture
async def stranger(database_url: str) -> Caller:
    """Another tenant than the test's own."""
    return await a_caller(database_url)
