"""Wake-ups by LISTEN: heard by those who wait, missed without harm, and never missed in silence."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from app.store import notifications as module
from app.store.notifications import Notifications
from tests.background import execute
from tests.store.proxy import Proxy
from tests.waiting import patience

CHANNEL = "holdfast_test"


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RECONNECT_SECONDS", 0.01)


@pytest.fixture
async def proxy(database_url: str) -> AsyncGenerator[Proxy]:
    async with Proxy(database_url) as proxy:
        yield proxy


class Listener:
    """Notifications that run, and how often they have (re)connected."""

    def __init__(self, url: str) -> None:
        self.heard = list[str]()
        self.it = Notifications(url, CHANNEL, on_any=self.heard.append)
        self.task = asyncio.ensure_future(self.it.run())

    async def connected(self) -> None:
        """Return at the next connection: whoever waits is woken by it."""
        with self.it.subscribed("nothing") as news:
            async with patience():
                await news.wait()

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@pytest.fixture
async def listener(proxy: Proxy) -> AsyncGenerator[Listener]:
    listener = Listener(proxy.url)
    await listener.connected()
    yield listener
    await listener.stop()


async def notify(database_url: str, payload: str) -> None:
    await execute(database_url, "select pg_notify($1, $2)", CHANNEL, payload)


async def is_set(news: asyncio.Event) -> bool:
    async with patience():
        return await news.wait()


async def test_all_who_wait_for_a_payload_hear_it_and_nobody_else(
    listener: Listener, database_url: str
) -> None:
    with (
        listener.it.subscribed("a") as first,
        listener.it.subscribed("a") as second,
        listener.it.subscribed("b") as other,
    ):
        await notify(database_url, "a")
        assert [await is_set(first), await is_set(second), other.is_set()] == [True, True, False]
        first.clear()
        await notify(database_url, "b")
        assert [await is_set(other), first.is_set()] == [True, False]
    assert listener.heard == ["a", "b"]


async def test_who_has_stopped_waiting_is_forgotten(listener: Listener, database_url: str) -> None:
    with listener.it.subscribed("a") as stays:
        with listener.it.subscribed("a") as leaves:
            pass
        await notify(database_url, "a")
        assert await is_set(stays)
        assert not leaves.is_set()
    assert listener.it._waiting == {}


async def test_a_loss_of_the_connection_wakes_everybody_once_it_is_back(
    listener: Listener, proxy: Proxy, database_url: str
) -> None:
    """Something may have been notified meanwhile."""
    with listener.it.subscribed("a") as news:
        await proxy.go_away()
        await notify(database_url, "a")
        await proxy.come_back()
        assert await is_set(news)
        news.clear()
        await notify(database_url, "a")
        assert await is_set(news)


async def test_a_session_that_the_server_ends_is_replaced_at_once(
    listener: Listener, database_url: str
) -> None:
    """As at a restart of Postgres: nobody waits for the next sign of life."""
    with listener.it.subscribed("a") as news:
        kill = """
            select pg_terminate_backend(pid) from pg_stat_activity
            where query ilike 'listen%holdfast_test%' or query = 'select 1' and pid <> pg_backend_pid()
        """
        await execute(database_url, kill)
        assert await is_set(news)


async def test_a_server_that_says_nothing_any_more_is_noticed(
    proxy: Proxy, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEEPALIVE_SECONDS", 0.05)
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.1)
    lost = asyncio.Event()
    monkeypatch.setattr(module.log, "warning", lambda *_, **__: lost.set())
    listener = Listener(proxy.url)
    await listener.connected()
    with listener.it.subscribed("a") as news:
        proxy.fall_silent()
        async with patience():
            await lost.wait()
        proxy._passes.set()
        assert await is_set(news)
    await listener.stop()


async def test_a_server_that_is_not_there_at_first_is_found_later(proxy: Proxy, database_url: str) -> None:
    await proxy.go_away()
    listener = Listener(proxy.url)
    with listener.it.subscribed("a") as news:
        await asyncio.sleep(0.05)
        assert not news.is_set()
        await proxy.come_back()
        assert await is_set(news)
    await listener.stop()
