"""A foreground run under a conversation's lock: what it appends, and what becomes of it without its lock."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from app.domain.conversation import Lock
from app.domain.response import Status
from app.domain.tenancy import Caller
from app.errors import ServiceError, UpstreamError
from app.generation.accept import accept
from app.generation.composer import Composer
from app.generation.engine import SHUTDOWN, Run
from app.generation.feed import Feed
from app.generation.keeping import NewRow
from app.generation.leases import Leases
from app.generation.locked_run import run_locked
from app.providers.base import Started
from app.store import conversation_locks
from app.store.db import Database
from app.store.entries import Entries
from tests.builders import a_draft, a_run, all_stored, stored
from tests.conversing import a_conversation, holder, is_locked, said_in, take_away
from tests.generation.faults import AWAY, FaultyDatabase, heard
from tests.scripted import DONE, ScriptedProvider, answer, hello
from tests.waiting import until


@asynccontextmanager
async def leases(db: Database, lease_seconds: float) -> AsyncGenerator[Leases[Lock]]:
    """What renews the locks of a process."""
    locks = Leases(db, conversation_locks.renew, lease_seconds=lease_seconds)
    renewing = asyncio.ensure_future(locks.run())
    try:
        yield locks
    finally:
        renewing.cancel()
        with suppress(asyncio.CancelledError):
            await renewing


class Running:
    """A run in a conversation, up to where its script waits."""

    def __init__(self, run: Run, task: "asyncio.Task[Composer]", gate: asyncio.Event) -> None:
        self.run, self.task, self.gate = run, task, gate

    async def last_event(self) -> dict[str, Any]:
        return (await heard(self.run.listener))[-1]


@asynccontextmanager
async def stalled(
    db: Database,
    caller: Caller,
    name: str,
    *,
    keeps_in: Database | None = None,
    releases_in: Database | None = None,
    lease_seconds: float = 30,
    begins: bool = True,
    refusal: ServiceError | None = None,
) -> AsyncGenerator[Running]:
    """A streamed run that stands still in the middle of a message, or before it has begun."""
    gate = asyncio.Event()
    begun = [Started(), *hello("one ", "two")[:3]] if begins else []
    rest = [*hello("one ", "two")[3:], DONE] if begins else answer()
    provider = ScriptedProvider([*begun, gate, *([refusal] if refusal else rest)])
    draft = a_draft(conversation=name, stream=True)
    accepted = await accept(db, caller, draft)
    assert accepted.lock
    kept = keeps_in or db
    keeper = NewRow(kept, Entries(kept, max_queued=9), caller, accepted, "scripted")
    # A second draft would find the conversation locked by the first.
    run = await a_run(
        db, caller, provider, a_draft(stream=True), accepted=accepted, keeper=keeper,
        composer=Composer(draft, is_heard=True),
    )  # fmt: skip
    async with leases(db, lease_seconds) as locks:
        task = asyncio.ensure_future(run_locked(run, accepted.lock, keeper, locks, releases_in or db))
        await provider.is_stalled.wait()
        yield Running(run, task, gate)
        if not task.done():
            task.cancel()
            await asyncio.wait([task])


class TestLock:
    async def test_it_is_kept_as_long_as_the_run_lasts(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        name = await a_conversation(db, caller, "zero")
        # The alarm would have stopped the run by then, had no renewal put it off.
        async with stalled(db, caller, name, lease_seconds=1) as it:
            await asyncio.sleep(1.5)
            assert await is_locked(db, caller, name)
            it.gate.set()
            assert (await it.task).status is Status.COMPLETED
        assert await holder(database_url, name) is None
        assert await said_in(db, caller, name) == ["zero", "Hi", "one two"]

    @pytest.mark.parametrize("begins", [True, False])
    @pytest.mark.parametrize("message", [None, SHUTDOWN])
    async def test_it_ends_with_a_run_that_is_stopped(
        self, db: Database, caller: Caller, database_url: str, message: str | None, *, begins: bool
    ) -> None:
        name = await a_conversation(db, caller, "zero")
        async with stalled(db, caller, name, begins=begins) as it:
            it.task.cancel(message)
            await asyncio.wait([it.task])
            assert await holder(database_url, name) is None
        assert await said_in(db, caller, name) == ["zero"]

    async def test_it_ends_where_the_outcome_cannot_be_kept(
        self, db: Database, caller: Caller, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("app.generation.engine.COMMIT_PAUSES_SECONDS", ())
        name = await a_conversation(db, caller, "zero")
        async with stalled(db, caller, name, keeps_in=FaultyDatabase(db, before=[AWAY])) as it:
            it.gate.set()
            with pytest.raises(type(AWAY)):
                await it.task
            assert (await it.last_event())["type"] == "error"
        assert await holder(database_url, name) is None
        assert await said_in(db, caller, name) == ["zero"]

    async def test_it_has_ended_when_a_stream_tells_of_a_refusal(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        """The client may be back before the run is wound up."""
        name, gate, busy = await a_conversation(db, caller, "zero"), asyncio.Event(), UpstreamError("Busy.")
        slow = FaultyDatabase(db, gate=gate)
        async with stalled(db, caller, name, releases_in=slow, begins=False, refusal=busy) as it:
            assert isinstance(it.run.listener, Feed)
            it.run.listener.is_streaming = True
            it.gate.set()
            assert (await it.last_event())["type"] == "error"
            assert await holder(database_url, name) is None
            gate.set()
            with pytest.raises(UpstreamError):
                await it.task

    async def test_an_outcome_whose_commit_was_not_heard_of_is_appended_once(
        self, db: Database, caller: Caller, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("app.generation.engine.COMMIT_PAUSES_SECONDS", (0.01,))
        name = await a_conversation(db, caller, "zero")
        async with stalled(db, caller, name, keeps_in=FaultyDatabase(db, after=[AWAY])) as it:
            it.gate.set()
            assert (await it.task).status is Status.COMPLETED
        assert await said_in(db, caller, name) == ["zero", "Hi", "one two"]
        assert await holder(database_url, name) is None


class TestLost:
    async def test_a_run_that_has_begun_fails_and_appends_nothing(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        name = await a_conversation(db, caller, "zero")
        async with stalled(db, caller, name, lease_seconds=0.15) as it:
            await take_away(database_url, name)
            await it.task
            last = await it.last_event()
        assert last["type"] == "response.failed"
        assert last["response"]["error"]["message"].startswith("This response lost its conversation")
        row = await stored(db, caller, it.run.accepted.draft)
        assert row
        assert row.status is Status.FAILED
        assert await said_in(db, caller, name) == ["zero"]
        assert await is_locked(db, caller, name), "it is the other's"

    async def test_one_that_has_not_is_an_error_that_may_be_tried_again(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        name = await a_conversation(db, caller, "zero")
        async with stalled(db, caller, name, lease_seconds=0.15, begins=False) as it:
            await take_away(database_url, name)
            with pytest.raises(ServiceError) as lost:
                await it.task
        assert (lost.value.status, lost.value.code) == (500, "conversation_locked")
        assert await all_stored(db, caller) == []
        assert await is_locked(db, caller, name)

    async def test_who_learns_it_only_at_the_end_tells_no_outcome(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        name = await a_conversation(db, caller, "zero")
        async with stalled(db, caller, name) as it:
            await take_away(database_url, name)
            it.gate.set()
            with pytest.raises(ServiceError, match="lost its conversation"):
                await it.task
            assert (await it.last_event())["type"] == "error"
        assert await all_stored(db, caller) == []
        assert await said_in(db, caller, name) == ["zero"]

    async def test_an_outcome_that_was_kept_is_told_however_long_that_took(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        """The lease was over for a moment, but nobody came between."""
        name = await a_conversation(db, caller, "zero")
        gate = asyncio.Event()
        slow = FaultyDatabase(db, gate=gate)
        async with stalled(db, caller, name, keeps_in=slow) as it:
            it.gate.set()
            await slow.is_begun.wait()
            it.task.cancel("lease_lost")
            await asyncio.sleep(0)
            gate.set()
            assert (await it.task).status is Status.COMPLETED
            assert (await it.last_event())["type"] == "response.completed"
        await until(lambda: _is_free(database_url, name))
        assert await said_in(db, caller, name) == ["zero", "Hi", "one two"]


async def _is_free(database_url: str, name: str) -> bool:
    return await holder(database_url, name) is None
