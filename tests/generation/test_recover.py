"""What dead workers leave behind: returned to the queue, or ended, according to what was seen of it."""

import asyncio
from typing import Any
from uuid import UUID

import pytest

from app.domain.response import Status
from app.domain.tenancy import Caller
from app.generation import recover
from app.generation.recover import count_queued
from app.providers.base import Started
from app.store import lifecycle
from app.store.db import Database
from tests import grammar
from tests.background import (
    a_background,
    body,
    cancel,
    enqueued,
    execute,
    expire,
    followed,
    forget_events,
    frames,
    generate,
    journalled,
    listening,
    said,
    state,
    tries,
    working,
)
from tests.generation.abandoning import HALF, VANISHED, abandoned, die, reaped
from tests.scripted import ScriptedProvider, answer
from tests.waiting import patience, until

pytestmark = pytest.mark.usefixtures("nothing_queued")


class TestUnseen:
    @pytest.mark.parametrize(
        ("steps", "is_streamed", "shown"),
        [((), True, 2), ((Started(),), True, 3), (HALF, False, 0)],
        ids=["queued", "in progress", "not streamed"],
    )
    async def test_it_is_queued_again_and_finished_by_another(
        self, db: Database, caller: Caller, database_url: str, steps: Any, shown: int, *, is_streamed: bool
    ) -> None:
        draft = await abandoned(db, caller, database_url, *steps, shown=shown, stream=is_streamed)
        before = await journalled(db, caller, draft.id)
        await reaped(db)
        assert await state(db, caller, draft.id) is Status.QUEUED
        assert (await body(db, caller, draft.id))["status"] == "queued"
        async with working(db, database_url, ScriptedProvider(answer("Hi"))) as background:
            assert await generate(background)
        told = await body(db, caller, draft.id)
        assert told["output"][0]["content"][0]["text"] == "Hi"
        if is_streamed:
            whole = await followed(db, caller, draft.id)
            assert whole.startswith(b"".join(batch for _, batch in before))
            assert grammar.check(said(whole)) == told
        attempts = await tries(db, caller, draft.id)
        assert [(each["attempt"], each["reason"]) for each in attempts] == [(1, "lost"), (2, "completed")]

    async def test_a_follower_notices_nothing(self, db: Database, caller: Caller, database_url: str) -> None:
        async with listening(database_url) as notifications:
            draft = await abandoned(db, caller, database_url, Started(), shown=3, stream=True)
            reading = asyncio.ensure_future(followed(db, caller, draft.id, notifications, poll_seconds=3600))
            await reaped(db)
            async with working(db, database_url, ScriptedProvider(answer("Hi"))) as background:
                await generate(background)
            assert grammar.check(said(await reading)) == await body(db, caller, draft.id)

    async def test_it_is_tried_so_often_and_then_has_failed(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        draft = await abandoned(db, caller, database_url)
        for _ in range(2):
            await reaped(db)
            provider = ScriptedProvider([asyncio.Event()])
            async with working(db, database_url, provider) as background:
                background._leave = die
                task = asyncio.ensure_future(generate(background))
                await provider.is_stalled.wait()
                background.leases.lose_all()
                await task
            await expire(database_url, draft.id)
        await reaped(db)
        told = await body(db, caller, draft.id)
        assert (told["status"], told["error"], told["output"]) == ("failed", VANISHED, [])
        reasons = [attempt["reason"] for attempt in await tries(db, caller, draft.id)]
        assert reasons == ["lost", "lost", "failed"]

    async def test_it_may_be_left_to_its_client(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        draft = await abandoned(db, caller, database_url)
        await reaped(db, rerun="never")
        assert (await body(db, caller, draft.id))["error"] == VANISHED


class TestSeen:
    async def test_it_has_failed_and_is_not_generated_again(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        draft = await abandoned(db, caller, database_url, *HALF, shown=6, stream=True)
        await reaped(db)
        async with working(db, database_url, ScriptedProvider(answer())) as background:
            assert not await generate(background)
        told = await body(db, caller, draft.id)
        assert (told["status"], told["error"], told["usage"]) == ("failed", VANISHED, None)
        [item] = told["output"]
        assert (item["status"], item["content"][0]["text"]) == ("incomplete", "half")
        assert [attempt["reason"] for attempt in await tries(db, caller, draft.id)] == ["failed"]

    async def test_its_followers_are_told_at_once_and_in_words(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        draft = await abandoned(db, caller, database_url, *HALF, shown=6, stream=True)
        before = b"".join(batch for _, batch in await journalled(db, caller, draft.id))
        async with listening(database_url) as notifications:
            reading = [
                asyncio.ensure_future(
                    followed(db, caller, draft.id, notifications, after=after, poll_seconds=3600)
                )
                for after in (-1, 4, 5)
            ]
            await until(lambda: all_wait(notifications))
            await reaped(db)
            async with patience():
                whole, *rest = await asyncio.gather(*reading)
        assert whole.startswith(before)
        assert grammar.check(said(whole)) == await body(db, caller, draft.id)
        assert rest == [b"".join(frames(whole)[after + 1 :]) for after in (4, 5)]
        await forget_events(database_url, draft.id)
        assert await followed(db, caller, draft.id) == whole

    async def test_an_operator_may_want_it_done_again_all_the_same(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        draft = await abandoned(db, caller, database_url, *HALF, shown=6, stream=True)
        await reaped(db, rerun="always")
        assert await state(db, caller, draft.id) is Status.QUEUED
        async with working(db, database_url, ScriptedProvider(answer("Hi"))) as background:
            await generate(background)
        whole = await followed(db, caller, draft.id)
        assert [event["sequence_number"] for event in said(whole)] == list(range(len(frames(whole))))
        told = await body(db, caller, draft.id)
        assert said(whole)[-1]["response"] == told
        await forget_events(database_url, draft.id)
        # Two attempts are in it, and the items of one: but for beginning and end it is not said again.
        again = await followed(db, caller, draft.id)
        assert [event["type"] for event in said(again)] == [
            "response.created", "response.queued", "response.completed"
        ]  # fmt: skip
        assert frames(again)[-1] == frames(whole)[-1]

    @pytest.mark.parametrize(
        "damage",
        [
            "update response_events set data = 'damaged' where response_id = $1 and last_seq > 1",
            "delete from response_events where response_id = $1 and last_seq < 2",
        ],
    )
    async def test_a_journal_that_cannot_be_read_keeps_nobody_waiting(
        self, db: Database, caller: Caller, database_url: str, damage: str
    ) -> None:
        broken = await abandoned(db, caller, database_url, *HALF, shown=6, stream=True)
        await execute(database_url, damage, broken.id)
        other = await abandoned(db, caller, database_url)
        await execute(
            database_url, "update responses set lease_until = now() - interval '1 h' where id = $1", broken.id
        )
        await reaped(db)
        assert await state(db, caller, other.id) is Status.QUEUED
        told = await body(db, caller, broken.id)
        assert (told["status"], told["error"], told["output"]) == ("failed", VANISHED, [])

    async def test_a_row_of_a_later_release_is_left_to_it(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        """Its dictionary is not known here. It must not keep the reaper from the others."""
        later = await abandoned(db, caller, database_url, *HALF, shown=6, stream=True)
        other = await abandoned(db, caller, database_url)
        await execute(
            database_url,
            "update responses set codec = 99, lease_until = now() - interval '1 h' where id = $1",
            later.id,
        )
        await reaped(db)
        assert await state(db, caller, other.id) is Status.QUEUED
        [[status]] = await execute(database_url, "select status from responses where id = $1", later.id)
        assert status == Status.IN_PROGRESS

    async def test_a_bug_in_ending_one_is_put_off_and_does_not_stop_the_others(
        self, db: Database, caller: Caller, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Not even a whole batch of such rows, which would all be looked at first."""
        broken = await abandoned(db, caller, database_url, *HALF, shown=6, stream=True)
        other = await abandoned(db, caller, database_url)
        await execute(
            database_url, "update responses set lease_until = now() - interval '1 h' where id = $1", broken.id
        )
        monkeypatch.setattr(recover, "BATCH", 1)
        monkeypatch.setattr(recover, "salvage", None)
        monkeypatch.setattr(lifecycle, "end", None)
        await reaped(db)
        assert await state(db, caller, other.id) is Status.QUEUED
        [[is_put_off]] = await execute(
            database_url, "select lease_until > now() from responses where id = $1", broken.id
        )
        assert is_put_off


async def all_wait(notifications: Any) -> bool:
    return sum(len(waiting) for waiting in notifications._waiting.values()) == 3


class TestRounds:
    async def test_a_lease_that_stands_is_left_alone(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        draft = await enqueued(db, caller)
        provider = ScriptedProvider([Started(), asyncio.Event()])
        async with working(db, database_url, provider) as background:
            task = asyncio.ensure_future(generate(background))
            await provider.is_stalled.wait()
            await reaped(db)
            assert await state(db, caller, draft.id) is Status.IN_PROGRESS
        await task

    async def test_reapers_in_several_places_treat_each_response_once(
        self, database_url: str, caller: Caller
    ) -> None:
        db = await Database.connect(database_url, size=12)
        drafts = [await enqueued(db, caller, stream=bool(number % 2)) for number in range(130)]
        claim = """
            update responses set status = 1, attempt = 1 + (('x' || right(id::text, 1))::bit(4)::int % 2) * 2,
            lease_until = now() - interval '1 s' where status = 0
        """
        await execute(database_url, claim)
        await execute(
            database_url,
            "insert into response_attempts (tenant_id, response_id, attempt, owner) "
            "select tenant_id, id, attempt, 'gone' from responses where status = 1",
        )
        await asyncio.gather(*[a_background(db).reap() for _ in range(4)])
        found = {Status.QUEUED: "lost", Status.FAILED: "failed"}
        for draft in drafts:
            [attempt] = await tries(db, caller, draft.id)
            assert attempt["reason"] == found[await state(db, caller, draft.id)]
        await db.close()

    async def test_a_deleted_response_is_no_obstacle(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        """The API deletes only what has ended; an operator's hand may do otherwise."""
        deleted = await abandoned(db, caller, database_url, *HALF, shown=6, stream=True)
        await execute(database_url, "update responses set deleted_at = now() where id = $1", deleted.id)
        other = await abandoned(db, caller, database_url)
        await reaped(db)
        await reaped(db)
        assert await state(db, caller, other.id) is Status.QUEUED
        [[status]] = await execute(database_url, "select status from responses where id = $1", deleted.id)
        assert status == Status.FAILED

    async def test_it_asks_for_a_bell_for_each_that_has_waited_too_long(
        self, db: Database, caller: Caller
    ) -> None:
        for _ in range(3):
            await enqueued(db, caller)
        assert await reaped(db, queued_too_long_seconds=60) == 0
        assert await reaped(db, queued_too_long_seconds=-1) == 3

    async def test_how_long_it_has_waited_is_told_by_postgres_alone(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        """An id is timed by whoever minted it, whose clock may be an hour ahead."""
        draft = await enqueued(db, caller)
        ahead = UUID(int=draft.id.int + (3_600_000 << 80))
        long_ago = "update responses set id = $1, queued_at = now() - interval '1 min' where id = $2"
        await execute(database_url, long_ago, ahead, draft.id)
        assert await reaped(db, queued_too_long_seconds=30) == 1

    async def test_whatever_is_queued_counts_however_young(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        """For the first bells of a worker; what runs or has ended wants none."""
        drafts = [await enqueued(db, caller) for _ in range(3)]
        async with working(db, database_url, ScriptedProvider(answer())) as background:
            assert await generate(background)
        assert await count_queued(db) == len(drafts) - 1

    async def test_what_it_has_queued_again_wants_a_bell_in_the_same_round(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        await abandoned(db, caller, database_url)
        assert await reaped(db, queued_too_long_seconds=-1) == 1

    async def test_it_forgets_old_events_and_leaves_those_of_running_streams(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        running = await enqueued(db, caller, stream=True)
        async with working(db, database_url, ScriptedProvider(answer())) as background:
            await generate(background)
            over, running = running, await enqueued(db, caller, stream=True)
        long_ago = "update response_events set created_at = now() - interval '1 day' where tenant_id = $1"
        await execute(database_url, long_ago, caller.tenant_id)
        finished = "update responses set finished_at = now() - interval '2 h' where id = $1"
        await execute(database_url, finished, over.id)
        before = await followed(db, caller, over.id)
        await reaped(db)
        assert await journalled(db, caller, over.id) == []
        assert len(await journalled(db, caller, running.id)) == 1
        assert await followed(db, caller, over.id) == before


async def test_a_cancel_and_a_reaper_do_not_overrule_each_other(
    db: Database, caller: Caller, database_url: str
) -> None:
    for _ in range(5):
        draft = await abandoned(db, caller, database_url, *HALF, shown=6, stream=True)
        outcomes = await asyncio.gather(
            cancel(db, caller, draft.id), a_background(db).reap(), return_exceptions=True
        )
        told = await body(db, caller, draft.id)
        assert told["status"] == ("cancelled" if outcomes[0] is True else "failed")
        assert said(await followed(db, caller, draft.id))[-1]["response"] == told
