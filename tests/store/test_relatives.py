"""Families: whatever the tree looks like, ancestors and children are those that parent pointers name."""

import random
from uuid import UUID

import pytest

from app import ids
from app.domain.response import CHAINABLE, Status
from app.domain.tenancy import Caller
from app.domain.turn import Turn
from app.generation.ledger import Ledger
from app.store import relatives
from app.store.db import Database
from app.store.relatives import Relative, Root
from tests.builders import a_caller
from tests.store import conversing
from tests.store.conversing import made, respond, say
from tests.store.turns import a_turn, add, delete, put
from tests.store.turns import ancestry as read_ancestry

STATUSES = (*[Status.COMPLETED] * 8, Status.INCOMPLETE, Status.FAILED, Status.CANCELLED)


async def grow(db: Database, caller: Caller, rng: random.Random, size: int) -> list[Turn]:
    """A random tree of long lines and bushes, with failures and a few roots."""
    turns, fit = list[Turn](), list[Turn]()
    for number in range(size):
        near = fit[-1:] if rng.random() < 0.6 else fit[-20:]
        parent = rng.choice(near) if near and rng.random() < 0.97 else None
        turns.append(await add(db, caller, str(number), parent, status=rng.choice(STATUSES)))
        if turns[-1].status in CHAINABLE:
            fit.append(turns[-1])
    return turns


def above(turns: dict[UUID, Turn], turn: Turn) -> list[UUID]:
    """The nearest first, by parent pointers."""
    found = list[UUID]()
    while turn.parent:
        turn = turns[turn.parent]
        found.append(turn.id)
    return found


async def family(
    db: Database, caller: Caller, key: UUID, *, limit: int = 1000
) -> tuple[Relative, Root, list[Relative], list[Relative]]:
    """A response, its root, its ancestors and its children; each list read by pages of `limit`."""
    async with db.read(caller) as tx:
        found = await relatives.get(tx, key)
        assert found is not None
        own, root = found
        up, down = list[Relative](), list[Relative]()
        while page := await relatives.ancestors(
            tx, key, below=up[-1].depth if up else own.depth, limit=limit
        ):
            up += page
            assert len(page) <= limit
        while page := await relatives.children(tx, key, after=down[-1].id if down else None, limit=limit):
            down += page
            assert len(page) <= limit
    return own, root, up, down


@pytest.mark.parametrize(("seed", "limit"), [(1, 1000), (2, 3), (3, 1)])
async def test_every_family_of_a_random_tree(db: Database, caller: Caller, seed: int, limit: int) -> None:
    rng = random.Random(seed)
    listed = await grow(db, caller, rng, 120)
    turns = {turn.id: turn for turn in listed}
    gone = set(rng.sample(list(turns), 25))
    for key in gone:
        assert await delete(db, caller, turns[key])
    await Ledger(db).settle(caller)
    assert max(len(above(turns, turn)) for turn in listed) > 10, "the tree is deep"
    for key in turns.keys() - gone:
        own, root, up, down = await family(db, caller, key, limit=limit)
        expected = above(turns, turns[key])
        assert (own.id, own.previous, own.status) == (key, turns[key].parent, turns[key].status)
        assert [each.id for each in up] == expected
        assert [each.is_deleted for each in up] == [each in gone for each in expected]
        assert [each.depth for each in (own, *up)] == [*range(len(expected), -1, -1)]
        assert root == Root([key, *expected][-1], is_conversation=False)
        assert [each.id for each in down] == sorted(
            turn.id for turn in listed if turn.parent == key and turn.id not in gone
        )
        assert {each.depth for each in down} <= {own.depth + 1}


async def test_what_is_deleted_is_not_found_but_named_by_its_descendants(
    db: Database, caller: Caller
) -> None:
    root = await add(db, caller, "root")
    child = await add(db, caller, "child", root)
    await delete(db, caller, root)
    await Ledger(db).settle(caller)
    async with db.read(caller) as tx:
        assert await relatives.get(tx, root.id) is None
        [parent] = await relatives.ancestors(tx, child.id, below=9, limit=9)
    assert (parent.id, parent.is_deleted) == (root.id, True)


async def test_every_step_may_be_on_a_line_of_its_own(db: Database, caller: Caller) -> None:
    path = [await add(db, caller, "0")]
    for number in range(1, 30):
        await add(db, caller, "elder", path[-1])
        path.append(await add(db, caller, str(number), path[-1]))
    await Ledger(db).settle(caller)
    _, _, up, _ = await family(db, caller, path[-1].id, limit=7)
    assert [each.id for each in up] == [turn.id for turn in path[-2::-1]]


class TestConversations:
    async def test_its_responses_are_ancestors_and_what_clients_added_is_not(
        self, db: Database, caller: Caller
    ) -> None:
        name = await made(db, caller, "first")
        turns = [await respond(db, caller, name, "a")]
        await say(db, caller, name, "between")
        turns += [await respond(db, caller, name, word) for word in "bc"]
        await Ledger(db).settle(caller)
        own, root, up, down = await family(db, caller, turns[-1].id, limit=1)
        assert [each.id for each in up] == [turn.id for turn in turns[-2::-1]]
        assert [each.depth for each in (own, *up)] == [4, 3, 1]
        assert root == Root(name, is_conversation=True)
        assert (own.conversation, own.previous, down) == (name, None, [])

    async def test_a_fork_goes_back_to_the_first_conversation(self, db: Database, caller: Caller) -> None:
        origin = await made(db, caller, "first")
        old = [await respond(db, caller, origin, word) for word in "abc"]
        items = await conversing.listed(db, caller, origin)
        cut = next(each for each in items if each.turn_id == old[1].id)
        fork = await conversing.fork(db, caller, origin, cut.item["id"])
        again = await conversing.fork(db, caller, fork)
        new = [await respond(db, caller, again, word) for word in "de"]
        await Ledger(db).settle(caller)
        own, root, up, _ = await family(db, caller, new[-1].id, limit=2)
        assert [each.id for each in up] == [turn.id for turn in (new[0], old[1], old[0])]
        assert root == Root(origin, is_conversation=True)
        assert own.conversation == again

    async def test_a_response_chained_on_one_of_its_own_goes_back_to_it(
        self, db: Database, caller: Caller
    ) -> None:
        name = await made(db, caller, "first")
        inside = await respond(db, caller, name)
        before = await read_ancestry(db, caller, inside.id)
        assert before is not None
        outside = a_turn("outside", before)
        outside = await put(
            db, caller, a_turn(id=outside.id, parent=before, place=before.place.next().elsewhere(outside.id))
        )
        await Ledger(db).settle(caller)
        own, root, up, _ = await family(db, caller, outside.id)
        assert [each.id for each in up] == [inside.id]
        assert root == Root(name, is_conversation=True)
        assert (own.previous, own.conversation) == (inside.id, None)
        assert [each.id for each in (await family(db, caller, inside.id))[3]] == [outside.id]


async def test_what_failed_is_a_child_and_nobodys_ancestor(db: Database, caller: Caller) -> None:
    root = await add(db, caller, "root")
    failed = await add(db, caller, "failed", root, status=Status.FAILED)
    child = await add(db, caller, "child", root)
    await Ledger(db).settle(caller)
    assert [each.id for each in (await family(db, caller, root.id))[3]] == [failed.id, child.id]
    assert [each.id for each in (await family(db, caller, failed.id))[2]] == [root.id]
    assert [each.id for each in (await family(db, caller, child.id))[2]] == [root.id]


async def test_a_stranger_has_no_part_in_it(db: Database, caller: Caller, database_url: str) -> None:
    root = await add(db, caller, "root")
    child = await add(db, caller, "child", root)
    stranger = await a_caller(database_url)
    await Ledger(db).settle(caller)
    async with db.read(stranger) as tx:
        for key in (root.id, child.id, ids.new_uuid()):
            assert await relatives.get(tx, key) is None
            assert not await relatives.ancestors(tx, key, below=9, limit=9)
            assert not await relatives.children(tx, key, after=None, limit=9)
