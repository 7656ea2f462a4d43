"""What is claimed or ended together stands for itself: large ones, damaged ones, those that come late."""

import asyncio
import base64
import os
from collections.abc import Sequence
from typing import Any

import pytest

from app.domain.response import Status
from app.domain.tenancy import Caller
from app.errors import Unavailable
from app.generation.background import Background, Policy
from app.providers.base import Started
from app.store import lifecycle
from app.store.db import Database
from tests.background import POLICY, a_background, enqueued, execute, generate, registry, state
from tests.generation.test_background_bells import Rings, a_worker, held, queue, until_all
from tests.generation.test_background_drain import Gated
from tests.scripted import ScriptedProvider, answer
from tests.waiting import until
from tests.webhooks.hooking import an_endpoint

pytestmark = pytest.mark.usefixtures("nothing_queued")


def large() -> list[dict[str, Any]]:
    """Some 2.5 MB, however it is compressed."""
    data = base64.b64encode(os.urandom(2_500_000)).decode()
    part = {"type": "input_file", "filename": "a", "file_data": f"data:application/pdf;base64,{data}"}
    return [{"type": "message", "role": "user", "content": [part]}]


async def test_no_claim_reads_more_than_so_many_bytes(db: Database, caller: Caller) -> None:
    for _ in range(3):
        await enqueued(db, caller, input=large())
    for expected in (2, 1, 0):
        async with db.autocommit_system() as tx:
            assert len(await lifecycle.claim(tx, owner="me", lease_seconds=60, count=9)) == expected


async def test_one_bell_begins_all_large_ones(db: Database, caller: Caller, database_url: str) -> None:
    drafts = [await enqueued(db, caller, input=large()) for _ in range(3)]
    worker, rings = a_worker(db, ScriptedProvider(answer()))
    await worker.answer()
    await until_all(database_url, drafts, Status.COMPLETED)
    assert rings.count == 0


@pytest.mark.parametrize("damage", ["request = null", "request = ''", "items = 'abc'", "codec = 99"])
async def test_a_damaged_one_fails_alone(
    db: Database, caller: Caller, database_url: str, damage: str
) -> None:
    first, damaged, last = await queue(db, caller, 3)
    await execute(database_url, f"update responses set {damage} where id = $1", damaged.id)
    worker, _ = a_worker(db, ScriptedProvider(answer()))
    await worker.answer()
    await until_all(database_url, [first, last], Status.COMPLETED)


async def test_what_is_claimed_as_a_drain_begins_has_the_grace_as_well(
    db: Database, caller: Caller, database_url: str
) -> None:
    gate, slow = asyncio.Event(), Gated(db, claims=True)
    [draft] = await queue(db, caller, 1)
    worker = a_background(slow, provider := ScriptedProvider([Started(), gate, *answer()[1:]]))
    answering = asyncio.ensure_future(worker.answer())
    await slow.is_reached.wait()
    draining = asyncio.ensure_future(worker.drain(60))
    await asyncio.sleep(0)
    slow.gate.set()
    await answering
    await provider.is_stalled.wait()
    gate.set()
    await draining
    assert await state(db, caller, draft.id) is Status.COMPLETED


class TestWithinALimit:
    async def test_one_look_is_for_all_that_have_ended(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        drafts = await queue(db, caller, 60)
        worker = Background(
            db, registry(ScriptedProvider(answer())), Policy(**POLICY, max_at_once=5, max_running=50)
        )
        most, ended = 0, worker._ended

        def counted(task: asyncio.Task[None]) -> None:
            nonlocal most
            ended(task)
            most = max(most, len(worker._claiming))

        worker._ended = counted
        await worker.answer()
        await until_all(database_url, drafts, Status.COMPLETED)
        assert most <= 3, "a claim, who waits for it, and one look"

    async def test_who_ends_tells_others_that_a_tenant_has_room(self, db: Database, caller: Caller) -> None:
        gate, rings = asyncio.Event(), Rings()
        provider = ScriptedProvider([Started(), gate, *answer()[1:]])
        policy = Policy(**POLICY, max_at_once=9, max_running=1)
        worker = Background(db, registry(provider), policy, ring=rings)
        await queue(db, caller, 2)
        await worker.answer()
        await provider.is_stalled.wait()
        draining = asyncio.ensure_future(worker.drain(60))
        await asyncio.sleep(0)
        assert rings.count == 0
        gate.set()
        await until(lambda: held(rings))
        await draining


async def test_an_end_whose_answer_was_lost_has_its_webhooks_sent(db: Database, caller: Caller) -> None:
    await an_endpoint(db, caller, "http://127.0.0.1:9/x")
    rings = Rings()
    worker = Background(db, registry(ScriptedProvider(answer())), Policy(**POLICY), ring_deliveries=rings)
    together, lost = worker._endings._together, list[int]()
    work = together._work

    async def losing(batch: Sequence[Any]) -> Sequence[Any]:
        found = await work(batch)
        lost.append(len(batch))
        if len(lost) == 1:
            raise Unavailable
        return found

    together._work = losing
    draft = await enqueued(db, caller)
    assert await generate(worker)
    assert await state(db, caller, draft.id) is Status.COMPLETED
    assert len(lost) == 2
    assert rings.count == 1
