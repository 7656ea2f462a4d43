"""The items of a conversation, whatever was added, taken out and forked: a plain list is the model."""

import random
from dataclasses import dataclass, field
from uuid import UUID

import pytest

from app import ids
from app.domain.items import normalise
from app.domain.response import Status
from app.domain.search import Filters
from app.domain.tenancy import Caller
from app.domain.tokens import estimate
from app.domain.turn import Ancestry, Turn
from app.errors import Conflict, InvalidRequest, NotFound
from app.store import conversation_items, conversation_locks, items, lineage, responses, search
from app.store.db import Database
from tests.background import execute
from tests.store import turns
from tests.store.conversing import (
    an_item,
    append,
    asking,
    expire,
    fork,
    found,
    given,
    heard,
    line_of,
    listed,
    made,
    respond,
    say,
    take_out,
    taken,
    words,
)


@dataclass
class Model:
    """What ought to be in each conversation, and what each response was given, with its own items."""

    items: dict[UUID, list[str]] = field(default_factory=dict)
    views: dict[UUID, list[str]] = field(default_factory=dict)
    every: set[str] = field(default_factory=set)


async def grow(db: Database, caller: Caller, rng: random.Random, steps: int) -> Model:
    """Random conversations: mostly more is said, some is taken out, some are forked."""
    model = Model()
    first = await made(db, caller, "first")
    model.items[first] = [stored.id for stored in await listed(db, caller, first)]
    for step in range(steps):
        conversation = rng.choice(list(model.items))
        now, chance = model.items[conversation], rng.random()
        if chance < 0.35:
            count = rng.choice((1, 1, 3))
            now += await say(db, caller, conversation, *[f"{step}.{number}" for number in range(count)])
        elif chance < 0.65:
            turn = await respond(db, caller, conversation, str(step))
            now += [ids.item_id("message", turn.id, place) for place in (0, 1)]
            model.views[turn.id] = list(now)
        elif chance < 0.85 and now:
            gone = now.pop(rng.randrange(len(now)))
            await take_out(db, caller, conversation, gone)
        elif len(model.items) < 15:
            upto = rng.choice([None, *now])
            copy = await fork(db, caller, conversation, upto)
            model.items[copy] = now[: now.index(upto) + 1] if upto else list(now)
        model.every |= set(now)
    return model


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_pages_are_stretches_of_the_list_whatever_was_taken_out_and_forked(
    db: Database, caller: Caller, seed: int
) -> None:
    rng = random.Random(seed)
    model = await grow(db, caller, rng, 120)
    assert len(model.items) > 8
    for conversation, expected in model.items.items():
        await heard(db, caller, conversation)
        whole = await listed(db, caller, conversation)
        assert [stored.id for stored in whole] == expected
        for is_newest in (True, False):
            order = whole[::-1] if is_newest else whole
            for cursor in (None, *order):
                start = order.index(cursor) + 1 if cursor else 0
                limit = rng.choice((1, 2, 3, 7, 50))
                page = await listed(
                    db, caller, conversation, after=cursor, newest_first=is_newest, limit=limit
                )
                assert page == order[start : start + limit]
        assert (await found(db, caller, conversation, *model.every)).keys() == set(expected)


@pytest.mark.parametrize("seed", [4, 5])
async def test_who_was_given_an_item_keeps_it(db: Database, caller: Caller, seed: int) -> None:
    """A response's history is what its conversation was then, whatever became of that."""
    model = await grow(db, caller, random.Random(seed), 150)
    assert len(model.views) > 20
    for response_id, expected in model.views.items():
        ancestry = await turns.ancestry(db, caller, response_id)
        assert ancestry is not None
        assert [item["id"] for item in given(ancestry)] == expected


@pytest.mark.parametrize("seed", [6, 7])
async def test_a_cut_history_is_the_end_of_the_whole_one(db: Database, caller: Caller, seed: int) -> None:
    """As much as was asked for, or all; what was taken out counts nothing."""
    rng = random.Random(seed)
    model = await grow(db, caller, rng, 150)
    for conversation in model.items:
        async with db.read(caller) as tx:
            whole = await conversation_locks.read(tx, conversation, budget=None)
            assert whole is not None
            for budget in (0, 1, 40, 100, 300, 1000):
                cut = await conversation_locks.read(tx, conversation, budget=budget)
                assert cut is not None
                check_cut(whole.ancestry, cut.ancestry, budget)
    for response_id in model.views:
        budget = rng.choice((1, 40, 100, 300))
        async with db.read(caller) as tx:
            before, after = (
                await lineage.ancestry(tx, response_id),
                await lineage.ancestry(tx, response_id, budget=budget),
            )
            assert before is not None
            assert after is not None
            check_cut(before, after, budget)


def check_cut(whole: Ancestry, cut: Ancestry, budget: int) -> None:
    count = len(cut.turns)
    assert cut.turns == whole.turns[len(whole.turns) - count :]
    assert (cut.tokens, cut.place, cut.status) == (whole.tokens, whole.place, whole.status)
    assert cut.is_whole is (count == len(whole.turns))
    kept = sum(estimate(blob) for blob, _ in cut.turns)
    assert cut.is_whole or kept >= budget


class TestRemoval:
    async def test_turns_to_come_are_not_given_it_and_earlier_ones_were(
        self, db: Database, caller: Caller
    ) -> None:
        conversation = await made(db, caller, "a", "b")
        early = await respond(db, caller, conversation, "c")
        [gone, *_] = await listed(db, caller, conversation)
        await take_out(db, caller, conversation, gone.id)
        late = await respond(db, caller, conversation, "d")
        assert await heard(db, caller, conversation) == ["b", "c?", "c!", "d?", "d!"]
        assert await seen(db, caller, early) == ["a", "b", "c?", "c!"]
        assert await seen(db, caller, late) == ["b", "c?", "c!", "d?", "d!"]

    async def test_a_chain_goes_on_with_what_its_parent_had(self, db: Database, caller: Caller) -> None:
        conversation = await made(db, caller, "a", "b")
        early = await respond(db, caller, conversation, "c")
        before = await child_of(db, caller, early, "before")
        [gone, *_] = await listed(db, caller, conversation)
        await take_out(db, caller, conversation, gone.id)
        after = await child_of(db, caller, early, "after")
        below = await child_of(db, caller, before, "below")
        late = await child_of(db, caller, await respond(db, caller, conversation, "d"), "late")
        assert await seen(db, caller, before) == ["a", "b", "c?", "c!", "before"]
        assert await seen(db, caller, after) == ["a", "b", "c?", "c!", "after"]
        assert await seen(db, caller, below) == ["a", "b", "c?", "c!", "before", "below"]
        assert await seen(db, caller, late) == ["b", "c?", "c!", "d?", "d!", "late"]

    async def test_each_fork_takes_out_for_itself(self, db: Database, caller: Caller) -> None:
        conversation = await made(db, caller, "a", "b")
        copy = await fork(db, caller, conversation)
        a, b = await listed(db, caller, conversation)
        await take_out(db, caller, conversation, a.id)
        await take_out(db, caller, copy, b.id)
        assert await heard(db, caller, conversation) == ["b"]
        assert await heard(db, caller, copy) == ["a"]
        assert await heard(db, caller, await fork(db, caller, copy)) == ["a"]

    async def test_an_item_goes_once(self, db: Database, caller: Caller) -> None:
        conversation = await made(db, caller, "a", "b")
        [gone, _] = await listed(db, caller, conversation)
        await take_out(db, caller, conversation, gone.id)
        with pytest.raises(NotFound):
            await take_out(db, caller, conversation, gone.id)
        assert await heard(db, caller, conversation) == ["b"]

    async def test_it_is_refused_while_a_response_runs(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        conversation = await made(db, caller, "a")
        [gone] = await listed(db, caller, conversation)
        lock, ancestry = await taken(db, caller, conversation)
        with pytest.raises(Conflict):
            await take_out(db, caller, conversation, gone.id)
        await expire(database_url, conversation)
        await take_out(db, caller, conversation, gone.id)
        assert not await append(db, caller, asking(lock, ancestry, an_item("b"))), "it was given the item"
        assert await heard(db, caller, conversation) == []

    async def test_everything_may_go(self, db: Database, caller: Caller) -> None:
        conversation = await made(db, caller, "a", "b", "c")
        for stored in await listed(db, caller, conversation):
            await take_out(db, caller, conversation, stored.id)
        assert await heard(db, caller, conversation) == []
        assert await listed(db, caller, conversation, newest_first=True) == []
        assert await heard(db, caller, await fork(db, caller, conversation)) == []
        await say(db, caller, conversation, "d")
        assert await heard(db, caller, conversation) == ["d"]


async def seen(db: Database, caller: Caller, turn: Turn) -> list[str]:
    ancestry = await turns.ancestry(db, caller, turn.id)
    assert ancestry is not None
    return words(given(ancestry))


async def child_of(db: Database, caller: Caller, parent: Turn, says: str) -> Turn:
    """A response that is chained on another: one of a conversation goes on without it."""
    before = await turns.ancestry(db, caller, parent.id)
    assert before is not None
    new_id = ids.new_uuid()
    place = before.place.next()
    blob = normalise([an_item(says)], new_id).blob
    turn = turns.a_turn(
        parent=before,
        id=new_id,
        place=place.elsewhere(new_id) if before.conversation else place,
        input_blob=blob,
        output_blob=b"",
        output_count=0,
    )
    return await turns.put(db, caller, turn)


class TestNames:
    NAMES = ("mine", "a\0b", "msg_" + "0" * 36, "💬 " * 40, "a\ufffdb'; --")

    @pytest.mark.parametrize("name", NAMES)
    async def test_ids_that_were_brought_are_found_taken_out_and_forked(
        self, db: Database, caller: Caller, name: str
    ) -> None:
        conversation = await made(db, caller, "a", an_item("b", id=name))
        assert words([(await found(db, caller, conversation, name))[name].item]) == ["b"]
        assert await heard(db, caller, await fork(db, caller, conversation, name)) == ["a", "b"]
        with pytest.raises(InvalidRequest):
            await say(db, caller, conversation, an_item("c", id=name))
        await take_out(db, caller, conversation, name)
        assert await found(db, caller, conversation, name) == {}
        await say(db, caller, conversation, an_item("c", id=name))
        assert words([(await found(db, caller, conversation, name))[name].item]) == ["c"]
        assert await heard(db, caller, conversation) == ["a", "c"]

    async def test_names_that_are_stored_alike_are_not_the_same(self, db: Database, caller: Caller) -> None:
        conversation = await made(db, caller, an_item("a", id="x\0"))
        assert await found(db, caller, conversation, "x\ufffd") == {}
        await say(db, caller, conversation, an_item("b", id="x\ufffd"))
        both = await found(db, caller, conversation, "x\ufffd", "x\0")
        assert {name: words([stored.item]) for name, stored in both.items()} == {
            "x\0": ["a"],
            "x\ufffd": ["b"],
        }
        async with db.read(caller) as tx:
            assert words([(await items.find(tx, ["x\ufffd"]))["x\ufffd"]]) == ["b"]

    async def test_of_many_conversations_that_have_an_id_the_newest_is_meant(
        self, db: Database, caller: Caller
    ) -> None:
        for word in "abc":
            await made(db, caller, "zero", an_item(word, id="mine"))
        async with db.read(caller) as tx:
            assert words([(await items.find(tx, ["mine", "nobody"]))["mine"]]) == ["c"]

    async def test_an_id_of_ours_from_elsewhere_is_found_where_it_was_brought(
        self, db: Database, caller: Caller
    ) -> None:
        origin = await made(db, caller, "a")
        [stored] = await listed(db, caller, origin)
        conversation = await made(db, caller, "b", an_item("a again", id=stored.id))
        assert words([(await found(db, caller, conversation, stored.id))[stored.id].item]) == ["a again"]
        assert words([(await found(db, caller, origin, stored.id))[stored.id].item]) == ["a"]

    async def test_what_is_beside_the_line_is_not_in_it(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        conversation = await made(db, caller, "a")
        lock, ancestry = await taken(db, caller, conversation)
        turn = asking(lock, ancestry, an_item("b", id="mine"), status=Status.FAILED)
        assert await append(db, caller, turn)
        assert await found(db, caller, conversation, "mine") == {}
        await say(db, caller, conversation, an_item("c", id="mine"))
        kept = "select turn_id from item_aliases where tenant_id = $1 and item_id = 'mine'"
        assert len(await execute(database_url, kept, caller.tenant_id)) == 2

    async def test_a_fork_does_not_know_what_came_later(self, db: Database, caller: Caller) -> None:
        conversation = await made(db, caller, "a")
        copy = await fork(db, caller, conversation)
        await say(db, caller, conversation, an_item("b", id="mine"))
        assert await found(db, caller, copy, "mine") == {}
        await say(db, caller, copy, an_item("c", id="mine"))
        assert await heard(db, caller, copy) == ["a", "c"]


class TestNotes:
    """Turns that are no responses."""

    async def test_they_are_not_read_listed_nor_chained_on(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        conversation = await made(db, caller, "a")
        [stored] = await listed(db, caller, conversation)
        await take_out(db, caller, conversation, stored.id)
        rows = await execute(database_url, "select id from responses where chain_id = $1", conversation)
        assert len(rows) == 2
        async with db.begin(caller) as tx:
            assert (await search.find(tx, Filters(), limit=9)).found == []
            for row in rows:
                assert await responses.get(tx, row["id"]) is None
                assert await responses.status(tx, row["id"]) is None
                assert not await responses.delete(tx, row["id"])
                assert await lineage.ancestry(tx, row["id"]) is None

    async def test_they_say_what_the_next_turn_finds(self, db: Database, caller: Caller) -> None:
        called = {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"}
        answered = {"type": "function_call_output", "call_id": "call_1", "output": "1"}
        conversation = await made(db, caller, "a", called, answered)
        _, call, output = await listed(db, caller, conversation)
        await take_out(db, caller, conversation, output.id)
        assert (await last(db, caller, conversation)).continuation.open_calls == {"call_1": "function_call"}
        await take_out(db, caller, conversation, call.id)
        left = await last(db, caller, conversation)
        assert (left.continuation.open_calls, left.continuation.orphans) == ({}, {})
        assert 0 < left.tokens < 60


async def last(db: Database, caller: Caller, conversation_id: UUID) -> conversation_items.Last:
    here = (await line_of(db, caller, conversation_id)).last
    async with db.read(caller) as tx:
        return await conversation_items.last(tx, here)
