"""The queue in the table: who is claimed, in what order, and which late write changes nothing."""

from datetime import timedelta
from typing import Any

import orjson
import pytest

from app import ids
from app.domain.jobs import Claim, Mode
from app.domain.response import TERMINAL, TRANSITIONS, Status
from app.domain.search import Filters
from app.domain.tenancy import Caller
from app.domain.turn import Turn
from app.store import attempts, events, items, leases, lifecycle, lineage, responses, search, upkeep
from app.store.db import Database
from tests.background import TTL_SECONDS, empty_queue, execute, expire, tries
from tests.store.queueing import ERROR, claim, claimed, end, enqueue, finish, renew, requeue, row_of
from tests.store.test_plans import PLANT, kinds, scans, walk
from tests.store.turns import add

pytestmark = pytest.mark.usefixtures("nothing_queued")


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
