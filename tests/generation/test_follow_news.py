"""What followers hear of, look for and are told, and in which order."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from app.domain.response import Draft
from app.domain.tenancy import Caller
from app.errors import Unavailable
from app.generation.follow import IDLE
from app.providers.base import Started
from app.store import events, responses
from app.store.db import Database, ReadTx, Tx
from tests import grammar
from tests.background import (
    cancel,
    deaf,
    enqueued,
    execute,
    followed,
    listening,
    numbers,
    said,
    working,
)
from tests.generation.following import PADS, WORDS, Reader, Slow, being_made, generated
from tests.scripted import DONE, ScriptedProvider, answer, hello
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("nothing_queued")


class TestNews:
    async def test_a_batch_is_heard_of_and_not_polled_for(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        async with (
            being_made(db, caller, database_url) as (draft, gate, _),
            listening(database_url) as notifications,
        ):
            reader = Reader(db, caller, draft, notifications, poll_seconds=60)
            await reader.until_frame(30)
            gate.set()
            whole = await reader.to_the_end()
        assert grammar.check(said(whole))["status"] == "completed"
        assert reader.idles == 0

    async def test_what_nobody_was_told_of_is_found_by_looking(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        async with being_made(db, caller, database_url) as (draft, gate, _):
            reader = Reader(db, caller, draft, deaf(), poll_seconds=0.03)
            await reader.until_frame(30)
            gate.set()
            whole = await reader.to_the_end()
        assert grammar.check(said(whole))["status"] == "completed"
        assert reader.idles > 0

    async def test_a_reader_of_a_silent_stream_is_told_that_it_still_is_there(
        self, db: Database, caller: Caller
    ) -> None:
        draft = await enqueued(db, caller, stream=True)
        reader = Reader(db, caller, draft, deaf(), poll_seconds=0.01)
        await reader.until_frame(2)
        batches = [await anext(reader._stream) for _ in range(3)]
        assert batches == [IDLE] * 3
        await reader.leave()

    async def test_a_silent_stream_costs_no_queries_between_its_polls(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        class Counting(Database):
            reads = 0

            @asynccontextmanager
            async def read(self, caller: Caller) -> AsyncGenerator[ReadTx]:
                self.reads += 1
                async with super().read(caller) as tx:
                    yield tx

        counting = Counting(db.pool)
        draft = await enqueued(db, caller, stream=True)
        async with listening(database_url) as notifications:
            reader = Reader(counting, caller, draft, notifications, poll_seconds=60)
            await reader.until_frame(2)
            waiting = asyncio.ensure_future(anext(reader._stream))
            await asyncio.sleep(0.2)
            assert counting.reads <= 2
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            await reader.leave()
        assert notifications._waiting == {}

    async def test_a_reader_outlives_an_absence_of_postgres(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        class Shaky(Database):
            faults = 0

            @asynccontextmanager
            async def read(self, caller: Caller) -> AsyncGenerator[ReadTx]:
                if self.faults:
                    self.faults -= 1
                    raise Unavailable
                async with super().read(caller) as tx:
                    yield tx

        shaky = Shaky(db.pool)
        async with being_made(db, caller, database_url) as (draft, gate, task):
            reader = Reader(shaky, caller, draft, deaf(), poll_seconds=0.01)
            await reader.until_frame(30)
            shaky.faults = 5
            gate.set()
            await task
            whole = await reader.to_the_end()
        assert shaky.faults == 0
        assert whole == await followed(db, caller, draft.id)


class TestOrder:
    @pytest.mark.parametrize("ends", ["completed", "cancelled"])
    async def test_what_is_said_between_the_two_looks_of_a_follower_is_not_missed(
        self, db: Database, caller: Caller, database_url: str, monkeypatch: pytest.MonkeyPatch, ends: str
    ) -> None:
        """It looks at the state first: when that is terminal, everything else is in the journal."""
        steps = (Started(), *hello("Hi"), *([DONE] if ends == "completed" else [asyncio.Event()]))
        draft = await enqueued(db, caller, stream=True)
        async with working(db, database_url, ScriptedProvider(steps), **PADS) as background:

            async def finish(_tx: ReadTx) -> None:
                monkeypatch.undo()
                generating = asyncio.ensure_future(generated(background))
                if ends == "cancelled":
                    await until(lambda: has_said(db, caller, draft, 9))
                    await cancel(db, caller, draft.id)
                    background.leases.lose_all()
                await generating

            after_first(monkeypatch, finish)
            found = await followed(db, caller, draft.id)
        assert numbers(found) == list(range(10))
        assert found == await followed(db, caller, draft.id)

    async def test_nobody_sees_an_event_before_it_is_in_the_table(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        """Decision 1: whatever a follower has read, any other process can read again."""
        draft = await enqueued(db, caller, stream=True)
        async with (
            listening(database_url) as notifications,
            working(db, database_url, Slow(answer(*WORDS))) as background,
        ):
            generating = asyncio.ensure_future(generated(background))
            reader = Reader(db, caller, draft, notifications)
            for count in range(1, 55, 3):
                read = await reader.until_frame(count)
                query = "select max(last_seq) from response_events where response_id = $1"
                [[last]] = await execute(database_url, query, draft.id)
                assert last >= numbers(read)[-1]
            await reader.to_the_end()
            await generating

    async def test_nothing_terminal_is_said_before_it_is_stored(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        """Law L8: held up in its last transaction, a run has said everything but the end."""
        gate = asyncio.Event()

        class Held(Database):
            is_begun = asyncio.Event()

            @asynccontextmanager
            async def autocommit(self, caller: Caller) -> AsyncGenerator[Tx]:
                async with super().begin(caller) as tx:
                    yield tx
                    self.is_begun.set()
                    await gate.wait()

        held = Held(db.pool)
        draft = await enqueued(db, caller, stream=True)
        async with working(held, database_url, ScriptedProvider(answer("Hi"))) as background:
            task = asyncio.ensure_future(generated(background))
            await held.is_begun.wait()
            reader = Reader(db, caller, draft, deaf(), poll_seconds=0.01)
            read = await reader.until_frame(9)
            assert said(read)[-1]["type"] == "response.output_item.done"
            assert await anext(reader._stream) == IDLE
            gate.set()
            await task
            assert said(await reader.to_the_end())[-1]["type"] == "response.completed"


def after_first(monkeypatch: pytest.MonkeyPatch, do: Any) -> None:
    """Do something after the first look of a follower, whichever of the two that is."""
    looks = {(responses, "status"): responses.status, (events, "read_after"): events.read_after}
    for (module, name), look in looks.items():

        async def looked(tx: Any, *arguments: Any, _look: Any = look, **more: Any) -> Any:
            found = await _look(tx, *arguments, **more)
            await do(tx)
            return found

        monkeypatch.setattr(module, name, looked)


async def has_said(db: Database, caller: Caller, draft: Draft, count: int) -> bool:
    async with db.read(caller) as tx:
        return await events.count(tx, draft.id) >= count
