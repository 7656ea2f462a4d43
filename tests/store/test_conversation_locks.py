"""One response at a time: the lock."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest

from app import ids
from app.domain.conversation import Lock, Reading
from app.domain.response import Status
from app.domain.tenancy import Caller
from app.domain.turn import Ancestry
from app.errors import Conflict
from app.store import conversation_locks, conversations, lifecycle
from app.store.db import Database, Tx
from tests.background import execute
from tests.store.conversing import (
    answering,
    append,
    delete,
    expire,
    heard,
    is_free,
    lock_of,
    made,
    respond,
    say,
    take,
    taken,
)
from tests.waiting import until


async def renew(db: Database, *locks: Lock, lease_seconds: float = 30) -> set[Lock]:
    async with db.begin_system() as tx:
        return await conversation_locks.renew(tx, locks, lease_seconds=lease_seconds)


async def promise(db: Database, caller: Caller, lock: Lock) -> bool:
    async with db.begin(caller) as tx:
        return await conversation_locks.promise(tx, lock.conversation_id, lock.response_id)


async def release(db: Database, caller: Caller, lock: Lock) -> None:
    async with db.begin(caller) as tx:
        await conversation_locks.release(tx, lock.conversation_id, lock.response_id)


async def whole(db: Database, caller: Caller, conversation_id: UUID) -> Ancestry:
    async with db.read(caller) as tx:
        reading = await conversation_locks.read(tx, conversation_id, budget=None)
    assert reading is not None
    return reading.ancestry


class TestTaking:
    async def test_it_is_taken_with_the_whole_history(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        conversation = await made(db, caller, "a", "b")
        turn = await respond(db, caller, conversation, "c")
        lock, ancestry = await taken(db, caller, conversation)
        assert ancestry.place.next() == replace(turn.place, seq=2)
        assert (ancestry.parent, ancestry.conversation, ancestry.is_whole) == (None, conversation, True)
        assert ancestry.tokens == turn.context_tokens
        assert len(ancestry.turns) == 2
        holder, lasts = await lock_of(database_url, conversation)
        assert holder == lock.response_id
        assert timedelta(seconds=25) < lasts <= timedelta(seconds=30)

    async def test_an_empty_conversation_has_a_place_before_its_first(
        self, db: Database, caller: Caller
    ) -> None:
        conversation = await made(db, caller)
        _, ancestry = await taken(db, caller, conversation)
        assert (ancestry.place.chain_id, ancestry.place.seq, ancestry.turns) == (conversation, -1, ())
        assert ancestry.is_whole

    async def test_a_second_one_is_refused_and_reads_nothing(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        conversation = await made(db, caller, "a")
        first, _ = await taken(db, caller, conversation)
        _, reading = await take(db, caller, conversation)
        assert reading is not None
        assert not reading.is_free
        assert reading.ancestry.turns == ()
        assert (await lock_of(database_url, conversation))[0] == first.response_id

    async def test_what_is_not_there_is_not_refused(self, db: Database, caller: Caller) -> None:
        conversation = await made(db, caller, "a")
        await delete(db, caller, conversation)
        assert (await take(db, caller, conversation))[1] is None
        assert (await take(db, caller, ids.new_uuid()))[1] is None

    async def test_of_many_at_once_one_takes_it(self, database_url: str, caller: Caller) -> None:
        db = await Database.connect(database_url, size=8)
        conversation = await made(db, caller, "a")
        found = await asyncio.gather(*[take(db, caller, conversation) for _ in range(24)])
        assert [reading and reading.is_free for _, reading in found].count(True) == 1
        await db.close()

    async def test_reading_neither_takes_nor_waits(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        conversation = await made(db, caller, "a")
        lock, _ = await taken(db, caller, conversation)
        assert await heard(db, caller, conversation) == ["a"]
        assert (await lock_of(database_url, conversation))[0] == lock.response_id

    async def test_a_lease_that_is_over_is_taken_by_the_next(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        conversation = await made(db, caller, "a")
        old, _ = await taken(db, caller, conversation)
        await expire(database_url, conversation)
        assert await is_free(db, caller, conversation)
        new, _ = await taken(db, caller, conversation)
        assert (await lock_of(database_url, conversation))[0] == new.response_id
        assert await renew(db, old, new) == {new}

    async def test_items_are_not_added_while_a_response_runs(self, db: Database, caller: Caller) -> None:
        conversation = await made(db, caller, "a")
        lock, _ = await taken(db, caller, conversation)
        with pytest.raises(Conflict):
            await say(db, caller, conversation, "b")
        await release(db, caller, lock)
        await say(db, caller, conversation, "b")
        assert await heard(db, caller, conversation) == ["a", "b"]


class TestKeeping:
    async def test_a_renewal_prolongs_and_never_shortens(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        locks = [(await taken(db, caller, await made(db, caller)))[0] for _ in range(3)]
        assert await renew(db, *locks, lease_seconds=90) == set(locks)
        assert await renew(db, *locks, lease_seconds=1) == set(locks)
        for lock in locks:
            _, lasts = await lock_of(database_url, lock.conversation_id)
            assert lasts > timedelta(seconds=80)

    async def test_what_was_given_back_or_given_away_is_not_renewed(
        self, db: Database, caller: Caller
    ) -> None:
        conversation = await made(db, caller)
        lock, _ = await taken(db, caller, conversation)
        await release(db, caller, lock)
        assert await renew(db, lock) == set()
        other, _ = await taken(db, caller, conversation)
        await release(db, caller, lock)
        assert await renew(db, lock, other) == {other}

    async def test_a_promise_outlasts_every_lease(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        conversation = await made(db, caller)
        lock, _ = await taken(db, caller, conversation, lease_seconds=0.001)
        assert await promise(db, caller, lock)
        assert await renew(db, lock) == {lock}
        assert not await is_free(db, caller, conversation)
        endless = "select lease_until = 'infinity' from conversations where id = $1"
        assert await execute(database_url, endless, conversation) == [(True,)]

    async def test_nobody_promises_what_was_lost(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        conversation = await made(db, caller)
        lock, _ = await taken(db, caller, conversation)
        await expire(database_url, conversation)
        await say(db, caller, conversation, "between")
        assert not await promise(db, caller, lock)
        assert await is_free(db, caller, conversation)

    async def test_a_run_is_not_disturbed_by_a_deletion(self, db: Database, caller: Caller) -> None:
        """It ends as one without a conversation would, so nobody tells it that its lease is lost."""
        conversation = await made(db, caller)
        lock, _ = await taken(db, caller, conversation)
        await delete(db, caller, conversation)
        assert await renew(db, lock) == {lock}
        assert not await promise(db, caller, lock)


async def waits(database_url: str) -> bool:
    """Whether a statement waits for another's transaction."""
    statement = """
        select 1 from pg_locks join pg_stat_activity using (pid)
        where not granted and datname = current_database() and query like 'WITH seen%'
    """
    return bool(await execute(database_url, statement))


@asynccontextmanager
async def overtaken(
    database_url: str,
    caller: Caller,
    conversation_id: UUID,
    first: Callable[[Tx], Awaitable[object]],
    *,
    budget: int | None = None,
) -> AsyncGenerator[Reading | None]:
    """What is taken by a statement that began before another's transaction ended."""
    db = await Database.connect(database_url, size=2)
    try:
        async with db.begin(caller) as tx:
            await first(tx)
            waiting = asyncio.ensure_future(take(db, caller, conversation_id, budget=budget))
            await until(lambda: waits(database_url))
        _, reading = await waiting
    finally:
        await db.close()
    yield reading


class TestBetween:
    """A lock that seemed to be free when it was asked for, while another's transaction was about to end."""

    async def test_one_whose_lease_stands_is_not_waited_for(self, db: Database, caller: Caller) -> None:
        conversation = await made(db, caller, "a")
        lock, ancestry = await taken(db, caller, conversation)
        async with db.begin(caller) as tx:
            assert await lifecycle.append_locked(tx, answering(lock, ancestry))
            _, reading = await take(db, caller, conversation)
        assert reading is not None
        assert not reading.is_free

    @pytest.mark.parametrize("budget", [None, 1])
    async def test_what_was_appended_in_between_is_seen(
        self, db: Database, caller: Caller, database_url: str, budget: int | None
    ) -> None:
        conversation = await made(db, caller, "a")
        lock, ancestry = await taken(db, caller, conversation)
        await expire(database_url, conversation)
        turn = answering(lock, ancestry, "b")
        async with overtaken(
            database_url,
            caller,
            conversation,
            lambda tx: lifecycle.append_locked(tx, turn),
            budget=budget,
        ) as reading:
            assert reading is not None
            assert reading.is_free
            assert reading.ancestry.place == turn.place
            assert len(reading.ancestry.turns) == 2
            assert reading.ancestry.tokens == turn.context_tokens

    async def test_items_that_were_added_in_between_are_seen(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        conversation = await made(db, caller, "a")
        turn = answering(
            Lock(caller.tenant_id, conversation, ids.new_uuid()), await whole(db, caller, conversation)
        )

        async def add(tx: Tx) -> None:
            assert await conversations.lock(tx, conversation)
            await lifecycle.append_items(tx, turn)
            await conversations.advance(tx, conversation)

        async with overtaken(database_url, caller, conversation, add) as reading:
            assert reading is not None
            assert reading.is_free
            assert (reading.ancestry.place, len(reading.ancestry.turns)) == (turn.place, 2)

    async def test_a_holder_that_failed_leaves_it_free_and_unchanged(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        conversation = await made(db, caller, "a")
        lock, ancestry = await taken(db, caller, conversation)
        await expire(database_url, conversation)
        turn = answering(lock, ancestry, status=Status.FAILED)
        async with overtaken(
            database_url, caller, conversation, lambda tx: lifecycle.append_locked(tx, turn)
        ) as reading:
            assert reading is not None
            assert reading.is_free
            assert reading.ancestry == ancestry

    async def test_another_that_took_it_in_between_keeps_it(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        conversation = await made(db, caller, "a")
        other = Lock(caller.tenant_id, conversation, ids.new_uuid())
        async with overtaken(
            database_url,
            caller,
            conversation,
            lambda tx: conversation_locks.take(tx, other, lease_seconds=30, budget=None),
        ) as reading:
            assert reading is not None
            assert not reading.is_free
        assert (await lock_of(database_url, conversation))[0] == other.response_id

    async def test_writers_never_lose_nor_interleave(self, database_url: str, caller: Caller) -> None:
        """Each turn was made with all turns before it in its context, and no other."""
        db, histories = await Database.connect(database_url, size=6), dict[UUID, int]()
        conversation = await made(db, caller)

        async def write() -> None:
            while len(histories) < 40:
                lock, reading = await take(db, caller, conversation)
                assert reading is not None
                if reading.is_free:
                    turn = answering(lock, reading.ancestry)
                    assert len(reading.ancestry.turns) == turn.place.seq
                    assert await append(db, caller, turn)
                    histories[turn.id] = turn.place.seq
                await asyncio.sleep(0)

        await asyncio.gather(*[write() for _ in range(6)])
        rows = "select id, seq from responses where chain_id = $1 order by seq"
        stored = await execute(database_url, rows, conversation)
        assert [seq for _, seq in stored] == list(range(len(histories)))
        assert {row["id"]: row["seq"] for row in stored} == histories
        await db.close()
