"""Turns for tests of the store: small, told apart by a word, and appended as a finished request would be."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import orjson

from app import ids
from app.domain.gates import Gated
from app.domain.response import CHAINABLE, Status
from app.domain.search import Filters
from app.domain.tenancy import Caller
from app.domain.turn import Ancestry, Place, Turn
from app.generation.ledger import Ledger
from app.store import lifecycle, lineage, responses, search
from app.store.db import Database
from app.store.responses import ListedResponse


def a_turn(says: str = "hi", parent: Ancestry | None = None, **changes: Any) -> Turn:
    """A finished turn after `parent`, with one item of input and one of output; `changes` are its fields."""
    new_id, status = ids.new_uuid(), changes.get("status", Status.COMPLETED)
    place = parent.place.next() if parent else Place(new_id, 0)
    turn = Turn(
        id=new_id,
        parent=parent.parent if parent else None,
        place=place if parent is None or status in CHAINABLE else place.elsewhere(new_id),
        status=status,
        model="a-model",
        input_blob=orjson.dumps({"id": ids.item_id("message", new_id, 0), "says": says}),
        input_count=1,
        input_gated=Gated.NONE,
        output_blob=orjson.dumps({"id": ids.item_id("message", new_id, 1), "answers": says}),
        output_count=1,
        output_gated=Gated.NONE,
        body=orjson.dumps({"id": ids.response_id(new_id), "output": [], "parallel_tool_calls": True}),
    )
    return replace(turn, **changes)


async def put(db: Database, caller: Caller, turn: Turn) -> Turn:
    async with db.begin(caller) as tx:
        await lifecycle.append(tx, turn)
    return turn


async def add(
    db: Database, caller: Caller, says: str = "hi", parent: Turn | None = None, **changes: Any
) -> Turn:
    """Append a turn after a stored one, which is looked up as a request would."""
    before = await ancestry(db, caller, parent.id) if parent else None
    assert parent is None or before is not None
    return await put(db, caller, a_turn(says, before, **changes))


async def ancestry(db: Database, caller: Caller, tip: UUID) -> Ancestry | None:
    async with db.read(caller) as tx:
        return await lineage.ancestry(tx, tip)


async def context(db: Database, caller: Caller, turn: Turn) -> list[str]:
    """What is said from the root to this turn; the answers must be in between."""
    found = await ancestry(db, caller, turn.id)
    assert found is not None
    items = orjson.loads(b"[" + b",".join(blob for blob, _ in found.turns) + b"]")
    said, answered = [item["says"] for item in items[::2]], [item["answers"] for item in items[1::2]]
    assert said == answered
    return said


async def delete(db: Database, caller: Caller, turn: Turn) -> bool:
    async with db.begin(caller) as tx:
        return await responses.delete(tx, turn.id)


async def listed(
    db: Database,
    caller: Caller,
    *,
    limit: int = 9,
    newest_first: bool = True,
    after: UUID | None = None,
    model: str | None = None,
) -> Sequence[ListedResponse]:
    """A page of the list, with all that has been done until now."""
    await Ledger(db).settle(caller)
    async with db.begin(caller) as tx:
        page = await search.find(
            tx, Filters(model=model), limit=limit, newest_first=newest_first, after=after
        )
    return page.found


async def rows(database_url: str, caller: Caller, columns: str = "*") -> list[Any]:
    """The tenant's rows as they are in the table, deleted ones too, in the order of their ids."""
    db = await Database.connect(database_url, size=1)
    async with db.read(caller) as tx:
        found = await tx._driver.fetch(
            f"select {columns} from responses where tenant_id = $1 order by id", caller.tenant_id
        )
    await db.close()
    return found
