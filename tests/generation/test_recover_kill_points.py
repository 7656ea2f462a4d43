"""A worker that is killed at each step of a run, and one that comes too late."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from app.domain.jobs import Claim
from app.domain.response import Draft, Status
from app.domain.tenancy import Caller
from app.generation.background import Background
from app.generation.journal import Entry, Journal
from app.providers.base import Started
from app.store import events, lifecycle
from app.store.db import Database, SystemTx
from tests import grammar
from tests.background import (
    body,
    enqueued,
    execute,
    expire,
    followed,
    generate,
    journalled,
    said,
    state,
    tries,
    working,
)
from tests.generation.abandoning import VANISHED, die, reaped
from tests.scripted import DONE, ScriptedProvider, answer, hello
from tests.waiting import PATIENCE_SECONDS, until

pytestmark = pytest.mark.usefixtures("nothing_queued")


@dataclass(frozen=True)
class KillPoint:
    """Where a worker dies, and what must have become of its response once the reaper has been there."""

    arm: Callable[[pytest.MonkeyPatch, Background], None]
    streamed: Status
    plain: Status
    generations: int = 1
    """How often the upstream had been asked when the worker died."""


def _after_claim(patch: pytest.MonkeyPatch, background: Background) -> None:
    patch.setattr(background, "_run", die)


def _before_the_upstream(patch: pytest.MonkeyPatch, background: Background) -> None:
    patch.setattr(background, "_prepare", die)


def _before_first_append(patch: pytest.MonkeyPatch, background: Background) -> None:
    patch.setattr(Journal, "_flush", die)


def _after_first_append(patch: pytest.MonkeyPatch, background: Background) -> None:
    """The message has begun, and the batch is stored; then the process is gone."""
    append = events.append

    async def once(tx: SystemTx, batches: Sequence[events.Batch]) -> set[Claim]:
        if any(batch.last_seq > 3 for batch in batches):
            patch.setattr(Entry, "flushed", die)
        return await append(tx, batches)

    patch.setattr(events, "append", once)
    patch.setattr(lifecycle, "finish_each", die)


def _before_finish(patch: pytest.MonkeyPatch, background: Background) -> None:
    patch.setattr(lifecycle, "finish_each", die)


def _after_finish(patch: pytest.MonkeyPatch, background: Background) -> None:
    """Committed, and nobody was told."""
    patch.setattr("app.generation.keeping.tell_followers", die)


KILL_POINTS = {
    "after the claim": KillPoint(_after_claim, Status.QUEUED, Status.QUEUED, generations=0),
    "before the upstream is asked": KillPoint(
        _before_the_upstream, Status.QUEUED, Status.QUEUED, generations=0
    ),
    "before the first append": KillPoint(_before_first_append, Status.QUEUED, Status.COMPLETED),
    "after the first append": KillPoint(_after_first_append, Status.FAILED, Status.QUEUED),
    "before the finish": KillPoint(_before_finish, Status.FAILED, Status.QUEUED),
    "after the finish, before the bell": KillPoint(_after_finish, Status.COMPLETED, Status.COMPLETED),
}


class TestKillPoints:
    """The table of outcomes: each point of the engine at which a worker may die."""

    async def killed(
        self, db: Database, database_url: str, point: KillPoint, provider: ScriptedProvider
    ) -> None:
        """Let a worker run into the point, without a word of farewell."""
        with pytest.MonkeyPatch.context() as patch:
            async with working(db, database_url, provider) as background:
                patch.setattr(background, "_leave", die)
                patch.setattr(background, "_fail", die)
                point.arm(patch, background)
                task = asyncio.ensure_future(generate(background))
                await asyncio.wait([task], timeout=PATIENCE_SECONDS)
                assert task.done()
                await asyncio.gather(task, return_exceptions=True)

    @pytest.mark.parametrize("is_streamed", [True, False], ids=["streamed", "plain"])
    @pytest.mark.parametrize("name", KILL_POINTS)
    async def test_what_is_found_is_as_the_table_says(
        self, db: Database, caller: Caller, database_url: str, name: str, *, is_streamed: bool
    ) -> None:
        point = KILL_POINTS[name]
        draft = await enqueued(db, caller, stream=is_streamed)
        provider = ScriptedProvider(answer("Hi"))
        await self.killed(db, database_url, point, provider)
        assert len(provider.contexts) == point.generations
        seen = b"".join(batch for _, batch in await journalled(db, caller, draft.id))
        await execute(
            database_url,
            "update responses set lease_until = now() - interval '1 s' where id = $1 and status = 1",
            draft.id,
        )
        await reaped(db)
        expected = point.streamed if is_streamed else point.plain
        assert await state(db, caller, draft.id) is expected
        await self.check_end(db, caller, database_url, draft, seen, expected)

    async def check_end(
        self, db: Database, caller: Caller, database_url: str, draft: Draft, seen: bytes, found: Status
    ) -> None:
        """It ends once, and whoever followed from the beginning has read one whole stream."""
        again = ScriptedProvider(answer("Hi again"))
        async with working(db, database_url, again) as background:
            assert await generate(background) is (found is Status.QUEUED)
        assert len(again.contexts) == (found is Status.QUEUED)
        told = await body(db, caller, draft.id)
        assert told["status"] == ("failed" if found is Status.FAILED else "completed")
        for attempt in await tries(db, caller, draft.id):
            assert attempt["ended_at"]
        if draft.is_streamed:
            whole = await followed(db, caller, draft.id)
            assert whole.startswith(seen)
            assert grammar.check(said(whole)) == told


class TestLateComers:
    """An attempt that was thought dead, and is not."""

    @asynccontextmanager
    async def frozen(
        self, db: Database, caller: Caller, database_url: str, gate: asyncio.Event
    ) -> AsyncGenerator[tuple[Draft, asyncio.Task[bool], ScriptedProvider]]:
        draft = await enqueued(db, caller, stream=True)
        provider = ScriptedProvider([Started(), gate, *hello("late"), DONE])
        async with working(db, database_url, provider) as background:
            task = asyncio.ensure_future(generate(background))
            await provider.is_stalled.wait()
            await expire(database_url, draft.id)
            yield draft, task, provider

    async def test_it_says_nothing_once_another_has_been_given_its_work(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        gate = asyncio.Event()
        async with self.frozen(db, caller, database_url, gate) as (draft, task, _):
            await reaped(db)
            async with working(db, database_url, ScriptedProvider(answer("Hi"))) as other:
                await until(lambda: generate(other))
            before = await followed(db, caller, draft.id)
            gate.set()
            assert await task
        assert await followed(db, caller, draft.id) == before
        assert (await body(db, caller, draft.id))["output"][0]["content"][0]["text"] == "Hi"

    async def test_it_says_nothing_once_its_response_has_failed(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        gate = asyncio.Event()
        async with self.frozen(db, caller, database_url, gate) as (draft, task, _):
            await reaped(db, rerun="never")
            gate.set()
            assert await task
        assert (await body(db, caller, draft.id))["error"] == VANISHED
        assert grammar.check(said(await followed(db, caller, draft.id)))["status"] == "failed"

    async def test_it_goes_on_where_its_lease_was_renewed_in_time(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        """An expired lease that nobody has taken can be had back."""
        gate = asyncio.Event()
        async with self.frozen(db, caller, database_url, gate) as (draft, task, _):
            gate.set()
            assert await task
        assert await state(db, caller, draft.id) is Status.COMPLETED
