"""Law L8: nothing terminal is said before it is stored. The commit is made to fail, to wait and to be forgotten."""

import asyncio

import orjson
import pytest

from app.domain.response import Status
from app.domain.tenancy import Caller
from app.errors import Unavailable
from app.generation import engine
from app.generation.feed import Feed
from app.store.db import Database
from tests import grammar
from tests.builders import a_draft, a_response, a_run, all_stored
from tests.generation.composing import parsed
from tests.generation.faults import AWAY, FaultyDatabase, heard
from tests.scripted import ScriptedProvider, answer


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "COMMIT_PAUSES_SECONDS", (0.001, 0.001, 0.001))


async def a_streamed_run(db: Database, caller: Caller, **params: str) -> engine.Run:
    return await a_run(db, caller, ScriptedProvider(answer("Hi"), db=db), a_draft(stream=True, **params))


async def test_a_store_that_stays_away_ends_the_stream_without_an_outcome(
    db: Database, caller: Caller
) -> None:
    run = await a_streamed_run(FaultyDatabase(db, before=[AWAY] * 9), caller)
    with pytest.raises(Unavailable):
        await engine.run(run)
    events = await heard(run.listener)
    grammar.check(events)
    assert [event["type"] for event in events[-2:]] == ["response.output_item.done", "error"]
    assert events[-1]["code"] == events[-1]["error"]["code"] == "service_unavailable"
    assert events[-1]["error"]["message"] == events[-1]["message"] == AWAY.message
    assert await all_stored(db, caller) == []


async def test_a_store_that_comes_back_gets_the_response_once(db: Database, caller: Caller) -> None:
    run = await a_streamed_run(FaultyDatabase(db, before=[AWAY] * 3), caller)
    composer = await engine.run(run)
    assert grammar.check(await heard(run.listener))["status"] == "completed"
    assert [row.json() for row in await all_stored(db, caller)] == [composer.json]


@pytest.mark.parametrize("has_parent", [False, True])
async def test_a_commit_whose_answer_was_lost_may_be_repeated(
    db: Database, caller: Caller, *, has_parent: bool
) -> None:
    parent = await a_response(db, caller)
    link = {"previous_response_id": orjson.loads(parent.json)["id"]} if has_parent else {}
    run = await a_streamed_run(FaultyDatabase(db, after=[AWAY, AWAY]), caller, **link)
    composer = await engine.run(run)
    assert [row.json() for row in await all_stored(db, caller)] == [parent.json, composer.json]


async def test_a_crash_of_the_store_ends_the_stream_too(db: Database, caller: Caller) -> None:
    run = await a_streamed_run(FaultyDatabase(db, before=[RuntimeError("secret")]), caller)
    with pytest.raises(RuntimeError):
        await engine.run(run)
    last = (await heard(run.listener))[-1]
    assert (last["type"], last["error"]["type"], "secret" in last["message"]) == (
        "error",
        "server_error",
        False,
    )


async def test_the_end_is_told_after_the_commit_and_the_rest_before(db: Database, caller: Caller) -> None:
    gate = asyncio.Event()
    slow = FaultyDatabase(db, gate=gate)
    run = await a_streamed_run(slow, caller)
    assert isinstance(run.listener, Feed)
    task = asyncio.ensure_future(engine.run(run))
    await slow.is_begun.wait()
    before = parsed(await run.listener.take())
    assert before[-1]["type"] == "response.output_item.done"
    assert await all_stored(db, caller) == []
    gate.set()
    after = await heard(run.listener)
    assert [event["type"] for event in after] == ["response.completed"]
    await task
    assert [row.status for row in await all_stored(db, caller)] == [Status.COMPLETED]


async def test_what_is_not_to_be_stored_needs_no_store(db: Database, caller: Caller) -> None:
    provider = ScriptedProvider(answer(), db=db)
    run = await a_run(FaultyDatabase(db, before=[AWAY] * 9), caller, provider, a_draft(store=False))
    assert (await engine.run(run)).status is Status.COMPLETED
