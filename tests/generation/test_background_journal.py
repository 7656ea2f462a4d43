"""The journal: stored before anyone sees it, in batches, once, whatever Postgres does."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from app.domain.events import Event
from app.domain.jobs import Claim
from app.domain.tenancy import Caller
from app.errors import LeaseLost, Unavailable
from app.generation import journal as module
from app.generation.journal import Journal
from app.store.db import Database, SystemTx
from tests.background import enqueued, execute, journalled
from tests.generation.test_background import next_job
from tests.waiting import patience, until

pytestmark = pytest.mark.usefixtures("nothing_queued")


class Shaky(Database):
    """The same pool, with a fault before or after each transaction, until there are no more; and a gate."""

    def __init__(self, db: Database, *, before: int = 0, after: int = 0) -> None:
        super().__init__(db.pool)
        self.before, self.after = before, after
        self.gate, self.count = asyncio.Event(), 0
        self.gate.set()

    @asynccontextmanager
    async def begin_system(self) -> AsyncGenerator[SystemTx]:
        await self.gate.wait()
        self.count += 1
        if self.before:
            self.before -= 1
            raise Unavailable
        async with super().begin_system() as tx:
            yield tx
        if self.after:
            self.after -= 1
            raise Unavailable


def an_event(number: int, size: int = 1) -> Event:
    return Event("x", number, b'{"n":%d,"t":"%s"}' % (number, b"x" * size))


def frames_of(batches: Any) -> bytes:
    return b"".join(frames for _, frames in batches)


@asynccontextmanager
async def written(db: Database) -> AsyncGenerator[tuple[Journal, list[Claim]]]:
    """A journal that runs, and the claims that it has found lost."""
    lost = list[Claim]()
    journal = Journal(db, on_lost=lost.append)
    task = asyncio.ensure_future(journal.run())
    yield journal, lost
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def claimed(db: Database, caller: Caller) -> Claim:
    await enqueued(db, caller)
    return (await next_job(db)).claim


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.01)


async def test_events_of_many_streams_gather_in_one_transaction(db: Database, caller: Caller) -> None:
    shaky = Shaky(db)
    claims = [await claimed(db, caller) for _ in range(10)]
    async with written(shaky) as (journal, lost):
        entries = [journal.open(claim) for claim in claims]
        for entry in entries:
            for number in range(20):
                await entry.publish([an_event(number)])
        for entry in entries:
            await entry.flushed()
    assert (shaky.count, lost) == (1, [])
    whole = b"".join(an_event(number).frame for number in range(20))
    for claim in claims:
        assert await journalled(db, caller, claim.response_id) == [(19, whole)]


async def test_flushed_waits_for_the_commit_of_everything(db: Database, caller: Caller) -> None:
    shaky, claim = Shaky(db), await claimed(db, caller)
    async with written(shaky) as (journal, _):
        entry = journal.open(claim)
        shaky.gate.clear()
        entry.put([an_event(0)])
        flushed = asyncio.ensure_future(entry.flushed())
        await asyncio.sleep(0.04)
        entry.put([an_event(1)])
        assert not flushed.done()
        shaky.gate.set()
        await flushed
    assert frames_of(await journalled(db, caller, claim.response_id)) == an_event(0).frame + an_event(1).frame


@pytest.mark.parametrize("kind", ["before", "after"])
async def test_a_postgres_that_is_away_for_a_while_costs_nothing_and_doubles_nothing(
    db: Database, caller: Caller, kind: str
) -> None:
    shaky = Shaky(db, **{kind: 5})
    claims = [await claimed(db, caller) for _ in range(3)]
    async with written(shaky) as (journal, lost):
        entries = [journal.open(claim) for claim in claims]
        for number in range(50):
            for entry in entries:
                await entry.publish([an_event(number)])
            await asyncio.sleep(0.001)
        for entry in entries:
            await entry.flushed()
    assert (lost, getattr(shaky, kind)) == ([], 0)
    for claim in claims:
        whole = b"".join(an_event(number).frame for number in range(50))
        assert frames_of(await journalled(db, caller, claim.response_id)) == whole


async def test_a_stream_that_is_a_megabyte_ahead_waits_for_postgres(
    db: Database, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_WAITING_BYTES", 1000)
    shaky, claim = Shaky(db), await claimed(db, caller)
    shaky.gate.clear()
    async with written(shaky) as (journal, _):
        entry = journal.open(claim)
        said = list[int]()

        async def speak() -> None:
            for number in range(40):
                await entry.publish([an_event(number, size=100)])
                said.append(number)

        speaking = asyncio.ensure_future(speak())
        await asyncio.sleep(0.1)
        assert 5 <= len(said) <= 20, "what is being written, and a little more"
        shaky.gate.set()
        async with patience():
            await speaking
            await entry.flushed()
    whole = b"".join(an_event(number, size=100).frame for number in range(40))
    assert frames_of(await journalled(db, caller, claim.response_id)) == whole


async def test_the_end_of_a_stream_waits_for_no_room(db: Database, caller: Caller) -> None:
    shaky, claim = Shaky(db), await claimed(db, caller)
    shaky.gate.clear()
    async with written(shaky) as (journal, _):
        entry = journal.open(claim)
        entry.put([an_event(0, size=3 << 20)])
        entry.put([])
        entry.close()
        shaky.gate.set()
        await entry.flushed()


async def test_a_stream_that_is_fenced_off_is_told_and_the_others_go_on(
    db: Database, caller: Caller, database_url: str
) -> None:
    lost_claim, kept_claim = await claimed(db, caller), await claimed(db, caller)
    raised = "update responses set attempt = 2 where id = $1"
    await execute(database_url, raised, lost_claim.response_id)
    async with written(db) as (journal, lost):
        loser, keeper = journal.open(lost_claim), journal.open(kept_claim)
        loser.put([an_event(0)])
        keeper.put([an_event(0)])
        await keeper.flushed()
        with pytest.raises(LeaseLost):
            await loser.flushed()
    assert lost == [lost_claim]
    assert await journalled(db, caller, lost_claim.response_id) == []


async def test_a_batch_that_postgres_refuses_ends_its_own_stream_and_no_other(
    db: Database, caller: Caller
) -> None:
    kept_claim = await claimed(db, caller)
    # A number that the column cannot hold spoils the statement for everyone in it.
    bad_claim = Claim(caller.tenant_id, kept_claim.response_id, 1 << 15)
    async with written(db) as (journal, lost):
        loser, keeper = journal.open(bad_claim), journal.open(kept_claim)
        loser.put([an_event(0)])
        for number in range(2):
            keeper.put([an_event(number)])
            await keeper.flushed()
        with pytest.raises(LeaseLost):
            await loser.flushed()
    assert lost == [bad_claim]
    assert [last_seq for last_seq, _ in await journalled(db, caller, kept_claim.response_id)] == [0, 1]


async def test_two_attempts_of_one_response_have_two_entries(
    db: Database, caller: Caller, database_url: str
) -> None:
    old = await claimed(db, caller)
    await execute(database_url, "update responses set attempt = 2 where id = $1", old.response_id)
    new = Claim(old.tenant_id, old.response_id, 2)
    async with written(db) as (journal, lost):
        loser, keeper = journal.open(old), journal.open(new)
        loser.put([an_event(4)])
        keeper.put([an_event(5)])
        journal.forget(old)
        await keeper.flushed()
    assert await journalled(db, caller, new.response_id) == [(5, an_event(5).frame)]
    assert lost == []


async def test_what_was_forgotten_is_not_written(db: Database, caller: Caller) -> None:
    claim, other = await claimed(db, caller), await claimed(db, caller)
    async with written(db) as (journal, _):
        journal.open(claim).put([an_event(0)])
        journal.forget(claim)
        entry = journal.open(other)
        entry.put([an_event(0)])
        await entry.flushed()
    assert await journalled(db, caller, claim.response_id) == []


async def test_when_the_journal_ends_nobody_waits_for_it(db: Database, caller: Caller) -> None:
    shaky, claim = Shaky(db), await claimed(db, caller)
    shaky.gate.clear()
    async with written(shaky) as (journal, _):
        entry = journal.open(claim)
        entry.put([an_event(0)])
        await until(lambda: is_taken(journal))
    with pytest.raises(LeaseLost):
        await entry.flushed()
    # Nor for what is said only then, by a run that winds up.
    entry.put([an_event(1)])
    async with patience():
        with pytest.raises(LeaseLost):
            await entry.flushed()


async def is_taken(journal: Journal) -> bool:
    return not any(entry.frames for entry in journal._entries.values())
