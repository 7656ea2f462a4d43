"""Background responses in a conversation: locked from the queue to the end, appended there."""

import asyncio
from typing import Any

import pytest

from app.domain.response import Draft, Status
from app.domain.tenancy import Caller
from app.errors import Conflict, RateLimited, UpstreamError
from app.generation import history
from app.generation.accept import accept
from app.generation.background import Background
from app.generation.queueing import enqueue
from app.providers.base import Finished, Started
from app.store import lineage
from app.store.db import Database
from app.store.entries import Entries
from tests.background import (
    a_background,
    body,
    cancel,
    enqueued,
    execute,
    expire,
    followed,
    generate,
    said,
    state,
    tries,
    working,
)
from tests.builders import a_draft, a_response
from tests.conversing import a_conversation, add, holder, is_locked, items_of, key_of, said_in, take_away
from tests.scripted import ScriptedProvider, answer, call, hello
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("nothing_queued")

streamed = pytest.mark.parametrize("is_streamed", [False, True])
GONE = UpstreamError("The provider is gone.", status=503, code="server_error")


@pytest.fixture
async def name(db: Database, caller: Caller) -> str:
    return await a_conversation(db, caller, "zero")


async def in_progress(background: Background, provider: ScriptedProvider) -> "asyncio.Task[bool]":
    """A worker that has claimed the response and stands where its script waits."""
    task = asyncio.ensure_future(generate(background))
    await provider.is_stalled.wait()
    return task


async def vanished(db: Database, database_url: str, draft: Draft, *steps: Any) -> None:
    """A worker that claims the response and is killed in the midst of it."""
    provider = ScriptedProvider([*steps, asyncio.Event()])
    dead = a_background(db, provider)
    task = await in_progress(dead, provider)
    for each in (task, *dead._running):
        each.cancel("lease_lost")
    await asyncio.wait([task])
    await execute(
        database_url, "update response_attempts set ended_at = null where response_id = $1", draft.id
    )
    await expire(database_url, draft.id)


class TestOrder:
    @streamed
    async def test_what_was_asked_and_said_stands_at_the_end(
        self, db: Database, caller: Caller, database_url: str, name: str, *, is_streamed: bool
    ) -> None:
        draft = await enqueued(db, caller, conversation=name, input="one", stream=is_streamed)
        provider = ScriptedProvider(answer("two"))
        async with working(db, database_url, provider) as background:
            assert await generate(background)
        assert await said_in(db, caller, name) == ["zero", "one", "two"]
        response = await body(db, caller, draft.id)
        assert (response["status"], response["conversation"]) == ("completed", {"id": name})
        items = await items_of(db, caller, name)
        assert items[2:] == response["output"]
        assert {item["status"] for item in items} == {"completed"}
        assert b"".join(provider.contexts[0].items).count(b'"role"') == 2
        assert await holder(database_url, name) is None
        if is_streamed:
            assert said(await followed(db, caller, draft.id))[-1]["response"] == response

    async def test_who_cannot_know_that_it_is_queued_does_not_take_its_place_away(
        self, db: Database, caller: Caller, database_url: str, name: str
    ) -> None:
        accepted = await accept(db, caller, a_draft(conversation=name, input="one", background=True))
        assert accepted.lock
        await enqueue(db, Entries(db, max_queued=9), caller, accepted)
        await history.release(db, accepted.lock)
        assert await is_locked(db, caller, name)
        async with working(db, database_url, ScriptedProvider(answer("two"))) as background:
            assert await generate(background)
        assert await said_in(db, caller, name) == ["zero", "one", "two"]

    async def test_turn_after_turn_in_whatever_way_they_are_made(
        self, db: Database, caller: Caller, database_url: str, name: str
    ) -> None:
        provider = ScriptedProvider(answer("!"))
        async with working(db, database_url, provider) as background:
            for number in range(3):
                await enqueued(db, caller, conversation=name, input=f"background {number}")
                await generate(background)
                accepted = await accept(db, caller, a_draft(conversation=name, input="x", store=False))
                assert len(accepted.ancestry.turns if accepted.ancestry else ()) == 1 + number * 2 + 1
                await add(db, caller, name, f"item {number}")
        turns = [[f"background {number}", "!", f"item {number}"] for number in range(3)]
        assert await said_in(db, caller, name) == ["zero", *(text for turn in turns for text in turn)]
        assert all(b"zero" in context.joined() for context in provider.contexts)

    async def test_open_calls_are_answered_in_the_background(
        self, db: Database, caller: Caller, database_url: str, name: str
    ) -> None:
        calls = ScriptedProvider([Started(), *call("call_a"), Finished("completed")], name="calls")
        async with working(db, database_url, calls, ScriptedProvider(answer("done"))) as background:
            await enqueued(db, caller, conversation=name, model="calls")
            await generate(background)
            output = {"type": "function_call_output", "call_id": "call_a", "output": "1"}
            await enqueued(db, caller, conversation=name, model="scripted", input=[output])
            await generate(background)
        assert (await said_in(db, caller, name))[2:] == ["function_call", "function_call_output", "done"]

    async def test_an_incomplete_one_is_appended(
        self, db: Database, caller: Caller, database_url: str, name: str
    ) -> None:
        cut = Finished("incomplete", reason="max_output_tokens")
        draft = await enqueued(db, caller, conversation=name, input="one")
        async with working(db, database_url, ScriptedProvider([*answer("two")[:-1], cut])) as background:
            await generate(background)
        assert await state(db, caller, draft.id) is Status.INCOMPLETE
        assert await said_in(db, caller, name) == ["zero", "one", "two"]

    async def test_a_chain_goes_on_from_it(
        self, db: Database, caller: Caller, database_url: str, name: str
    ) -> None:
        draft = await enqueued(db, caller, conversation=name, input="one")
        async with working(db, database_url, ScriptedProvider(answer("two"))) as background:
            await generate(background)
        child = a_draft(previous_response_id=(await body(db, caller, draft.id))["id"])
        accepted = await accept(db, caller, child)
        assert accepted.ancestry
        assert [blob.count(b'"role"') for blob, _ in accepted.ancestry.turns] == [1, 2]
        assert await said_in(db, caller, name) == ["zero", "one", "two"]


class TestLock:
    async def test_it_is_locked_while_queued_and_while_it_runs(
        self, db: Database, caller: Caller, database_url: str, name: str
    ) -> None:
        draft = await enqueued(db, caller, conversation=name)
        gate = asyncio.Event()
        provider = ScriptedProvider([*answer()[:3], gate, *answer()[3:]])

        async def refused() -> None:
            assert await holder(database_url, name) == draft.id
            for is_background in (True, False):
                with pytest.raises(Conflict):
                    await accept(db, caller, a_draft(conversation=name, background=is_background))
            with pytest.raises(Conflict):
                await add(db, caller, name, "x")
            assert await said_in(db, caller, name) == ["zero"]

        await refused()
        async with working(db, database_url, provider, lease_seconds=0.3) as background:
            task = await in_progress(background, provider)
            await refused()
            gate.set()
            assert await task
        assert await holder(database_url, name) is None

    async def test_no_time_frees_it_while_it_is_queued(
        self, db: Database, caller: Caller, database_url: str, name: str
    ) -> None:
        """A queue may be long; what was promised a place keeps it."""
        await enqueued(db, caller, conversation=name)
        [[left]] = await execute(
            database_url, "select lease_until = 'infinity' from conversations where id = $1", key_of(name)
        )
        assert left

    async def test_a_lock_that_was_lost_before_it_is_queued_is_no_promise(
        self, db: Database, caller: Caller, database_url: str, name: str
    ) -> None:
        accepted = await accept(db, caller, a_draft(background=True, conversation=name))
        await take_away(database_url, name)
        with pytest.raises(Conflict) as refused:
            await enqueue(db, Entries(db, max_queued=10), caller, accepted)
        assert refused.value.code == "conversation_locked"
        [[queued]] = await execute(
            database_url, "select count(*) from responses where id = $1", accepted.draft.id
        )
        assert queued == 0

    async def test_a_full_queue_leaves_it_to_whoever_asked(
        self, db: Database, caller: Caller, database_url: str, name: str
    ) -> None:
        """As a lease, which the caller gives back: nothing was promised."""
        await enqueued(db, caller)
        accepted = await accept(db, caller, a_draft(background=True, conversation=name))
        with pytest.raises(RateLimited):
            await enqueue(db, Entries(db, max_queued=1), caller, accepted)
        [[is_lease]] = await execute(
            database_url, "select lease_until < 'infinity' from conversations where id = $1", key_of(name)
        )
        assert is_lease


class TestEnds:
    @streamed
    @pytest.mark.parametrize("steps", [[GONE], [Started(), *hello(), GONE]], ids=["before", "midway"])
    async def test_a_failure_frees_it_and_appends_nothing(
        self, db: Database, caller: Caller, database_url: str, name: str, steps: Any, *, is_streamed: bool
    ) -> None:
        draft = await enqueued(db, caller, conversation=name, stream=is_streamed)
        async with working(db, database_url, ScriptedProvider(steps)) as background:
            await generate(background)
        assert await state(db, caller, draft.id) is Status.FAILED
        assert await said_in(db, caller, name) == ["zero"]
        assert await holder(database_url, name) is None

    async def test_a_model_that_is_gone_frees_it(
        self, db: Database, caller: Caller, database_url: str, name: str
    ) -> None:
        draft = await enqueued(db, caller, conversation=name, model="gone")
        async with working(db, database_url, ScriptedProvider([])) as background:
            await generate(background)
        assert await state(db, caller, draft.id) is Status.FAILED
        assert await holder(database_url, name) is None

    async def test_an_end_that_knows_of_no_lock_frees_it_too(
        self, db: Database, caller: Caller, database_url: str, name: str
    ) -> None:
        """So a response ends in a worker, or is cancelled, of the release before conversations."""
        draft = await enqueued(db, caller, conversation=name, input="lost")
        ended = "update responses set status = 5, finished_at = now(), request = null where id = $1"
        await execute(database_url, ended, draft.id)
        assert not await is_locked(db, caller, name)
        accepted = await accept(db, caller, a_draft(conversation=name, input="one"))
        assert accepted.lock
        assert await is_locked(db, caller, name)
        await history.release(db, accepted.lock)
        await enqueued(db, caller, conversation=name, input="two")
        with pytest.raises(Conflict):
            await add(db, caller, name, "three")

    async def test_cancelling_frees_it_while_it_is_queued(
        self, db: Database, caller: Caller, database_url: str, name: str
    ) -> None:
        draft = await enqueued(db, caller, conversation=name)
        assert await cancel(db, caller, draft.id)
        assert await holder(database_url, name) is None
        async with working(db, database_url, ScriptedProvider(answer())) as background:
            assert not await generate(background)
        assert await said_in(db, caller, name) == ["zero"]

    @streamed
    async def test_cancelling_frees_it_while_it_runs(
        self, db: Database, caller: Caller, database_url: str, name: str, *, is_streamed: bool
    ) -> None:
        draft = await enqueued(db, caller, conversation=name, stream=is_streamed)
        provider = ScriptedProvider([*answer()[:3], asyncio.Event()])
        async with working(db, database_url, provider) as background:
            task = await in_progress(background, provider)
            assert await cancel(db, caller, draft.id)
            assert await holder(database_url, name) is None
            await add(db, caller, name, "at once")
            assert await task
        assert await said_in(db, caller, name) == ["zero", "at once"]

    async def test_what_completes_after_it_was_cancelled_appends_nothing(
        self, db: Database, caller: Caller, database_url: str, name: str
    ) -> None:
        draft = await enqueued(db, caller, conversation=name)
        gate = asyncio.Event()
        provider = ScriptedProvider([*answer()[:3], gate, *answer()[3:]])
        deaf = a_background(db, provider)
        task = await in_progress(deaf, provider)
        await cancel(db, caller, draft.id)
        await a_response(db, caller)
        gate.set()
        await task
        assert await state(db, caller, draft.id) is Status.CANCELLED
        assert await said_in(db, caller, name) == ["zero"]
        assert not await is_locked(db, caller, name)

    async def test_the_conversation_may_be_deleted_meanwhile(
        self, db: Database, caller: Caller, database_url: str, name: str
    ) -> None:
        draft = await enqueued(db, caller, conversation=name, input="one")
        deletes = "update conversations set deleted_at = now() where id = $1"
        await execute(database_url, deletes, key_of(name))
        provider = ScriptedProvider(answer("two"))
        async with working(db, database_url, provider) as background:
            await generate(background)
        assert await state(db, caller, draft.id) is Status.COMPLETED
        assert b"zero" in provider.contexts[0].joined()
        async with db.read(caller) as tx:
            ancestry = await lineage.ancestry(tx, draft.id)
        assert ancestry
        assert [b"zero" in blob for blob, _ in ancestry.turns] == [True, False]


class TestVanished:
    """The worker was killed; the reaper decides when its lease is over."""

    @streamed
    async def test_it_is_queued_again_and_keeps_its_lock(
        self, db: Database, caller: Caller, database_url: str, name: str, *, is_streamed: bool
    ) -> None:
        draft = await enqueued(db, caller, conversation=name, input="one", stream=is_streamed)
        await vanished(db, database_url, draft, Started())
        assert await holder(database_url, name) == draft.id
        async with working(db, database_url, ScriptedProvider(answer("two"))) as background:
            await background.reap()
            assert await state(db, caller, draft.id) is Status.QUEUED
            assert await holder(database_url, name) == draft.id
            with pytest.raises(Conflict):
                await accept(db, caller, a_draft(conversation=name))
            assert await generate(background)
        assert await said_in(db, caller, name) == ["zero", "one", "two"]
        assert await holder(database_url, name) is None

    @streamed
    async def test_it_fails_after_its_last_attempt_and_frees_it(
        self, db: Database, caller: Caller, database_url: str, name: str, *, is_streamed: bool
    ) -> None:
        draft = await enqueued(db, caller, conversation=name, stream=is_streamed)
        await vanished(db, database_url, draft, Started())
        async with working(db, database_url, ScriptedProvider([]), max_attempts=1) as background:
            await background.reap()
        assert await state(db, caller, draft.id) is Status.FAILED
        assert await holder(database_url, name) is None
        assert await said_in(db, caller, name) == ["zero"]
        assert len(await tries(db, caller, draft.id)) == 1

    async def test_what_was_shown_of_it_is_not_appended(
        self, db: Database, caller: Caller, database_url: str, name: str
    ) -> None:
        draft = await enqueued(db, caller, conversation=name, stream=True)
        provider = ScriptedProvider([*answer()[:4], asyncio.Event()])
        async with working(db, database_url, provider) as background:
            task = await in_progress(background, provider)
            await until(lambda: has_shown(database_url, draft))
            await expire(database_url, draft.id)
            await background.reap()
            background.leases.lose_response(draft.id)
            await task
        assert await state(db, caller, draft.id) is Status.FAILED
        assert (await body(db, caller, draft.id))["output"]
        assert await holder(database_url, name) is None
        assert await said_in(db, caller, name) == ["zero"]

    async def test_a_stopping_worker_hands_it_back_with_its_lock(
        self, db: Database, caller: Caller, database_url: str, name: str
    ) -> None:
        draft = await enqueued(db, caller, conversation=name, input="one")
        provider = ScriptedProvider([Started(), asyncio.Event()])
        async with working(db, database_url, provider) as background:
            task = await in_progress(background, provider)
            await background.drain(0)
            await asyncio.wait([task])
        assert await state(db, caller, draft.id) is Status.QUEUED
        assert await holder(database_url, name) == draft.id
        async with working(db, database_url, ScriptedProvider(answer("two"))) as background:
            await generate(background)
        assert await said_in(db, caller, name) == ["zero", "one", "two"]


async def has_shown(database_url: str, draft: Draft) -> bool:
    """Whether a delta is in the journal."""
    [[count]] = await execute(
        database_url, "select count(*) from response_events where response_id = $1 and last_seq > 3", draft.id
    )
    return count > 0


class TestNotStored:
    async def test_it_reads_what_was_said_before_it_and_leaves_nothing(
        self, db: Database, caller: Caller, database_url: str, name: str
    ) -> None:
        draft = await enqueued(db, caller, conversation=name, input="one", store=False)
        assert await holder(database_url, name) is None
        await add(db, caller, name, "later")
        provider = ScriptedProvider(answer("two"))
        async with working(db, database_url, provider) as background:
            await generate(background)
        response = await body(db, caller, draft.id)
        assert (response["status"], response["conversation"]) == ("completed", {"id": name})
        context = provider.contexts[0].joined()
        assert [text in context for text in (b"zero", b"one", b"later")] == [True, True, False]
        assert await said_in(db, caller, name) == ["zero", "later"]

    async def test_it_neither_waits_nor_is_waited_for(
        self, db: Database, caller: Caller, database_url: str, name: str
    ) -> None:
        locked = await enqueued(db, caller, conversation=name, input="one")
        aside = await enqueued(db, caller, conversation=name, input="aside", store=False)
        assert await holder(database_url, name) == locked.id
        await cancel(db, caller, aside.id)
        assert await holder(database_url, name) == locked.id
        async with working(db, database_url, ScriptedProvider(answer("two"))) as background:
            assert await generate(background)
            assert not await generate(background)
        assert await said_in(db, caller, name) == ["zero", "one", "two"]
