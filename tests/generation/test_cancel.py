"""Cancelling a background response: final at once, whatever its run does."""

import asyncio
import random
import sys
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from app import ids
from app.domain.jobs import Mode
from app.domain.response import Draft, Status
from app.domain.tenancy import Caller
from app.errors import Conflict
from app.generation.background import Background
from app.providers.base import Finished, Started, TextDelta
from app.store.db import Database
from app.store.responses import StoredResponse
from tests import grammar
from tests.background import (
    body,
    cancel,
    enqueued,
    execute,
    followed,
    found,
    frames,
    generate,
    journalled,
    listening,
    said,
    state,
    tries,
    working,
)
from tests.builders import a_caller, a_response
from tests.scripted import DONE, USAGE, ScriptedProvider, answer, hello
from tests.waiting import patience, until

pytestmark = pytest.mark.usefixtures("nothing_queued")

RACES = 500


@asynccontextmanager
async def running(
    db: Database, caller: Caller, database_url: str, *steps: Any, is_streamed: bool
) -> AsyncGenerator[tuple[Draft, ScriptedProvider, asyncio.Task[bool]]]:
    """A response that stands still after these steps, its worker listening for cancellations."""
    draft = await enqueued(db, caller, stream=is_streamed)
    provider = ScriptedProvider([*steps, asyncio.Event()])
    async with working(db, database_url, provider, lease_seconds=3600) as background:
        await until(lambda: hears(database_url))
        task = asyncio.ensure_future(generate(background))
        await provider.is_stalled.wait()
        yield draft, provider, task
        async with patience():
            assert await task


async def hears(database_url: str) -> bool:
    """Whether somebody listens for cancellations in this database."""
    query = """
        select 1 from pg_stat_activity where datname = current_database()
        and pid <> pg_backend_pid() and query = 'select 1' and state = 'idle'
    """
    return bool(await execute(database_url, query))


class TestQueued:
    @pytest.mark.parametrize("is_streamed", [True, False])
    async def test_it_never_starts(
        self, db: Database, caller: Caller, database_url: str, *, is_streamed: bool
    ) -> None:
        draft = await enqueued(db, caller, stream=is_streamed, service_tier="flex")
        assert await cancel(db, caller, draft.id)
        provider = ScriptedProvider(answer())
        async with working(db, database_url, provider) as background:
            assert not await generate(background)
        assert provider.contexts == []
        told = await body(db, caller, draft.id)
        assert (told["status"], told["output"], told["usage"]) == ("cancelled", [], None)
        assert (told["completed_at"], told["error"], told["incomplete_details"]) == (None, None, None)
        assert told["service_tier"] == "flex"
        assert await tries(db, caller, draft.id) == []

    async def test_its_stream_ends(self, db: Database, caller: Caller, database_url: str) -> None:
        draft = await enqueued(db, caller, stream=True)
        async with listening(database_url) as notifications:
            reading = asyncio.ensure_future(followed(db, caller, draft.id, notifications, poll_seconds=3600))
            await until(lambda: waits(notifications))
            await cancel(db, caller, draft.id)
            async with patience():
                events = said(await reading)
        assert [event["type"].removeprefix("response.") for event in events] == [
            "created",
            "queued",
            "failed",
        ]
        assert events[-1]["response"] == await body(db, caller, draft.id)
        assert events[-1]["response"]["status"] == "cancelled"


async def waits(notifications: Any) -> bool:
    return bool(notifications._waiting)


class TestRunning:
    @pytest.mark.parametrize("is_streamed", [True, False])
    async def test_it_is_cancelled_at_once_and_the_run_stops_within_a_moment(
        self, db: Database, caller: Caller, database_url: str, *, is_streamed: bool
    ) -> None:
        steps = (Started("m", "up_1"), *hello("half")[:3])
        async with running(db, caller, database_url, *steps, is_streamed=is_streamed) as (
            draft,
            provider,
            task,
        ):
            assert not provider.is_closed
            assert await cancel(db, caller, draft.id)
            told = await body(db, caller, draft.id)
            assert (told["status"], told["output"], told["usage"]) == ("cancelled", [], None)
            async with patience():
                await asyncio.shield(task)
            assert provider.is_closed
        assert await body(db, caller, draft.id) == told
        [attempt] = await tries(db, caller, draft.id)
        assert (attempt["reason"], attempt["upstream_id"]) == ("cancelled", "up_1")
        assert [item["content"][0]["text"] for item in attempt["partial_output"]] == ["half"]

    async def test_its_stream_ends_after_what_was_shown(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        steps = (Started(), *hello("half")[:3])
        async with (
            listening(database_url) as notifications,
            running(db, caller, database_url, *steps, is_streamed=True) as (draft, _, task),
        ):
            reading = asyncio.ensure_future(followed(db, caller, draft.id, notifications, poll_seconds=3600))
            await until(lambda: has_journalled(db, caller, draft, 6))
            await cancel(db, caller, draft.id)
            async with patience():
                whole = await reading
            await task
        events = said(whole)
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        assert events[-2]["delta"] == "half"
        assert events[-1]["type"] == "response.failed"
        assert events[-1]["response"] == await body(db, caller, draft.id)
        assert await followed(db, caller, draft.id, after=3) == b"".join(frames(whole)[4:])

    async def test_the_usage_that_was_known_stays_with_the_attempt(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        """The upstream had ended, the row had not."""
        draft = await enqueued(db, caller)
        provider = ScriptedProvider([Started(), *hello(), DONE, asyncio.Event()])
        async with working(db, database_url, provider) as background:
            task = asyncio.ensure_future(generate(background))
            await provider.is_stalled.wait()
            await cancel(db, caller, draft.id)
            await background_hears(background, draft)
            await task
        assert (await body(db, caller, draft.id))["usage"] is None
        [attempt] = await tries(db, caller, draft.id)
        assert (attempt["reason"], attempt["usage"], len(attempt["partial_output"])) == (
            "cancelled",
            USAGE,
            1,
        )

    async def test_a_worker_that_was_not_told_finds_out_at_its_renewal(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        draft = await enqueued(db, caller)
        provider = ScriptedProvider([Started(), asyncio.Event()])
        async with working(db, database_url, provider, lease_seconds=0.15) as background:
            background.leases.lose_response = lambda response_id: None
            task = asyncio.ensure_future(generate(background))
            await provider.is_stalled.wait()
            await cancel(db, caller, draft.id)
            async with patience():
                assert await task
        assert provider.is_closed
        assert await state(db, caller, draft.id) is Status.CANCELLED

    async def test_events_that_are_on_their_way_are_fenced_off(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        """A run that has not heard yet goes on talking; nobody hears it."""
        draft = await enqueued(db, caller, stream=True)
        gate = asyncio.Event()
        provider = ScriptedProvider(
            [Started(), *hello("a")[:3], gate, TextDelta(0, 0, "late"), asyncio.Event()]
        )
        async with working(db, database_url, provider) as background:
            background.leases.lose_response = lambda response_id: None
            task = asyncio.ensure_future(generate(background))
            await until(lambda: has_journalled(db, caller, draft, 6))
            await cancel(db, caller, draft.id)
            before = await journalled(db, caller, draft.id)
            gate.set()
            async with patience():
                assert await task
        assert await journalled(db, caller, draft.id) == before
        assert provider.is_closed


async def background_hears(background: Background, draft: Draft) -> None:
    """What NOTIFY would do; here it may still be on its way."""
    background.leases.lose_response(draft.id)


async def has_journalled(db: Database, caller: Caller, draft: Draft, count: int) -> bool:
    batches = await journalled(db, caller, draft.id)
    return bool(batches) and batches[-1][0] >= count - 1


class TestVerb:
    async def test_it_is_idempotent(self, db: Database, caller: Caller, database_url: str) -> None:
        draft = await enqueued(db, caller)
        assert await cancel(db, caller, draft.id)
        first = await found(db, caller, draft.id)
        row = "select *, xmin::text from responses where id = $1"
        before = await execute(database_url, row, draft.id)
        for _ in range(3):
            assert await cancel(db, caller, draft.id)
        assert await found(db, caller, draft.id) == first
        assert await execute(database_url, row, draft.id) == before

    @pytest.mark.parametrize(
        ("last", "message"),
        [
            (Finished("completed"), "Cannot cancel a completed response."),
            (Finished("failed"), "Cannot cancel a failed response."),
            (Finished("incomplete", reason="content_filter"), "Cannot cancel an incomplete response."),
        ],
        ids=["completed", "failed", "incomplete"],
    )
    async def test_it_is_too_late_for_what_has_ended(
        self, db: Database, caller: Caller, database_url: str, last: Finished, message: str
    ) -> None:
        draft = await enqueued(db, caller)
        async with working(db, database_url, ScriptedProvider([Started(), *hello(), last])) as background:
            await generate(background)
        before = await found(db, caller, draft.id)
        with pytest.raises(Conflict) as raised:
            await cancel(db, caller, draft.id)
        assert (raised.value.message, raised.value.status) == (message, 400)
        assert await found(db, caller, draft.id) == before

    async def test_a_foreground_response_cannot_be_cancelled_whatever_its_state(
        self, db: Database, caller: Caller
    ) -> None:
        composer = await a_response(db, caller)
        with pytest.raises(Conflict) as raised:
            await cancel(db, caller, composer._draft.id)
        assert raised.value.message == "Cannot cancel a synchronous response."

    async def test_what_is_not_there_cannot_be_cancelled(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        """Law L7: unknown, another tenant's, or deleted, it is all the same."""
        mine = await enqueued(db, caller)
        stranger = await a_caller(database_url)
        assert not await cancel(db, caller, ids.new_uuid())
        assert not await cancel(db, stranger, mine.id)
        assert await state(db, caller, mine.id) is Status.QUEUED
        await execute(database_url, "update responses set deleted_at = now() where id = $1", mine.id)
        assert not await cancel(db, caller, mine.id)

    async def test_an_ephemeral_result_is_kept_for_a_while_after_its_cancellation(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        draft = await enqueued(db, caller, store=False)
        assert await cancel(db, caller, draft.id)
        query = "select expires_at - finished_at > interval '9 minutes' from responses where id = $1"
        [[is_kept]] = await execute(database_url, query, draft.id)
        assert is_kept


class TestRace:
    """Cancel against completion: one of them wins, and what the client was told stays true."""

    async def race(
        self, db: Database, caller: Caller, background: Background, rng: random.Random
    ) -> tuple[str, StoredResponse]:
        """What the client heard, and what the row said at that moment."""
        draft = await enqueued(db, caller, stream=rng.random() < 0.3)
        generating = asyncio.ensure_future(generate(background))
        await asyncio.sleep(rng.choice((0, 0.02, 0.1)) * rng.random())
        try:
            assert await cancel(db, caller, draft.id)
        except Conflict as refusal:
            heard = refusal.message
        else:
            heard = "cancelled"
        at_once = await found(db, caller, draft.id)
        await generating
        return heard, at_once

    async def check(self, db: Database, caller: Caller, at_once: StoredResponse) -> None:
        """Once everything has come to rest, nothing has changed, and the stream says the same."""
        assert await found(db, caller, at_once.id) == at_once
        if Mode.STREAMED not in at_once.mode:
            return
        events = said(await followed(db, caller, at_once.id))
        assert events[-1]["response"] == await body(db, caller, at_once.id)
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        if at_once.status is Status.COMPLETED:
            grammar.check(events)

    async def test_five_hundred_times_exactly_one_of_them_wins(
        self, wide: Database, caller: Caller, database_url: str
    ) -> None:
        rng = random.Random(5)
        gate = asyncio.Semaphore(25)

        async def one() -> tuple[str, StoredResponse]:
            async with gate:
                return await self.race(wide, caller, background, rng)

        async with working(wide, database_url, ScriptedProvider(answer("a", "b"))) as background:
            races = await asyncio.gather(*[one() for _ in range(RACES)])
            while await generate(background):
                pass
        for _, at_once in races:
            await self.check(wide, caller, at_once)
        outcomes = Counter((heard, at_once.status) for heard, at_once in races)
        sys.stdout.write(f"cancel against completion, {RACES} races: {dict(outcomes)}\n")
        assert set(outcomes) == {
            ("cancelled", Status.CANCELLED),
            ("Cannot cancel a completed response.", Status.COMPLETED),
        }
        assert min(outcomes.values()) > RACES / 20, "a race that one side always wins proves nothing"
