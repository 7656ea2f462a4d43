"""Who is claimed next, and how many there may be."""

import asyncio
from collections import Counter
from datetime import timedelta

import orjson
import pytest

from app.domain.jobs import Claim, Job, Mode
from app.domain.response import Status
from app.domain.tenancy import Caller
from app.domain.turn import Turn
from app.store import lifecycle, lineage
from app.store.db import Database
from tests.background import execute, tries
from tests.store.queueing import LEASE, claim, claimed, enqueue, row_of
from tests.store.turns import add
from tests.waiting import patience

pytestmark = pytest.mark.usefixtures("nothing_queued")


class TestQueue:
    async def test_what_was_asked_for_first_comes_first(self, db: Database, caller: Caller) -> None:
        turns = [await enqueue(db, caller) for _ in range(5)]
        jobs = [await claim(db) for _ in range(6)]
        assert [job and job.claim.response_id for job in jobs] == [*[turn.id for turn in turns], None]

    async def test_priority_goes_before_age(self, db: Database, caller: Caller) -> None:
        order = (1, 0, -1, 0, 1, -1)
        turns = [await enqueue(db, caller, priority=priority) for priority in order]
        expected = [turns[place].id for place in (2, 5, 1, 3, 0, 4)]
        jobs = [await claim(db) for _ in turns]
        assert [job and job.claim.response_id for job in jobs] == expected

    async def test_a_job_has_all_that_was_queued(self, db: Database, caller: Caller) -> None:
        root = await add(db, caller)
        turn = await enqueue(
            db, caller, parent=root, mode=Mode.BACKGROUND | Mode.STREAMED, event_count=2, priority=-1
        )
        job = await claim(db)
        assert job == Job(
            claim=Claim(caller.tenant_id, turn.id, 1),
            mode=Mode.BACKGROUND | Mode.STREAMED,
            event_count=2,
            parent=root.id,
            place=turn.place,
            request=orjson.dumps({"model": turn.model, "service_tier": "flex"}),
            input_blob=turn.input_blob,
            context_tokens=turn.context_tokens,
        )

    async def test_a_claim_is_a_lease_and_an_attempt(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        turn, _ = await claimed(db, caller)
        row = await row_of(database_url, turn)
        assert (row["status"], row["attempt"]) == (Status.IN_PROGRESS, 1)
        assert timedelta(seconds=25) < row["lease_until"] - row["now"] <= timedelta(seconds=30)
        [attempt] = await tries(db, caller, turn.id)
        assert (attempt["attempt"], attempt["owner"]) == (1, "me")
        assert (attempt["ended_at"], attempt["reason"]) == (None, None)

    @pytest.mark.parametrize("column", ["request", "items"])
    async def test_a_row_that_cannot_be_read_does_not_stay_at_the_head_of_the_queue(
        self, db: Database, caller: Caller, database_url: str, column: str
    ) -> None:
        damaged, whole = await enqueue(db, caller), await enqueue(db, caller)
        await execute(database_url, f"update responses set {column} = 'x' where id = $1", damaged.id)
        first, second = await claim(db), await claim(db)
        assert first is not None
        assert second is not None
        assert (first.claim.response_id, first.request) == (damaged.id, b"")
        assert (second.claim.response_id, second.input_blob) == (whole.id, whole.input_blob)

    async def test_many_claimers_share_the_queue_and_no_two_win_the_same(
        self, wide: Database, caller: Caller
    ) -> None:
        turns = [await enqueue(wide, caller) for _ in range(60)]
        jobs = await asyncio.gather(*[claim(wide) for _ in range(80)])
        won = Counter(job.claim.response_id for job in jobs if job)
        # A claimer that meets nothing but rows in others' hands goes home: their bells are still to ring.
        assert set(won.values()) == {1}
        while job := await claim(wide):
            won[job.claim.response_id] += 1
        assert won == Counter(turn.id for turn in turns)

    async def test_a_row_that_another_is_claiming_is_passed_and_not_waited_for(
        self, db: Database, caller: Caller
    ) -> None:
        first, second = await enqueue(db, caller), await enqueue(db, caller)
        async with db.begin_system() as tx:
            [mine] = await lifecycle.claim(tx, owner="me", **LEASE)
            async with patience():
                theirs = await claim(db, "they")
                nobodys = await claim(db, "nobody")
        assert theirs is not None
        assert (mine.claim.response_id, theirs.claim.response_id) == (first.id, second.id)
        assert nobodys is None

    async def test_a_claim_that_was_not_committed_leaves_no_trace(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        turn = await enqueue(db, caller)
        async with db.begin_system() as tx:
            assert await lifecycle.claim(tx, owner="me", **LEASE)
            await tx._driver.execute("rollback; begin")
        assert (await row_of(database_url, turn))["attempt"] == 0
        assert await tries(db, caller, turn.id) == []

    async def test_a_queued_response_keeps_its_place_in_the_line(self, db: Database, caller: Caller) -> None:
        root = await add(db, caller)
        first = await enqueue(db, caller, parent=root)
        second = await enqueue(db, caller, parent=root)
        jobs = [await claim(db), await claim(db)]
        places = [job.place for job in jobs if job]
        assert places == [first.place, second.place.elsewhere(second.id)]
        for job in jobs:
            assert job is not None
            async with db.read(caller) as tx:
                before = await lineage.before(tx, root.id, job.place)
            assert before is not None
            assert (before.parent, len(before.turns)) == (root.id, 1)


class TestLimit:
    async def test_it_is_exact_whoever_comes_at_once(
        self, wide: Database, caller: Caller, database_url: str
    ) -> None:
        outcomes = await asyncio.gather(
            *[enqueue(wide, caller, max_queued=7) for _ in range(20)], return_exceptions=True
        )
        assert sum(isinstance(each, Turn) for each in outcomes) == 7
        query = "select count(*) from responses where tenant_id = $1"
        [[count]] = await execute(database_url, query, caller.tenant_id)
        assert count == 7

    async def test_only_what_waits_counts(self, db: Database, caller: Caller) -> None:
        await claimed(db, caller, max_queued=1)
        await add(db, caller)
        await enqueue(db, caller, max_queued=1)
        with pytest.raises(AssertionError):
            await enqueue(db, caller, max_queued=1)

    async def test_another_tenants_queue_does_not_count(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        statement = "insert into tenants (name) values (gen_random_uuid()::text) returning id"
        [[other]] = await execute(database_url, statement)
        await enqueue(db, Caller(other), max_queued=1)
        await enqueue(db, caller, max_queued=1)
