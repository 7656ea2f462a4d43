"""The trail as tables: who may write what, and in which pages it is read."""

from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from app import ids
from app.domain.audit import BEGINNING, SERVER, Action, Head
from app.domain.tenancy import Caller
from app.store import audit, outbox
from app.store.audit import State
from app.store.db import Database
from app.store.tables import TENANT_ROLE
from tests.background import execute
from tests.builders import a_caller
from tests.store.turns import a_turn, add
from tests.trails import SIGNER, recorded, settle, vouch

APPEND_ONLY = ("audit_records", "audit_checkpoints")
OF_THE_LEDGER = (*APPEND_ONLY, "audit_heads")
CHANGES = ("update {table} set seq = seq", "delete from {table}", "truncate {table}")


FILL = """
insert into audit_records (tenant_id, seq, at, action, subject, key_id, previous_hash, hash, data)
select $1, n, now(), n % 20, lpad((n % 900)::text, 32, '0')::uuid, lpad((n % 50)::text, 32, '0')::uuid, '', '', ''
from generate_series(1, 5000) n
"""


@pytest.fixture
async def trail(db: Database, caller: Caller) -> Caller:
    """Whose trail has three records and a checkpoint."""
    for _ in range(3):
        await add(db, caller)
    await settle(db, caller)
    await vouch(db, caller)
    return caller


class TestWriting:
    @pytest.mark.parametrize("table", APPEND_ONLY)
    @pytest.mark.parametrize("change", CHANGES)
    async def test_its_owner_too_may_only_append(
        self, trail: Caller, database_url: str, table: str, change: str
    ) -> None:
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
            await execute(database_url, change.format(table=table))

    @pytest.mark.parametrize("table", OF_THE_LEDGER)
    @pytest.mark.parametrize("change", [*CHANGES, "insert into {table} select * from {table}"])
    async def test_a_request_may_not_even_append(
        self, db: Database, trail: Caller, table: str, change: str
    ) -> None:
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="permission denied"):
            async with db.begin(trail) as tx:
                await tx._driver.fetch(change.format(table=table))

    @pytest.mark.parametrize("change", CHANGES)
    async def test_what_a_request_has_noted_it_may_not_take_back(
        self, db: Database, caller: Caller, change: str
    ) -> None:
        await add(db, caller)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with db.begin(caller) as tx:
                await tx._driver.fetch(change.format(table="audit_outbox"))

    async def test_a_request_notes_in_its_own_trail_alone(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        other = await a_caller(database_url)
        statement = "insert into audit_outbox (tenant_id, action, data) values ($1, 1, '{}')"
        async with db.begin(caller) as tx:
            await tx._driver.fetch(statement, caller.tenant_id)
        for tenant_id in (other.tenant_id, SERVER):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                async with db.begin(caller) as tx:
                    await tx._driver.fetch(statement, tenant_id)

    @pytest.mark.parametrize("table", [*OF_THE_LEDGER, "audit_outbox"])
    async def test_of_anothers_nothing_can_be_read(
        self, db: Database, trail: Caller, database_url: str, table: str
    ) -> None:
        await add(db, trail)
        stranger = await a_caller(database_url)
        statement = f"select count(*) from {table} where tenant_id = {trail.tenant_id}"
        for caller, may_see in ((trail, True), (stranger, False)):
            async with db.read(caller) as tx:
                [row] = await tx._driver.fetch(statement)
            assert bool(row["count"]) is may_see

    async def test_the_triggers_function_is_nothing_that_the_role_could_replace(self, db: Database) -> None:
        async with db.begin_system() as tx:
            [row] = await tx._driver.fetch(
                "select has_schema_privilege($1, 'public', 'create') as may", TENANT_ROLE
            )
        assert not row["may"]


class TestReading:
    async def test_pages_neither_skip_nor_repeat(self, db: Database, caller: Caller) -> None:
        for _ in range(7):
            await add(db, caller)
        await settle(db, caller)
        for newest_first in (True, False):
            found, after = list[int](), None
            while True:
                async with db.read(caller) as tx:
                    page = await audit.page(tx, limit=3, newest_first=newest_first, after=after)
                if not page:
                    break
                found += [record.seq for record in page]
                after = found[-1]
            assert found == sorted(range(1, 8), reverse=newest_first)

    async def test_each_filter_picks_its_own(self, db: Database, caller: Caller) -> None:
        key_id, turn = ids.new_uuid(), await add(db, caller)
        async with db.begin(replace(caller, key_id=key_id)) as tx:
            await outbox.note(tx, Action.RESPONSE_READ, turn.id)
            await outbox.note(tx, Action.RESPONSES_LISTED)
        await settle(db, caller)
        asked: dict[str, Any] = {"action": Action.RESPONSE_CREATED, "subject": turn.id, "key_id": key_id}
        expected = {"action": [1], "subject": [2, 1], "key_id": [3, 2]}
        assert asked.keys() == set(audit.FILTERS)
        for by, value in asked.items():
            async with db.read(caller) as tx:
                page = await audit.page(tx, limit=9, newest_first=True, by=by, value=value)
            assert [record.seq for record in page] == expected[by]

    @pytest.mark.parametrize("by", audit.FILTERS)
    async def test_each_filter_has_an_index_in_the_order_of_the_trail(
        self, database_url: str, caller: Caller, by: str
    ) -> None:
        statement, values = (
            audit._pages[True, by],
            {"action": 7, "subject": UUID(int=7), "key_id": UUID(int=7)},
        )
        arguments = statement.arguments(
            {"tenant_id": caller.tenant_id, "after": 1 << 60, "limit": 3, "value": values[by]}
        )
        connection: Any = await asyncpg.connect(database_url)
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(FILL, caller.tenant_id)
        await connection.execute("analyze audit_records")
        rows = await connection.fetch(f"explain {statement.sql}", *arguments)
        await transaction.rollback()
        await connection.close()
        plan = "\n".join(row["QUERY PLAN"] for row in rows)
        assert f"ix_audit_records__{by}" in plan
        assert "Sort" not in plan

    async def test_its_state_is_what_its_head_says_beside_what_there_is(
        self, db: Database, trail: Caller
    ) -> None:
        await add(db, trail)
        await settle(db, trail)
        records = await recorded(db, trail)
        async with db.read(trail) as tx:
            [row] = await tx._driver.fetch("select at::text from audit_checkpoints")
            last = (3, row["at"])
            assert await audit.state(tx) == State(Head(4, records[-1].hash), last, 4, last)

    async def test_a_trail_without_anything_has_no_head(self, db: Database, caller: Caller) -> None:
        async with db.read(caller) as tx:
            assert await audit.head(tx) == Head(0, BEGINNING)
            assert await audit.state(tx) == State(Head(), (0, None), 0, (0, None))

    async def test_of_a_kind_the_last_is_found_wherever_it_is(self, db: Database, caller: Caller) -> None:
        async def note(process: str, number: int) -> None:
            async with db.begin(caller) as tx:
                data = {"process": process, "number": number}
                await outbox.note(tx, Action.SETTINGS_CHANGED, None, data)

        async def last(process: str) -> str | None:
            async with db.read(caller) as tx:
                beginning = outbox.text({"process": process})[:-1]
                return await audit.last_data(tx, Action.SETTINGS_CHANGED, beginning)

        await note("api", 1)
        await note("worker", 2)
        await settle(db, caller)
        assert await last("api") == '{"process":"api","number":1}'
        await note("api", 3)
        assert await last("api") == '{"process":"api","number":3}'
        assert await last("worker") == '{"process":"worker","number":2}'
        assert await last("other") is None


class TestCheckpoints:
    async def test_who_vouches_says_when(self, db: Database, trail: Caller) -> None:
        async with db.read(trail) as tx:
            [checkpoint] = await audit.checkpoints(tx, after=0, limit=9)
        assert SIGNER.signed(trail.tenant_id, replace(checkpoint, public_key=None)) == checkpoint
        assert checkpoint.hash == (await recorded(db, trail))[-1].hash

    async def test_those_are_found_whose_trails_went_on(self, db: Database, trail: Caller) -> None:
        async def are_unsigned() -> bool:
            async with db.begin_system() as tx:
                return trail.tenant_id in await audit.unsigned(tx, age=timedelta(days=-1))

        assert not await are_unsigned()
        await add(db, trail)
        await settle(db, trail)
        assert await are_unsigned()

    async def test_all_trails_are_found_whatever_is_left_of_them(
        self, db: Database, trail: Caller, database_url: str
    ) -> None:
        await execute(database_url, "delete from audit_heads where tenant_id = $1", trail.tenant_id)
        async with db.begin_system() as tx:
            assert trail.tenant_id in await audit.trails(tx)


async def test_notes_of_one_statement_keep_their_order(db: Database, caller: Caller) -> None:
    turns = [a_turn() for _ in range(20)]
    async with db.autocommit(caller) as tx:
        await outbox.note_many(
            tx, [(Action.RESPONSE_READ, turn.id, {"n": n}) for n, turn in enumerate(turns)]
        )
    await settle(db, caller)
    records = await recorded(db, caller)
    assert [(record.note.subject, record.note.data) for record in records] == [
        (turn.id, outbox.text({"n": n})) for n, turn in enumerate(turns)
    ]
