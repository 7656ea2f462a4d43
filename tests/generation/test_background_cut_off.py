"""A worker that cannot reach Postgres stops what it runs before another begins it."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from app import ids
from app.domain.response import Status
from app.domain.tenancy import Caller
from app.errors import Unavailable
from app.store.db import Database, SystemTx, Tx
from tests import grammar
from tests.background import (
    body,
    enqueued,
    execute,
    followed,
    generate,
    said,
    state,
    working,
)
from tests.builders import a_response
from tests.generation.stalling import has_shown, is_closed, reaped, stalled
from tests.scripted import ScriptedProvider, answer
from tests.waiting import until

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
