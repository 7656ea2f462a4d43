"""Law L7 in the store: another tenant's rows are as if they were not there, in every function."""

import importlib
import inspect
import pkgutil
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest

import app.store
from app.domain.tenancy import Caller
from app.domain.turn import Turn
from app.store.db import Database, ReadTx, Tx
from tests.store.looks import LOOKS, OF_KEYS, OF_RUNS, Look, everything, keys, running
from tests.store.looks_at_conversations import OF_CONVERSATIONS, tables, talking
from tests.store.looks_at_trails import OF_THE_LEDGER, OF_TRAILS, recorded, trail
from tests.store.looks_at_webhooks import (
    OF_PROMPTS,
    OF_REPLAYS,
    OF_WEBHOOKS,
    hooked,
    hooks,
    prompted,
    templates,
    unhooked,
)
from tests.store.turns import a_turn, add, context, put, rows


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
    looked = LOOKS | OF_RUNS | OF_CONVERSATIONS | OF_KEYS | OF_TRAILS | OF_THE_LEDGER
    looked |= OF_WEBHOOKS | OF_REPLAYS | OF_PROMPTS
    assert of_a_tenant() == set(looked)


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


async def check_for_its_owner_alone(
    db: Database,
    caller: Caller,
    stranger: Caller,
    turn: Turn,
    which: tuple[Look, object],
    held: Callable[[], Awaitable[object]],
) -> None:
    """A stranger is told nothing and changes nothing of what is held; its owner is, or does."""
    look, nothing = which
    before = await held()
    async with db.begin(stranger) as tx:
        assert await look(tx, turn) == nothing
    assert await held() == before
    async with db.begin(caller) as tx:
        seen = await look(tx, turn)
    assert seen != nothing or await held() != before, "its owner may"


@pytest.mark.parametrize("name", OF_RUNS)
async def test_a_stranger_neither_sees_nor_disturbs_a_run(
    db: Database, caller: Caller, stranger: Caller, name: str
) -> None:
    turn = await running(db, caller)
    await check_for_its_owner_alone(
        db, caller, stranger, turn, OF_RUNS[name], lambda: everything(db, caller, turn)
    )


@pytest.mark.parametrize("name", OF_CONVERSATIONS)
async def test_a_stranger_neither_sees_nor_disturbs_a_conversation(
    db: Database, caller: Caller, stranger: Caller, name: str
) -> None:
    turn = await talking(db, caller)
    await check_for_its_owner_alone(
        db, caller, stranger, turn, OF_CONVERSATIONS[name], lambda: tables(db, caller)
    )


@pytest.mark.parametrize("name", OF_KEYS)
async def test_a_stranger_neither_sees_nor_disturbs_a_key(
    db: Database, caller: Caller, stranger: Caller, name: str
) -> None:
    turn = a_turn()
    claim, _ = OF_KEYS["idempotency.claim"]
    async with db.begin(caller) as tx:
        await claim(tx, turn)
    await check_for_its_owner_alone(db, caller, stranger, turn, OF_KEYS[name], lambda: keys(db, caller))


@pytest.mark.parametrize("name", OF_WEBHOOKS | OF_REPLAYS)
async def test_a_stranger_neither_sees_nor_disturbs_a_webhook(
    db: Database, caller: Caller, stranger: Caller, name: str
) -> None:
    turn = await (unhooked if name in OF_REPLAYS else hooked)(db, caller)
    await check_for_its_owner_alone(
        db, caller, stranger, turn, (OF_WEBHOOKS | OF_REPLAYS)[name], lambda: hooks(db, caller)
    )


@pytest.mark.parametrize("name", OF_PROMPTS)
async def test_a_stranger_neither_sees_nor_disturbs_a_prompt(
    db: Database, caller: Caller, stranger: Caller, name: str
) -> None:
    turn = await prompted(db, caller)
    await check_for_its_owner_alone(
        db, caller, stranger, turn, OF_PROMPTS[name], lambda: templates(db, caller)
    )


@pytest.mark.parametrize("name", OF_TRAILS)
async def test_a_stranger_neither_sees_nor_disturbs_a_trail(
    db: Database, caller: Caller, stranger: Caller, name: str
) -> None:
    turn = await recorded(db, caller)
    await check_for_its_owner_alone(db, caller, stranger, turn, OF_TRAILS[name], lambda: trail(db, caller))


@pytest.mark.parametrize("name", OF_THE_LEDGER)
async def test_settling_for_one_leaves_others_alone(
    db: Database, caller: Caller, stranger: Caller, name: str
) -> None:
    turn = await recorded(db, caller)
    before = await trail(db, caller)
    look, nothing = OF_THE_LEDGER[name]
    async with db.begin_system() as tx:
        assert await look(tx.of(stranger.tenant_id), turn) == nothing
    assert await trail(db, caller) == before
    async with db.begin_system() as tx:
        seen = await look(tx.of(caller.tenant_id), turn)
    assert seen != nothing or await trail(db, caller) != before, "its own are"


@pytest.mark.parametrize("name", OF_THE_LEDGER)
async def test_no_request_may_settle(db: Database, caller: Caller, name: str) -> None:
    turn = await recorded(db, caller)
    look, _ = OF_THE_LEDGER[name]
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with db.begin(caller) as tx:
            await look(tx, turn)


async def test_tenants_with_the_same_ids_do_not_meet(db: Database, caller: Caller, stranger: Caller) -> None:
    """Even where a key repeats: neither the place in a line nor the context is shared."""
    root = await add(db, caller, "mine")
    await put(db, stranger, a_turn("theirs", id=root.id, place=root.place))
    child = await add(db, caller, "my child", root)
    await put(db, stranger, a_turn("their child", id=child.id, place=child.place, parent=None))
    assert await context(db, caller, child) == ["mine", "my child"]
    assert await context(db, stranger, child) == ["theirs", "their child"]
