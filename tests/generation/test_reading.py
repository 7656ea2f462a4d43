"""Reads by keys that audit are remembered, and noted many at a time."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from pydantic import SecretStr

from app import ids
from app.domain.audit import Action
from app.domain.tenancy import Caller, Scope
from app.generation import reading
from app.generation.reading import Readings
from app.resources import open_resources
from app.settings import Settings
from app.store import outbox
from app.store.db import Database
from tests.builders import a_caller
from tests.trails import pending, recorded, settle
from tests.waiting import until

READ = Action.RESPONSE_READ


@pytest.fixture
def auditor(caller: Caller) -> Caller:
    return replace(caller, key_id=ids.new_uuid(), scopes=Scope.AUDIT)


async def noted(db: Database, caller: Caller) -> list[tuple[int, Any, Any]]:
    await settle(db, caller)
    notes = [record.note for record in await recorded(db, caller)]
    return [(note.action, note.subject, note.key_id) for note in notes]


@pytest.mark.parametrize("scopes", [Scope.READ, Scope.WRITE, Scope.READ | Scope.WRITE])
async def test_other_keys_are_not_watched(db: Database, auditor: Caller, scopes: Scope) -> None:
    readings = Readings(db)
    readings.note(replace(auditor, scopes=scopes), READ)
    readings.note(replace(auditor, key_id=None), READ)
    await readings.flush()
    assert await pending(db, auditor) == 0


async def test_each_is_noted_in_its_order_and_with_its_key(
    db: Database, auditor: Caller, database_url: str
) -> None:
    other = replace(await a_caller(database_url), key_id=ids.new_uuid(), scopes=Scope.ADMIN)
    subjects, readings = [ids.new_uuid() for _ in range(5)], Readings(db)
    for subject in subjects:
        for caller in (auditor, other):
            readings.note(caller, READ, subject)
    await readings.flush()
    for caller in (auditor, other):
        assert await noted(db, caller) == [(READ, subject, caller.key_id) for subject in subjects]
    await readings.flush()
    assert await pending(db, auditor) == 0


async def test_it_comes_to_that_by_itself(
    db: Database, auditor: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "FLUSH_SECONDS", 0.01)
    readings = Readings(db)
    for count in (1, 2):
        readings.note(auditor, READ)
        assert await pending(db, auditor) == count - 1

        async def is_noted(count: int = count) -> bool:
            return await pending(db, auditor) == count

        await until(is_noted)


async def test_while_postgres_is_away_so_many_are_remembered(
    db: Database, database_url: str, auditor: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "MAX_WAITING", 3)
    away = await Database.connect(database_url, size=1)
    await away.close()
    readings, subjects = Readings(away), [ids.new_uuid() for _ in range(5)]
    for subject in subjects:
        readings.note(auditor, READ, subject)
        await readings.flush()
    readings._db = db
    await readings.flush()
    assert await noted(db, auditor) == [(READ, subject, auditor.key_id) for subject in subjects[:3]]
    readings.note(auditor, READ, subjects[4])
    await readings.flush()
    assert len(await noted(db, auditor)) == 4


async def test_what_can_never_be_noted_is_not_tried_for_ever(
    db: Database, auditor: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings = Readings(db)
    readings.note(auditor, READ, None, {"not": object()})
    await readings.flush()
    assert not readings._waiting
    readings.note(auditor, READ)
    await readings.flush()
    assert await pending(db, auditor) == 1


async def test_a_process_that_ends_in_order_notes_what_is_left(
    db: Database, auditor: Caller, database_url: str
) -> None:
    async with open_resources(Settings(database_url=SecretStr(database_url))) as resources:
        resources.readings.note(auditor, READ)
        assert await pending(db, auditor) == 0
    assert await pending(db, auditor) == 1


async def test_who_ends_waits_for_who_is_at_it(
    db: Database, auditor: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the pool would be closed under it."""
    monkeypatch.setattr(reading, "FLUSH_SECONDS", 0)
    readings, note_many, may_go_on = Readings(db), outbox.note_many, asyncio.Event()

    async def slowly(*what: Any) -> None:
        await may_go_on.wait()
        await note_many(*what)

    async def is_begun() -> bool:
        return not readings._waiting

    monkeypatch.setattr(outbox, "note_many", slowly)
    readings.note(auditor, READ)
    await until(is_begun)
    flushed = asyncio.ensure_future(readings.flush())
    await asyncio.sleep(0.01)
    assert not flushed.done()
    may_go_on.set()
    await flushed
    assert await pending(db, auditor) == 1
