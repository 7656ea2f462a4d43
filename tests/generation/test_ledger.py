"""Settling: every note gets one place in its trail, in the order of what it tells of, whatever happens."""

import asyncio
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from random import randbytes
from uuid import UUID

import orjson
import pytest

from app import ids
from app.domain.audit import Action, word_of
from app.domain.facts import Price
from app.domain.response import Status
from app.domain.signing import Signer
from app.domain.tenancy import Caller
from app.generation import ledger as settling_module
from app.generation.ledger import Ledger
from app.store import audit, lifecycle, outbox
from app.store.codec import compress
from app.store.db import Database
from tests.background import execute
from tests.builders import a_caller
from tests.generation.settling import age, enqueue, facts_of, finish, run
from tests.store.turns import a_turn, add, delete, put
from tests.trails import SIGNER, behind_the_trigger, pending, recorded, settle

CREATED, FINISHED, DELETED = Action.RESPONSE_CREATED, Action.RESPONSE_FINISHED, Action.RESPONSE_DELETED


@pytest.fixture(scope="module")
def database_url(quiet_database_url: str) -> str:
    """A database of its own: workers settle for every tenant."""
    return quiet_database_url


class TestPlaces:
    async def test_several_settlers_leave_no_gap_and_write_nothing_twice(
        self, db: Database, other_db: Database, caller: Caller
    ) -> None:
        turns = [a_turn() for _ in range(120)]
        is_over = asyncio.Event()

        async def keep_settling(ledger: Ledger) -> None:
            while not is_over.is_set():
                await ledger.settle(caller)

        settlers = [
            asyncio.ensure_future(keep_settling(Ledger(each, SIGNER))) for each in (db, other_db, other_db)
        ]
        for place in range(0, len(turns), 10):
            await asyncio.gather(*[put(db, caller, turn) for turn in turns[place : place + 10]])
        is_over.set()
        await asyncio.gather(*settlers)
        await settle(db, caller)
        records = await recorded(db, caller)
        assert [record.seq for record in records] == list(range(1, len(turns) + 1))
        assert {record.note.subject for record in records} == {turn.id for turn in turns}

    async def test_what_was_done_to_a_response_is_in_the_order_in_which_it_was_done(
        self, db: Database, other_db: Database, caller: Caller
    ) -> None:
        lives = [asyncio.ensure_future(run(db, caller, a_turn())) for _ in range(30)]
        while not all(life.done() for life in lives):
            await settle(other_db, caller)
        await asyncio.gather(*lives)
        await settle(db, caller)
        told = defaultdict[UUID | None, list[int]](list)
        for record in await recorded(db, caller):
            told[record.note.subject].append(record.note.action)
        assert list(told.values()) == [[CREATED, FINISHED, DELETED]] * 30

    async def test_whose_doing_it_was_is_told(self, db: Database, caller: Caller) -> None:
        key_id = ids.new_uuid()
        turn = await put(db, replace(caller, key_id=key_id), a_turn())
        await delete(db, caller, turn)
        await settle(db, caller)
        assert [record.note.key_id for record in await recorded(db, caller)] == [key_id, None]

    async def test_a_batch_is_not_a_limit(
        self, db: Database, caller: Caller, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(settling_module, "BATCH", 2)
        for _ in range(7):
            await add(db, caller)
        await settle(db, caller)
        assert len(await recorded(db, caller)) == 7

    async def test_a_reader_leaves_the_greater_part_to_the_workers(
        self, db: Database, caller: Caller, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(settling_module, "BATCH", 1)
        for _ in range(settling_module.BEFORE_READING + 3):
            await add(db, caller)
        await settle(db, caller)
        assert await pending(db, caller) == 3

    async def test_what_was_undone_was_never_noted(self, db: Database, caller: Caller) -> None:
        async def fail() -> None:
            async with db.begin(caller) as tx:
                await lifecycle.append(tx, a_turn())
                await outbox.note(tx, Action.CONVERSATION_CREATED, a_turn().id)
                raise KeyError

        with pytest.raises(KeyError):
            await fail()
        kept = await add(db, caller)
        await settle(db, caller)
        assert [record.note.subject for record in await recorded(db, caller)] == [kept.id]

    async def test_what_changes_nothing_is_not_noted(self, db: Database, caller: Caller) -> None:
        turn = await add(db, caller)
        await put(db, caller, turn)
        await delete(db, caller, turn)
        await delete(db, caller, turn)
        await settle(db, caller)
        assert [record.note.action for record in await recorded(db, caller)] == [CREATED, DELETED]


class TestCreating:
    async def test_it_waits_for_no_trail(self, db: Database, other_db: Database, caller: Caller) -> None:
        """A create that took the head's lock would wait until its statement is given up."""
        await settle(db, caller)
        async with other_db.begin_system() as holding:
            await audit.lock_head(holding.of(caller.tenant_id))
            await asyncio.gather(*[put(db, caller, a_turn()) for _ in range(200)])
            assert await pending(db, caller) == 200
        await settle(db, caller)
        assert len(await recorded(db, caller)) == 200


class Deadly(Mapping[str, Price]):
    """A price list that ends the process of whoever looks into it: in the middle of settling."""

    class Killed(BaseException):
        pass

    def __iter__(self) -> Iterator[str]:
        raise self.Killed

    def __getitem__(self, key: str) -> Price:
        raise self.Killed

    def __len__(self) -> int:
        return 1


class TestFaults:
    async def test_who_is_killed_while_settling_has_done_nothing(self, db: Database, caller: Caller) -> None:
        turns = [await add(db, caller) for _ in range(3)]
        with pytest.raises(Deadly.Killed):
            await Ledger(db, SIGNER, Deadly()).settle(caller)
        assert await recorded(db, caller) == []
        assert await pending(db, caller) == 3
        await settle(db, caller)
        assert [record.note.subject for record in await recorded(db, caller)] == [turn.id for turn in turns]
        assert len(await facts_of(db, caller)) == 3

    @pytest.mark.parametrize(
        "body",
        [b"damaged", compress(orjson.dumps({"metadata": {"a": randbytes(9000).hex()}}))],
        ids=["for us", "for Postgres"],
    )
    async def test_a_response_that_cannot_be_taken_stops_nothing(
        self, db: Database, caller: Caller, database_url: str, body: bytes
    ) -> None:
        good, poisoned, last = [await add(db, caller) for _ in range(3)]
        await execute(database_url, "update responses set body = $2 where id = $1", poisoned.id, body)
        await settle(db, caller)
        assert len(await recorded(db, caller)) == 3
        assert (await facts_of(db, caller)).keys() == {good.id, last.id}

    async def test_what_a_later_release_has_noted_keeps_its_place(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        statement = "insert into audit_outbox (tenant_id, action, data) values ($1, 199, '{}')"
        await execute(database_url, statement, caller.tenant_id)
        await add(db, caller)
        await settle(db, caller)
        assert [word_of(record.note.action) for record in await recorded(db, caller)] == [
            "unknown.199",
            "response.created",
        ]

    async def test_a_trail_that_cannot_go_on_holds_up_neither_others_nor_readers(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        later = await a_caller(database_url)
        assert later.tenant_id > caller.tenant_id
        await add(db, caller)
        await settle(db, caller)
        async with behind_the_trigger(database_url) as connection:
            await connection.execute(f"update audit_heads set seq = 0 where tenant_id = {caller.tenant_id}")
        for each in (caller, later):
            await add(db, each)
        await Ledger(db, SIGNER).settle_all()
        assert len(await recorded(db, later)) == 1
        await settle(db, caller)
        assert await pending(db, caller) == 1
        # It would be in the way of the tests after this one.
        await execute(database_url, "delete from audit_outbox where tenant_id = $1", caller.tenant_id)


class TestFacts:
    async def test_they_follow_what_is_done(self, db: Database, caller: Caller) -> None:
        turn = a_turn()
        async with db.begin(caller) as tx:
            await enqueue(tx, turn)
        await settle(db, caller)
        assert await facts_of(db, caller) == {turn.id: Status.QUEUED}
        await finish(db, caller, turn)
        await settle(db, caller)
        assert await facts_of(db, caller) == {turn.id: Status.COMPLETED}
        await delete(db, caller, turn)
        await settle(db, caller)
        assert await facts_of(db, caller) == {}

    async def test_they_know_whose_doing_it_was_ever_after(self, db: Database, caller: Caller) -> None:
        key_id, turn = ids.new_uuid(), a_turn()
        async with db.begin(replace(caller, key_id=key_id)) as tx:
            await enqueue(tx, turn)
        await settle(db, caller)
        await finish(db, caller, turn)
        await settle(db, caller)
        async with db.read(caller) as tx:
            [row] = await tx._driver.fetch("select key_id from response_facts where id = $1", turn.id)
        assert row["key_id"] == key_id

    async def test_reads_and_conversations_have_none(self, db: Database, caller: Caller) -> None:
        async with db.begin(caller) as tx:
            await outbox.note(tx, Action.RESPONSE_READ, a_turn().id)
            await outbox.note(tx, Action.CONVERSATION_CREATED, a_turn().id)
        await settle(db, caller)
        assert await facts_of(db, caller) == {}


async def checkpoints(db: Database, caller: Caller) -> list[tuple[int, bytes | None]]:
    async with db.read(caller) as tx:
        return [(each.seq, each.public_key) for each in await audit.checkpoints(tx, after=0, limit=100)]


class TestCheckpoints:
    async def test_one_comes_with_so_many_records(
        self, db: Database, caller: Caller, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(settling_module, "CHECKPOINT_RECORDS", 5)
        monkeypatch.setattr(settling_module, "BATCH", 2)
        for _ in range(9):
            await add(db, caller)
        await settle(db, caller)
        assert await checkpoints(db, caller) == [(6, SIGNER.public_key)]

    async def test_one_comes_with_the_first_record_after_a_while(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        await add(db, caller)
        await settle(db, caller)
        await age(database_url, caller)
        await add(db, caller)
        await settle(db, caller)
        assert await checkpoints(db, caller) == [(2, SIGNER.public_key)]

    async def test_a_trail_at_rest_gets_its_one(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        await add(db, caller)
        await settle(db, caller)
        await Ledger(db, SIGNER).vouch()
        assert await checkpoints(db, caller) == []
        await age(database_url, caller)
        for _ in range(2):
            await Ledger(db, SIGNER).vouch()
        assert await checkpoints(db, caller) == [(1, SIGNER.public_key)]

    async def test_without_a_key_it_is_not_signed(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        await add(db, caller)
        await settle(db, caller)
        await age(database_url, caller)
        await Ledger(db).vouch()
        assert await checkpoints(db, caller) == [(1, None)]

    async def test_a_trail_that_nobody_has_signed_is_signed_when_there_is_a_key(
        self, db: Database, other_db: Database, caller: Caller, database_url: str
    ) -> None:
        """Noted once, though several workers start at once; and no more once it is done."""
        await add(db, caller)
        await settle(db, caller)
        await age(database_url, caller)
        await Ledger(db).vouch()
        await Ledger(db).begin()
        assert await pending(db, caller) == 0
        await asyncio.gather(*[Ledger(each, SIGNER).begin() for each in (db, other_db, db)])
        await age(database_url, caller)
        await settle(db, caller)
        assert [each.note.action for each in await recorded(db, caller)] == [CREATED, Action.AUDIT_SIGNED]
        assert await checkpoints(db, caller) == [(1, None), (2, SIGNER.public_key)]
        await Ledger(db, SIGNER).begin()
        await Ledger(db, Signer(bytes(32), [bytes(range(32))])).begin()
        assert await pending(db, caller) == 0
