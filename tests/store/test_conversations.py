"""Conversations as rows: read, listed, filtered, described and deleted; and forks of them."""

from collections.abc import Mapping

import pytest

from app import ids
from app.domain.conversation import Conversation
from app.domain.tenancy import Caller
from app.domain.turn import Place
from app.errors import NotFound
from app.store import conversations
from app.store.db import Database
from tests.background import execute
from tests.store import turns
from tests.store.conversing import fork, heard, line_of, listed, made, respond, say, take_out, taken


async def put(db: Database, caller: Caller, **metadata: str) -> Conversation:
    conversation = Conversation(ids.new_uuid(), metadata)
    async with db.begin(caller) as tx:
        await conversations.insert(tx, conversation, Place(conversation.id, 0))
    return conversation


async def get(db: Database, caller: Caller, conversation: Conversation) -> Conversation | None:
    async with db.read(caller) as tx:
        return await conversations.get(tx, conversation.id)


async def delete(db: Database, caller: Caller, conversation: Conversation) -> bool:
    async with db.begin(caller) as tx:
        return await conversations.delete(tx, conversation.id)


class TestRow:
    @pytest.mark.parametrize("metadata", [{}, {"a": "b", "": "ü\n\\'", "💬": '"'}])
    async def test_it_is_read_as_it_was_made(
        self, db: Database, caller: Caller, metadata: Mapping[str, str]
    ) -> None:
        made = await put(db, caller, **metadata)
        assert await get(db, caller, made) == made

    async def test_metadata_is_replaced_as_a_whole(self, db: Database, caller: Caller) -> None:
        made, other = await put(db, caller, a="1", b="2"), await put(db, caller, a="1")
        async with db.begin(caller) as tx:
            changed = await conversations.update(tx, made.id, {"b": "3"})
        assert changed == Conversation(made.id, {"b": "3"})
        assert await get(db, caller, made) == changed
        assert await get(db, caller, other) == other

    async def test_what_was_deleted_is_not_there(self, db: Database, caller: Caller) -> None:
        made = await put(db, caller)
        assert await delete(db, caller, made)
        assert await get(db, caller, made) is None
        assert not await delete(db, caller, made)
        async with db.begin(caller) as tx:
            assert await conversations.update(tx, made.id, {}) is None
            assert await conversations.find(tx, made.id) is None
            assert await conversations.lock(tx, made.id) is None

    async def test_its_line_is_told_with_its_lock(self, db: Database, caller: Caller) -> None:
        conversation = await made(db, caller, "a")
        line = await line_of(db, caller, conversation)
        assert (line.last, line.is_free) == (Place(conversation, 0), True)
        await taken(db, caller, conversation)
        assert not (await line_of(db, caller, conversation)).is_free

    async def test_a_deletion_leaves_its_responses(self, db: Database, caller: Caller) -> None:
        conversation = await made(db, caller, "a")
        turn = await respond(db, caller, conversation)
        async with db.begin(caller) as tx:
            assert await conversations.delete(tx, conversation)
        found = await turns.ancestry(db, caller, turn.id)
        assert found is not None
        assert len(found.turns) == 2


class TestList:
    async def test_pages_neither_skip_nor_repeat(self, db: Database, caller: Caller) -> None:
        made = [await put(db, caller, number=str(number)) for number in range(7)]
        await delete(db, caller, made.pop(3))
        for newest_first in (True, False):
            order = made[::-1] if newest_first else made
            for limit in (1, 2, 6, 9):
                after, walked = None, list[Conversation]()
                while True:
                    async with db.read(caller) as tx:
                        page = await conversations.page(
                            tx, limit=limit, newest_first=newest_first, after=after, metadata={}
                        )
                    walked += page
                    if len(page) < limit:
                        break
                    after = page[-1].id
                assert walked == order

    async def test_a_filter_wants_every_pair(self, db: Database, caller: Caller) -> None:
        both = await put(db, caller, a="1", b="2")
        one = await put(db, caller, a="1", b="3")
        await put(db, caller, a="2")

        async def filtered(**metadata: str) -> list[Conversation]:
            async with db.read(caller) as tx:
                return list(
                    await conversations.page(tx, limit=9, newest_first=False, after=None, metadata=metadata)
                )

        assert await filtered(a="1") == [both, one]
        assert await filtered(a="1", b="2") == [both]
        assert await filtered(b="1") == []


class TestFork:
    async def test_neither_sees_what_the_other_does_later(self, db: Database, caller: Caller) -> None:
        conversation = await made(db, caller, "a")
        await respond(db, caller, conversation, "b")
        copy = await fork(db, caller, conversation)
        await say(db, caller, conversation, "here")
        await respond(db, caller, copy, "there")
        assert await heard(db, caller, conversation) == ["a", "b?", "b!", "here"]
        assert await heard(db, caller, copy) == ["a", "b?", "b!", "there?", "there!"]

    async def test_it_may_end_in_the_middle_of_a_turn(self, db: Database, caller: Caller) -> None:
        conversation = await made(db, caller, "a", "b", "c")
        await respond(db, caller, conversation, "d")
        items = await listed(db, caller, conversation)
        for count, stored in enumerate(items, 1):
            copy = await fork(db, caller, conversation, stored.id)
            assert await heard(db, caller, copy) == ["a", "b", "c", "d?", "d!"][:count]

    async def test_forks_of_forks_go_back_to_any_line(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        conversation = await made(db, caller, "0")
        expected = ["0"]
        for number in range(1, 12):
            conversation = await fork(db, caller, conversation)
            await say(db, caller, conversation, str(number))
            expected.append(str(number))
        assert await heard(db, caller, conversation) == expected
        items = await listed(db, caller, conversation)
        for count, stored in enumerate(items, 1):
            copy = await fork(db, caller, conversation, stored.id)
            await say(db, caller, copy, "new")
            assert await heard(db, caller, copy) == [*expected[:count], "new"]
        stored_items = "select sum(input_count) from responses where tenant_id = $1"
        assert await execute(database_url, stored_items, caller.tenant_id) == [(12 + len(items),)], (
            "no copies"
        )

    async def test_an_empty_one_may_be_forked(self, db: Database, caller: Caller) -> None:
        conversation = await made(db, caller)
        copy = await fork(db, caller, conversation)
        await say(db, caller, conversation, "a")
        await respond(db, caller, copy, "b")
        assert await heard(db, caller, conversation) == ["a"]
        assert await heard(db, caller, copy) == ["b?", "b!"]

    async def test_it_outlives_what_it_came_from(self, db: Database, caller: Caller) -> None:
        conversation = await made(db, caller, "a", "b")
        [gone, _] = await listed(db, caller, conversation)
        await take_out(db, caller, conversation, gone.id)
        copy = await fork(db, caller, conversation)
        async with db.begin(caller) as tx:
            assert await conversations.delete(tx, conversation)
        assert await heard(db, caller, copy) == ["b"]
        with pytest.raises(NotFound):
            await fork(db, caller, conversation)

    async def test_it_waits_for_no_response(self, db: Database, caller: Caller) -> None:
        conversation = await made(db, caller, "a")
        await taken(db, caller, conversation)
        copy = await fork(db, caller, conversation)
        assert await heard(db, caller, copy) == ["a"]
        await taken(db, caller, copy)
