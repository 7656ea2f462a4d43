"""Law L7 in the store: another tenant's rows are as if they were not there, in every function."""

import importlib
import inspect
import pkgutil
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import app.store
from app import ids
from app.domain.tenancy import Caller
from app.domain.turn import Turn
from app.store import items, lineage, responses
from app.store.db import Database, ReadTx, Tx
from tests.store.turns import a_turn, add, context, put, rows

Look = Callable[[Tx, Turn], Awaitable[object]]

LOOKS: dict[str, tuple[Look, object]] = {
    "responses.get": (lambda tx, turn: responses.get(tx, turn.id), None),
    "responses.delete": (lambda tx, turn: responses.delete(tx, turn.id), False),
    "responses.page": (
        lambda tx, turn: responses.page(tx, limit=9, newest_first=True, after=None, model=None),
        [],
    ),
    "responses.append": (responses.append, None),
    "lineage.ancestry": (lambda tx, turn: lineage.ancestry(tx, turn.id), None),
    "items.find": (lambda tx, turn: items.find(tx, [ids.item_id("message", turn.id, 0)]), {}),
}
"""Each function of the store, applied to a turn, and what a stranger gets to see."""


def of_a_tenant() -> set[str]:
    """The functions of the store that take one tenant's transaction."""
    found = set[str]()
    for info in pkgutil.iter_modules(app.store.__path__):
        module = importlib.import_module(f"app.store.{info.name}")
        for name, function in inspect.getmembers(module, inspect.iscoroutinefunction):
            first: Any = next(iter(inspect.get_annotations(function).values()), None)
            if function.__module__ == module.__name__ and not name.startswith("_") and first in {ReadTx, Tx}:
                found.add(f"{info.name}.{name}")
    return found


def test_every_function_of_the_store_is_looked_at() -> None:
    assert of_a_tenant() == set(LOOKS)


@pytest.fixture
async def stranger(database_url: str, caller: Caller) -> Caller:
    db = await Database.connect(database_url, size=1)
    async with db.begin(caller) as tx:
        found = await tx._driver.fetch(
            "insert into tenants (name) values (gen_random_uuid()::text) returning id"
        )
    await db.close()
    return Caller(found[0]["id"])


@pytest.mark.parametrize("name", LOOKS)
async def test_a_stranger_sees_and_changes_nothing(
    db: Database, caller: Caller, stranger: Caller, database_url: str, name: str
) -> None:
    turn = await add(db, caller, "secret")
    before = await rows(database_url, caller)
    look, nothing = LOOKS[name]
    async with db.begin(stranger) as tx:
        assert await look(tx, turn) == nothing
    assert await rows(database_url, caller) == before


async def test_tenants_with_the_same_ids_do_not_meet(db: Database, caller: Caller, stranger: Caller) -> None:
    """Even where a key repeats: neither the place in a line nor the context is shared."""
    root = await add(db, caller, "mine")
    await put(db, stranger, a_turn("theirs", id=root.id, place=root.place))
    child = await add(db, caller, "my child", root)
    await put(db, stranger, a_turn("their child", id=child.id, place=child.place, parent=None))
    assert await context(db, caller, child) == ["mine", "my child"]
    assert await context(db, stranger, child) == ["theirs", "their child"]
