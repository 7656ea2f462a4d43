"""Who settles, beside whom, and how much of what was left by an earlier release."""

import asyncio
from typing import Any
from uuid import UUID

import pytest

from app.domain.audit import SERVER, Action
from app.domain.response import Status
from app.domain.tenancy import Caller
from app.generation import ledger as settling_module
from app.generation.ledger import Ledger, settling
from app.store import audit, facts, outbox
from app.store.db import Database
from tests.background import execute
from tests.builders import a_caller
from tests.generation.settling import enqueue, facts_of
from tests.store.turns import a_turn, add, delete
from tests.trails import SIGNER, pending, recorded, settle
from tests.waiting import happened, patience, until

WAITING = "select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
"""Whether anybody waits for anybody."""


@pytest.fixture(scope="module")
def database_url(quiet_database_url: str) -> str:
    """A database of its own: workers settle for every tenant."""
    return quiet_database_url


class TestAdoption:
    async def test_what_an_earlier_release_stored_is_noted_once(
        self, db: Database, other_db: Database, caller: Caller, database_url: str
    ) -> None:
        """Of workers that start at once, one waits for what the other one notes."""
        turn = await add(db, caller)
        await execute(database_url, "delete from audit_outbox where subject = $1", turn.id)
        async with Ledger(other_db)._alone() as first:
            await facts.adopt(first, caller.tenant_id, UUID(int=0), Action.RESPONSE_ADOPTED)
            second = asyncio.ensure_future(Ledger(db).begin())
            await until(lambda: execute(database_url, WAITING))
        await second
        assert await pending(db, caller) == 1
        await settle(db, caller)
        [record] = await recorded(db, caller)
        assert (record.note.action, record.note.subject) == (Action.RESPONSE_ADOPTED, turn.id)
        assert await facts_of(db, caller) == {turn.id: Status.COMPLETED}

    async def test_what_was_noted_is_not_taken_for_that(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        """Neither what waits to be settled, nor what could not be read then, nor what was deleted."""
        poisoned = await add(db, caller)
        await execute(database_url, "update responses set body = 'damaged' where id = $1", poisoned.id)
        await settle(db, caller)
        await delete(db, caller, await add(db, caller))
        before = await pending(db, caller)
        await Ledger(db).begin()
        assert await pending(db, caller) == before


class TestRunning:
    async def test_a_worker_settles_for_everybody_until_it_stops(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        others = [caller, await a_caller(database_url), Caller(SERVER)]
        for each in others[:2]:
            await add(db, each)
        async with db.begin_system() as tx:
            await outbox.note(tx.of(SERVER), Action.SETTINGS_CHANGED)

        async def is_drained() -> bool:
            return not any([await pending(db, each) for each in others])

        async with settling(Ledger(db, SIGNER)):
            await until(is_drained)
        for each in others:
            assert await recorded(db, each)
        # What it was cut off from is given back when Postgres has answered.
        await happened(lambda: db.checked_out == 0)

    @pytest.mark.parametrize("step", ["take", "next_pending", "unsigned"])
    async def test_a_round_that_fails_is_not_the_last(
        self, db: Database, caller: Caller, monkeypatch: pytest.MonkeyPatch, step: str
    ) -> None:
        monkeypatch.setattr(settling_module, "PAUSE_SECONDS", 0.01)
        monkeypatch.setattr(settling_module, "LOOK_SECONDS", 0)
        failures, has_failed = iter(range(3)), asyncio.Event()
        original = getattr(audit, step)

        async def failing(*what: Any, **how: Any) -> Any:
            if next(failures, None) is not None:
                raise ValueError
            has_failed.set()
            return await original(*what, **how)

        monkeypatch.setattr(audit, step, failing)

        async def is_settled() -> bool:
            return not await pending(db, caller)

        await add(db, caller)
        async with settling(Ledger(db, SIGNER)):
            await has_failed.wait()
            await until(is_settled)
        assert len(await recorded(db, caller)) == 1


class TestLoad:
    async def test_readers_of_one_process_wait_on_one_connection(
        self, db: Database, other_db: Database, caller: Caller
    ) -> None:
        await add(db, caller)
        ledger = Ledger(db)
        async with other_db.begin_system() as tx:
            await audit.lock_head(tx.of(caller.tenant_id))
            readers = [asyncio.ensure_future(ledger.settle(caller)) for _ in range(8)]
            # Once all have looked, one connection of the pool waits for them, and others are served.
            async with patience():
                while db.checked_out > 1 or not ledger._settling:  # noqa: ASYNC110 - a pool gives no signal
                    await asyncio.sleep(0.01)
            async with patience(), db.read(Caller()) as mine:
                await audit.pending(mine)
        await asyncio.gather(*readers)
        assert await pending(db, caller) == 0

    async def test_large_responses_are_settled_in_parts(
        self, db: Database, caller: Caller, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(facts, "MOST_TEXT_AT_ONCE", 50)
        monkeypatch.setattr(facts, "MOST_BYTES_AT_ONCE", 500)
        turns = [await add(db, caller, f"word{place} " * 20) for place in range(12)]
        async with db.begin_system() as tx:
            parts = await facts.portions(tx.of(caller.tenant_id), [turn.id for turn in turns])
        assert [turn_id for part in parts for turn_id in part] == [turn.id for turn in turns]
        assert len(parts) > 2
        await Ledger(db).settle(caller)
        found = await known(db, caller)
        assert found == {turn.id for turn in turns}


class TestBesideAnEarlierRelease:
    async def test_what_it_has_ended_is_seen_to_have_ended(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        turn = a_turn()
        async with db.begin(caller) as tx:
            await enqueue(tx, turn)
        ledger = Ledger(db)
        await ledger.settle(caller)
        ended = "update responses set status = 2, finished_at = now() where id = $1"
        await execute(database_url, ended, turn.id)
        for _ in range(2):
            await ledger.begin()
            await ledger.settle(caller)
        rows = await execute(database_url, "select status from response_facts where id = $1", turn.id)
        assert [row["status"] for row in rows] == [Status.COMPLETED]
        counted = "select sum(count) n from response_stats where tenant_id = $1"
        assert (await execute(database_url, counted, caller.tenant_id))[0]["n"] == 1


@pytest.mark.parametrize("is_settled_between", [False, True])
async def test_what_was_deleted_is_counted_all_the_same_and_once(
    db: Database, caller: Caller, database_url: str, *, is_settled_between: bool
) -> None:
    turn = await add(db, caller)
    if is_settled_between:
        await Ledger(db).settle(caller)
    await delete(db, caller, turn)
    await Ledger(db).settle(caller)
    counted = "select sum(count) n from response_stats where tenant_id = $1"
    assert (await execute(database_url, counted, caller.tenant_id))[0]["n"] == 1
    assert not await execute(database_url, "select id from response_facts where id = $1", turn.id)


async def known(db: Database, caller: Caller) -> set[UUID]:
    """The responses of a tenant that have facts."""
    async with db.begin_system() as tx:
        rows = await tx._driver.fetch("select id from response_facts where tenant_id = $1", caller.tenant_id)
    return {UUID(int=row["id"].int) for row in rows}
