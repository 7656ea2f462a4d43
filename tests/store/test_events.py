"""The journal's table: batches that are fenced, found after a cursor, and forgotten together."""

import asyncio
from typing import Any

import asyncpg
import pytest

from app.domain.jobs import Claim
from app.domain.response import Status
from app.domain.tenancy import Caller
from app.domain.turn import Turn
from app.store import events, leases, lifecycle
from app.store.db import Database
from app.store.events import Batch
from tests.background import TTL_SECONDS, execute, listening
from tests.store.queueing import claimed, end, finish, requeue
from tests.store.test_plans import PLANT, kinds, plan
from tests.waiting import patience

pytestmark = pytest.mark.usefixtures("nothing_queued")


async def append(db: Database, *batches: Batch) -> set[Claim]:
    async with db.begin_system() as tx:
        return await events.append(tx, batches)


async def read(
    db: Database, caller: Caller, turn: Turn, after: int = -1, **how: int
) -> list[tuple[int, bytes]]:
    async with db.read(caller) as tx:
        return await events.read_after(tx, turn.id, after, **how)


async def count(db: Database, caller: Caller, turn: Turn) -> int:
    async with db.read(caller) as tx:
        return await events.count(tx, turn.id)


async def aged(database_url: str, turn: Turn, *, ended: float, **said: float) -> None:
    """Say that a response ended, and its batches were written, so many seconds ago."""
    finished = "update responses set finished_at = now() - make_interval(secs => $2) where id = $1"
    await execute(database_url, finished, turn.id, ended)
    written = """
        update response_events set created_at = now() - make_interval(secs => $3)
        where response_id = $1 and last_seq = $2
    """
    for name, ago in said.items():
        await execute(database_url, written, turn.id, int(name.removeprefix("up_to_")), ago)


async def prune(db: Database, retention_seconds: float) -> None:
    async with db.begin_system() as tx:
        await events.prune(tx, retention_seconds=retention_seconds)


async def test_batches_are_found_after_a_cursor_in_their_order(db: Database, caller: Caller) -> None:
    turn, claim = await claimed(db, caller)
    for last_seq in (4, 9, 2):
        assert await append(db, Batch(claim, last_seq, b"up to %d" % last_seq)) == {claim}
    assert await read(db, caller, turn) == [(2, b"up to 2"), (4, b"up to 4"), (9, b"up to 9")]
    assert [last for last, _ in await read(db, caller, turn, after=2)] == [4, 9]
    assert [last for last, _ in await read(db, caller, turn, after=3)] == [4, 9]
    assert [last for last, _ in await read(db, caller, turn, limit=2)] == [2, 4]
    assert await read(db, caller, turn, after=9) == []
    assert await count(db, caller, turn) == 10
    async with db.read(caller) as tx:
        assert await events.read_all(tx, turn.id) == b"up to 2up to 4up to 9"


async def test_a_response_without_events_has_none(db: Database, caller: Caller) -> None:
    turn, _ = await claimed(db, caller)
    assert (await read(db, caller, turn), await count(db, caller, turn)) == ([], 0)


async def test_a_long_journal_is_read_whole(db: Database, caller: Caller) -> None:
    turn, claim = await claimed(db, caller)
    for last_seq in range(150):
        await append(db, Batch(claim, last_seq, b"%d;" % last_seq))
    async with db.read(caller) as tx:
        assert await events.read_all(tx, turn.id) == b"".join(b"%d;" % number for number in range(150))


async def test_writing_a_batch_again_stores_it_once(db: Database, caller: Caller) -> None:
    """As after a commit whose answer was lost."""
    turn, claim = await claimed(db, caller)
    for _ in range(3):
        assert await append(db, Batch(claim, 5, b"once")) == {claim}
    assert await read(db, caller, turn) == [(5, b"once")]


async def test_of_many_streams_those_whose_claims_stand_are_stored(db: Database, caller: Caller) -> None:
    held = [await claimed(db, caller) for _ in range(6)]
    await finish(db, held[0][1], held[0][0])
    await end(db, caller, held[1][0])
    await requeue(db, held[2][1])
    claims = [claim for _, claim in held]
    claims.append(Claim(caller.tenant_id, claims[5].response_id, 7))
    claims.append(Claim(caller.tenant_id + 1, claims[5].response_id, 1))
    batches = [Batch(claim, number, b"%d" % number) for number, claim in enumerate(claims)]
    assert await append(db, *batches) == set(claims[3:6])
    found = [await read(db, caller, turn) for turn, _ in held]
    assert found == [[], [], [], [(3, b"3")], [(4, b"4")], [(5, b"5")]]


async def test_a_batch_waits_for_a_cancel_that_came_first_and_is_then_fenced_off(
    db: Database, caller: Caller
) -> None:
    turn, claim = await claimed(db, caller)
    async with db.begin(caller) as tx:
        row = await lifecycle.lock(tx, turn.id)
        assert row is not None
        late = asyncio.ensure_future(append(db, Batch(claim, 9, b"late")))
        await waits_for_a_lock(db)
        shown = await events.count(tx, turn.id)
        await lifecycle.end(tx, row, Status.CANCELLED, event_count=shown, ttl_seconds=TTL_SECONDS, error=None)
    assert await late == set()
    assert (await read(db, caller, turn), shown) == ([], 0)


async def test_a_cancel_waits_for_a_batch_that_came_first_and_counts_it(db: Database, caller: Caller) -> None:
    turn, claim = await claimed(db, caller)

    async def look() -> int:
        async with db.begin(caller) as tx:
            assert await lifecycle.lock(tx, turn.id)
            return await events.count(tx, turn.id)

    async with db.begin_system() as tx:
        await events.append(tx, [Batch(claim, 9, b"early")])
        looking = asyncio.ensure_future(look())
        await waits_for_a_lock(db)
    assert await looking == 10


async def waits_for_a_lock(db: Database) -> None:
    """Return once some session of this database waits for another."""
    waiting = """
        select 1 from pg_stat_activity
        where wait_event_type = 'Lock' and datname = current_database()
    """
    async with patience(), db.begin_system() as tx:
        while not await tx._driver.fetch(waiting):
            await asyncio.sleep(0.005)
            await tx._driver.execute("select pg_stat_clear_snapshot()")


async def test_renewals_and_batches_of_the_same_runs_never_wait_for_each_other_for_ever(
    database_url: str, caller: Caller
) -> None:
    """Both lock all runs of a process; each starting at its own end, they would deadlock."""
    db = await Database.connect(database_url, size=8)
    claims = [(await claimed(db, caller))[1] for _ in range(40)]

    async def write(number: int) -> None:
        batches = [Batch(claim, number, b"x") for claim in claims[:: 1 if number % 2 else -1]]
        assert await append(db, *batches) == set(claims)

    async def renew(number: int) -> None:
        async with db.begin_system() as tx:
            kept = await leases.renew(tx, claims[:: -1 if number % 2 else 1], lease_seconds=30)
        assert kept == set(claims)

    for start in range(0, 40, 4):
        numbers = range(start, start + 4)
        await asyncio.gather(*[write(number) for number in numbers], *[renew(number) for number in numbers])
    await db.close()


async def test_followers_are_told_of_a_batch_once_it_can_be_read(
    db: Database, caller: Caller, database_url: str
) -> None:
    turn, claim = await claimed(db, caller)
    async with listening(database_url) as notifications:
        with notifications.subscribed(str(turn.id)) as news:
            async with db.begin_system() as tx:
                await events.append(tx, [Batch(claim, 3, b"x")])
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(news.wait(), 0.05)
            async with patience():
                await news.wait()
    assert await count(db, caller, turn) == 4


async def test_nobody_is_told_of_a_batch_that_was_fenced_off(
    db: Database, caller: Caller, database_url: str
) -> None:
    turn, claim = await claimed(db, caller)
    await requeue(db, claim)
    heard = list[str]()
    async with listening(database_url) as notifications:
        notifications._on_any = heard.append
        with notifications.subscribed(str(turn.id)) as news:
            await append(db, Batch(claim, 3, b"x"))
            async with db.begin_system() as tx:
                await events.notify(tx, events.CHANNEL, claim.response_id)
            async with patience():
                await news.wait()
    assert heard == [str(turn.id)]


class TestPruning:
    @pytest.fixture
    def database_url(self, quiet_database_url: str) -> str:
        """A database of its own: what is pruned is everybody's, and so are the statistics of what is planted."""
        return quiet_database_url

    async def a_stream(self, db: Database, caller: Caller, *, is_over: bool = True) -> Turn:
        turn, claim = await claimed(db, caller)
        await append(db, Batch(claim, 4, b"early"))
        await append(db, Batch(claim, 9, b"late"))
        if is_over:
            await finish(db, claim, turn)
        return turn

    async def test_an_old_stream_goes_and_a_young_one_stays(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        old, young = await self.a_stream(db, caller), await self.a_stream(db, caller)
        await aged(database_url, old, ended=100, up_to_4=200, up_to_9=101)
        await prune(db, 60)
        assert (await read(db, caller, old), len(await read(db, caller, young))) == ([], 2)

    async def test_what_still_runs_stays_however_old_it_is(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        turn = await self.a_stream(db, caller, is_over=False)
        await execute(database_url, "update response_events set created_at = now() - interval '1 year'")
        await prune(db, 60)
        assert len(await read(db, caller, turn)) == 2

    async def test_the_beginning_of_a_stream_is_not_forgotten_before_its_end(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        """A reader from the beginning would be given the rest as if it were all."""
        turn = await self.a_stream(db, caller)
        await aged(database_url, turn, ended=30, up_to_4=200, up_to_9=31)
        await prune(db, 60)
        assert len(await read(db, caller, turn)) == 2

    async def test_it_looks_at_the_old_events_and_their_responses_alone(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        """Every worker prunes every few seconds: it must not read all responses or all events for it."""
        await execute(database_url, PLANT, caller.tenant_id, 4000, 0, None, None)
        said = """
            insert into response_events (tenant_id, response_id, last_seq, codec, data)
            select tenant_id, id, n, 1, 'x' from responses, generate_series(1, 3) n where tenant_id = $1
        """
        await execute(database_url, said, caller.tenant_id)
        turn = await self.a_stream(db, caller)
        await aged(database_url, turn, ended=100, up_to_4=200, up_to_9=101)
        await execute(database_url, "analyze responses, response_events")
        found = await plan(db, caller, events._prune, retention="60 s")
        assert "Seq Scan" not in kinds(found)
        # What is explained in this way is done as well.
        assert await read(db, caller, turn) == []

    async def test_events_that_belong_to_no_response_go_too(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        turn = await self.a_stream(db, caller)
        await aged(database_url, turn, ended=100, up_to_4=200, up_to_9=101)
        await execute(database_url, "delete from responses where id = $1", turn.id)
        await prune(db, 60)
        assert await read(db, caller, turn) == []

    async def test_events_of_a_deleted_response_go_as_well(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        turn = await self.a_stream(db, caller)
        await aged(database_url, turn, ended=100, up_to_4=200, up_to_9=101)
        await execute(database_url, "update responses set deleted_at = now() where id = $1", turn.id)
        await prune(db, 60)
        assert await read(db, caller, turn) == []


@pytest.mark.parametrize("channel", [events.CHANNEL, events.CANCELLED])
async def test_a_channel_carries_ids_of_responses(db: Database, database_url: str, channel: str) -> None:
    heard: asyncio.Queue[Any] = asyncio.Queue()
    claim = Claim(1, (await execute(database_url, "select gen_random_uuid()"))[0][0], 1)
    connection = await asyncpg.connect(database_url)
    await connection.add_listener(channel, lambda *found: heard.put_nowait(found[-1]))
    async with db.begin_system() as tx:
        await events.notify(tx, channel, claim.response_id)
    async with patience():
        assert await heard.get() == str(claim.response_id)
    await connection.close()
