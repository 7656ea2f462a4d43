"""Runs that are stopped: by the client who left, by the server that stops, by the clock, by a slow reader."""

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from app.domain.response import Status
from app.domain.tenancy import Caller
from app.errors import Unavailable, UpstreamError
from app.generation import engine
from app.generation import feed as feeds
from app.generation.engine import SHUTDOWN
from app.generation.feed import Feed
from app.providers.base import Started, TextDelta
from app.store.db import Database, Tx
from tests import grammar
from tests.builders import a_draft, a_run, all_stored, stored
from tests.generation.faults import AWAY, FaultyDatabase, heard
from tests.scripted import DONE, ScriptedProvider, Step, answer, hello
from tests.waiting import patience


class Witness(FaultyDatabase):
    """It notes whether the upstream was closed when the store was asked."""

    provider: ScriptedProvider
    has_seen_it_closed = False

    def autocommit(self, caller: Caller) -> AbstractAsyncContextManager[Tx]:
        self.has_seen_it_closed = self.provider.is_closed
        return super().autocommit(caller)


class Running:
    """A run in a task of its own, which stands still where its script waits."""

    def __init__(self, provider: ScriptedProvider, run: engine.Run) -> None:
        self.provider, self.run = provider, run
        self.task = asyncio.ensure_future(engine.run(run))

    async def events(self) -> list[dict[str, Any]]:
        return await heard(self.run.listener)

    async def cancelled(self, message: str | None = None) -> None:
        """Cancel it, and see that it ends so."""
        self.task.cancel(message)
        with pytest.raises(asyncio.CancelledError):
            await self.task


async def stalled(db: Database, caller: Caller, *steps: Step, **changes: Any) -> Running:
    """A run that has played these steps and waits for ever."""
    provider = ScriptedProvider([*steps, asyncio.Event()], db=db)
    it = Running(provider, await a_run(db, caller, provider, a_draft(stream=True), **changes))
    await provider.is_stalled.wait()
    return it


async def committing(db: Database, caller: Caller, gate: asyncio.Event) -> Running:
    """A run whose transaction waits for the gate."""
    slow = FaultyDatabase(db, gate=gate)
    provider = ScriptedProvider(answer("Hi"), db=db)
    it = Running(provider, await a_run(slow, caller, provider, a_draft(stream=True)))
    await slow.is_begun.wait()
    return it


class TestCancellation:
    async def test_before_the_beginning_it_leaves_nothing(self, db: Database, caller: Caller) -> None:
        it = await stalled(db, caller)
        await it.cancelled()
        assert it.provider.is_closed
        assert await it.events() == []
        assert await all_stored(db, caller) == []

    async def test_after_the_beginning_it_leaves_a_cancelled_response(
        self, db: Database, caller: Caller
    ) -> None:
        it = await stalled(db, caller, Started(), *hello("half")[:-1])
        await it.cancelled()
        assert it.provider.is_closed
        response = grammar.check(await it.events())
        assert (response["status"], response["output"], response["usage"]) == ("cancelled", [], None)
        row = await stored(db, caller, it.run.accepted.draft)
        assert row is not None
        assert (row.status, row.output_blob) == (Status.CANCELLED, b"")
        assert b'"status":"cancelled"' in row.json()

    async def test_during_the_commit_it_waits_for_the_commit(self, db: Database, caller: Caller) -> None:
        gate = asyncio.Event()
        it = await committing(db, caller, gate)
        for _ in range(3):
            it.task.cancel()
            await asyncio.sleep(0)
        assert not it.task.done()
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await it.task
        assert [row.status for row in await all_stored(db, caller)] == [Status.COMPLETED]
        assert grammar.check(await it.events())["status"] == "completed"

    async def test_between_two_tries_of_the_commit_it_waits_too(
        self, db: Database, caller: Caller, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(engine, "COMMIT_PAUSES_SECONDS", (0.02,))
        away = FaultyDatabase(db, before=[AWAY])
        provider = ScriptedProvider(answer("Hi"), db=db)
        it = Running(provider, await a_run(away, caller, provider))
        await away.is_begun.wait()
        await it.cancelled()
        assert [row.status for row in await all_stored(db, caller)] == [Status.COMPLETED]

    async def test_what_cannot_be_stored_as_cancelled_ends_as_unavailable(
        self, db: Database, caller: Caller, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(engine, "COMMIT_PAUSES_SECONDS", ())
        it = await stalled(FaultyDatabase(db, before=[AWAY]), caller, Started())
        it.task.cancel()
        with pytest.raises(Unavailable):
            await it.task
        assert (await it.events())[-1]["type"] == "error"


class TestShutdown:
    async def test_after_the_beginning_the_response_has_failed(self, db: Database, caller: Caller) -> None:
        it = await stalled(db, caller, Started(), *hello("half")[:-1])
        it.task.cancel(SHUTDOWN)
        composer = await it.task
        response = grammar.check(await it.events())
        assert response["error"] == {"code": "server_error", "message": "The server is shutting down."}
        assert len(response["output"]) == 1
        assert [(row.status, row.json()) for row in await all_stored(db, caller)] == [
            (Status.FAILED, composer.json)
        ]
        assert it.provider.is_closed

    async def test_before_the_beginning_the_client_may_try_again(self, db: Database, caller: Caller) -> None:
        it = await stalled(db, caller)
        it.task.cancel(SHUTDOWN)
        with pytest.raises(Unavailable):
            await it.task
        assert await all_stored(db, caller) == []

    async def test_during_the_commit_the_end_is_still_told(self, db: Database, caller: Caller) -> None:
        gate = asyncio.Event()
        it = await committing(db, caller, gate)
        it.task.cancel(SHUTDOWN)
        await asyncio.sleep(0)
        gate.set()
        assert (await it.task).status is Status.COMPLETED
        assert grammar.check(await it.events())["status"] == "completed"


class TestDeadline:
    async def test_after_the_beginning_the_response_has_failed(self, db: Database, caller: Caller) -> None:
        it = await stalled(db, caller, Started(), *hello("half")[:-1], max_run_seconds=0.05)
        await it.task
        response = grammar.check(await it.events())
        assert (response["status"], response["error"]["code"]) == ("failed", "server_error")
        assert [row.status for row in await all_stored(db, caller)] == [Status.FAILED]
        assert it.provider.is_closed

    async def test_before_the_beginning_it_is_a_gateway_timeout(self, db: Database, caller: Caller) -> None:
        it = await stalled(db, caller, max_run_seconds=0.05)
        with pytest.raises(UpstreamError) as raised:
            await it.task
        assert raised.value.status == 504
        assert await it.events() == []
        assert await all_stored(db, caller) == []


class TestSlowReader:
    @pytest.fixture(autouse=True)
    def _little_room(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(feeds, "MAX_WAITING_BYTES", 20_000)

    STEPS = (Started(), *hello("begin")[:-2], *[TextDelta(0, 0, "x" * 1000) for _ in range(100)], DONE)

    async def waiting(self, db: Database, caller: Caller, **changes: Any) -> Running:
        """A run that nobody reads, once it waits."""
        provider = ScriptedProvider(self.STEPS, db=db)
        it = Running(provider, await a_run(db, caller, provider, a_draft(stream=True), **changes))
        assert isinstance(it.run.listener, Feed)
        async with patience():
            while it.run.listener._writer is None:  # noqa: ASYNC110 - the product has no use for such a signal
                await asyncio.sleep(0)
        return it

    async def test_the_upstream_waits_for_it_and_nothing_is_lost(self, db: Database, caller: Caller) -> None:
        it = await self.waiting(db, caller)
        for _ in range(5):
            await asyncio.sleep(0)
        assert it.provider.played < 30
        response = grammar.check(await it.events())
        assert len(response["output"][0]["content"][0]["text"]) == len("begin") + 100_000
        await it.task

    async def test_a_client_who_leaves_it_unread_is_cancelled_all_the_same(
        self, db: Database, caller: Caller
    ) -> None:
        witness = Witness(db)
        it = await self.waiting(witness, caller)
        witness.provider = it.provider
        await it.cancelled()
        assert witness.has_seen_it_closed, "an upstream that nobody hears goes on costing"
        assert [row.status for row in await all_stored(db, caller)] == [Status.CANCELLED]

    async def test_the_end_of_the_run_does_not_wait_for_it(self, db: Database, caller: Caller) -> None:
        it = await self.waiting(db, caller, max_run_seconds=0.05)
        await it.task
        assert [row.status for row in await all_stored(db, caller)] == [Status.FAILED]
        assert grammar.check(await it.events())["status"] == "failed"
