"""What stands beside a turn: its times, its neighbours, and which turns are responses."""

from uuid import UUID

import pytest

from app import ids
from app.domain.response import Status
from app.domain.tenancy import Caller
from app.domain.turn import Turn
from app.store import surroundings
from app.store.db import Database
from tests.background import enqueued
from tests.builders import a_caller
from tests.store.turns import add, delete


async def standing(db: Database, caller: Caller, key: UUID) -> surroundings.Standing | None:
    async with db.read(caller) as tx:
        return await surroundings.standing(tx, key)


async def beside(db: Database, caller: Caller, turn: Turn) -> tuple[UUID | None, UUID | None]:
    """The turns before and after."""
    stands = await standing(db, caller, turn.id)
    assert stands
    async with db.read(caller) as tx:
        before = await surroundings.items_at(tx, stands.before) if stands.before else None
        after = await surroundings.items_at(tx, stands.after)
    return before and before[0], after and after[0]


async def test_neighbours_on_one_line(db: Database, caller: Caller) -> None:
    first = await add(db, caller, "a")
    second = await add(db, caller, "b", first)
    third = await add(db, caller, "c", second)
    assert await beside(db, caller, first) == (None, second.id)
    assert await beside(db, caller, second) == (first.id, third.id)
    assert await beside(db, caller, third) == (second.id, None)


@pytest.mark.parametrize("status", [Status.COMPLETED, Status.FAILED])
async def test_a_fork_follows_its_parent(db: Database, caller: Caller, status: Status) -> None:
    first = await add(db, caller, "a")
    second = await add(db, caller, "b", first)
    fork = await add(db, caller, "c", first, status=status)
    forked, straight = [await standing(db, caller, each.id) for each in (fork, second)]
    assert forked is not None
    assert straight is not None
    assert forked.place.chain_id != straight.place.chain_id
    assert await beside(db, caller, fork) == (first.id, None)


async def test_items_come_with_a_neighbour(db: Database, caller: Caller) -> None:
    first = await add(db, caller, "a")
    second = await add(db, caller, "b", first)
    stands = await standing(db, caller, second.id)
    assert stands is not None
    assert stands.before is not None
    async with db.read(caller) as tx:
        found = await surroundings.items_at(tx, stands.before)
    assert found is not None
    assert [item.get("says") or item.get("answers") for item in found[1]] == ["a", "a"]


async def test_what_was_deleted_is_nobodys_neighbour(db: Database, caller: Caller) -> None:
    first = await add(db, caller, "a")
    second = await add(db, caller, "b", first)
    third = await add(db, caller, "c", second)
    assert await delete(db, caller, first)
    assert await delete(db, caller, third)
    assert await standing(db, caller, first.id) is None
    assert await beside(db, caller, second) == (None, None)


async def test_another_tenants_is_a_missing_one(db: Database, caller: Caller, database_url: str) -> None:
    turn, stranger = await add(db, caller, "a"), await a_caller(database_url)
    assert await standing(db, stranger, turn.id) is None
    async with db.read(stranger) as tx:
        assert await surroundings.items_at(tx, (turn.place.chain_id, 0)) is None
        assert await surroundings.glances(tx, [turn.id], most_bytes=1000) == {}
        assert await surroundings.responses_among(tx, [turn.id]) == set()


async def test_a_glance_tells_the_end_and_a_small_input(db: Database, caller: Caller) -> None:
    turn, draft = await add(db, caller, "a"), await enqueued(db, caller)
    async with db.read(caller) as tx:
        small = await surroundings.glances(tx, [turn.id, draft.id, ids.new_uuid()], most_bytes=10_000)
        large = await surroundings.glances(tx, [turn.id], most_bytes=1)
    assert set(small) == {turn.id, draft.id}
    assert small[turn.id].input_blob == turn.input_blob
    assert small[turn.id].finished_at is not None
    assert small[draft.id].finished_at is None
    assert large[turn.id].input_blob is None


async def test_an_input_that_takes_little_and_unfolds_to_much_is_too_large(
    db: Database, caller: Caller
) -> None:
    vast = await add(db, caller, "a" * 1_000_000)
    talkative = await add(db, caller, "a", output_blob=b'{"answers":"' + b"a" * 1_000_000 + b'"}')
    async with db.read(caller) as tx:
        found = await surroundings.glances(tx, [vast.id, talkative.id], most_bytes=10_000)
    assert found[vast.id].input_blob is None
    assert found[talkative.id].input_blob == talkative.input_blob


async def test_which_turns_are_responses(db: Database, caller: Caller) -> None:
    turn, gone = await add(db, caller, "a"), await add(db, caller, "b")
    assert await delete(db, caller, gone)
    async with db.read(caller) as tx:
        found = await surroundings.responses_among(tx, [turn.id, gone.id, ids.new_uuid()])
    assert found == {turn.id}
