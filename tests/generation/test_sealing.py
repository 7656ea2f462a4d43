"""Secrets of a background response's tools: sealed in the row, whole at the upstream, gone at the end."""

from typing import Any
from uuid import UUID

import orjson
import pytest

from app.domain.response import Draft, Status
from app.domain.seals import Seals
from app.domain.tenancy import Caller
from app.errors import UpstreamError
from app.store.db import Database
from tests.background import (
    a_background,
    body,
    cancel,
    empty_queue,
    enqueued,
    execute,
    expire,
    found,
    generate,
    state,
)
from tests.scripted import ScriptedProvider, answer

KEY, OTHER = bytes(range(32)), bytes(32)
MCP = {
    "type": "mcp",
    "server_label": "s",
    "server_url": "https://user:PLANTED-url@example.com/mcp",
    "authorization": "PLANTED-authorization",
    "headers": {"x-key": "PLANTED-header"},
}


@pytest.fixture(autouse=True)
async def queue(database_url: str) -> None:
    await empty_queue(database_url)


async def waiting(db: Database, caller: Caller, key: bytes = KEY, **params: Any) -> Draft:
    return await enqueued(db, caller, seals=Seals(key), tools=[MCP], **params)


async def secrets_of(database_url: str, response_id: UUID) -> bytes | None:
    [row] = await execute(database_url, "select secrets from responses where id = $1", response_id)
    return row["secrets"]


async def test_the_upstream_is_given_what_the_row_does_not_show(
    db: Database, caller: Caller, database_url: str
) -> None:
    draft = await waiting(db, caller)
    sealed = await secrets_of(database_url, draft.id)
    assert sealed is not None
    assert b"PLANTED" not in sealed
    queued = await body(db, caller, draft.id)
    provider = ScriptedProvider(answer())
    assert await generate(a_background(db, provider, seals=Seals(KEY)))
    assert provider.contexts[0].params["tools"] == [MCP]
    done = await body(db, caller, draft.id)
    assert done["status"] == "completed"
    assert orjson.dumps(done["tools"]) == orjson.dumps(queued["tools"])
    assert "PLANTED" not in str(done)
    assert await secrets_of(database_url, draft.id) is None


async def test_a_key_that_was_replaced_still_opens(db: Database, caller: Caller) -> None:
    draft = await waiting(db, caller, OTHER)
    provider = ScriptedProvider(answer())
    assert await generate(a_background(db, provider, seals=Seals(KEY, [OTHER])))
    assert provider.contexts[0].params["tools"] == [MCP]
    assert await state(db, caller, draft.id) is Status.COMPLETED


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_without_the_key_nothing_is_asked_and_the_response_says_why(
    db: Database, caller: Caller, database_url: str, *, is_streamed: bool
) -> None:
    draft = await waiting(db, caller, OTHER, stream=is_streamed)
    provider = ScriptedProvider(answer())
    assert await generate(a_background(db, provider, seals=Seals(KEY)))
    assert provider.contexts == []
    failed = await body(db, caller, draft.id)
    assert (failed["status"], failed["error"]) == (
        "failed",
        {
            "code": "server_error",
            "message": "The secrets of this response's tools could not be opened: no key of this server fits them.",
        },
    )
    assert await secrets_of(database_url, draft.id) is None


async def test_moved_to_another_row_they_are_of_no_use(
    db: Database, caller: Caller, database_url: str
) -> None:
    victim = await waiting(db, caller)
    stolen = await secrets_of(database_url, victim.id)
    await cancel(db, caller, victim.id)
    thief = await waiting(db, caller)
    await execute(database_url, "update responses set secrets = $2 where id = $1", thief.id, stolen)
    provider = ScriptedProvider(answer())
    assert await generate(a_background(db, provider, seals=Seals(KEY)))
    assert provider.contexts == []
    assert await state(db, caller, thief.id) is Status.FAILED


async def test_a_cancelled_response_keeps_none(db: Database, caller: Caller, database_url: str) -> None:
    draft = await waiting(db, caller)
    await cancel(db, caller, draft.id)
    assert await secrets_of(database_url, draft.id) is None


async def test_a_failed_response_keeps_none(db: Database, caller: Caller, database_url: str) -> None:
    draft = await waiting(db, caller)
    provider = ScriptedProvider([UpstreamError("No.")])
    assert await generate(a_background(db, provider, seals=Seals(KEY)))
    assert await state(db, caller, draft.id) is Status.FAILED
    assert await secrets_of(database_url, draft.id) is None


async def test_a_lost_attempt_leaves_them_to_the_next_one_and_the_last_wipes_them(
    db: Database, caller: Caller, database_url: str
) -> None:
    draft = await waiting(db, caller)
    background = a_background(db, ScriptedProvider(answer()), seals=Seals(KEY), max_attempts=2)
    for status in (Status.QUEUED, Status.FAILED):
        assert await background._claim(1)
        assert await secrets_of(database_url, draft.id)
        await expire(database_url, draft.id)
        await background.reap()
        assert await state(db, caller, draft.id) is status
    assert await secrets_of(database_url, draft.id) is None


async def test_without_a_key_nothing_is_stored(db: Database, caller: Caller, database_url: str) -> None:
    """The API refuses by name before; here is the wall behind it."""
    with pytest.raises(ValueError, match="no key"):
        await enqueued(db, caller, tools=[MCP])
    assert (
        await execute(database_url, "select id from responses where tenant_id = $1", caller.tenant_id) == []
    )


async def test_tools_without_secrets_need_no_key(db: Database, caller: Caller, database_url: str) -> None:
    draft = await enqueued(db, caller, tools=[{"type": "function", "name": "f", "parameters": {}}])
    assert await secrets_of(database_url, draft.id) is None
    assert (await found(db, caller, draft.id)).status is Status.QUEUED
