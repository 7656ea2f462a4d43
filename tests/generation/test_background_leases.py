"""Who may write: an attempt while its lease stands, and nobody after it."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from app.domain.response import Status
from app.domain.tenancy import Caller
from app.errors import Unavailable
from app.generation.journal import Journal
from app.providers.base import Started
from app.store.db import Database, Tx
from tests import grammar
from tests.background import (
    enqueued,
    execute,
    followed,
    frames,
    generate,
    journalled,
    said,
    state,
    tries,
    working,
)
from tests.generation.stalling import Slow, is_in, reaped, shown, stalled, taken, untouched
from tests.generation.test_background_cut_off import CutOff
from tests.scripted import ScriptedProvider, answer, hello
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("nothing_queued")


class TestRenewal:
    async def test_a_run_may_take_longer_than_its_lease(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        draft = await enqueued(db, caller, stream=True)
        lease = "select lease_until from responses where id = $1"
        async with stalled(db, database_url, lease_seconds=1) as it:
            [[first]] = await execute(database_url, lease, draft.id)

            async def is_renewed_for_longer() -> bool:
                [[latest]] = await execute(database_url, lease, draft.id)
                return latest - first > timedelta(seconds=1.1)

            await until(is_renewed_for_longer)
            await it.go()
        assert await state(db, caller, draft.id) is Status.COMPLETED
        assert [attempt["attempt"] for attempt in await tries(db, caller, draft.id)] == [1]

    async def test_a_renewal_that_is_never_answered_does_not_keep_the_next_ones_back(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        cut = CutOff(db)
        draft = await enqueued(db, caller)

        async def is_unanswered() -> bool:
            return cut.swallowed > 0

        async with stalled(cut, database_url, lease_seconds=1.2) as it:
            cut.is_silent = True
            await until(is_unanswered)
            cut.is_silent = False
            await asyncio.sleep(1.5)
            await it.go()
            cut.heal()
        assert await state(db, caller, draft.id) is Status.COMPLETED


class TestLoss:
    @pytest.mark.parametrize("is_streamed", [True, False])
    async def test_a_renewal_tells_that_another_has_it_and_the_run_stops(
        self, db: Database, caller: Caller, database_url: str, *, is_streamed: bool
    ) -> None:
        draft = await enqueued(db, caller, stream=is_streamed)
        async with stalled(db, database_url, lease_seconds=0.6) as it:
            await taken(database_url, draft)
            before = await journalled(db, caller, draft.id)
            await it.stopped()
        assert await untouched(database_url, draft)
        assert await journalled(db, caller, draft.id) == before
        [attempt] = await tries(db, caller, draft.id)
        assert (attempt["reason"], attempt["partial_output"][0]["content"][0]["text"]) == (
            "lease_lost",
            "one two ",
        )

    async def test_a_batch_that_is_fenced_off_stops_the_run(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        """Even where it would go on for ever, and renewals are far away."""
        draft = await enqueued(db, caller, stream=True)
        async with stalled(db, database_url, then=(*hello()[2:3], asyncio.Event())) as it:

            async def is_written() -> bool:
                return len(await journalled(db, caller, draft.id)) > 1

            await until(is_written)
            before = await journalled(db, caller, draft.id)
            await taken(database_url, draft)
            await it.go()
        assert await journalled(db, caller, draft.id) == before
        assert await untouched(database_url, draft)

    @pytest.mark.parametrize("is_streamed", [True, False])
    async def test_who_has_lost_it_at_the_very_end_tells_no_outcome(
        self, db: Database, caller: Caller, database_url: str, *, is_streamed: bool
    ) -> None:
        """The last batch, or the outcome itself, is what is fenced off; nobody waits for ever."""
        draft = await enqueued(db, caller, stream=is_streamed)
        async with stalled(db, database_url) as it:
            await taken(database_url, draft)
            await it.go()
        assert await untouched(database_url, draft)
        [attempt] = await tries(db, caller, draft.id)
        assert (attempt["reason"], attempt["usage"]) == (
            "lease_lost",
            {"input_tokens": 7, "output_tokens": 2},
        )
        assert len(attempt["partial_output"]) == 1

    async def test_an_attempt_that_winds_up_does_not_disturb_the_next_one_in_the_same_process(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        draft = await enqueued(db, caller, stream=True)
        provider = Slow([Started(), asyncio.Event()])
        async with working(db, database_url, provider) as background:
            old = asyncio.ensure_future(generate(background))
            await provider.is_stalled.wait()
            await reaped(background, database_url, draft)
            background.leases.lose_response(draft.id)
            provider._steps = tuple(answer("Hi"))
            new = asyncio.ensure_future(generate(background))
            await until(lambda: is_in(db, caller, draft, Status.COMPLETED))
            provider.may_close.set()
            assert await asyncio.gather(old, new) == [True, True]
        assert grammar.check(said(await followed(db, caller, draft.id)))["status"] == "completed"
        reasons = [attempt["reason"] for attempt in await tries(db, caller, draft.id)]
        assert reasons == ["lost", "completed"]

    async def test_the_older_attempts_end_takes_nothing_from_the_newer_one(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        """The same, with the older one gone before the newer has written all it has to say."""
        draft = await enqueued(db, caller, stream=True)
        gate = asyncio.Event()
        provider = Slow([Started(), asyncio.Event()])
        async with working(db, database_url, provider, lease_seconds=1) as background:
            old = asyncio.ensure_future(generate(background))
            await provider.is_stalled.wait()
            await reaped(background, database_url, draft)
            background.leases.lose_response(draft.id)
            provider.is_stalled.clear()
            provider._steps = (*answer("Hi")[:3], gate, *answer("Hi")[3:])
            new = asyncio.ensure_future(generate(background))
            await provider.is_stalled.wait()
            provider.may_close.set()
            await old
            await asyncio.sleep(1.2)
            gate.set()
            assert await new
        assert grammar.check(said(await followed(db, caller, draft.id)))["status"] == "completed"


class TestCommit:
    async def test_an_outcome_whose_commit_was_not_heard_of_is_ours_all_the_same(
        self, db: Database, caller: Caller, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("app.generation.engine.COMMIT_PAUSES_SECONDS", (0.01,))

        class Unheard(Database):
            is_broken = True

            @asynccontextmanager
            async def autocommit(self, caller: Caller) -> AsyncGenerator[Tx]:
                async with super().autocommit(caller) as tx:
                    yield tx
                if self.is_broken:
                    self.is_broken = False
                    raise Unavailable

        draft = await enqueued(db, caller, stream=True)
        provider = ScriptedProvider(answer("Hi"))
        async with working(Unheard(db.pool), database_url, provider) as background:
            assert await generate(background)
        assert await state(db, caller, draft.id) is Status.COMPLETED
        [attempt] = await tries(db, caller, draft.id)
        assert (attempt["reason"], attempt["partial_output"]) == ("completed", [])

    async def test_a_failure_to_prepare_never_overwrites_what_was_decided_meanwhile(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        draft = await enqueued(db, caller, model="gone")

        async with working(db, database_url, ScriptedProvider([])) as background:
            fail = background._fail

            async def late(*arguments: Any) -> None:
                cancelled = (
                    "update responses set status = 5, finished_at = now(), lease_until = null where id = $1"
                )
                await execute(database_url, cancelled, draft.id)
                await fail(*arguments)

            background._fail = late  # type: ignore[method-assign]
            assert await generate(background)
        assert await state(db, caller, draft.id) is Status.CANCELLED


class TestJournal:
    async def test_a_crash_of_the_journal_ends_the_runs_and_the_claiming(
        self, db: Database, caller: Caller, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A run that nobody writes for would stay in progress for ever, its lease renewed."""
        draft = await enqueued(db, caller, stream=True)
        async with stalled(db, database_url) as it:

            async def crash(_journal: Journal) -> None:
                raise RuntimeError

            monkeypatch.setattr(Journal, "_flush", crash)
            await it.go()
            assert not await generate(it.background)
        assert await state(db, caller, draft.id) is Status.IN_PROGRESS
        assert len(frames(await shown(db, caller, draft))) < 9
