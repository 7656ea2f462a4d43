"""What is stored, held against what the trail vouches for."""

from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

import pytest

from app import ids
from app.domain.jobs import Claim, Ending, Mode, NewJob
from app.domain.response import Status
from app.domain.tenancy import Caller
from app.domain.turn import Turn
from app.generation import comparison
from app.generation.comparison import Change
from app.store import lifecycle
from app.store.codec import compress
from app.store.db import Database
from tests.background import execute
from tests.conversing import a_conversation, add_items
from tests.store.turns import a_turn, add, delete, put
from tests.trails import recorded, settle

DAMAGED = b"damaged"


async def compare(db: Database, caller: Caller) -> Sequence[Change]:
    await settle(db, caller)
    return await comparison.compare(db, caller, await recorded(db, caller))


async def change(database_url: str, turn_id: UUID, column: str, value: object) -> None:
    await execute(database_url, f"update responses set {column} = $2 where id = $1", turn_id, value)


async def queued(db: Database, caller: Caller, mode: Mode = Mode.BACKGROUND) -> Turn:
    turn = a_turn()
    async with db.begin(caller) as tx:
        assert await lifecycle.enqueue(
            tx,
            [
                NewJob(
                    replace(turn, status=Status.QUEUED, output_blob=b"", output_count=0),
                    mode=mode,
                    priority=0,
                    event_count=0,
                    request=b"{}",
                )
            ],
            max_queued=9,
        )
    return turn


async def finish(db: Database, database_url: str, caller: Caller, turn: Turn) -> None:
    claimed = "update responses set status = 1, attempt = 1, lease_until = now() where id = $1"
    await execute(database_url, claimed, turn.id)
    async with db.begin(caller) as tx:
        claim = Claim(caller.tenant_id, turn.id, 1)
        assert await lifecycle.finish(tx, Ending(claim, turn, event_count=1, shape=None, ttl_seconds=1))


async def test_nothing_has_changed(db: Database, caller: Caller, database_url: str) -> None:
    """Whatever has become of it: foreground or background, running, ended, deleted, in a conversation."""
    first = await add(db, caller)
    await add(db, caller, parent=first)
    await delete(db, caller, first)
    await queued(db, caller)
    ended = await queued(db, caller)
    await settle(db, caller)
    await finish(db, database_url, caller, ended)
    name = await a_conversation(db, caller, "hello")
    await add_items(db, caller, name, {"role": "user", "content": "again"})
    await a_conversation(db, caller)
    assert await compare(db, caller) == []


@pytest.mark.parametrize("column", ["body", "items"])
@pytest.mark.parametrize("is_readable", [True, False])
async def test_a_changed_response_is_named(
    db: Database, caller: Caller, database_url: str, column: str, *, is_readable: bool
) -> None:
    turn, _ = await add(db, caller), await add(db, caller)
    await settle(db, caller)
    await change(database_url, turn.id, column, compress(b'{"other":1}') if is_readable else DAMAGED)
    reason = "is not what was stored" if is_readable else "is damaged, and cannot be read"
    assert await compare(db, caller) == [Change(1, ids.response_id(turn.id), reason)]


async def test_so_is_one_that_was_put_back_to_an_earlier_state(
    db: Database, caller: Caller, database_url: str
) -> None:
    """The last digest counts, not any that it ever had."""
    turn = await queued(db, caller)
    [row] = await execute(database_url, "select body, items from responses where id = $1", turn.id)
    await finish(db, database_url, caller, turn)
    for column in ("body", "items"):
        await change(database_url, turn.id, column, row[column])
    assert await compare(db, caller) == [Change(2, ids.response_id(turn.id), "is not what was stored")]


async def test_a_removed_response_is_missed(db: Database, caller: Caller, database_url: str) -> None:
    turn, gone = await add(db, caller), await add(db, caller)
    await delete(db, caller, gone)
    await execute(database_url, "delete from responses where id = any($1)", [turn.id, gone.id])
    names = {ids.response_id(each.id): each for each in (turn, gone)}
    found = await compare(db, caller)
    assert {each.name for each in found} == names.keys()
    assert {each.reason for each in found} == {"is not there any more"}


async def test_what_was_kept_for_polling_alone_may_be_gone(
    db: Database, caller: Caller, database_url: str
) -> None:
    turn = await queued(db, caller, Mode.BACKGROUND | Mode.EPHEMERAL)
    await finish(db, database_url, caller, turn)
    await execute(database_url, "delete from responses where id = $1", turn.id)
    assert await compare(db, caller) == []


@pytest.mark.parametrize("is_first", [True, False])
async def test_changed_items_of_a_conversation_are_named(
    db: Database, caller: Caller, database_url: str, *, is_first: bool
) -> None:
    name = await a_conversation(db, caller, "hello")
    await add_items(db, caller, name, {"role": "user", "content": "again"})
    order = "seq" if is_first else "seq desc"
    statement = f"select id from responses where tenant_id = $1 order by {order} limit 1"
    [row] = await execute(database_url, statement, caller.tenant_id)
    await change(database_url, row["id"], "items", compress(b'{"type":"message"}'))
    what = f"what was put into {name}"
    assert await compare(db, caller) == [Change(1 if is_first else 2, what, "is not what was stored")]


async def test_what_the_outbox_has_still_to_tell_of_is_left_for_later(
    db: Database, caller: Caller, database_url: str
) -> None:
    turn = await queued(db, caller)
    await settle(db, caller)
    await finish(db, database_url, caller, turn)
    assert await comparison.compare(db, caller, await recorded(db, caller)) == []
    await change(database_url, turn.id, "body", compress(b'{"other":1}'))
    assert len(await compare(db, caller)) == 1


async def test_what_an_earlier_release_stored_has_to_be_there_alone(
    db: Database, caller: Caller, database_url: str
) -> None:
    """Nobody has a digest of it."""
    turn = await put(db, caller, a_turn())
    change_note = "update audit_outbox set action = 6, digest = null, data = '{}' where subject = $1"
    await execute(database_url, change_note, turn.id)
    assert await compare(db, caller) == []
    await execute(database_url, "delete from responses where id = $1", turn.id)
    assert [each.reason for each in await compare(db, caller)] == ["is not there any more"]


async def test_many_are_compared_a_few_at_a_time(
    db: Database, caller: Caller, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "AT_ONCE", 2)
    turns = [await add(db, caller) for _ in range(7)]
    await settle(db, caller)
    for turn in turns[::2]:
        await change(database_url, turn.id, "body", DAMAGED)
    assert [each.seq for each in await compare(db, caller)] == [1, 3, 5, 7]
