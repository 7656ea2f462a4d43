"""Rows as they are written and read: bytes, pages, deletions."""

import asyncio
import random
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import asyncpg
import orjson
import pytest

from app import ids
from app.domain.gates import Gated
from app.domain.jobs import Mode
from app.domain.response import Status
from app.domain.tenancy import Caller
from app.domain.turn import Turn
from app.store import items, responses
from app.store.db import Database
from app.store.responses import StoredResponse
from tests.store.turns import a_turn, add, ancestry, delete, listed, put, rows


async def get(db: Database, caller: Caller, turn: Turn) -> StoredResponse | None:
    async with db.read(caller) as tx:
        return await responses.get(tx, turn.id)


async def walk(
    db: Database, caller: Caller, *, newest_first: bool, limit: int = 7, model: str | None = None
) -> list[UUID]:
    """The ids of all pages, one page after the other."""
    found, after = list[UUID](), None
    while True:
        page = await listed(db, caller, limit=limit, newest_first=newest_first, after=after, model=model)
        if not page:
            return found
        found += [row.id for row in page]
        after = found[-1]


@pytest.mark.parametrize("status", [Status.COMPLETED, Status.INCOMPLETE, Status.FAILED, Status.CANCELLED])
async def test_a_turn_is_read_as_it_was_written(db: Database, caller: Caller, status: Status) -> None:
    turn = await add(
        db, caller, status=status, input_gated=Gated.INPUT_IMAGE_URL, output_gated=Gated.LOGPROBS | Gated(2)
    )
    stored = await get(db, caller, turn)
    assert stored is not None
    assert stored == StoredResponse(
        id=turn.id,
        status=status,
        body=turn.body,
        input_blob=turn.input_blob,
        output_blob=turn.output_blob,
        input_gated=Gated.INPUT_IMAGE_URL,
        output_gated=Gated.LOGPROBS | Gated(2),
        mode=Mode.FOREGROUND,
        event_count=0,
    )
    assert orjson.loads(stored.json())["output"] == [orjson.loads(turn.output_blob)]


@pytest.mark.parametrize("has_input", [True, False])
@pytest.mark.parametrize("has_output", [True, False])
async def test_input_and_output_are_kept_apart_even_where_one_is_missing(
    db: Database, caller: Caller, *, has_input: bool, has_output: bool
) -> None:
    input_blob, output_blob = b'{"a":1},{"b":2}' * has_input, b'{"c":3}' * has_output
    turn = await add(
        db,
        caller,
        input_blob=input_blob,
        input_count=2 * has_input,
        output_blob=output_blob,
        output_count=int(has_output),
    )
    stored = await get(db, caller, turn)
    assert stored is not None
    assert (stored.input_blob, stored.output_blob) == (input_blob, output_blob)


async def test_nul_characters_are_kept_in_bytes_and_replaced_in_the_model(
    db: Database, caller: Caller
) -> None:
    turn = await add(
        db, caller, "a\0b", model="a\0model", body=b'{"model":"a\\u0000model","user":"\\u0000","output":[]}'
    )
    stored = await get(db, caller, turn)
    assert stored is not None
    assert stored.body == turn.body
    assert orjson.loads(stored.input_blob)["says"] == "a\0b"
    assert await walk(db, caller, newest_first=True, model="a\0model") == [turn.id]
    assert await walk(db, caller, newest_first=True, model="a\ufffdmodel") == [turn.id]


async def test_a_lone_surrogate_is_our_bug_and_not_a_database_that_is_away(
    db: Database, caller: Caller
) -> None:
    """The edge refuses it. If one came through, offering it again to Postgres would never help."""
    turn = a_turn(model="\ud800")
    with pytest.raises(TypeError, match="surrogates"):
        await put(db, caller, turn)
    assert await get(db, caller, turn) is None
    with pytest.raises(TypeError):
        orjson.dumps("\ud800")
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(b'"\\ud800"')


async def test_an_item_of_30_mb_is_stored_and_walked(db: Database, caller: Caller) -> None:
    noise = b64encode(random.Random(1).randbytes(22_500_000))
    turn = await add(db, caller, output_blob=b'{"type":"message","text":"' + noise + b'"}')
    stored = await get(db, caller, turn)
    assert stored is not None
    assert stored.output_blob == turn.output_blob
    assert await walk(db, caller, newest_first=True) == [turn.id]


async def test_a_list_leaves_items_unread(db: Database, caller: Caller) -> None:
    turn = await add(db, caller)
    async with db.begin(caller) as tx:
        await tx._driver.execute(f"update responses set items = 'damaged' where id = '{turn.id}'")
    assert [row.body for row in await listed(db, caller)] == [turn.body]


async def test_a_deleted_response_is_gone_at_once_and_only_once(db: Database, caller: Caller) -> None:
    turn, other = await add(db, caller), await add(db, caller)
    assert await delete(db, caller, turn)
    assert not await delete(db, caller, turn)
    assert await get(db, caller, turn) is None
    assert await walk(db, caller, newest_first=True) == [other.id]


async def test_of_two_deletions_at_once_one_has_done_it(db: Database, caller: Caller) -> None:
    turn = await add(db, caller)
    outcomes = await asyncio.gather(*[delete(db, caller, turn) for _ in range(4)])
    assert sorted(outcomes) == [False, False, False, True]


@pytest.mark.parametrize("newest_first", [True, False])
async def test_a_walk_of_pages_neither_skips_nor_repeats_rows_of_one_microsecond(
    database_url: str, caller: Caller, *, newest_first: bool
) -> None:
    """Ids minted back to back in several threads, stored in any order, while others go on inserting."""
    with ThreadPoolExecutor(8) as threads:
        minted = [it.result() for it in [threads.submit(mint, 25) for _ in range(8)]]
    old = [new_id for batch in minted for new_id in batch]
    random.Random(7).shuffle(old)
    db = await Database.connect(database_url, size=4)
    await asyncio.gather(*[put(db, caller, a_turn(id=new_id)) for new_id in old])

    is_over = asyncio.Event()

    async def insert() -> int:
        count = 0
        while not is_over.is_set() and count < 300:
            await add(db, caller)
            count += 1
        return count

    writers = [asyncio.ensure_future(insert()) for _ in range(2)]
    found = await walk(db, caller, newest_first=newest_first)
    is_over.set()
    assert sum(await asyncio.gather(*writers)) > 0
    assert len(found) == len(set(found))
    assert found == sorted(found, reverse=newest_first)
    assert set(old) <= set(found)
    await db.close()


def mint(count: int) -> list[UUID]:
    return [ids.new_uuid() for _ in range(count)]


@pytest.mark.parametrize("newest_first", [True, False])
async def test_a_page_begins_after_a_cursor_that_is_gone_or_never_was(
    db: Database, caller: Caller, *, newest_first: bool
) -> None:
    turns = [await add(db, caller) for _ in range(3)]
    await delete(db, caller, turns[1])
    beyond = turns[0] if newest_first else turns[2]
    for cursor in (turns[1].id, UUID(int=turns[1].id.int + 1)):
        page = await listed(db, caller, newest_first=newest_first, after=cursor)
        assert [row.id for row in page] == [beyond.id]


async def test_pages_of_one_model_are_full_and_hold_no_other(db: Database, caller: Caller) -> None:
    turns = [await add(db, caller, model="rare" if number % 5 == 0 else "usual") for number in range(30)]
    rare = [turn.id for turn in turns[::5]]
    page = await listed(db, caller, limit=4, newest_first=False, model="rare")
    assert [row.id for row in page] == rare[:4]
    assert await walk(db, caller, newest_first=True, limit=2, model="rare") == rare[::-1]
    assert await walk(db, caller, newest_first=True, model="") == []


async def test_items_are_found_by_the_ids_that_we_gave_them(db: Database, caller: Caller) -> None:
    turn, gone = await add(db, caller, "found"), await add(db, caller)
    await delete(db, caller, gone)
    name = ids.item_id("message", turn.id, 0)
    strangers = [
        ids.item_id("message", turn.id, 2),
        ids.item_id("reasoning", turn.id, 0),
        ids.item_id("message", gone.id, 0),
        ids.item_id("message", ids.new_uuid(), 0),
        "msg_client",
        "",
    ]
    async with db.read(caller) as tx:
        assert await items.find(tx, [name, *strangers]) == {name: {"id": name, "says": "found"}}
        assert await items.find(tx, []) == {}


async def test_a_row_says_when_it_was_finished_and_what_it_was_chained_on(
    db: Database, caller: Caller, database_url: str
) -> None:
    root = await add(db, caller)
    await add(db, caller, parent=root)
    found = await rows(database_url, caller, "previous_id, finished_at, deleted_at, codec, input_count")
    assert [row["previous_id"] for row in found] == [None, root.id]
    assert all(row["finished_at"] and not row["deleted_at"] for row in found)
    assert await ancestry(db, caller, root.id) is not None


@pytest.mark.parametrize(
    "change", ["status = 6", "status = -1", "status = 1", "finished_at = null", "fork_seqs = '{1}'"]
)
async def test_the_table_refuses_what_cannot_be(db: Database, caller: Caller, change: str) -> None:
    """Law L3: an undeclared status does not get in even around the code."""
    turn = await add(db, caller)
    with pytest.raises(asyncpg.CheckViolationError):
        async with db.begin(caller) as tx:
            await tx._driver.execute(f"update responses set {change} where id = '{turn.id}'")
