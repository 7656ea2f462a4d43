"""How a tree branches: counts and places against the lists that they are about."""

from collections.abc import Sequence
from uuid import UUID

import pytest

from app import ids
from app.domain.response import Status
from app.domain.tenancy import Caller
from app.domain.turn import Turn
from app.generation.ledger import Ledger
from app.store import branches, relatives
from app.store.db import Database
from tests.store.turns import add, delete


async def family(db: Database, caller: Caller, count: int) -> tuple[Turn, list[Turn]]:
    """A turn and its children; those of each third one failed."""
    parent = await add(db, caller, "parent")
    statuses = [Status.FAILED if i % 3 == 2 else Status.COMPLETED for i in range(count)]
    children = [await add(db, caller, str(i), parent, status=status) for i, status in enumerate(statuses)]
    await add(db, caller, "grandchild", children[0])
    await Ledger(db).settle(caller)
    return parent, children


async def counts(db: Database, caller: Caller, turns: Sequence[Turn], *, most: int = 100) -> dict[UUID, int]:
    async with db.read(caller) as tx:
        return await branches.child_counts(tx, [turn.id for turn in turns], most=most)


async def test_children_are_counted_up_to_so_many(db: Database, caller: Caller) -> None:
    parent, children = await family(db, caller, 7)
    assert await counts(db, caller, [parent, *children]) == {parent.id: 7, children[0].id: 1}
    assert await counts(db, caller, [parent, children[0]], most=3) == {parent.id: 3, children[0].id: 1}
    assert await counts(db, caller, []) == {}


async def test_what_was_deleted_is_not_counted(db: Database, caller: Caller) -> None:
    parent, children = await family(db, caller, 3)
    await delete(db, caller, children[1])
    await Ledger(db).settle(caller)
    assert (await counts(db, caller, [parent]))[parent.id] == 2


@pytest.mark.parametrize("places", [0, 1, 3, 9])
async def test_a_list_begins_so_many_places_before(db: Database, caller: Caller, places: int) -> None:
    parent, children = await family(db, caller, 9)
    async with db.read(caller) as tx:
        for i, child in enumerate(children):
            after = await branches.places_before(tx, parent.id, child.id, places=places)
            found = await relatives.children(tx, parent.id, after=after, limit=99)
            assert [each.id for each in found] == [each.id for each in children[max(0, i - places) :]]
        assert await branches.places_before(tx, ids.new_uuid(), children[-1].id, places=places) is None
