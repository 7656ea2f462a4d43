"""How a response in a conversation ends: appended, beside it, or not at all; and its lock with it."""

import asyncio
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from app import ids
from app.domain.items import join
from app.domain.jobs import Claim, Ending
from app.domain.response import Status
from app.domain.tenancy import Caller
from app.domain.turn import Turn
from app.store import items, lifecycle, responses
from app.store.db import Database
from tests.background import execute
from tests.store import turns
from tests.store.conversing import (
    a_message,
    an_item,
    answering,
    append,
    asking,
    delete,
    enqueued,
    expire,
    heard,
    is_free,
    line_of,
    lock_of,
    made,
    respond,
    say,
    taken,
)

TTL_SECONDS = 60.0
ENDS_BADLY = (Status.FAILED, Status.CANCELLED)


async def row_of(database_url: str, response_id: UUID) -> Any:
    found = await execute(database_url, "select * from responses where id = $1", response_id)
    return found[0] if found else None


class TestAppending:
    @pytest.mark.parametrize("status", [Status.COMPLETED, Status.INCOMPLETE])
    async def test_what_may_be_continued_is_appended_and_frees_the_lock(
        self, db: Database, caller: Caller, database_url: str, status: Status
    ) -> None:
        conversation = await made(db, caller, "a")
        await respond(db, caller, conversation, "b", status=status)
        assert await heard(db, caller, conversation) == ["a", "b?", "b!"]
        assert await lock_of(database_url, conversation) == (None, None)

    async def test_appending_again_changes_nothing(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        conversation = await made(db, caller)
        lock, ancestry = await taken(db, caller, conversation)
        turn = asking(lock, ancestry, an_item("a", id="mine"))
        assert [await append(db, caller, turn) for _ in range(3)] == [True] * 3
        assert (await line_of(db, caller, conversation)).last.seq == 0
        later, _ = await taken(db, caller, conversation)
        assert await append(db, caller, turn), "also where others went on meanwhile"
        assert (await lock_of(database_url, conversation))[0] == later.response_id

    async def test_one_turn_from_many_sides_at_once_is_appended_once(
        self, database_url: str, caller: Caller
    ) -> None:
        db = await Database.connect(database_url, size=6)
        conversation = await made(db, caller)
        lock, ancestry = await taken(db, caller, conversation)
        turn = answering(lock, ancestry, "a")
        assert await asyncio.gather(*[append(db, caller, turn) for _ in range(12)]) == [True] * 12
        assert await heard(db, caller, conversation) == ["a?", "a!"]
        await db.close()

    async def test_a_lease_that_nobody_took_over_does_no_harm(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        conversation = await made(db, caller)
        lock, ancestry = await taken(db, caller, conversation)
        await expire(database_url, conversation)
        assert await append(db, caller, answering(lock, ancestry, "a"))
        assert await heard(db, caller, conversation) == ["a?", "a!"]

    @pytest.mark.parametrize("kind", ["took it", "added items", Status.COMPLETED, Status.FAILED])
    async def test_what_was_lost_to_others_is_not_stored(
        self, db: Database, caller: Caller, database_url: str, kind: str | Status
    ) -> None:
        conversation = await made(db, caller, "a")
        lock, ancestry = await taken(db, caller, conversation)
        await expire(database_url, conversation)
        if isinstance(kind, Status):
            await respond(db, caller, conversation, status=kind)
        elif kind == "took it":
            await taken(db, caller, conversation)
        else:
            await say(db, caller, conversation, "b")
        before = await lock_of(database_url, conversation), await heard(db, caller, conversation)
        turn = answering(lock, ancestry, "late")
        assert not await append(db, caller, turn)
        assert await row_of(database_url, turn.id) is None
        after = await lock_of(database_url, conversation), await heard(db, caller, conversation)
        assert (before[0][0], before[1]) == (after[0][0], after[1])

    @pytest.mark.parametrize("status", ENDS_BADLY)
    async def test_what_ended_badly_is_stored_beside_the_line_and_frees_the_lock(
        self, db: Database, caller: Caller, database_url: str, status: Status
    ) -> None:
        conversation = await made(db, caller, "a")
        lock, ancestry = await taken(db, caller, conversation)
        turn = answering(lock, ancestry, "b", status=status)
        assert [await append(db, caller, turn) for _ in range(2)] == [True, True]
        assert await lock_of(database_url, conversation) == (None, None)
        row = await row_of(database_url, turn.id)
        assert (row["chain_id"], row["conversation_id"], row["seq"]) == (turn.id, conversation, 1)
        assert (row["fork_chains"], row["fork_seqs"]) == ([conversation], [0])
        assert await heard(db, caller, conversation) == ["a"]
        await respond(db, caller, conversation, "c")
        assert await heard(db, caller, conversation) == ["a", "c?", "c!"]

    @pytest.mark.parametrize("status", ENDS_BADLY)
    async def test_what_ended_badly_takes_no_lock_from_others(
        self, db: Database, caller: Caller, database_url: str, status: Status
    ) -> None:
        conversation = await made(db, caller, "a")
        lock, ancestry = await taken(db, caller, conversation)
        await expire(database_url, conversation)
        other, _ = await taken(db, caller, conversation)
        turn = answering(lock, ancestry, status=status)
        assert await append(db, caller, turn)
        assert (await lock_of(database_url, conversation))[0] == other.response_id
        assert await row_of(database_url, turn.id) is not None

    async def test_a_response_outlives_its_conversation(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        conversation = await made(db, caller, "a")
        lock, ancestry = await taken(db, caller, conversation)
        await delete(db, caller, conversation)
        turn = answering(lock, ancestry, "b")
        assert [await append(db, caller, turn) for _ in range(2)] == [True, True]
        assert (await row_of(database_url, turn.id))["chain_id"] == turn.id
        assert await lock_of(database_url, conversation) == (None, None)
        found = await turns.ancestry(db, caller, turn.id)
        assert found is not None
        assert (len(found.turns), found.conversation, found.is_whole) == (2, None, True)

    async def test_ids_that_were_brought_are_found(self, db: Database, caller: Caller) -> None:
        conversation = await made(db, caller)
        lock, ancestry = await taken(db, caller, conversation)
        assert await append(db, caller, asking(lock, ancestry, an_item("a", id="mine")))
        async with db.read(caller) as tx:
            assert (await items.find(tx, ["mine"]))["mine"]["content"][0]["text"] == "a"


class TestChild:
    """A response that is chained on one of a conversation, and is not in that conversation."""

    async def test_it_takes_no_place_of_the_conversation(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        conversation = await made(db, caller, "a")
        parent = await respond(db, caller, conversation, "b")
        found = await turns.ancestry(db, caller, parent.id)
        assert found is not None
        assert found.conversation == conversation, "this is how its writer knows"
        child_id = ids.new_uuid()
        place = found.place.next().elsewhere(child_id)
        child = turns.a_turn(id=child_id, place=place, parent=None)
        child = replace(
            child, parent=parent.id, input_blob=b"", input_count=0, output_blob=blob_of("c", child_id)
        )
        await turns.put(db, caller, child)
        await respond(db, caller, conversation, "d")
        assert await heard(db, caller, conversation) == ["a", "b?", "b!", "d?", "d!"]
        below = await turns.ancestry(db, caller, child.id)
        assert below is not None
        assert (len(below.turns), below.conversation) == (3, None)
        grandchild = turns.a_turn("e", below)
        assert grandchild.place.chain_id == child.id
        row = await row_of(database_url, child.id)
        assert (row["chain_id"], row["fork_chains"], row["fork_seqs"]) == (child.id, [conversation], [1])


def blob_of(word: str, turn_id: UUID) -> bytes:
    return join([a_message(word, turn_id, 0)])


async def claimed(db: Database, turn: Turn) -> Claim:
    async with db.begin_system() as tx:
        [job] = await lifecycle.claim(tx, owner="me", lease_seconds=30)
    assert job.claim.response_id == turn.id
    assert (job.place, job.context_tokens) == (turn.place, turn.context_tokens)
    return job.claim


async def finish(db: Database, claim: Claim, turn: Turn, status: Status = Status.COMPLETED) -> bool:
    answer = blob_of("answer", turn.id).replace(b"0000", b"0001", 1)
    done = replace(turn, status=status, output_blob=answer, output_count=1, context_tokens=99)
    async with db.begin(Caller(claim.tenant_id)) as tx:
        return (
            await lifecycle.finish(
                tx, Ending(claim, done, event_count=7, shape=None, ttl_seconds=TTL_SECONDS)
            )
            is not None
        )


async def end(db: Database, caller: Caller, turn: Turn, status: Status) -> None:
    error = {"code": "server_error", "message": "No."} if status is Status.FAILED else None
    async with db.begin(caller) as tx:
        row = await lifecycle.lock(tx, turn.id)
        assert row is not None
        await lifecycle.end(tx, row, status, event_count=3, ttl_seconds=TTL_SECONDS, error=error)


@pytest.mark.usefixtures("nothing_queued")
class TestBackground:
    async def test_it_waits_on_a_line_of_its_own_and_joins_at_its_end(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        conversation = await made(db, caller, "a")
        turn = await enqueued(db, caller, conversation, says="b")
        claim = await claimed(db, turn)
        assert await heard(db, caller, conversation) == ["a"]
        assert not await is_free(db, caller, conversation)
        assert await finish(db, claim, turn)
        assert await heard(db, caller, conversation) == ["a", "b?", "answer"]
        assert await lock_of(database_url, conversation) == (None, None)
        row = await row_of(database_url, turn.id)
        assert (row["chain_id"], row["seq"], row["fork_chains"], row["fork_seqs"]) == (
            conversation,
            1,
            None,
            None,
        )
        _, ancestry = await taken(db, caller, conversation)
        assert (ancestry.tokens, ancestry.conversation) == (99, conversation)

    async def test_the_first_turn_of_all_may_be_one(self, db: Database, caller: Caller) -> None:
        conversation = await made(db, caller)
        turn = await enqueued(db, caller, conversation)
        assert await finish(db, await claimed(db, turn), turn)
        assert await heard(db, caller, conversation) == ["hi?", "answer"]

    async def test_finishing_again_appends_nothing_more(self, db: Database, caller: Caller) -> None:
        conversation = await made(db, caller)
        turn = await enqueued(db, caller, conversation)
        claim = await claimed(db, turn)
        assert [await finish(db, claim, turn) for _ in range(2)] == [True, False]
        assert await heard(db, caller, conversation) == ["hi?", "answer"]

    @pytest.mark.parametrize("status", ENDS_BADLY)
    async def test_what_ended_badly_stays_on_its_own_line_and_frees_the_lock(
        self, db: Database, caller: Caller, database_url: str, status: Status
    ) -> None:
        conversation = await made(db, caller, "a")
        turn = await enqueued(db, caller, conversation)
        assert await finish(db, await claimed(db, turn), turn, status)
        assert await lock_of(database_url, conversation) == (None, None)
        assert await heard(db, caller, conversation) == ["a"]
        assert (await row_of(database_url, turn.id))["chain_id"] == turn.id

    @pytest.mark.parametrize("status", ENDS_BADLY)
    async def test_an_end_from_outside_frees_the_lock(
        self, db: Database, caller: Caller, database_url: str, status: Status
    ) -> None:
        conversation = await made(db, caller, "a")
        turn = await enqueued(db, caller, conversation)
        claim = await claimed(db, turn)
        await end(db, caller, turn, status)
        assert await lock_of(database_url, conversation) == (None, None)
        other, _ = await taken(db, caller, conversation)
        assert not await finish(db, claim, turn)
        assert (await lock_of(database_url, conversation))[0] == other.response_id
        assert await heard(db, caller, conversation) == ["a"]

    async def test_a_cancellation_in_the_queue_frees_the_lock(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        conversation = await made(db, caller, "a")
        await end(db, caller, await enqueued(db, caller, conversation), Status.CANCELLED)
        assert await lock_of(database_url, conversation) == (None, None)

    async def test_an_attempt_that_is_handed_back_keeps_the_lock(self, db: Database, caller: Caller) -> None:
        conversation = await made(db, caller, "a")
        turn = await enqueued(db, caller, conversation)
        first = await claimed(db, turn)
        async with db.begin(caller) as tx:
            assert await lifecycle.requeue(tx, first, event_count=0)
        assert not await is_free(db, caller, conversation)
        second = await claimed(db, turn)
        assert not await finish(db, first, turn), "fenced off"
        assert not await is_free(db, caller, conversation)
        assert await finish(db, second, turn)
        assert await heard(db, caller, conversation) == ["a", "hi?", "answer"]

    async def test_it_outlives_its_conversation(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        conversation = await made(db, caller, "a")
        turn = await enqueued(db, caller, conversation)
        await delete(db, caller, conversation)
        assert await finish(db, await claimed(db, turn), turn)
        assert (await row_of(database_url, turn.id))["chain_id"] == turn.id
        found = await turns.ancestry(db, caller, turn.id)
        assert found is not None
        assert (len(found.turns), found.conversation) == (2, None)

    async def test_a_deleted_response_still_ends_and_frees_the_lock(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        conversation = await made(db, caller, "a")
        turn = await enqueued(db, caller, conversation)
        async with db.begin(caller) as tx:
            assert await responses.delete(tx, turn.id)
        assert await finish(db, await claimed(db, turn), turn)
        assert await lock_of(database_url, conversation) == (None, None)
        assert await heard(db, caller, conversation) == ["a", "hi?", "answer"]
