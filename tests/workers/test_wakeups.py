"""Bells, as a worker hears them, rings for itself, and ends where it could follow none."""

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Generator
from threading import Event
from uuid import UUID

import pytest
from kombu.connection import Connection
from kombu.message import Message
from structlog.testing import capture_logs

from app import wakeups
from app.domain.response import Status
from app.domain.tenancy import Caller
from app.embedded.worker_process import COMMAND
from app.store.db import Database
from app.wakeups import Bell
from tests.background import empty_queue, enqueued, state
from tests.embedded.processes import ROOT, clean_environment
from tests.waiting import PATIENCE_SECONDS, until, wait_until
from tests.workers.processes import LiveBroker, LiveWorker, broker_running

CRASHING = """
import sys
from celery.__main__ import main
from app.generation.journal import Journal

async def crash(journal):
    raise RuntimeError("a bug")

Journal._flush = crash
sys.argv = ["celery", *sys.argv[1:]]
main()
"""
"""A worker whose journal dies of the first stream that it is given."""


class Listener:
    """A consumer without Celery."""

    def __init__(self, url: str) -> None:
        self._connection = Connection(url)
        self._queue = wakeups.queue(url)(self._connection.default_channel)
        self._queue.declare()
        self._queue.purge()

    @property
    def count(self) -> int:
        return self._queue.queue_declare().message_count

    def hear(self) -> Message:
        heard: list[Message] = []

        def look() -> bool:
            message = self._queue.get(no_ack=True)
            if message:
                heard.append(message)
            return bool(heard)

        wait_until(look)
        return heard[0]

    def close(self) -> None:
        self._queue.purge()
        self._connection.close()


@pytest.fixture
def listener(broker_url: str) -> Generator[Listener]:
    listener = Listener(broker_url)
    yield listener
    listener.close()


@pytest.fixture
async def bell(broker_url: str) -> AsyncGenerator[Bell]:
    bell = Bell(broker_url)
    yield bell
    await bell.close()


async def test_a_bell_names_the_task_and_what_was_queued(bell: Bell, listener: Listener) -> None:
    await bell.ring("resp_1")
    message = await asyncio.to_thread(listener.hear)
    assert message.headers["task"] == "generate"
    assert message.headers["id"] == message.properties["correlation_id"]
    assert message.decode()[0] == ["resp_1"]


async def test_closing_lets_out_what_is_pending(
    broker_url: str, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    hang_up = wakeups._Line.hang_up

    def late(line: wakeups._Line) -> None:
        # Where a channel ends, RabbitMQ may forget what a quorum has not taken of it yet; the reaper rings
        # for that. This is about what has been said before anyone hangs up.
        wait_until(lambda: listener.count == 7)
        hang_up(line)

    monkeypatch.setattr(wakeups._Line, "hang_up", late)
    monkeypatch.setattr(wakeups, "CLOSING_SECONDS", 10)
    bell = Bell(broker_url)
    await bell.ring_many(7)
    await bell.close()
    assert listener.count == 7


async def test_bells_that_ring_together_are_one_of_each_kind(
    broker_url: str, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those that come behind one that is just being sent; none is forgotten."""
    send, is_sending, may_go_on = wakeups._Line.send, Event(), Event()
    sent = list[wakeups.Ring]()

    def slow(line: wakeups._Line, ring: wakeups.Ring) -> None:
        sent.append(ring)
        is_sending.set()
        may_go_on.wait()
        send(line, ring)

    monkeypatch.setattr(wakeups._Line, "send", slow)
    monkeypatch.setattr(wakeups, "CLOSING_SECONDS", 10)
    bell = Bell(broker_url)
    await bell.ring("resp_0")
    await asyncio.to_thread(is_sending.wait)
    for number in range(1, 50):
        await bell.ring(f"resp_{number}")
        await bell.ring_deliveries()
        await bell.ring_many(number % 7)
    may_go_on.set()
    await bell.close()
    assert (sent[0], set(sent[1:])) == ("resp_0", {"resp_49", wakeups.DELIVER, 6})
    assert len(sent) == 4
    # Three of them hang already as the greatest number is asked for.
    assert listener.count == 6


async def test_many_bells_are_as_many_as_are_wanted_and_no_more(bell: Bell, listener: Listener) -> None:
    for wanted, hanging in ((3, 3), (5, 5), (2, 5), (0, 5), (6, 6)):
        await bell.ring_many(wanted)
        await asyncio.to_thread(wait_until, lambda: listener.count == hanging)  # noqa: B023 - awaited here


async def test_a_bell_that_was_never_rung_closes_at_once() -> None:
    await Bell("redis://127.0.0.1:1/0").close()


@pytest.mark.parametrize(
    "url", ["redis://127.0.0.1:1/0", "redis+socket:///nowhere/valkey.sock", "amqp://127.0.0.1:1//"]
)
async def test_a_broker_that_is_away_costs_nothing_and_is_told_once(url: str) -> None:
    bell = Bell(url)
    started = time.monotonic()
    with capture_logs() as logs:
        for _ in range(2000):
            await bell.ring("resp_1")
        await bell.ring_many(3)
        assert time.monotonic() - started < 5
        await bell.close()
    assert [entry["event"] for entry in logs] == ["broker.lost"]


async def test_pending_bells_do_not_grow_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wakeups, "MAX_PENDING", 10)
    # As if the broker took for ever over the first.
    monkeypatch.setattr(Bell, "_work", lambda _: None)
    bell = Bell("redis://127.0.0.1:1/0")
    for _ in range(100):
        await bell.ring("resp_1")
    assert bell._pending.qsize() == 10
    await bell.close()


async def test_a_bug_of_a_transport_does_not_end_the_ringing(monkeypatch: pytest.MonkeyPatch) -> None:
    with broker_running() as broker:
        bell = Bell(broker.url)
        with capture_logs() as logs, monkeypatch.context() as patch:
            patch.setattr(wakeups, "_publish", crash)
            await bell.ring("resp_1")
            wait_until(lambda: bool(logs))
        assert [entry["event"] for entry in logs] == ["bell.crashed"]
        await rung(bell, broker)
        await bell.close()


def crash(*_: object) -> None:
    raise RuntimeError


async def test_a_broker_that_was_restarted_takes_the_next_bell() -> None:
    with broker_running() as broker:
        bell = Bell(broker.url)
        await rung(bell, broker)
        broker.kill()
        broker.start()
        with capture_logs() as logs:
            await rung(bell, broker)
        assert not logs
        await bell.close()


async def test_a_broker_that_comes_back_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wakeups, "PATIENCE_SECONDS", 0.05)
    with broker_running() as broker:
        bell = Bell(broker.url)
        broker.kill()
        with capture_logs() as logs:
            await bell.ring("resp_1")
            await asyncio.to_thread(wait_until, lambda: len(logs) == 1)
            broker.start()
            await asyncio.sleep(0.06)
            await rung(bell, broker)
            await bell.close()
        assert [entry["event"] for entry in logs] == ["broker.lost", "broker.back"]


async def rung(bell: Bell, broker: LiveBroker) -> None:
    """Ring, and wait until it hangs there."""
    listener = Listener(broker.url)
    await bell.ring("resp_1")
    await asyncio.to_thread(wait_until, lambda: listener.count == 1)
    listener.close()


@pytest.fixture
async def queued(database_url: str, db: Database, caller: Caller) -> AsyncGenerator[list[UUID]]:
    """Responses for which no bell hangs anywhere: one is streamed, and all are young."""
    await empty_queue(database_url)
    drafts = [await enqueued(db, caller, model="offline", stream=number == 0) for number in range(3)]
    yield [draft.id for draft in drafts]
    await empty_queue(database_url)


async def test_a_worker_rings_at_its_start_for_whatever_is_queued(
    database_url: str, broker: LiveBroker, db: Database, caller: Caller, queued: list[UUID]
) -> None:
    """A broker that was started with it knows nothing of what was queued before."""

    async def are_completed() -> bool:
        return {await state(db, caller, each) for each in queued} == {Status.COMPLETED}

    patient = {"queued_too_long_seconds": "3600", "reap_interval_seconds": "3600"}
    with LiveWorker(database_url, broker.url, **patient) as worker:
        await until(are_completed)
        assert worker.stop() == 0


@pytest.mark.usefixtures("queued")
async def test_a_worker_that_can_generate_nothing_more_ends_and_says_so(
    database_url: str, broker: LiveBroker
) -> None:
    """Whoever keeps it starts another, which it would not if it lived on or had ended in peace."""
    urls = {"HOLDFAST_DATABASE_URL": database_url, "HOLDFAST_BROKER_URL": broker.url}
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", CRASHING, *COMMAND[3:]],
        cwd=ROOT,
        env=clean_environment() | urls,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "background.died" in done.stderr
    assert "worker.stopping" in done.stderr
