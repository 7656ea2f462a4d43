"""The queue in the table: who is claimed, in what order, and which late write changes nothing."""

import asyncio
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from typing import Any

import orjson
import pytest

from app import ids
from app.domain.jobs import Claim, Ending, Job, Mode, NewJob
from app.domain.response import TERMINAL, TRANSITIONS, Status
from app.domain.search import Filters
from app.domain.tenancy import Caller
from app.domain.turn import Turn
from app.store import attempts, events, items, leases, lifecycle, lineage, responses, search, upkeep
from app.store.db import Database
from tests.background import TTL_SECONDS, empty_queue, execute, expire, tries
from tests.store.test_plans import PLANT, kinds, scans, walk
from tests.store.turns import a_turn, add
from tests.waiting import patience

pytestmark = pytest.mark.usefixtures("nothing_queued")

LEASE: dict[str, Any] = {"lease_seconds": 30.0}
ERROR = {"code": "server_error", "message": "Gone."}


async def enqueue(
    db: Database,
    caller: Caller,
    *,
    mode: Mode = Mode.BACKGROUND,
    priority: int = 0,
    max_queued: int = 1000,
    event_count: int = 0,
    parent: Turn | None = None,
    **changes: Any,
) -> Turn:
    """A queued turn; `changes` are its fields."""
    async with db.begin(caller) as tx:
        before = await lineage.ancestry(tx, parent.id) if parent else None
        turn = a_turn("hi", before, output_blob=b"", output_count=0, **changes)
        body = {**orjson.loads(turn.body), "model": turn.model, "status": "queued", "service_tier": "auto"}
        turn = replace(turn, status=Status.QUEUED, body=orjson.dumps(body))
        is_in = await lifecycle.enqueue(
            tx,
            [
                NewJob(
                    turn,
                    mode=mode,
                    priority=priority,
                    event_count=event_count,
                    request=orjson.dumps({"model": turn.model, "service_tier": "flex"}),
                )
            ],
            max_queued=max_queued,
        )
    assert is_in
    return turn


async def claim(db: Database, owner: str = "me", **lease: Any) -> Job | None:
    async with db.begin_system() as tx:
        jobs = await lifecycle.claim(tx, owner=owner, **{**LEASE, **lease})
    return jobs[0] if jobs else None


async def claimed(db: Database, caller: Caller, **how: Any) -> tuple[Turn, Claim]:
    """The only queued response, claimed."""
    turn = await enqueue(db, caller, **how)
    job = await claim(db)
    assert job is not None
    assert job.claim.response_id == turn.id
    return turn, job.claim


async def finish(db: Database, claim: Claim, turn: Turn, status: Status = Status.COMPLETED) -> bool:
    done = replace(turn, status=status)
    async with db.begin(Caller(claim.tenant_id)) as tx:
        return (
            await lifecycle.finish(
                tx, Ending(claim, done, event_count=7, shape=None, ttl_seconds=TTL_SECONDS)
            )
            is not None
        )


async def end(db: Database, caller: Caller, turn: Turn, status: Status = Status.CANCELLED) -> None:
    async with db.begin(caller) as tx:
        row = await lifecycle.lock(tx, turn.id)
        assert row is not None
        error = ERROR if status is Status.FAILED else None
        await lifecycle.end(tx, row, status, event_count=3, ttl_seconds=TTL_SECONDS, error=error)


async def requeue(db: Database, claim: Claim) -> bool:
    async with db.begin(Caller(claim.tenant_id)) as tx:
        return await lifecycle.requeue(tx, claim, event_count=2)


async def renew(db: Database, *claims: Claim, **lease: float) -> set[Claim]:
    async with db.begin_system() as tx:
        return await leases.renew(tx, claims, **{**LEASE, **lease})


async def row_of(database_url: str, turn: Turn) -> Any:
    [row] = await execute(database_url, "select *, now() from responses where id = $1", turn.id)
    return row


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


class TestFence:
    """Each write of a run names its attempt; who comes too late changes nothing."""

    async def test_a_claim_is_renewed_while_it_stands(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        turn, claim = await claimed(db, caller)
        await expire(database_url, turn.id)
        assert await renew(db, claim) == {claim}
        row = await row_of(database_url, turn)
        assert row["lease_until"] - row["now"] > timedelta(seconds=25)

    async def test_a_renewal_that_comes_late_shortens_nothing(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        turn, claim = await claimed(db, caller)
        before = (await row_of(database_url, turn))["lease_until"]
        assert await renew(db, claim, lease_seconds=1) == {claim}
        assert (await row_of(database_url, turn))["lease_until"] == before

    async def test_of_many_claims_those_that_stand_are_renewed(self, db: Database, caller: Caller) -> None:
        held = [await claimed(db, caller) for _ in range(5)]
        await finish(db, held[0][1], held[0][0])
        await end(db, caller, held[1][0])
        await requeue(db, held[2][1])
        claims = [claim for _, claim in held]
        stranger = Claim(caller.tenant_id + 1, claims[4].response_id, 1)
        older = Claim(caller.tenant_id, claims[4].response_id, 0)
        assert await renew(db, *claims, stranger, older) == set(claims[3:])

    @pytest.mark.parametrize("what", ["finish", "requeue", "events"])
    @pytest.mark.parametrize("why", ["another attempt", "requeued", "cancelled", "failed", "finished"])
    async def test_who_has_lost_the_claim_writes_nothing(
        self, db: Database, caller: Caller, database_url: str, what: str, why: str
    ) -> None:
        turn, old = await claimed(db, caller)
        await self.take(db, caller, turn, old, why)
        before = await row_of(database_url, turn)
        if what == "finish":
            assert not await finish(db, old, turn, Status.FAILED)
        elif what == "requeue":
            assert not await requeue(db, old)
        else:
            async with db.begin_system() as tx:
                batch = events.Batch(old, 9, b"event: late\n\n")
                assert await events.append(tx, [batch]) == set()
        after = await row_of(database_url, turn)
        assert {**before, "now": 0} == {**after, "now": 0}
        assert (
            await execute(database_url, "select from response_events where response_id = $1", turn.id) == []
        )

    async def take(self, db: Database, caller: Caller, turn: Turn, old: Claim, why: str) -> None:
        if why == "finished":
            assert await finish(db, old, turn)
        elif why in {"cancelled", "failed"}:
            await end(db, caller, turn, Status[why.upper()])
        else:
            assert await requeue(db, old)
        if why == "another attempt":
            job = await claim(db)
            assert job is not None
            assert job.claim == Claim(old.tenant_id, old.response_id, 2)

    async def test_the_attempt_that_has_it_finishes(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        turn, claim = await claimed(db, caller)
        assert await finish(db, claim, turn)
        row = await row_of(database_url, turn)
        assert (row["status"], row["event_count"], row["lease_until"]) == (Status.COMPLETED, 7, None)
        assert (row["request"], row["expires_at"]) == (None, None)
        assert row["finished_at"]

    @pytest.mark.parametrize("status", [Status.COMPLETED, Status.FAILED, Status.CANCELLED])
    async def test_what_has_ended_cannot_be_ended_again_from_outside(
        self, db: Database, caller: Caller, database_url: str, status: Status
    ) -> None:
        """Law L3, even for a caller who did not look at the row that it has locked."""
        turn, claim = await claimed(db, caller)
        async with db.begin(caller) as tx:
            row = await lifecycle.lock(tx, turn.id)
        assert row is not None
        await (finish(db, claim, turn) if status is Status.COMPLETED else end(db, caller, turn, status))
        before = await row_of(database_url, turn)
        async with db.begin(caller) as tx:
            await lifecycle.end(tx, row, Status.FAILED, event_count=1, ttl_seconds=1, error=ERROR)
        assert {**await row_of(database_url, turn), "now": 0} == {**before, "now": 0}

    async def test_no_statement_goes_where_no_transition_leads(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        """From each state, every verb: what it does to the row is declared, or it does nothing."""
        for start in Status:
            for verb in ("claim", "finish", "requeue", "cancel", "fail", "renew"):
                await empty_queue(database_url)
                turn, old = await self.in_state(db, caller, start)
                await self.apply(verb, db, caller, turn, old)
                end_state = Status((await row_of(database_url, turn))["status"])
                assert end_state is start or end_state in TRANSITIONS[start], (start, verb)

    async def in_state(self, db: Database, caller: Caller, start: Status) -> tuple[Turn, Claim]:
        turn, held = await claimed(db, caller)
        if start is Status.QUEUED:
            await requeue(db, held)
        elif start is Status.CANCELLED:
            await end(db, caller, turn)
        elif start is not Status.IN_PROGRESS:
            await finish(db, held, turn, start)
        return turn, held

    async def apply(self, verb: str, db: Database, caller: Caller, turn: Turn, held: Claim) -> None:
        if verb == "claim":
            await claim(db)
        elif verb == "finish":
            await finish(db, held, turn)
        elif verb == "requeue":
            await requeue(db, held)
        elif verb == "renew":
            await renew(db, held)
        elif verb in {"cancel", "fail"} and await self.is_unfinished(db, caller, turn):
            await end(db, caller, turn, Status.CANCELLED if verb == "cancel" else Status.FAILED)

    async def is_unfinished(self, db: Database, caller: Caller, turn: Turn) -> bool:
        """Of the others there is nothing to end: see above."""
        async with db.read(caller) as tx:
            return await responses.status(tx, turn.id) not in TERMINAL


class TestEnding:
    async def test_a_response_that_is_ended_from_outside_says_what_its_request_decides(
        self, db: Database, caller: Caller
    ) -> None:
        turn, _ = await claimed(db, caller)
        await end(db, caller, turn, Status.FAILED)
        async with db.read(caller) as tx:
            stored = await responses.get(tx, turn.id)
        assert stored is not None
        found = orjson.loads(stored.json())
        assert (found["status"], found["error"], found["usage"]) == ("failed", ERROR, None)
        assert (found["service_tier"], found["output"]) == ("flex", [])
        assert (stored.input_blob, stored.output_blob, stored.event_count) == (turn.input_blob, b"", 3)

    async def test_the_first_word_on_an_attempt_stands_and_more_may_be_added(
        self, db: Database, caller: Caller
    ) -> None:
        turn, claim = await claimed(db, caller)
        detail = orjson.dumps({"usage": {"input_tokens": 1}, "output": [{"a": 1}]})
        async with db.begin(caller) as tx:
            await attempts.end(tx, claim, "cancelled")
        [first] = await tries(db, caller, turn.id)
        async with db.begin(caller) as tx:
            await attempts.end(tx, claim, "lease_lost", upstream_id="up_1", detail=detail)
            await attempts.end(tx, claim, "lease_lost")
        [attempt] = await tries(db, caller, turn.id)
        assert (attempt["reason"], attempt["ended_at"]) == ("cancelled", first["ended_at"])
        assert (attempt["upstream_id"], attempt["usage"]) == ("up_1", {"input_tokens": 1})
        assert attempt["partial_output"] == [{"a": 1}]


class TestEphemeral:
    async def a_result(self, db: Database, caller: Caller, parent: Turn | None = None) -> Turn:
        turn, claim = await claimed(db, caller, mode=Mode.BACKGROUND | Mode.EPHEMERAL, parent=parent)
        assert await finish(db, claim, turn)
        return turn

    async def test_it_can_be_read_and_is_in_no_list_line_or_reference(
        self, db: Database, caller: Caller
    ) -> None:
        root = await add(db, caller)
        turn = await self.a_result(db, caller, root)
        name = ids.item_id("message", turn.id, 0)
        async with db.begin(caller) as tx:
            assert await responses.get(tx, turn.id) is not None
            assert await lineage.ancestry(tx, turn.id) is None
            assert await items.find(tx, [name]) == {}
            page = await search.find(tx, Filters(), limit=9)
        assert [row.id for row in page.found] == [root.id]

    @pytest.mark.parametrize("how", ["finish", "cancel", "fail"])
    async def test_it_is_kept_from_its_end_on_for_a_while(
        self, db: Database, caller: Caller, database_url: str, how: str
    ) -> None:
        turn, claim = await claimed(db, caller, mode=Mode.BACKGROUND | Mode.EPHEMERAL)
        assert (await row_of(database_url, turn))["expires_at"] is None
        if how == "finish":
            await finish(db, claim, turn)
        else:
            await end(db, caller, turn, Status.CANCELLED if how == "cancel" else Status.FAILED)
        row = await row_of(database_url, turn)
        assert row["expires_at"] - row["finished_at"] == timedelta(seconds=TTL_SECONDS)

    async def test_it_goes_with_all_that_belongs_to_it_and_nothing_else(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        gone, kept = await self.a_result(db, caller), await self.a_result(db, caller)
        stored, claim = await claimed(db, caller)
        await finish(db, claim, stored)
        for turn in (gone, kept, stored):
            async with db.begin(caller) as tx:
                await events.put(tx, turn.id, 1, b"event: x\n\n")
        past = "update responses set expires_at = now() - interval '1 s' where id = $1"
        await execute(database_url, past, gone.id)
        async with db.begin_system() as tx:
            await upkeep.forget_ephemeral(tx)
        for table, column in (
            ("responses", "id"),
            ("response_events", "response_id"),
            ("response_attempts", "response_id"),
        ):
            query = f"select {column} from {table} where tenant_id = $1"
            left = {row[0] for row in await execute(database_url, query, caller.tenant_id)}
            assert left == {kept.id, stored.id}, table


class TestWaiting:
    async def test_what_has_waited_long_is_counted_up_to_a_limit(self, db: Database, caller: Caller) -> None:
        for _ in range(5):
            await enqueue(db, caller)
        await claim(db)
        async with db.begin_system() as tx:
            counts = [
                await upkeep.count_waiting(tx, older_than_seconds=seconds, limit=limit)
                for seconds, limit in ((-1, 9), (-1, 3), (60, 9))
            ]
        assert counts == [4, 3, 0]


class TestPlans:
    """As the pool makes them: generic, on a table where next to nothing is unfinished, and that is nobody
    else's, for what others plant would be in its statistics.
    """

    @pytest.fixture
    def database_url(self, quiet_database_url: str) -> str:
        return quiet_database_url

    @pytest.fixture
    async def crowd(self, db: Database, caller: Caller, database_url: str) -> list[Claim]:
        for _ in range(20):
            await execute(database_url, PLANT, caller.tenant_id, 200, 0, None, None)
        claims = [(await claimed(db, caller))[1] for _ in range(20)]
        for _ in range(20):
            await enqueue(db, caller)
        await execute(database_url, "analyze responses")
        return claims

    async def plan(self, db: Database, statement: Any, *literals: str) -> Any:
        async with db.begin_system() as tx:
            await tx._driver.execute(f"prepare probe as {statement.sql}")
            arguments = f"({', '.join(literals)})" if literals else ""
            explain = f"explain (analyze, timing off, format json) execute probe{arguments}"
            found = await tx._driver.fetch(explain)
            await tx._driver.execute("deallocate probe")
        return orjson.loads(next(iter(found[0].values())))[0]["Plan"]

    async def test_a_claim_reads_the_head_of_the_queue_alone(self, db: Database, crowd: list[Claim]) -> None:
        found = await self.plan(db, lifecycle._claim, *self.in_order(lifecycle._claim, "owner"))
        by_index = {it["Index Name"]: it for it in scans(found) if "Index Name" in it}
        assert by_index.keys() == {"ix_responses__queue", "pk_responses"}
        # Whose turn it is, the first that this tenant has, and the row itself. Which of the two indexes
        # leads to it is the planner's choice.
        assert sum(it["Actual Rows"] * it["Actual Loops"] for it in by_index.values()) <= 4
        assert not kinds(found) & {"Seq Scan", "Sort"}

    def in_order(self, statement: Any, owner: str) -> list[str]:
        """The claim's arguments as literals, whichever comes first."""
        how = {"lease": timedelta(seconds=30), "last_tenant_id": 0, "count": 1}
        values = statement.arguments({"owner": owner, **how})
        return [f"'{value}'" if isinstance(value, str | timedelta) else str(int(value)) for value in values]

    async def test_expired_leases_are_found_by_their_index(self, db: Database, crowd: list[Claim]) -> None:
        found = await self.plan(db, lifecycle._lock_expired, "100")
        assert [it["Index Name"] for it in scans(found)] == ["ix_responses__lease"]
        assert "Sort" not in kinds(found)

    async def test_a_tenants_queue_is_counted_in_an_index(
        self, db: Database, caller: Caller, crowd: list[Claim]
    ) -> None:
        found = await self.plan(db, lifecycle._queued, "1", str(caller.tenant_id), "1000")
        assert "Seq Scan" not in kinds(found)

    async def test_expired_results_are_found_by_their_index(
        self, db: Database, caller: Caller, database_url: str, crowd: list[Claim]
    ) -> None:
        """With what belongs to them, also where many results have expired at once."""
        many = "update responses set mode = 5, expires_at = now() where tenant_id = $1 and status > 1"
        await execute(database_url, many, caller.tenant_id)
        tried = """
            insert into response_attempts (tenant_id, response_id, attempt, owner)
            select tenant_id, id, 1, 'me' from responses where tenant_id = $1 and status > 1
        """
        await execute(database_url, tried, caller.tenant_id)
        await execute(database_url, "analyze responses, response_attempts, response_events")
        found = await self.plan(db, upkeep._forget_ephemeral)
        # What is left would be first in the rounds of other tests.
        await execute(database_url, "delete from responses where tenant_id = $1", caller.tenant_id)
        assert found["Actual Rows"] == upkeep.FORGOTTEN_AT_ONCE
        attempts = [it for it in walk(found) if it.get("Relation Name") == "response_attempts"]
        assert "pk_response_attempts" in {it.get("Index Name") for it in attempts}
        assert "ix_responses__expiry" in {it.get("Index Name") for it in scans(found)}
        assert "Seq Scan" not in {it["Node Type"] for it in scans(found)}

    async def test_renewals_and_batches_never_read_the_whole_table(
        self, db: Database, crowd: list[Claim]
    ) -> None:
        tenants = f"array[{', '.join(str(claim.tenant_id) for claim in crowd)}]"
        keys = f"array[{', '.join(repr(str(claim.response_id)) for claim in crowd)}]::uuid[]"
        attempts = f"array[{', '.join('1' for _ in crowd)}]"
        found = await self.plan(db, leases._renew, "'30 s'", tenants, keys, attempts)
        assert "Seq Scan" not in {it["Node Type"] for it in scans(found)}
        seqs = f"array[{', '.join('5' for _ in crowd)}]"
        data = f"array[{', '.join(repr('x') for _ in crowd)}]::bytea[]"
        values = ("1", tenants, keys, attempts, seqs, data, "'holdfast_events'")
        found = await self.plan(db, events._append, *values)
        assert "Seq Scan" not in {it["Node Type"] for it in scans(found)}
