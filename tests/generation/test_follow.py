"""Reading a stream from anywhere in it, while it is made or long after: always the same bytes."""

import asyncio
import random
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from app import ids
from app.domain.context import Context
from app.domain.response import Draft, Status
from app.domain.tenancy import Caller
from app.errors import Unavailable
from app.generation.background import Background
from app.generation.follow import IDLE, follow
from app.providers.base import Delta, Started
from app.store import events, responses
from app.store.db import Database, ReadTx, Tx
from app.store.notifications import Notifications
from tests import grammar
from tests.background import (
    body,
    cancel,
    deaf,
    empty_queue,
    enqueued,
    execute,
    followed,
    frames,
    generate,
    listening,
    numbers,
    said,
    working,
)
from tests.builders import a_caller
from tests.scripted import DONE, ScriptedProvider, answer, hello
from tests.waiting import patience, until

WORDS = [f"word {number} " for number in range(50)]
"""Enough for a stream of some sixty events."""


PADS = {"pads": True}
"""So that what was said again from the items is not taken for what was journalled."""


@pytest.fixture(autouse=True)
async def _empty_queue(database_url: str) -> None:
    await empty_queue(database_url)


@pytest.fixture
async def wide(database_url: str) -> AsyncGenerator[Database]:
    """For many readers."""
    db = await Database.connect(database_url, size=12)
    yield db
    await db.close()


class Slow(ScriptedProvider):
    """It lets the journal write in between, so that a stream is many batches."""

    async def stream(self, context: Context) -> AsyncGenerator[Delta, None]:
        async for delta in super().stream(context):
            yield delta
            if random.random() < 0.1:
                await asyncio.sleep(0.025)


async def generated(background: Background) -> bool:
    """Generate what is queued. A claim passes by a row that somebody else holds, and is made again."""
    await until(lambda: generate(background))
    return True


async def made(
    db: Database, caller: Caller, database_url: str, *words: str, is_slow: bool = False, **params: Any
) -> Draft:
    """A streamed background response that has ended."""
    kind = Slow if is_slow else ScriptedProvider
    draft = await enqueued(db, caller, stream=True, **params)
    async with working(db, database_url, kind(answer(*(words or WORDS))), **PADS) as background:
        assert await generated(background)
    return draft


@asynccontextmanager
async def being_made(
    db: Database, caller: Caller, database_url: str
) -> AsyncGenerator[tuple[Draft, asyncio.Event, asyncio.Task[bool]]]:
    """A stream that stands still in the middle until the gate is opened."""
    gate = asyncio.Event()
    steps = answer(*WORDS)
    provider = ScriptedProvider([*steps[:30], gate, *steps[30:]])
    draft = await enqueued(db, caller, stream=True)
    async with working(db, database_url, provider, **PADS) as background:
        task = asyncio.ensure_future(generated(background))
        await provider.is_stalled.wait()
        yield draft, gate, task
        gate.set()
        await task


class Reader:
    """A follower that is read by hand."""

    def __init__(
        self,
        db: Database,
        caller: Caller,
        draft: Draft,
        notifications: Notifications,
        *,
        after: int = -1,
        poll_seconds: float = 3600,
    ) -> None:
        self._stream = follow(
            db, caller, notifications, draft.id, after=after, is_padded=True, poll_seconds=poll_seconds
        )
        self.read = b""
        self.idles = 0

    async def until_frame(self, count: int) -> bytes:
        """Everything so far, once it has so many frames."""
        async with patience():
            while self.read.count(b"\n\n") < count:
                batch = await anext(self._stream)
                self.idles += batch == IDLE
                self.read += batch
        return self.read

    async def to_the_end(self) -> bytes:
        async with patience():
            async for batch in self._stream:
                self.idles += batch == IDLE
                self.read += batch
        return self.read

    async def leave(self) -> None:
        await self._stream.aclose()


class TestBytes:
    async def test_every_cursor_gives_exactly_what_lies_beyond_it(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        draft = await made(db, caller, database_url, is_slow=True)
        whole = await followed(db, caller, draft.id)
        each = frames(whole)
        assert numbers(whole) == list(range(len(each)))
        assert len(each) > 55
        for after in range(-3, len(each) + 2):
            expected = b"".join(each[max(after + 1, 0) :])
            assert await followed(db, caller, draft.id, after=after) == expected, after

    async def test_followers_from_everywhere_read_the_same_while_it_is_made(
        self, wide: Database, caller: Caller, database_url: str
    ) -> None:
        """Started before the worker, in the middle of its stream, and after its end."""
        draft = await enqueued(wide, caller, stream=True)
        async with (
            listening(database_url) as notifications,
            working(wide, database_url, Slow(answer(*WORDS))) as background,
        ):

            def reading(after: int) -> asyncio.Task[bytes]:
                return asyncio.ensure_future(
                    followed(wide, caller, draft.id, notifications, after=after, poll_seconds=3600)
                )

            before = [reading(after) for after in range(-1, 60, 6)]
            generating = asyncio.ensure_future(generated(background))
            await asyncio.sleep(0.06)
            during = [reading(after) for after in range(-1, 60, 6)]
            await generating
            after = [reading(after) for after in range(-1, 60, 6)]
            found = [await asyncio.gather(*readers) for readers in (before, during, after)]
        each = frames(found[0][0])
        assert grammar.check(said(found[0][0])) == await body(wide, caller, draft.id)
        expected = [b"".join(each[start + 1 :]) for start in range(-1, 60, 6)]
        assert found == [expected] * 3

    async def test_fifty_broken_connections_add_up_to_one_whole_stream(
        self, wide: Database, caller: Caller, database_url: str
    ) -> None:
        """500 deltas; a reader that goes away at a random point and resumes after what it has read."""
        rng = random.Random(3)
        words = [f"{number}: {'é' * rng.randrange(9)} " for number in range(500)]
        draft = await enqueued(wide, caller, stream=True)
        async with (
            listening(database_url) as notifications,
            working(wide, database_url, Slow(answer(*words))) as background,
        ):
            uninterrupted = asyncio.ensure_future(
                followed(wide, caller, draft.id, notifications, poll_seconds=3600)
            )
            generating = asyncio.ensure_future(generated(background))
            pieces = [await self.piece(wide, caller, draft, notifications, rng)]
            # Half of the cuts are in the running stream, the other half are spread over all of it.
            while len(pieces) < 50:
                at = numbers(b"".join(pieces))[-1]
                assert at < 450, "the cuts are over before the stream is"
                pieces.append(await self.piece(wide, caller, draft, notifications, rng, after=at))
            at = numbers(b"".join(pieces))[-1]
            pieces.append(await followed(wide, caller, draft.id, notifications, after=at))
            await generating
        whole = await uninterrupted
        assert b"".join(pieces) == whole
        assert len(frames(whole)) > 500
        for cut in rng.sample(range(len(frames(whole))), 50):
            before = b"".join(frames(whole)[: cut + 1])
            assert before + await followed(wide, caller, draft.id, after=cut) == whole
        sys.stdout.write(f"50 cuts live, 50 after the end, {len(frames(whole))} events: equal bytes\n")

    async def piece(
        self,
        db: Database,
        caller: Caller,
        draft: Draft,
        notifications: Notifications,
        rng: random.Random,
        *,
        after: int = -1,
    ) -> bytes:
        """What a reader took before its connection broke, cut after a whole frame as a client would count."""
        reader = Reader(db, caller, draft, notifications, after=after)
        wanted = rng.randrange(1, 12)
        read = frames(await reader.until_frame(wanted))
        await reader.leave()
        return b"".join(read[:wanted])

    async def test_a_restart_of_the_api_changes_nothing(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        async with being_made(db, caller, database_url) as (draft, gate, task):
            async with listening(database_url) as notifications:
                first = Reader(db, caller, draft, notifications)
                head = frames(await first.until_frame(12))[:12]
                await first.leave()
            other = await Database.connect(database_url, size=1)
            async with listening(database_url) as notifications:
                reading = asyncio.ensure_future(
                    followed(other, caller, draft.id, notifications, after=11, poll_seconds=3600)
                )
                gate.set()
                await task
                tail = await reading
            await other.close()
        assert b"".join(head) + tail == await followed(db, caller, draft.id)

    async def test_padding_can_be_left_out_and_nothing_else_is(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        tempting = {"a": "b", "obfuscation": "deadbeef"}
        draft = await enqueued(
            db, caller, stream=True, metadata=tempting, input='Say ,"obfuscation":"ab"} please'
        )
        words = ['x,"obfuscation":"ab"', "}\n\n"]
        async with working(db, database_url, ScriptedProvider(answer(*words)), pads=True) as background:
            await generated(background)
        padded, bare = [
            said(await followed(db, caller, draft.id, is_padded=is_padded)) for is_padded in (True, False)
        ]
        assert [event.pop("obfuscation", None) is not None for event in padded].count(True) == 2
        assert padded == bare
        assert bare[0]["response"]["metadata"] == tempting
        for after in range(-1, len(bare)):
            found = said(await followed(db, caller, draft.id, after=after, is_padded=False))
            assert found == bare[after + 1 :]


class TestEnds:
    async def test_a_cursor_at_or_beyond_the_end_gives_nothing(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        draft = await made(db, caller, database_url, "Hi")
        last = numbers(await followed(db, caller, draft.id))[-1]
        for after in (last, last + 1, 1 << 31, 1 << 70):
            assert await followed(db, caller, draft.id, after=after) == b""

    async def test_the_terminal_event_is_not_in_the_journal_and_follows_from_the_row(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        draft = await made(db, caller, database_url, "Hi")
        whole = await followed(db, caller, draft.id)
        await execute(database_url, "delete from response_events where response_id = $1", draft.id)
        last = numbers(whole)[-1]
        assert await followed(db, caller, draft.id, after=last - 1) == frames(whole)[-1]
        assert said(whole)[-1]["response"] == await body(db, caller, draft.id)

    async def test_who_follows_a_response_that_is_deleted_is_told_so(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        """Not even that it ended is known any more, and a stream that just stops would look complete."""
        async with being_made(db, caller, database_url) as (draft, gate, task):
            reader = Reader(db, caller, draft, deaf(), poll_seconds=0.01)
            await reader.until_frame(30)
            gate.set()
            await task
            async with db.begin(caller) as tx:
                assert await responses.delete(tx, draft.id)
            read = said(await reader.to_the_end())
        assert numbers(reader.read) == list(range(len(read)))
        assert [event["type"] for event in read].count("error") == 1
        self.is_gone(draft, read[-1])

    async def test_of_another_tenants_stream_nothing_is_said(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        draft = await made(db, caller, database_url, "Hi")
        (event,) = said(await followed(db, await a_caller(database_url), draft.id))
        self.is_gone(draft, event)

    def is_gone(self, draft: Draft, event: dict[str, Any]) -> None:
        message = f"Response with id '{ids.response_id(draft.id)}' not found."
        assert (event["type"], event["message"], event["error"]["message"]) == ("error", message, message)

    async def test_a_cancelled_stream_ends_for_everyone(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        async with being_made(db, caller, database_url) as (draft, _, _), listening(database_url) as heard:
            readers = [
                asyncio.ensure_future(
                    followed(db, caller, draft.id, notifications, after=after, poll_seconds=0.05)
                )
                for notifications in (heard, deaf())
                for after in (-1, 5)
            ]
            await asyncio.sleep(0.03)
            assert await cancel(db, caller, draft.id)
            found = await asyncio.gather(*readers)
        assert found[0] == found[2]
        assert found[1] == found[3] == b"".join(frames(found[0])[6:])
        last = said(found[0])[-1]
        assert (last["type"], last["response"]["status"]) == ("response.failed", "cancelled")


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


@pytest.mark.parametrize("steps", [(), (Started(),), (Started(), *hello()[:3])], ids=["0", "1", "4"])
async def test_a_stream_may_be_followed_from_before_its_first_event(
    db: Database, caller: Caller, database_url: str, steps: Sequence[Any]
) -> None:
    draft = await enqueued(db, caller, stream=True)
    rest = answer()[len(steps) :]
    gate = asyncio.Event()
    provider = ScriptedProvider([*steps, gate, *rest])
    async with (
        listening(database_url) as notifications,
        working(db, database_url, provider, **PADS) as background,
    ):
        reader = Reader(db, caller, draft, notifications)
        assert numbers(await reader.until_frame(2)) == [0, 1]
        task = asyncio.ensure_future(generated(background))
        await provider.is_stalled.wait()
        gate.set()
        await task
        whole = await reader.to_the_end()
    assert grammar.check(said(whole)) == await body(db, caller, draft.id)
    assert DONE in rest
    await until(lambda: is_over(db, caller, draft))


async def is_over(db: Database, caller: Caller, draft: Draft) -> bool:
    async with db.read(caller) as tx:
        return await responses.status(tx, draft.id) is Status.COMPLETED
