"""The live server as a client sees it, and servers with other settings beside it."""

from collections.abc import Generator

import httpx2
import pytest

from tests.live import LiveServer


@pytest.fixture(scope="session")
def api(server: LiveServer) -> Generator[httpx2.Client]:
    """A client of the live server, with paths from the root."""
    with httpx2.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=20) as client:
        yield client
