"""Reading a stream from anywhere in it, while it is made or long after: always the same bytes."""

import asyncio
import random
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from app import ids
from app.domain.response import Draft
from app.domain.tenancy import Caller
from app.providers.base import Started
from app.store import responses
from app.store.db import Database
from app.store.notifications import Notifications
from tests import grammar
from tests.background import (
    body,
    cancel,
    deaf,
    enqueued,
    execute,
    followed,
    frames,
    listening,
    numbers,
    said,
    working,
)
from tests.builders import a_caller
from tests.generation.following import PADS, WORDS, Reader, Slow, being_made, generated, is_over, made
from tests.scripted import DONE, ScriptedProvider, answer, hello
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("nothing_queued")


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
