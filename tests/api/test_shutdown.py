"""SIGTERM while responses run: they get their time, and then an end that their clients can read (behaviour 91)."""

import asyncio
from collections.abc import Generator

import httpx2
import pytest

from tests.api.asking import CREATE, Frame, frames, refusal
from tests.api.conftest import upstreams
from tests.api.connection import post
from tests.api.upstream import Upstream
from tests.background import empty_queue
from tests.live import LiveServer


@pytest.fixture
def stoppable(database_url: str, upstream_port: int) -> Generator[LiveServer]:
    """A server of this test's own, which gives running requests one second."""
    environment = {"HOLDFAST_SHUTDOWN_GRACE_SECONDS": "1", "HOLDFAST_UPSTREAMS": upstreams(upstream_port)}
    with LiveServer(database_url, environment=environment) as live:
        yield live


def stop(server: LiveServer) -> asyncio.Future[int]:
    """Send SIGTERM; the exit code, once there is one."""
    return asyncio.ensure_future(asyncio.to_thread(server.stop))


async def last_event(server: LiveServer, given: str) -> Frame:
    """The end of a stream whose server is told to stop while it runs."""
    async with post(server.port, {"model": "offline", "input": given, "stream": True}) as connection:
        await connection.head()
        said = await connection.until(b"output_text.delta")
        stopped = stop(server)
        said += b"".join(await connection.rest())
    assert await stopped == 0
    return frames(said)[-1]


async def test_a_response_that_takes_too_long_fails_in_so_many_words(
    stoppable: LiveServer, api: httpx2.Client
) -> None:
    last = await last_event(stoppable, "::words 1000 60")
    assert last.event == "response.failed"
    response = last.data["response"]
    assert response["error"] == {"code": "server_error", "message": "The server is shutting down."}
    assert api.get(f"{CREATE}/{response['id']}").json() == response


async def test_a_response_that_is_soon_done_is_finished(stoppable: LiveServer) -> None:
    last = await last_event(stoppable, "::words 20 20")
    assert (last.event, last.data["response"]["status"]) == ("response.completed", "completed")


@pytest.mark.parametrize("is_streamed", [False, True], ids=["json", "stream"])
async def test_a_client_that_has_heard_nothing_yet_is_asked_to_come_back(
    stoppable: LiveServer, upstream: Upstream, *, is_streamed: bool
) -> None:
    upstream.may_begin.clear()
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{stoppable.port}") as client:
        body = {"model": "wire", "input": "hi", "stream": is_streamed}
        asking = asyncio.ensure_future(client.post(CREATE, json=body))
        await upstream.asked.wait()
        stopped = stop(stoppable)
        assert refusal(await asking).status == 503
    assert await stopped == 0


async def test_a_follower_of_a_background_stream_gets_the_grace_and_no_more(
    database_url: str,
) -> None:
    """It may go on at another server, so this one does not wait for the end of a run that is elsewhere."""
    environment = {"HOLDFAST_SHUTDOWN_GRACE_SECONDS": "1", "HOLDFAST_BROKER_URL": "redis://127.0.0.1:1/0"}
    with LiveServer(database_url, environment=environment) as server:
        body = {"model": "offline", "input": "hi", "background": True, "stream": True}
        async with post(server.port, body) as connection:
            await connection.head()
            await connection.until(b"response.queued")
            stopped = stop(server)
            # Broken off, so that nobody takes it for the end of the response.
            with pytest.raises(asyncio.IncompleteReadError):
                await connection.rest()
        assert await stopped == 0
        assert "timeout graceful shutdown exceeded" not in server.log
    await empty_queue(database_url)
