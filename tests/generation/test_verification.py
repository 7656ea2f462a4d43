"""Tampering: whatever is done to a trail behind its back, verifying it names the record."""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from app import ids
from app.domain.audit import Action, Checkpoint, Fault, Head, Record, chain
from app.domain.signing import Signer
from app.domain.tenancy import Caller
from app.generation import verification
from app.generation.verification import Verdict, verify, verify_newest
from app.store import audit, outbox
from app.store.db import Database
from app.store.tables import audit_checkpoints, audit_heads, audit_records
from tests.store.turns import add, delete
from tests.trails import SIGNER, behind_the_trigger, recorded, settle, vouch

ATTACKER = Signer(b"x" * 32)

MIDDLE, LAST = 5, 9
"""Where the trail has its checkpoints; it ends with the second one."""


@pytest.fixture
async def trail(db: Database, caller: Caller) -> Caller:
    """Whose trail has nine records of all kinds, and two signed checkpoints."""
    keyed = replace(caller, key_id=ids.new_uuid())
    for _ in range(2):
        turn = await add(db, keyed)
        await delete(db, keyed, turn)
    async with db.begin(keyed) as tx:
        await outbox.note(tx, Action.RESPONSES_LISTED, None, {"count": 3})
    await settle(db, caller)
    await vouch(db, caller)
    for _ in range(4):
        await add(db, keyed)
    await settle(db, caller)
    await vouch(db, caller)
    assert len(await recorded(db, caller)) == LAST
    return caller


async def tamper(database_url: str, caller: Caller, *statements: str) -> None:
    """Statements in which `:mine` is the tenant."""
    async with behind_the_trigger(database_url) as connection:
        for statement in statements:
            done = await connection.execute(statement.replace(":mine", f"tenant_id = {caller.tenant_id}"))
            assert not done.endswith(" 0"), statement


async def found(
    db: Database, caller: Caller, trusted: Collection[bytes] = SIGNER.trusted, **how: Any
) -> Fault | None:
    verdict = await verify(db, caller, trusted=trusted, **how)
    return verdict.fault


OTHERWISE: dict[type[Any], tuple[str, ...]] = {
    sa.BigInteger: ("{0} + 1000000",),
    sa.SmallInteger: ("{0} + 1", "99", "-1"),
    sa.TIMESTAMP: ("{0} + interval '1 microsecond'", "'infinity'", "'4000-01-01 BC'"),
    sa.LargeBinary: ("sha256(coalesce({0}, '')::bytea)", "''", "null"),
    sa.Text: ("{0} || ' '", "'{{}}'", "''"),
    sa.Uuid: ("gen_random_uuid()", "null"),
}
"""What a value of each type is changed to."""


def changes(table: sa.Table) -> list[tuple[str, str]]:
    """Every column with everything that it is changed to."""
    return [
        (column.name, value.format(f'"{column.name}"'))
        for column in table.columns
        for kind, values in OTHERWISE.items()
        if isinstance(column.type, kind)
        for value in values
        if column.nullable or value != "null"
    ]


@pytest.mark.parametrize("table", [audit_records, audit_checkpoints, audit_heads], ids=str)
def test_no_column_is_left_out(table: sa.Table) -> None:
    assert {name for name, _ in changes(table)} == set(table.columns.keys())


async def test_an_untouched_trail_is_what_it_was(db: Database, trail: Caller) -> None:
    verdict = await verify(db, trail, trusted=SIGNER.trusted)
    head = Head(LAST, (await recorded(db, trail))[-1].hash)
    assert verdict == Verdict(head, records=LAST, checkpoints=2, signed=2, vouched_seq=LAST, fault=None)


class TestRecords:
    @pytest.mark.parametrize(("column", "value"), changes(audit_records))
    @pytest.mark.parametrize("seq", [1, 3, LAST])
    async def test_a_changed_column_is_found(
        self, db: Database, trail: Caller, database_url: str, column: str, value: str, seq: int
    ) -> None:
        change = f'update audit_records set "{column}" = {value} where :mine and seq = {seq}'
        await tamper(database_url, trail, change)
        fault = await found(db, trail)
        assert fault
        assert fault.seq == seq

    @pytest.mark.parametrize("seq", [1, 3, LAST])
    async def test_a_removed_one_is_missed(
        self, db: Database, trail: Caller, database_url: str, seq: int
    ) -> None:
        await tamper(database_url, trail, f"delete from audit_records where :mine and seq = {seq}")
        fault = await found(db, trail)
        assert fault
        assert (fault.seq, fault.reason.split(":")[0]) == (seq, "is missing")

    async def test_two_that_have_changed_places_are_found(
        self, db: Database, trail: Caller, database_url: str
    ) -> None:
        moves = ((3, 100), (6, 3), (100, 6))
        statement = "update audit_records set seq = {1} where :mine and seq = {0}"
        await tamper(database_url, trail, *[statement.format(*move) for move in moves])
        fault = await found(db, trail)
        assert fault
        assert fault.seq == 3

    async def test_one_that_was_put_between_is_found(
        self, db: Database, trail: Caller, database_url: str
    ) -> None:
        """With a hash that fits what is before it, as anybody can make."""
        [forged] = chain(trail.tenant_id, await head_at(db, trail, 6), [(await recorded(db, trail))[0].note])
        await tamper(
            database_url, trail, "update audit_records set seq = seq + 100 where :mine and seq > 6",
            "update audit_records set seq = seq - 99 where :mine and seq > 6",
        )  # fmt: skip
        await insert(database_url, forged)
        assert await found(db, trail) == Fault(8, "does not carry the hash of the one before")

    async def test_one_behind_the_end_is_found(self, db: Database, trail: Caller, database_url: str) -> None:
        [forged] = chain(
            trail.tenant_id, await head_at(db, trail, LAST), [(await recorded(db, trail))[0].note]
        )
        await insert(database_url, forged)
        assert await found(db, trail) == Fault(10, "stands behind the end that the head of the trail says")

    async def test_a_new_hash_for_what_was_changed_helps_nobody(
        self, db: Database, trail: Caller, database_url: str
    ) -> None:
        """Then it is the next record that does not fit."""
        records = list(await recorded(db, trail))
        await rewrite(database_url, trail, forgery(records, 4)[:1])
        assert await found(db, trail) == Fault(5, "does not carry the hash of the one before")

    async def test_nor_do_new_hashes_for_all_that_follows(
        self, db: Database, trail: Caller, database_url: str
    ) -> None:
        await rewrite(database_url, trail, forgery(await recorded(db, trail), 4))
        assert await found(db, trail) == Fault(MIDDLE, "has another hash than its checkpoint says")

    async def test_nor_another_one_in_the_checkpoints(
        self, db: Database, trail: Caller, database_url: str
    ) -> None:
        forged = forgery(await recorded(db, trail), 4)
        await rewrite(database_url, trail, forged)
        for seq in (MIDDLE, LAST):
            own = next(record.hash for record in forged if record.seq == seq)
            change = f"update audit_checkpoints set hash = '\\x{own.hex()}' where :mine and seq = {seq}"
            await tamper(database_url, trail, change)
        fault = await found(db, trail)
        assert fault == Fault(MIDDLE, "has a checkpoint that was changed: its signature does not fit")

    @pytest.mark.parametrize("signer", [ATTACKER, Signer()])
    async def test_nor_signatures_of_somebody_else(
        self, db: Database, trail: Caller, database_url: str, monkeypatch: pytest.MonkeyPatch, signer: Signer
    ) -> None:
        """Nor none at all: what nobody vouches for is told, and is a fault where it cannot be."""
        forged = forgery(await recorded(db, trail), 1)
        await rewrite(database_url, trail, forged)
        for seq in (MIDDLE, LAST):
            await sign(db, database_url, trail, seq, forged[seq - 1].hash, signer)
        verdict = await verify(db, trail, trusted=SIGNER.trusted)
        assert (verdict.fault, verdict.checkpoints, verdict.signed, verdict.vouched_seq) == (None, 2, 0, 0)
        monkeypatch.setattr(verification, "MOST_UNSIGNED", 7)
        fault = await found(db, trail)
        assert fault == Fault(1, "and the 7 after it have no checkpoint that a trusted key signed")
        assert await found(db, trail, trusted=ATTACKER.trusted if signer is ATTACKER else ()) is None

    async def test_a_trail_moved_to_another_tenant_is_found(
        self, db: Database, trail: Caller, database_url: str
    ) -> None:
        other = Caller(trail.tenant_id + 1_000_000)
        for table in (audit_records, audit_checkpoints, audit_heads):
            await tamper(database_url, trail, f"update {table} set tenant_id = {other.tenant_id} where :mine")
        assert await found(db, other) == Fault(1, "was changed: its hash does not fit")
        for table in (audit_records, audit_checkpoints, audit_heads):
            await tamper(database_url, other, f"delete from {table} where :mine")


class TestEnds:
    """What is missing where nothing follows."""

    CUT = "delete from audit_records where :mine and seq > 7"
    MOVED = (
        "update audit_heads h set seq = 7, hash = (select hash from audit_records r where r.tenant_id = "
        "h.tenant_id and seq = 7) where :mine"
    )
    FORGET = "delete from audit_checkpoints where :mine and seq > 7"
    AGREE = (
        "update audit_heads h set checkpoint_seq = p.seq, checkpoint_at = p.at from audit_checkpoints p "
        "where p.tenant_id = h.tenant_id and p.seq = 5 and h.:mine"
    )

    async def test_the_head_tells(self, db: Database, trail: Caller, database_url: str) -> None:
        await tamper(database_url, trail, self.CUT)
        assert await found(db, trail) == Fault(
            8, "is missing: the head of the trail says that the trail went on to 9"
        )

    async def test_the_checkpoint_tells(self, db: Database, trail: Caller, database_url: str) -> None:
        await tamper(database_url, trail, self.CUT, self.MOVED)
        assert await found(db, trail) == Fault(8, "is missing: a checkpoint says that the trail went on to 9")

    async def test_the_head_tells_of_the_checkpoint(
        self, db: Database, trail: Caller, database_url: str
    ) -> None:
        await tamper(database_url, trail, self.CUT, self.MOVED, self.FORGET)
        fault = await found(db, trail)
        assert fault == Fault(LAST, "has lost its checkpoint, of which the head of the trail knows")

    async def test_what_was_kept_elsewhere_tells(
        self, db: Database, trail: Caller, database_url: str
    ) -> None:
        """And nothing else, where everything was made to agree."""
        kept = await checkpoints(db, trail)
        await tamper(database_url, trail, self.CUT, self.MOVED, self.FORGET, self.AGREE)
        assert await found(db, trail) is None
        assert await found(db, trail, kept=kept) == Fault(
            8, "is missing: a checkpoint that was kept says that the trail went on to 9"
        )

    async def test_so_it_does_of_what_was_written_anew(
        self, db: Database, trail: Caller, database_url: str
    ) -> None:
        kept = await checkpoints(db, trail)
        await tamper(database_url, trail, "delete from audit_checkpoints where :mine")
        await tamper(database_url, trail, "update audit_heads set checkpoint_seq = 0 where :mine")
        await rewrite(database_url, trail, forgery(await recorded(db, trail), 1))
        assert await found(db, trail) is None
        assert await found(db, trail, kept=kept) == Fault(
            MIDDLE, "has another hash than the checkpoint that was kept says"
        )

    async def test_a_whole_trail_is_missed(self, db: Database, trail: Caller, database_url: str) -> None:
        kept = await checkpoints(db, trail)
        for table, who in (
            ("audit_records", "the head of the trail"),
            ("audit_heads", "a checkpoint"),
            ("audit_checkpoints", "a checkpoint that was kept"),
        ):
            await tamper(database_url, trail, f"delete from {table} where :mine")
            fault = await found(db, trail, kept=kept)
            assert fault == Fault(1, f"is missing: {who} says that the trail went on to 9")


class TestHeadsAndCheckpoints:
    @pytest.mark.parametrize(
        ("column", "value"),
        [*changes(audit_heads), ("seq", "seq - 1"), ("checkpoint_seq", "checkpoint_seq - 1")],
    )
    async def test_a_changed_head_is_found(
        self, db: Database, trail: Caller, database_url: str, column: str, value: str
    ) -> None:
        await tamper(database_url, trail, f'update audit_heads set "{column}" = {value} where :mine')
        fault = await found(db, trail)
        assert fault
        if column == "tenant_id":
            await tamper(
                database_url, Caller(trail.tenant_id + 1_000_000), "delete from audit_heads where :mine"
            )

    @pytest.mark.parametrize(("column", "value"), [*changes(audit_checkpoints), ("seq", "seq - 1")])
    async def test_a_changed_checkpoint_is_found(
        self, db: Database, trail: Caller, database_url: str, column: str, value: str
    ) -> None:
        change = f'update audit_checkpoints set "{column}" = {value} where :mine and seq = {LAST}'
        await tamper(database_url, trail, change)
        fault = await found(db, trail)
        assert fault
        assert fault.seq in {LAST - 1, LAST, LAST + 1}
        assert "checkpoint" in fault.reason

    @pytest.mark.parametrize("column", ["at", "hash", "public_key", "signature"])
    async def test_so_is_one_that_others_follow(
        self, db: Database, trail: Caller, database_url: str, column: str
    ) -> None:
        for name, value in changes(audit_checkpoints):
            if name == column:
                kept = f"select {column} from audit_checkpoints where :mine and seq = {MIDDLE}"
                async with behind_the_trigger(database_url) as connection:
                    before = await connection.fetchval(
                        kept.replace(":mine", f"tenant_id = {trail.tenant_id}")
                    )
                change = f"update audit_checkpoints set {name} = {value} where :mine and seq = {MIDDLE}"
                await tamper(database_url, trail, change)
                fault = await found(db, trail)
                assert fault
                assert fault.seq == MIDDLE
                async with behind_the_trigger(database_url) as connection:
                    back = f"update audit_checkpoints set {name} = $3 where tenant_id = $1 and seq = $2"
                    await connection.execute(back, trail.tenant_id, MIDDLE, before)

    async def test_without_keys_signatures_need_not_be_there(self, db: Database, caller: Caller) -> None:
        """But those that are there have to fit."""
        await add(db, caller)
        await settle(db, caller, Signer())
        await vouch(db, caller, Signer())
        verdict = await verify(db, caller)
        assert (verdict.fault, verdict.checkpoints, verdict.signed) == (None, 1, 0)

    async def test_what_a_forgotten_key_signed_is_covered_by_a_later_one(
        self, db: Database, trail: Caller
    ) -> None:
        await add(db, trail)
        await settle(db, trail, ATTACKER)
        await vouch(db, trail, ATTACKER)
        verdict = await verify(db, trail, trusted=ATTACKER.trusted)
        assert (verdict.fault, verdict.checkpoints, verdict.signed, verdict.vouched_seq) == (None, 3, 1, 10)


class TestWhileItGoesOn:
    async def test_what_is_appended_meanwhile_is_no_fault(
        self, db: Database, caller: Caller, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(verification, "PAGE", 3)
        is_over = asyncio.Event()

        async def go_on() -> int:
            count = 0
            while not is_over.is_set():
                await add(db, caller)
                await settle(db, caller)
                await vouch(db, caller)
                count += 1
            return count

        going = asyncio.ensure_future(go_on())
        for _ in range(20):
            assert await found(db, caller) is None
        is_over.set()
        assert await going

    async def test_each_page_is_told_of_once_it_was_right(
        self, db: Database, trail: Caller, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(verification, "PAGE", 4)
        told = list[list[int]]()

        async def tell(records: Sequence[Record]) -> None:
            told.append([record.seq for record in records])

        assert await found(db, trail, on_page=tell) is None
        assert told == [[1, 2, 3, 4], [5, 6, 7, 8], [9]]
        told.clear()
        await tamper(database_url, trail, "update audit_records set data = '' where :mine and seq = 6")
        assert await found(db, trail, on_page=tell) == Fault(6, "was changed: its hash does not fit")
        assert told == [[1, 2, 3, 4]]


class TestNewest:
    @pytest.mark.parametrize(("at_most", "start"), [(3, 6), (8, 1), (9, 0), (100, 0)])
    async def test_so_many_are_read(self, db: Database, trail: Caller, at_most: int, start: int) -> None:
        place, verdict = await verify_newest(db, trail, trusted=SIGNER.trusted, at_most=at_most)
        assert place.seq == start
        assert (verdict.fault, verdict.head.seq, verdict.records) == (None, LAST, LAST - start)

    async def test_what_is_older_is_taken_to_be_right(
        self, db: Database, trail: Caller, database_url: str
    ) -> None:
        await tamper(database_url, trail, "update audit_records set data = '' where :mine and seq in (2, 7)")
        for at_most, seq in ((2, None), (5, 7), (100, 2)):
            _, verdict = await verify_newest(db, trail, trusted=SIGNER.trusted, at_most=at_most)
            assert (verdict.fault and verdict.fault.seq) == seq

    @pytest.mark.parametrize(("seq", "at_most"), [(1, 100), (6, 3), (6, 5)])
    async def test_one_that_cannot_be_read_is_named(
        self, db: Database, trail: Caller, database_url: str, seq: int, at_most: int
    ) -> None:
        tampering = f"update audit_records set at = '4000-01-01 BC' where :mine and seq = {seq}"
        await tamper(database_url, trail, tampering)
        _, verdict = await verify_newest(db, trail, trusted=SIGNER.trusted, at_most=at_most)
        assert verdict.fault
        assert verdict.fault.seq == seq

    async def test_an_empty_trail_is_right(self, db: Database, caller: Caller) -> None:
        place, verdict = await verify_newest(db, caller, trusted=SIGNER.trusted, at_most=9)
        assert (place, verdict) == (Head(), Verdict(Head()))


async def checkpoints(db: Database, caller: Caller) -> list[Checkpoint]:
    async with db.read(caller) as tx:
        return await audit.checkpoints(tx, after=0, limit=100)


async def head_at(db: Database, caller: Caller, seq: int) -> Head:
    return Head(seq, (await recorded(db, caller))[seq - 1].hash)


def forgery(records: Sequence[Record], seq: int) -> list[Record]:
    """The trail from a record on, as whoever has changed that one would write it."""
    before = Head(seq - 1, records[seq - 1].previous_hash)
    notes = [record.note for record in records[seq - 1 :]]
    return list(chain(records[0].tenant_id, before, [replace(notes[0], key_id=None), *notes[1:]]))


async def rewrite(database_url: str, caller: Caller, records: Sequence[Record]) -> None:
    """Put these in the place of those that are there, and let the head agree if they reach it."""
    first, last = records[0], records[-1]
    places = f":mine and seq between {first.seq} and {last.seq}"
    await tamper(database_url, caller, f"delete from audit_records where {places}")
    await insert(database_url, *records)
    head = f"update audit_heads set hash = '\\x{last.hash.hex()}' where :mine"
    if last.seq == LAST:
        await tamper(database_url, caller, head)


async def insert(database_url: str, *records: Record) -> None:
    names = "tenant_id, seq, at, subject, key_id, action, digest, previous_hash, hash, data"
    async with behind_the_trigger(database_url) as connection:
        for record in records:
            note = record.note
            await connection.execute(
                f"insert into audit_records ({names}) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
                record.tenant_id, record.seq, note.at, note.subject, note.key_id, note.action, note.digest,
                record.previous_hash, record.hash, note.data,
            )  # fmt: skip


async def sign(
    db: Database, database_url: str, caller: Caller, seq: int, trail_hash: bytes, signer: Signer
) -> None:
    """Put another's signature, or none, under what a checkpoint is made to say."""
    at = next(each.at for each in await checkpoints(db, caller) if each.seq == seq)
    forged = signer.signed(caller.tenant_id, Checkpoint(seq, at, trail_hash))
    async with behind_the_trigger(database_url) as connection:
        await connection.execute(
            "update audit_checkpoints set hash = $3, public_key = $4, signature = $5 "
            "where tenant_id = $1 and seq = $2",
            caller.tenant_id, seq, forged.hash, forged.public_key, forged.signature,
        )  # fmt: skip
