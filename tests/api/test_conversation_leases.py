"""What becomes of a conversation whose process is killed, or stands still, while a response runs in it."""

import asyncio
import os
import signal
from collections.abc import Generator

import httpx2
import pytest

from tests.api.asking import CREATE, frames, text
from tests.api.conversing import begin, texts_of
from tests.api.running import attempt, is_free, running, turn
from tests.live import LiveServer
from tests.waiting import happened

LEASE_SECONDS = 1.5
WAIT = {"Holdfast-Conversation-Wait": "50"}


@pytest.fixture(scope="module")
def doomed(database_url: str) -> Generator[LiveServer]:
    """A process to which anything may happen; another is the session's own."""
    environment = {"HOLDFAST_LEASE_SECONDS": str(LEASE_SECONDS)}
    with LiveServer(database_url, environment=environment) as live:
        yield live


async def test_a_response_may_run_longer_than_its_lease(doomed: LiveServer, api: httpx2.Client) -> None:
    name = begin(api)
    async with running(doomed.port, name, "::words 45 100") as connection:
        await asyncio.sleep(2 * LEASE_SECONDS)
        assert not is_free(api, name)
        response = frames(await connection.until(b"event: response.completed"))[-1].data["response"]
    assert texts_of(api, name) == ["::words 45 100", text(response)]


async def test_a_process_that_is_killed_frees_it_within_the_lease(
    doomed: LiveServer, api: httpx2.Client
) -> None:
    name = begin(api, "one")
    async with running(doomed.port, name):
        doomed.stop(kill=True)
        assert not is_free(api, name)
        await happened(lambda: is_free(api, name))
    doomed.start()
    assert texts_of(api, name) == ["one", "free"]


@pytest.mark.parametrize("given", ["::words 30 60", "::sleep 2"])
async def test_a_process_that_stood_still_appends_nothing_after_another(
    doomed: LiveServer, api: httpx2.Client, given: str
) -> None:
    name = begin(api, "one")
    async with running(doomed.port, name, given) as connection:
        os.kill(doomed.pid, signal.SIGSTOP)
        try:
            answer = await asyncio.to_thread(attempt, api, name, "two", headers=WAIT)
        finally:
            os.kill(doomed.pid, signal.SIGCONT)
        assert answer.status_code == 200, answer.text
        failed = frames(await connection.until(b"event: response.failed"))[-1].data["response"]
    assert "lost its conversation" in failed["error"]["message"]
    assert texts_of(api, name) == ["one", "two", text(answer.json())]
    assert api.get(f"{CREATE}/{failed['id']}").json() == failed
    turn(api, name, "three")


async def test_nor_after_items_that_were_added(doomed: LiveServer, api: httpx2.Client) -> None:
    name = begin(api, "one")
    async with running(doomed.port, name, "::words 30 60") as connection:
        os.kill(doomed.pid, signal.SIGSTOP)
        try:
            await happened(lambda: is_free(api, name))
        finally:
            os.kill(doomed.pid, signal.SIGCONT)
        await connection.until(b"event: response.failed")
    assert texts_of(api, name) == ["one", "free"]


async def test_a_pause_within_the_lease_does_no_harm(doomed: LiveServer, api: httpx2.Client) -> None:
    name = begin(api, "one")
    async with running(doomed.port, name, "::words 10 60") as connection:
        os.kill(doomed.pid, signal.SIGSTOP)
        await asyncio.sleep(LEASE_SECONDS / 6)
        os.kill(doomed.pid, signal.SIGCONT)
        await connection.until(b"event: response.completed")
    assert texts_of(api, name)[:2] == ["one", "::words 10 60"]
