"""Lines and forks: whatever the tree looks like, a context is the path from its root."""

import asyncio
import random
from dataclasses import replace

import pytest

from app import ids
from app.domain.response import CHAINABLE, Status
from app.domain.tenancy import Caller
from app.domain.turn import Continuation, Turn
from app.store import lifecycle, lineage, responses
from app.store.db import Database
from tests.store.turns import a_turn, add, ancestry, context, delete, put, rows

STATUSES = (
    *[Status.COMPLETED] * 12,
    Status.INCOMPLETE,
    Status.FAILED,
    Status.CANCELLED,
)


def path(turns: dict[str, Turn], says: str) -> list[str]:
    """The words from the root to this turn, by parent pointers."""
    by_id = {turn.id: word for word, turn in turns.items()}
    walk = [says]
    while parent := turns[walk[-1]].parent:
        walk.append(by_id[parent])
    return walk[::-1]


async def grow(db: Database, caller: Caller, rng: random.Random, size: int) -> dict[str, Turn]:
    """A random tree: mostly long lines, some bushes, some failures, a few roots."""
    turns, fit = dict[str, Turn](), list[Turn]()
    for number in range(size):
        recent = fit[-1:] if rng.random() < 0.8 else fit
        parent = rng.choice(recent) if recent and rng.random() < 0.98 else None
        turn = await add(db, caller, str(number), parent, status=rng.choice(STATUSES))
        turns[str(number)] = turn
        if turn.status in CHAINABLE:
            fit.append(turn)
    return turns


@pytest.mark.parametrize("seed", [1, 2])
async def test_every_context_of_a_random_tree_is_the_path_from_its_root(
    db: Database, caller: Caller, seed: int
) -> None:
    rng = random.Random(seed)
    turns = await grow(db, caller, rng, 300)
    expected = {says: path(turns, says) for says in turns}
    assert max(map(len, expected.values())) > 20, "the tree is deep"
    assert {says: await context(db, caller, turn) for says, turn in turns.items()} == expected

    gone = set(rng.sample(sorted(turns), 60))
    for says in gone:
        assert await delete(db, caller, turns[says])
    kept = {says: turn for says, turn in turns.items() if says not in gone}
    assert {says: await context(db, caller, turn) for says, turn in kept.items()} == {
        says: expected[says] for says in kept
    }


async def test_a_tree_that_lost_turns_grows_on_as_if_it_had_not(db: Database, caller: Caller) -> None:
    rng = random.Random(3)
    turns = await grow(db, caller, rng, 60)
    gone = set(rng.sample(sorted(turns), 30))
    for says in gone:
        await delete(db, caller, turns[says])
    fit = [turn for says, turn in turns.items() if says not in gone and turn.status in CHAINABLE]
    for number in range(60, 120):
        turns[str(number)] = await add(db, caller, str(number), rng.choice(fit))
        fit.append(turns[str(number)])
    for says in turns.keys() - gone:
        assert await context(db, caller, turns[says]) == path(turns, says)


async def test_first_children_stay_on_one_line(db: Database, caller: Caller, database_url: str) -> None:
    turn = await add(db, caller, "0")
    for number in range(1, 5):
        turn = await add(db, caller, str(number), turn)
    places = await rows(database_url, caller, "chain_id, seq, fork_chains, fork_seqs")
    assert len({row["chain_id"] for row in places}) == 1
    assert [row["seq"] for row in places] == [0, 1, 2, 3, 4]
    assert {(row["fork_chains"], row["fork_seqs"]) for row in places} == {(None, None)}


async def test_the_ancestry_says_what_a_next_turn_needs(db: Database, caller: Caller) -> None:
    continuation = Continuation({"call_1": "function_call"}, "an-upstream", {"msg_ours": "msg_theirs"})
    root = await add(db, caller, "root")
    await add(db, caller, "first", root)
    turn = await add(db, caller, "second", root, status=Status.INCOMPLETE, continuation=continuation)
    found = await ancestry(db, caller, turn.id)
    assert found is not None
    assert found.parent == turn.id
    assert found.status is Status.INCOMPLETE
    assert found.place == turn.place.elsewhere(turn.id)
    assert found.continuation.open_calls == {"call_1": "function_call"}
    assert [of for _, of in found.turns] == [None, continuation]


async def test_a_context_of_many_forks_is_whole(db: Database, caller: Caller) -> None:
    """Each turn is the second child of the one before: every step is on a line of its own."""
    turn = await add(db, caller, "0")
    for number in range(1, 30):
        await add(db, caller, "elder", turn)
        turn = await add(db, caller, str(number), turn)
    assert await context(db, caller, turn) == [str(number) for number in range(30)]


async def test_children_that_race_for_one_parent_are_all_stored_and_all_right(
    database_url: str, caller: Caller
) -> None:
    db = await Database.connect(database_url, size=8)
    root = await add(db, caller, "root")
    parent = await add(db, caller, "parent", root)
    before = await ancestry(db, caller, parent.id)
    children = [a_turn(str(number), before) for number in range(40)]
    await asyncio.gather(*[put(db, caller, child) for child in children])

    for child in children:
        assert await context(db, caller, child) == ["root", "parent", says(child)]
    places = await rows(database_url, caller, "chain_id, seq")
    assert len(places) == 42
    assert len({(row["chain_id"], row["seq"]) for row in places}) == 42, "no place is taken twice"
    assert sum(row["chain_id"] == root.id for row in places) == 3, "exactly one child goes on with the line"
    await db.close()


def says(turn: Turn) -> str:
    return turn.input_blob.split(b'"says":"')[1].split(b'"')[0].decode()


async def test_generations_that_race_leave_no_gaps(database_url: str, caller: Caller) -> None:
    """Six writers, each on a random turn that it knows of: lines have no holes and contexts are paths."""
    db, rng = await Database.connect(database_url, size=6), random.Random(5)
    turns = {"root": await add(db, caller, "root")}

    async def write(writer: int) -> None:
        for step in range(12):
            word = f"{writer}.{step}"
            turns[word] = await add(db, caller, word, rng.choice(list(turns.values())[-4:]))

    await asyncio.gather(*[write(writer) for writer in range(6)])
    for word, turn in turns.items():
        assert await context(db, caller, turn) == path(turns, word)
    lines = dict[object, list[int]]()
    for row in await rows(database_url, caller, "chain_id, seq"):
        lines.setdefault(row["chain_id"], []).append(row["seq"])
    for seqs in lines.values():
        assert sorted(seqs) == list(range(min(seqs), max(seqs) + 1))
    await db.close()


async def test_deleting_in_the_middle_keeps_the_context_of_descendants(db: Database, caller: Caller) -> None:
    first = await add(db, caller, "first")
    middle = await add(db, caller, "middle", first)
    last = await add(db, caller, "last", middle)
    assert await delete(db, caller, middle)
    assert await context(db, caller, last) == ["first", "middle", "last"]
    assert await context(db, caller, await add(db, caller, "more", last)) == [
        "first",
        "middle",
        "last",
        "more",
    ]


async def test_a_deleted_turn_cannot_be_chained_on(db: Database, caller: Caller) -> None:
    first = await add(db, caller, "first")
    middle = await add(db, caller, "middle", first)
    await add(db, caller, "last", middle)
    await delete(db, caller, middle)
    assert await ancestry(db, caller, middle.id) is None
    assert await ancestry(db, caller, first.id) is not None


@pytest.mark.parametrize("height", [1, 2, 3])
async def test_the_place_of_a_deleted_turn_is_never_taken_again(
    db: Database, caller: Caller, database_url: str, height: int
) -> None:
    """A freed place would let the next child of its parent slip in as an ancestor of older turns."""
    line = [await add(db, caller, "0")]
    for number in range(1, 5):
        line.append(await add(db, caller, str(number), line[-1]))
    await delete(db, caller, line[height])
    late = await add(db, caller, "late", line[height - 1])
    assert await context(db, caller, line[-1]) == ["0", "1", "2", "3", "4"]
    assert await context(db, caller, late) == [*map(str, range(height)), "late"]
    assert len(await rows(database_url, caller, "id")) == 6, "the deleted row is still there"


async def test_a_deleted_tip_keeps_its_place_too(db: Database, caller: Caller) -> None:
    """Its child may be in flight: it read the context before the deletion and is stored after it."""
    root = await add(db, caller, "root")
    tip = await add(db, caller, "tip", root)
    in_flight = a_turn("child", await ancestry(db, caller, tip.id))
    await delete(db, caller, tip)
    other = await add(db, caller, "other", root)
    await put(db, caller, in_flight)
    assert await context(db, caller, in_flight) == ["root", "tip", "child"]
    assert await context(db, caller, other) == ["root", "other"]


@pytest.mark.parametrize("status", [Status.FAILED, Status.CANCELLED])
async def test_what_nobody_may_chain_on_leaves_the_line_free(
    db: Database, caller: Caller, status: Status
) -> None:
    root = await add(db, caller, "root")
    failed = [await add(db, caller, f"failed {number}", root, status=status) for number in range(2)]
    retry = await add(db, caller, "retry", root)
    found = await ancestry(db, caller, retry.id)
    assert found is not None
    assert found.place.chain_id == root.id, "the line goes on as if nothing had failed"
    assert await context(db, caller, retry) == ["root", "retry"]
    assert await context(db, caller, failed[1]) == ["root", "failed 1"]


async def test_appending_again_changes_nothing(db: Database, caller: Caller, database_url: str) -> None:
    root = await add(db, caller, "root")
    before = await ancestry(db, caller, root.id)
    winner, loser = a_turn("winner", before), a_turn("loser", before)
    for turn in (winner, loser, winner, loser, loser):
        await put(db, caller, turn)
    again = await rows(database_url, caller)
    await put(db, caller, replace(loser, body=b"{}"))
    assert await rows(database_url, caller) == again
    assert len(again) == 3
    assert await context(db, caller, loser) == ["root", "loser"]


async def test_one_turn_appended_from_many_sides_at_once_is_stored_once(
    database_url: str, caller: Caller
) -> None:
    db = await Database.connect(database_url, size=6)
    root = await add(db, caller, "root")
    before = await ancestry(db, caller, root.id)
    twin, rival = a_turn("twin", before), a_turn("rival", before)
    await asyncio.gather(*[put(db, caller, turn) for turn in [twin, rival] * 6])
    assert [row["id"] for row in await rows(database_url, caller, "id")] == [root.id, twin.id, rival.id]
    assert await context(db, caller, twin) == ["root", "twin"]
    assert await context(db, caller, rival) == ["root", "rival"]
    await db.close()


async def test_appending_a_deleted_turn_again_does_not_bring_it_back(db: Database, caller: Caller) -> None:
    turn = await add(db, caller)
    await delete(db, caller, turn)
    await put(db, caller, turn)
    async with db.read(caller) as tx:
        assert await responses.get(tx, turn.id) is None


async def test_a_transaction_that_fails_stores_nothing(db: Database, caller: Caller) -> None:
    turn = a_turn()

    async def fail() -> None:
        async with db.begin(caller) as tx:
            await lifecycle.append(tx, turn)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail()
    assert await ancestry(db, caller, turn.id) is None


async def test_an_unknown_parent_has_no_ancestry(db: Database, caller: Caller) -> None:
    async with db.read(caller) as tx:
        assert await lineage.ancestry(tx, ids.new_uuid()) is None
