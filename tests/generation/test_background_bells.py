"""What a worker makes of a bell: it stands for all that is queued, and is never lost while anything waits."""

import asyncio
from collections import Counter
from uuid import UUID

import pytest

from app.domain.response import Draft, Status
from app.domain.tenancy import Caller
from app.generation import background as backgrounds
from app.generation.background import Background, Policy
from app.providers.base import Started
from app.store.db import Database
from tests.background import POLICY, enqueued, execute, registry, state
from tests.builders import a_caller
from tests.generation.test_background_drain import Gated
from tests.scripted import ScriptedProvider, answer
from tests.waiting import patience, until

pytestmark = pytest.mark.usefixtures("nothing_queued")


class Rings:
    """How often it was rung."""

    count = 0

    async def __call__(self) -> None:
        self.count += 1


def a_worker(db: Database, provider: ScriptedProvider, max_at_once: int = 9) -> tuple[Background, Rings]:
    rings = Rings()
    policy = Policy(**POLICY, max_at_once=max_at_once)
    return Background(db, registry(provider), policy, ring=rings), rings


async def queue(db: Database, caller: Caller, count: int) -> list[Draft]:
    return [await enqueued(db, caller) for _ in range(count)]


async def counts(database_url: str, drafts: list[Draft]) -> Counter[Status]:
    rows = await execute(
        database_url, "select status from responses where id = any($1)", [draft.id for draft in drafts]
    )
    return Counter(Status(row["status"]) for row in rows)


async def until_all(database_url: str, drafts: list[Draft], status: Status) -> None:
    async def are_so() -> bool:
        return await counts(database_url, drafts) == {status: len(drafts)}

    await until(are_so)


async def test_one_bell_begins_all_that_is_queued(db: Database, caller: Caller, database_url: str) -> None:
    drafts = await queue(db, caller, 5)
    provider = ScriptedProvider(answer())
    worker, rings = a_worker(db, provider)
    await worker.answer()
    await until_all(database_url, drafts, Status.COMPLETED)
    assert (rings.count, len(provider.contexts)) == (0, 5)
    await worker.answer()
    assert (rings.count, len(provider.contexts)) == (0, 5), "a bell too many finds nothing"


async def test_where_there_may_be_more_it_is_rung_again(
    db: Database, caller: Caller, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backgrounds, "CLAIMED_AT_ONCE", 3)
    drafts = await queue(db, caller, 7)
    worker, rings = a_worker(db, ScriptedProvider(answer()))
    for expected in (1, 2, 2):
        await worker.answer()
        assert rings.count == expected
    await until_all(database_url, drafts, Status.COMPLETED)


async def test_a_batch_is_of_several_tenants_and_each_runs_as_its_own(
    db: Database, caller: Caller, database_url: str
) -> None:
    other = await a_caller(database_url)
    mine, theirs = await queue(db, caller, 2), await queue(db, other, 3)
    worker, _ = a_worker(db, ScriptedProvider(answer()))
    await worker.answer()
    await until_all(database_url, mine + theirs, Status.COMPLETED)
    assert await state(db, other, theirs[0].id) is Status.COMPLETED
    query = "select tenant_id, count(*) from response_attempts where reason = 'completed' and response_id = any($1) group by 1"
    rows = await execute(database_url, query, [draft.id for draft in mine + theirs])
    assert {row["tenant_id"]: row["count"] for row in rows} == {caller.tenant_id: 2, other.tenant_id: 3}


class TestRoom:
    async def test_who_is_full_passes_the_bell_on_once_and_goes_on_when_there_is_room(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        gate, drafts = asyncio.Event(), await queue(db, caller, 5)
        worker, rings = a_worker(db, ScriptedProvider([Started(), gate, *answer()[1:]]), max_at_once=2)
        answering = asyncio.ensure_future(worker.answer())
        await until(lambda: held(rings))
        assert (await counts(database_url, drafts))[Status.IN_PROGRESS] == 2
        assert not answering.done()
        assert rings.count == 1
        gate.set()
        await answering
        # The bell that it passed on hangs there: nobody else has heard it.
        await answered(worker, rings, 0)
        await until_all(database_url, drafts, Status.COMPLETED)

    async def test_no_more_run_at_once_than_may(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        """Whoever answers: bells may come again when a broker has been lost."""
        gate, drafts = asyncio.Event(), await queue(db, caller, 6)
        provider = ScriptedProvider([Started(), gate, *answer()[1:]])
        worker, rings = a_worker(db, provider, max_at_once=2)
        answers = [asyncio.ensure_future(worker.answer()) for _ in range(4)]
        await until(lambda: held(rings))
        assert len(worker._running) == 2
        gate.set()
        await asyncio.gather(*answers)
        await answered(worker, rings, 0)
        await until_all(database_url, drafts, Status.COMPLETED)


async def answered(worker: Background, rings: Rings, count: int) -> None:
    """As long as it is rung, answer; so many bells have been answered already."""
    while rings.count > count:
        count += 1
        await worker.answer()


async def held(rings: Rings) -> bool:
    return rings.count > 0


class TestLeaving:
    async def test_what_a_claim_has_won_runs_though_nobody_waits_for_it(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        drafts = await queue(db, caller, 3)
        slow = Gated(db, claims=True)
        worker, _ = a_worker(slow, ScriptedProvider(answer()))
        answering = asyncio.ensure_future(worker.answer())
        await slow.is_reached.wait()
        answering.cancel()
        await asyncio.gather(answering, return_exceptions=True)
        slow.gate.set()
        await until_all(database_url, drafts, Status.COMPLETED)

    @pytest.mark.parametrize("grace_seconds", [0, 1])
    async def test_a_batch_that_is_claimed_as_the_process_ends_is_handed_back_whole(
        self, db: Database, caller: Caller, database_url: str, grace_seconds: float
    ) -> None:
        drafts = await queue(db, caller, 3)
        slow = Gated(db, claims=True)
        provider = ScriptedProvider([asyncio.Event()])
        worker, _ = a_worker(slow, provider)
        answering = asyncio.ensure_future(worker.answer())
        await slow.is_reached.wait()
        draining = asyncio.ensure_future(worker.drain(grace_seconds))
        await asyncio.sleep(0)
        slow.gate.set()
        async with patience():
            await asyncio.gather(answering, draining)
        assert await counts(database_url, drafts) == {Status.QUEUED: 3}

    async def test_who_ends_passes_on_the_bell_that_it_holds_or_hears(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        drafts = await queue(db, caller, 2)
        worker, rings = a_worker(db, ScriptedProvider([Started(), asyncio.Event()]), max_at_once=1)
        answering = asyncio.ensure_future(worker.answer())
        await until(lambda: held(rings))
        await worker.drain(0)
        await answering
        assert rings.count == 1
        assert await counts(database_url, drafts) == {Status.QUEUED: 2}
        await worker.answer()
        assert rings.count == 2

    async def test_one_whose_lease_was_lost_takes_no_other_of_its_batch_along(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        gate, drafts = asyncio.Event(), await queue(db, caller, 3)
        worker, _ = a_worker(db, ScriptedProvider([Started(), gate, *answer()[1:]]))
        await worker.answer()
        await until_all(database_url, drafts, Status.IN_PROGRESS)
        await taken(database_url, drafts[1].id)
        gate.set()

        async def have_ended() -> bool:
            return not worker._running

        await until(have_ended)
        assert [(await state(db, caller, draft.id)) for draft in drafts] == [
            Status.COMPLETED, Status.IN_PROGRESS, Status.COMPLETED,
        ]  # fmt: skip


async def taken(database_url: str, response_id: UUID) -> None:
    """Another worker has claimed it."""
    await execute(database_url, "update responses set attempt = attempt + 1 where id = $1", response_id)
