"""Settings that have changed are noted once, with what they were."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import orjson
import pytest
from pydantic import SecretStr

from app.domain.audit import SERVER, Action
from app.domain.tenancy import Caller
from app.effective_settings import told
from app.generation.settings_trail import note_settings
from app.resources import open_resources, open_worker
from app.settings import Settings
from app.store import outbox
from app.store.db import Database
from app.upstream_settings import ModelPrice, Upstream
from tests.background import execute
from tests.trails import behind_the_trigger, recorded, settle

OWN = Caller(SERVER)


@pytest.fixture(autouse=True)
async def database_url(quiet_database_url: str) -> AsyncGenerator[str]:
    """A database whose server has no trail yet."""
    yield quiet_database_url
    async with behind_the_trigger(quiet_database_url) as connection:
        for table in ("audit_outbox", "audit_records", "audit_heads", "audit_checkpoints"):
            await connection.execute(f"delete from {table}")


async def noted(db: Database) -> list[dict[str, Any]]:
    await settle(db, OWN)
    records = await recorded(db, OWN)
    assert {record.note.action for record in records} <= {Action.SETTINGS_CHANGED}
    return [orjson.loads(record.note.data) for record in records]


async def test_the_first_are_noted_whole(db: Database) -> None:
    await note_settings(db, "api", {"a": 1, "b": [2]})
    assert await noted(db) == [{"process": "api", "changed": {}, "settings": {"a": 1, "b": [2]}}]


@pytest.mark.parametrize("is_settled", [True, False])
async def test_what_differs_is_noted_with_both_values(db: Database, *, is_settled: bool) -> None:
    """Whether the last is in the trail already, or in the outbox still."""
    for settings in ({"a": 1, "b": 2, "c": None}, {"a": 1, "b": 2, "c": None}, {"a": 1, "b": 3, "d": "new"}):
        await note_settings(db, "api", settings)
        if is_settled:
            await settle(db, OWN)
    _, second = await noted(db)
    assert second["changed"] == {
        "b": {"old": 2, "new": 3},
        "c": {"old": None, "new": None},
        "d": {"old": None, "new": "new"},
    }


async def test_what_goes_back_is_a_change_too(db: Database) -> None:
    for value in (1, 2, 1, 1):
        await note_settings(db, "api", {"a": value})
    assert [each["settings"]["a"] for each in await noted(db)] == [1, 2, 1]


async def test_workers_and_api_processes_do_not_undo_each_others(db: Database) -> None:
    for _ in range(3):
        await note_settings(db, "api", {"a": 1})
        await note_settings(db, "worker", {"a": 2})
    assert [each["process"] for each in await noted(db)] == ["api", "worker"]


async def test_many_that_start_at_once_note_it_once(db: Database, database_url: str) -> None:
    other = await Database.connect(database_url, size=4)
    await asyncio.gather(*[note_settings(each, "api", {"a": 1}) for each in [db, other] * 10])
    await other.close()
    assert len(await noted(db)) == 1


@pytest.mark.parametrize("data", ['{"process":"api"', '{"process":"api","settings":', '{"process":"api"}'])
async def test_a_record_that_cannot_be_read_keeps_nobody_from_starting(
    db: Database, database_url: str, data: str
) -> None:
    statement = "insert into audit_outbox (tenant_id, action, data) values (0, $1, $2)"
    await execute(database_url, statement, int(Action.SETTINGS_CHANGED), data)
    await note_settings(db, "api", {"a": 1})
    await settle(db, OWN)
    assert [orjson.loads(each.note.data) for each in (await recorded(db, OWN))[1:]]


async def test_nothing_else_in_the_trail_is_taken_for_settings(db: Database) -> None:
    async with db.begin_system() as tx:
        await outbox.note(tx.of(SERVER), Action.AUDIT_SIGNED, None, {"process": "api", "settings": {"a": 1}})
    await note_settings(db, "api", {"a": 1})
    await settle(db, OWN)
    assert len(await recorded(db, OWN)) == 2


async def test_processes_note_theirs_when_they_open(db: Database, database_url: str) -> None:
    settings = Settings(database_url=SecretStr(database_url))
    for _ in range(2):
        async with open_resources(settings):
            pass
    async with open_worker(settings):
        pass
    async with open_resources(settings.model_copy(update={"max_queued": 7})):
        pass
    first, second, third = await noted(db)
    assert [each["process"] for each in (first, second, third)] == ["api", "worker", "api"]
    assert first["settings"].keys() == set(Settings.model_fields)
    assert third["changed"] == {"max_queued": {"old": 1000, "new": 7}}


class TestTold:
    KEY = "c2VjcmV0IHNlY3JldCBzZWNyZXQgc2VjcmV0IHNlY3I="

    def test_secrets_are_not_told_but_show_that_they_have_changed(self) -> None:
        upstream = Upstream(
            name="up", protocol="responses", base_url="https://up.test/v1", api_key=SecretStr("sk-hidden")
        )
        settings = Settings(
            database_url=SecretStr("postgresql://me:hunter2@host/db?password=hunter2"),
            broker_url=SecretStr("amqp://me:hunter2@host//"),
            seal_key=SecretStr(self.KEY),
            seal_keys_old=(SecretStr(self.KEY),),
            upstreams=(upstream,),
        )
        shown = told(settings)
        text = orjson.dumps(shown).decode()
        assert not [secret for secret in ("hunter2", self.KEY, "sk-hidden") if secret in text]
        assert shown["database_url"] == "postgresql+asyncpg://me:********@host/db"
        assert shown["seal_key"].startswith("sha256:")
        assert shown["seal_keys_old"] == [shown["seal_key"]]
        other = Settings(seal_key=SecretStr(self.KEY.replace("c2", "d2", 1)))
        assert told(other)["seal_key"] != shown["seal_key"]

    def test_upstreams_are_told_by_name_with_all_that_they_are(self) -> None:
        upstream = Upstream(
            name="up",
            protocol="chat_completions",
            base_url="https://up.test/v1",
            prices={"*": ModelPrice(input=1, output=2)},
        )
        shown = told(Settings(upstreams=(upstream,)))["upstreams"]
        assert shown.keys() == {"up"}
        assert shown["up"].keys() == set(Upstream.model_fields)
        assert shown["up"]["prices"] == {"*": {"input": 1.0, "output": 2.0, "cached_input": None}}

    def test_it_is_the_same_once_it_was_stored(self) -> None:
        shown = told(Settings())
        assert orjson.loads(orjson.dumps(shown)) == shown
