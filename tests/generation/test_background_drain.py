"""A worker that is told to stop: what was not shown goes back into the queue, what was shown ends."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from app import ids
from app.domain.response import Draft, Status
from app.domain.tenancy import Caller
from app.generation.background import Background
from app.providers.base import Started
from app.store.db import Database, ReadTx, SystemTx, Tx
from tests import grammar
from tests.background import (
    body,
    enqueued,
    followed,
    generate,
    listening,
    said,
    state,
    tries,
    working,
)
from tests.builders import a_response
from tests.scripted import DONE, ScriptedProvider, answer, hello
from tests.waiting import patience, until

pytestmark = pytest.mark.usefixtures("nothing_queued")

UNSHOWN: dict[str, tuple[bool, Sequence[Any]]] = {
    "nothing was asked yet": (True, ()),
    "the stream has begun": (True, (Started(),)),
    "nobody follows": (False, (Started(), *hello()[:4])),
}


async def stand_still(background: Background, provider: ScriptedProvider) -> asyncio.Task[bool]:
    """Let it generate until its script waits."""
    task = asyncio.ensure_future(generate(background))
    await provider.is_stalled.wait()
    return task


async def enqueued_child(db: Database, caller: Caller) -> Draft:
    """A queued response with a history, which its worker has to read first."""
    parent = await a_response(db, caller)
    return await enqueued(db, caller, stream=True, previous_response_id=ids.response_id(parent._draft.id))


async def continued(db: Database, caller: Caller, database_url: str, draft: Draft) -> None:
    """Another process generates what was handed back, and its followers notice nothing."""
    assert await state(db, caller, draft.id) is Status.QUEUED
    async with working(db, database_url, ScriptedProvider(answer("Hi"))) as other:
        assert await generate(other)
    assert (await body(db, caller, draft.id))["output"][0]["content"][0]["text"] == "Hi"
    if draft.is_streamed:
        events = said(await followed(db, caller, draft.id))
        assert grammar.check(events) == await body(db, caller, draft.id)
    reasons = [attempt["reason"] for attempt in await tries(db, caller, draft.id)]
    assert reasons == ["handed_back", "completed"]


@pytest.mark.parametrize("case", UNSHOWN)
async def test_what_nobody_has_seen_is_handed_back_and_continued_elsewhere(
    db: Database, caller: Caller, database_url: str, case: str
) -> None:
    is_streamed, steps = UNSHOWN[case]
    draft = await enqueued(db, caller, stream=is_streamed)
    provider = ScriptedProvider([*steps, asyncio.Event()])
    async with working(db, database_url, provider) as background:
        task = await stand_still(background, provider)
        await background.drain(0)
        assert await task
        assert provider.is_closed
        assert not await generate(background), "it claims nothing more"
    await continued(db, caller, database_url, draft)


async def test_leaving_the_block_hands_back_as_well(db: Database, caller: Caller, database_url: str) -> None:
    draft = await enqueued(db, caller, stream=True)
    provider = ScriptedProvider([Started(), asyncio.Event()])
    async with working(db, database_url, provider) as background:
        task = await stand_still(background, provider)
    assert await task
    await continued(db, caller, database_url, draft)


async def test_what_ends_within_the_grace_is_not_disturbed(
    db: Database, caller: Caller, database_url: str
) -> None:
    gate = asyncio.Event()
    draft = await enqueued(db, caller, stream=True)
    provider = ScriptedProvider([Started(), *hello()[:3], gate, *hello()[3:], DONE])
    async with working(db, database_url, provider) as background:
        task = await stand_still(background, provider)
        drained = asyncio.ensure_future(background.drain(5))
        await asyncio.sleep(0)
        gate.set()
        async with patience():
            await drained
        assert task.done() or await task
    assert await state(db, caller, draft.id) is Status.COMPLETED


async def test_what_was_shown_ends_after_the_grace_in_so_many_words(
    db: Database, caller: Caller, database_url: str
) -> None:
    draft = await enqueued(db, caller, stream=True)
    provider = ScriptedProvider([Started(), *hello("half")[:3], asyncio.Event()])
    async with listening(database_url) as notifications, working(db, database_url, provider) as background:
        following = asyncio.ensure_future(followed(db, caller, draft.id, notifications, poll_seconds=3600))
        task = await stand_still(background, provider)
        await background.drain(0.05)
        assert await task
        async with patience():
            events = said(await following)
    told = await body(db, caller, draft.id)
    assert grammar.check(events) == told
    assert told["error"] == {"code": "server_error", "message": "The server is shutting down."}
    assert [item["status"] for item in told["output"]] == ["incomplete"]
    assert [attempt["reason"] for attempt in await tries(db, caller, draft.id)] == ["failed"]


class Gated(Database):
    """The same pool, with a gate before reads, or before claims or ends are committed."""

    def __init__(
        self, db: Database, *, reads: bool = False, claims: bool = False, ends: bool = False
    ) -> None:
        super().__init__(db.pool)
        self._reads, self._claims, self._ends = reads, claims, ends
        self.is_reached, self.gate = asyncio.Event(), asyncio.Event()

    @asynccontextmanager
    async def read(self, caller: Caller) -> AsyncGenerator[ReadTx]:
        await self._wait(self._reads)
        async with super().read(caller) as tx:
            yield tx

    @asynccontextmanager
    async def autocommit(self, caller: Caller) -> AsyncGenerator[Tx]:
        async with super().begin(caller) as tx:
            yield tx
            await self._wait(self._ends)

    @asynccontextmanager
    async def autocommit_system(self) -> AsyncGenerator[SystemTx]:
        async with super().begin_system() as tx:
            yield tx
            await self._wait(self._claims)

    async def _wait(self, is_asked: bool) -> None:  # noqa: FBT001 - one of its own flags
        if is_asked:
            self.is_reached.set()
            await self.gate.wait()


async def test_what_has_not_reached_its_upstream_is_handed_back(
    db: Database, caller: Caller, database_url: str
) -> None:
    draft = await enqueued_child(db, caller)
    slow = Gated(db, reads=True)
    async with working(slow, database_url, ScriptedProvider([])) as background:
        task = asyncio.ensure_future(generate(background))
        await slow.is_reached.wait()
        await background.drain(0)
        assert await task
    await continued(db, caller, database_url, draft)


async def test_a_claim_that_is_being_made_is_waited_for_and_handed_back(
    db: Database, caller: Caller, database_url: str
) -> None:
    draft = await enqueued_child(db, caller)
    slow = Gated(db, claims=True)
    provider = ScriptedProvider([asyncio.Event()])
    async with working(slow, database_url, provider) as background:
        task = asyncio.ensure_future(generate(background))
        await slow.is_reached.wait()
        drained = asyncio.ensure_future(background.drain(0))
        await asyncio.sleep(0)
        slow.gate.set()
        async with patience():
            await drained
            await task
    assert provider.played == 0
    await continued(db, caller, database_url, draft)


async def test_what_is_being_committed_is_completed(db: Database, caller: Caller, database_url: str) -> None:
    draft = await enqueued(db, caller, stream=True)
    slow = Gated(db, ends=True)
    async with working(slow, database_url, ScriptedProvider(answer())) as background:
        task = asyncio.ensure_future(generate(background))
        await slow.is_reached.wait()
        drained = asyncio.ensure_future(background.drain(0))
        await asyncio.sleep(0.02)
        assert not drained.done()
        slow.gate.set()
        await drained
        assert await task
    assert await state(db, caller, draft.id) is Status.COMPLETED
    assert [attempt["reason"] for attempt in await tries(db, caller, draft.id)] == ["completed"]


async def are_asked(provider: ScriptedProvider, count: int) -> bool:
    return len(provider.contexts) == count


async def test_a_whole_queue_outlives_its_workers(db: Database, caller: Caller, database_url: str) -> None:
    """A rolling restart: nothing is lost, nothing is done twice where it was seen."""
    drafts = [await enqueued(db, caller, stream=bool(number % 2)) for number in range(12)]
    provider = ScriptedProvider([Started(), asyncio.Event()])
    async with working(db, database_url, provider) as background:
        tasks = [asyncio.ensure_future(generate(background)) for _ in range(8)]
        await until(lambda: are_asked(provider, len(tasks)))
        await background.drain(0)
        assert await asyncio.gather(*tasks) == [True] * len(tasks)
    last = ScriptedProvider(answer())
    async with working(db, database_url, last) as other:
        while await generate(other):
            pass
    assert len(last.contexts) == len(drafts)
    for draft in drafts:
        assert await state(db, caller, draft.id) is Status.COMPLETED
