"""Who may write: an attempt while its lease stands, and nobody after it."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from app import ids
from app.domain.context import Context
from app.domain.response import Draft, Status
from app.domain.tenancy import Caller
from app.errors import Unavailable
from app.generation.background import Background
from app.generation.journal import Journal
from app.providers.base import Delta, Started
from app.store import events
from app.store.db import Database, SystemTx, Tx
from tests import grammar
from tests.background import (
    body,
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
from tests.builders import a_response
from tests.scripted import DONE, ScriptedProvider, answer, hello
from tests.waiting import patience, until

pytestmark = pytest.mark.usefixtures("nothing_queued")


class CutOff(Database):
    """The same pool behind a network that may be cut: refused at once, or swallowed without a word."""

    def __init__(self, db: Database) -> None:
        super().__init__(db.pool)
        self.is_away = False
        self.is_silent = False
        self.swallowed = 0
        """How many have got no answer."""
        self.is_back = asyncio.Event()

    @asynccontextmanager
    async def begin(self, caller: Caller) -> AsyncGenerator[Tx]:
        await self._reach()
        async with super().begin(caller) as tx:
            yield tx

    @asynccontextmanager
    async def autocommit(self, caller: Caller) -> AsyncGenerator[Tx]:
        await self._reach()
        async with super().autocommit(caller) as tx:
            yield tx

    @asynccontextmanager
    async def begin_system(self) -> AsyncGenerator[SystemTx]:
        await self._reach()
        async with super().begin_system() as tx:
            yield tx

    @asynccontextmanager
    async def autocommit_system(self) -> AsyncGenerator[SystemTx]:
        await self._reach()
        async with super().autocommit_system() as tx:
            yield tx

    async def _reach(self) -> None:
        if self.is_silent:
            self.swallowed += 1
            await self.is_back.wait()
        if self.is_away:
            raise Unavailable

    def heal(self) -> None:
        self.is_away = self.is_silent = False
        self.is_back.set()


class Slow(ScriptedProvider):
    """It takes its time to close, once."""

    def __init__(self, steps: Sequence[Any]) -> None:
        super().__init__(steps)
        self.may_close = asyncio.Event()

    async def stream(self, context: Context) -> AsyncGenerator[Delta, None]:
        is_first = not self.contexts
        try:
            async for delta in super().stream(context):
                yield delta
        finally:
            if is_first:
                await self.may_close.wait()


async def taken(database_url: str, draft: Draft) -> None:
    """Another worker has claimed the response."""
    await execute(database_url, "update responses set attempt = attempt + 1 where id = $1", draft.id)


async def untouched(database_url: str, draft: Draft) -> bool:
    """Whether the row is still as the other worker has it."""
    [row] = await execute(
        database_url, "select status, attempt, finished_at from responses where id = $1", draft.id
    )
    return tuple(row) == (Status.IN_PROGRESS, 2, None)


async def reaped(background: Background, database_url: str, draft: Draft) -> None:
    """Let the lease of the response end, and reap until that has been treated.

    One round may pass it by: whatever holds the row is not waited for, and a renewal may come in between.
    """
    over = "update responses set lease_until = now() - interval '1 s' where id = $1 and status = 1"

    async def is_treated() -> bool:
        await execute(database_url, over, draft.id)
        await background.reap()
        [[status]] = await execute(database_url, "select status from responses where id = $1", draft.id)
        return status != Status.IN_PROGRESS

    await until(is_treated)


class Running:
    """A run that has played its first steps and stands still until `go`."""

    def __init__(self, background: Background, provider: ScriptedProvider, gate: asyncio.Event) -> None:
        self.background, self.provider, self._gate = background, provider, gate
        self.task = asyncio.ensure_future(generate(background))

    async def stopped(self) -> None:
        """Return once the upstream is closed and the run is over."""
        async with patience():
            assert await self.task
        assert self.provider.is_closed

    async def go(self) -> None:
        self._gate.set()
        await self.stopped()


@asynccontextmanager
async def stalled(
    db: Database, database_url: str, *, then: Sequence[Any] = (*hello()[2:], DONE), **policy: Any
) -> AsyncGenerator[Running]:
    """A worker in the middle of a message."""
    gate = asyncio.Event()
    provider = ScriptedProvider([Started(), *hello("one ", "two ")[:4], gate, *then])
    async with working(db, database_url, provider, **policy) as background:
        it = Running(background, provider, gate)
        await provider.is_stalled.wait()
        yield it


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


async def is_in(db: Database, caller: Caller, draft: Draft, status: Status) -> bool:
    return await state(db, caller, draft.id) is status


async def has_shown(db: Database, caller: Caller, draft: Draft, count: int) -> bool:
    async with db.read(caller) as tx:
        return await events.count(tx, draft.id) >= count


async def is_closed(provider: ScriptedProvider) -> bool:
    return provider.is_closed


class TestCutOff:
    @pytest.mark.parametrize("kind", ["refused", "silent"])
    @pytest.mark.parametrize("is_streamed", [True, False])
    async def test_a_worker_without_postgres_stops_before_anyone_else_may_begin(
        self, db: Database, caller: Caller, database_url: str, kind: str, *, is_streamed: bool
    ) -> None:
        cut = CutOff(db)
        draft = await enqueued(db, caller, stream=is_streamed)
        until_when = "select extract(epoch from lease_until - clock_timestamp()) from responses where id = $1"
        async with stalled(cut, database_url, lease_seconds=0.4) as it:
            await until(lambda: has_shown(db, caller, draft, 7 if is_streamed else 0))
            cut.is_silent, cut.is_away = kind == "silent", kind == "refused"
            await until(lambda: is_closed(it.provider))
            [[left]] = await execute(database_url, until_when, draft.id)
            assert float(left) > -1, "others could have begun long ago"
            cut.heal()
            await it.stopped()
            assert await state(db, caller, draft.id) is Status.IN_PROGRESS
            await reaped(it.background, database_url, draft)
        # What had been shown is not generated again; what had not is.
        assert await state(db, caller, draft.id) is (Status.FAILED if is_streamed else Status.QUEUED)

    async def test_a_cut_that_is_shorter_than_the_lease_does_no_harm(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        cut = CutOff(db)
        draft = await enqueued(db, caller, stream=True)
        async with stalled(cut, database_url, lease_seconds=1.5) as it:
            cut.is_away = True
            await asyncio.sleep(0.6)
            cut.heal()
            await asyncio.sleep(1.2)
            await it.go()
        assert grammar.check(said(await followed(db, caller, draft.id)))["status"] == "completed"

    async def test_an_outcome_waits_for_postgres_longer_than_a_client_would(
        self, db: Database, caller: Caller, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The response is promised: what was generated is kept, though each pause has been taken."""
        monkeypatch.setattr("app.generation.engine.COMMIT_PAUSES_SECONDS", (0.01, 0.01))
        cut = CutOff(db)
        draft = await enqueued(db, caller)
        async with stalled(cut, database_url) as it:
            cut.is_away = True
            it._gate.set()
            await asyncio.sleep(0.15)
            assert not it.task.done()
            cut.heal()
            await it.stopped()
        assert (await body(db, caller, draft.id))["output"][0]["content"][0][
            "text"
        ] == "one two Hello, world."

    async def test_a_response_that_cannot_be_prepared_now_is_left_for_later(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        """A Postgres that is away for a moment is no reason to fail it."""

        class NoReads(Database):
            def read(self, caller: Caller) -> Any:
                raise Unavailable

        parent = await a_response(db, caller)
        named = ids.response_id(parent._draft.id)
        draft = await enqueued(db, caller, previous_response_id=named)
        provider = ScriptedProvider(answer())
        async with working(NoReads(db.pool), database_url, provider) as background:
            assert await generate(background)
            assert await state(db, caller, draft.id) is Status.IN_PROGRESS
            await reaped(background, database_url, draft)
        async with working(db, database_url, provider) as background:
            assert await generate(background)
        assert await state(db, caller, draft.id) is Status.COMPLETED


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


async def shown(db: Database, caller: Caller, draft: Draft) -> bytes:
    return b"".join(batch for _, batch in await journalled(db, caller, draft.id))
