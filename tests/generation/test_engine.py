"""One generation from its context to its row, with a real Postgres."""

import asyncio
import gc
import weakref
from collections.abc import AsyncGenerator, Generator
from contextlib import suppress

import orjson
import pytest

from app.domain.context import Context
from app.domain.events import Event
from app.domain.response import Status
from app.domain.tenancy import Caller
from app.errors import InvalidRequest, ServiceError, UpstreamError
from app.generation import engine
from app.generation.feed import Feed
from app.providers.base import Delta, Finished, ItemFinished, Started
from app.store import lineage
from app.store.db import Database
from tests import grammar
from tests.builders import a_draft, a_response, a_run, all_stored, stored
from tests.generation.faults import heard
from tests.scripted import DONE, ScriptedProvider, Step, answer, call, hello

GONE = UpstreamError("The provider is gone.", status=503, code="server_error")


async def ended(db: Database, caller: Caller, *steps: Step) -> tuple[ScriptedProvider, engine.Run]:
    provider = ScriptedProvider(steps, db=db)
    return provider, await a_run(db, caller, provider, a_draft(stream=True))


def events_anywhere() -> list[Event]:
    return [each for each in gc.get_objects() if type(each) is Event]


class TestOutcomes:
    async def test_what_is_said_is_what_is_stored(self, db: Database, caller: Caller) -> None:
        provider = ScriptedProvider(answer("Hello", " there"), db=db)
        run = await a_run(db, caller, provider, a_draft(stream=True, metadata={"a": "b"}))
        composer = await engine.run(run)
        row = await stored(db, caller, run.accepted.draft)
        assert row is not None
        assert row.json() == composer.json
        assert grammar.check(await heard(run.listener)) == orjson.loads(row.json())
        assert (row.status, row.input_blob) == (Status.COMPLETED, run.accepted.draft.input.blob)

    async def test_nobody_needs_to_listen(self, db: Database, caller: Caller) -> None:
        run = await a_run(db, caller, ScriptedProvider(answer("Hi"), db=db))
        composer = await engine.run(run)
        assert run.listener is None
        row = await stored(db, caller, run.accepted.draft)
        assert row is not None
        assert row.json() == composer.json
        assert b'"text":"Hi"' in row.output_blob

    async def test_the_upstream_is_given_the_history_and_the_parameters(
        self, db: Database, caller: Caller
    ) -> None:
        first = await a_response(db, caller, *answer("One."))
        provider = ScriptedProvider(answer("Two."), db=db)
        parent = orjson.loads(first.json)["id"]
        await a_response(
            db,
            caller,
            provider=provider,
            params={"input": "And?", "previous_response_id": parent, "user": "u"},
        )
        (context,) = provider.contexts
        texts = [
            part["text"] for item in orjson.loads(b"[" + context.joined() + b"]") for part in item["content"]
        ]
        assert texts == ["Hi", "One.", "And?"]
        assert (context.model, context.params["user"], context.is_streamed) == ("a-model", "u", False)
        assert provider.is_closed

    async def test_a_response_that_is_not_to_be_stored_leaves_no_row(
        self, db: Database, caller: Caller
    ) -> None:
        composer = await a_response(db, caller, params={"store": False})
        assert composer.status is Status.COMPLETED
        assert await all_stored(db, caller) == []

    async def test_an_incomplete_response_is_stored_as_such(self, db: Database, caller: Caller) -> None:
        await a_response(db, caller, Started(), *hello(), Finished("incomplete", reason="max_output_tokens"))
        assert [row.status for row in await all_stored(db, caller)] == [Status.INCOMPLETE]


class TestFailures:
    @pytest.mark.parametrize(
        "error",
        [GONE, InvalidRequest("The history cannot be said.", param="input")],
        ids=["upstream", "request"],
    )
    async def test_a_refusal_before_the_beginning_is_raised_and_leaves_nothing(
        self, db: Database, caller: Caller, error: ServiceError
    ) -> None:
        provider, run = await ended(db, caller, error)
        with pytest.raises(type(error)) as raised:
            await engine.run(run)
        assert raised.value is error
        assert await heard(run.listener) == []
        assert await all_stored(db, caller) == []
        assert provider.is_closed

    async def test_a_refusal_travels_in_a_stream_that_has_begun_without_it(
        self, db: Database, caller: Caller
    ) -> None:
        _, run = await ended(db, caller, GONE)
        assert isinstance(run.listener, Feed)
        run.listener.is_streaming = True
        with pytest.raises(UpstreamError):
            await engine.run(run)
        (error,) = await heard(run.listener)
        assert (error["type"], error["sequence_number"], error["message"]) == ("error", 0, GONE.message)
        grammar.check([error])

    async def test_an_error_after_the_beginning_is_the_outcome(self, db: Database, caller: Caller) -> None:
        error = UpstreamError("Too many.", status=429, code="rate_limit_exceeded")
        _, run = await ended(db, caller, Started(), *hello("half")[:-1], error)
        composer = await engine.run(run)
        response = grammar.check(await heard(run.listener))
        assert response["status"] == "failed"
        assert response["error"] == {"code": "rate_limit_exceeded", "message": "Too many."}
        assert [part["text"] for part in response["output"][0]["content"]] == ["half"]
        row = await stored(db, caller, run.accepted.draft)
        assert row is not None
        assert (row.status, row.json()) == (Status.FAILED, composer.json)

    async def test_a_failure_that_the_upstream_reports_keeps_its_usage(
        self, db: Database, caller: Caller
    ) -> None:
        error = {"code": "bio_policy", "message": "No."}
        usage = {"input_tokens": 3, "output_tokens": 1, "cost": 0.5}
        _, run = await ended(db, caller, Started(), *hello(), Finished("failed", usage, error=error))
        await engine.run(run)
        response = grammar.check(await heard(run.listener))
        assert response["error"] == error
        assert (response["usage"]["total_tokens"], response["usage"]["cost"]) == (4, 0.5)
        assert len(response["output"]) == 1

    async def test_a_request_error_after_the_beginning_is_the_outcome_too(
        self, db: Database, caller: Caller
    ) -> None:
        _, run = await ended(db, caller, Started(), InvalidRequest("Odd.", code="unknown_parameter"))
        await engine.run(run)
        assert grammar.check(await heard(run.listener))["error"] == {
            "code": "invalid_prompt",
            "message": "Odd.",
        }

    async def test_a_crash_after_the_beginning_ends_as_failed_without_its_words(
        self, db: Database, caller: Caller
    ) -> None:
        provider, run = await ended(db, caller, Started(), *hello()[:2], RuntimeError("secret"))
        await engine.run(run)
        response = grammar.check(await heard(run.listener))
        assert (response["status"], response["error"]["code"]) == ("failed", "server_error")
        assert "secret" not in response["error"]["message"]
        assert [row.status for row in await all_stored(db, caller)] == [Status.FAILED]
        assert provider.is_closed

    async def test_a_crash_before_the_beginning_is_a_server_error(self, db: Database, caller: Caller) -> None:
        _, run = await ended(db, caller, RuntimeError("secret"))
        with pytest.raises(ServiceError) as raised:
            await engine.run(run)
        assert (raised.value.status, "secret" in raised.value.message) == (500, False)
        assert await all_stored(db, caller) == []

    async def test_an_upstream_that_says_nothing_has_failed(self, db: Database, caller: Caller) -> None:
        _, run = await ended(db, caller)
        with pytest.raises(UpstreamError):
            await engine.run(run)
        assert await heard(run.listener) == []

    async def test_an_upstream_that_never_says_how_it_ends_has_failed(
        self, db: Database, caller: Caller
    ) -> None:
        _, run = await ended(db, caller, Started(), *hello())
        await engine.run(run)
        assert grammar.check(await heard(run.listener))["status"] == "failed"

    async def test_an_outcome_that_was_reported_stands_whatever_comes_after(
        self, db: Database, caller: Caller
    ) -> None:
        _, run = await ended(db, caller, *answer("Hi"), GONE)
        await engine.run(run)
        assert grammar.check(await heard(run.listener))["status"] == "completed"


class Failing(ScriptedProvider):
    """Raises an error that it does not keep itself: with it go the frames that it has passed."""

    def __init__(self, kind: type[Exception], *, begins: bool) -> None:
        super().__init__([])
        self._kind, self._begins = kind, begins

    async def stream(self, context: Context) -> AsyncGenerator[Delta, None]:
        if self._begins:
            yield Started()
        raise self._kind("It broke.")


class TestMemory:
    """What has ended is gone with its last reader, and does not wait for the collector, which comes seldom."""

    @pytest.fixture(autouse=True)
    def _without_collector(self) -> Generator[None]:
        gc.collect()
        gc.disable()
        yield
        gc.enable()

    @pytest.mark.parametrize("begins", [False, True])
    @pytest.mark.parametrize("kind", [UpstreamError, RuntimeError])
    async def test_no_failure_holds_its_run(
        self, db: Database, caller: Caller, kind: type[Exception], *, begins: bool
    ) -> None:
        run = await a_run(db, caller, Failing(kind, begins=begins), a_draft(stream=True))
        seen = weakref.ref(run.composer)
        with suppress(ServiceError):
            await engine.run(run)
        del run
        assert seen() is None

    @pytest.mark.parametrize("before", [[], [Started(), *hello("a")[:3]]])
    async def test_nor_does_one_who_hangs_up(self, db: Database, caller: Caller, before: list[Step]) -> None:
        provider, run = await ended(db, caller, *before, asyncio.Event())
        seen = weakref.ref(run.composer)
        task = asyncio.ensure_future(engine.run(run))
        await provider.is_stalled.wait()
        task.cancel()
        await asyncio.wait([task])
        del run, task, provider
        await asyncio.sleep(0)
        assert seen() is None

    async def test_one_who_waits_keeps_nothing_of_what_it_has_told(
        self, db: Database, caller: Caller
    ) -> None:
        provider, run = await ended(db, caller, Started(), *hello("a")[:3], asyncio.Event())
        before = events_anywhere()
        task = asyncio.ensure_future(engine.run(run))
        await provider.is_stalled.wait()
        assert isinstance(run.listener, Feed)
        assert len(await run.listener.take()) == 5
        assert events_anywhere() == before
        task.cancel()
        await asyncio.wait([task])


class TestPlaces:
    """What the next turn finds."""

    async def test_a_child_continues_its_parents_line(self, db: Database, caller: Caller) -> None:
        parent = await a_response(db, caller)
        child = await a_response(db, caller, params={"previous_response_id": orjson.loads(parent.json)["id"]})
        async with db.read(caller) as tx:
            found = await lineage.ancestry(tx, child._draft.id)
        assert found is not None
        assert (found.place.chain_id, found.place.seq, found.place.forks) == (parent._draft.id, 1, ())

    async def test_a_failed_child_leaves_the_line_to_the_next_try(self, db: Database, caller: Caller) -> None:
        parent = await a_response(db, caller)
        params = {"previous_response_id": orjson.loads(parent.json)["id"]}
        failed = await a_response(db, caller, Started(), GONE, params=params)
        child = await a_response(db, caller, params=params)
        async with db.read(caller) as tx:
            lost, found = (
                await lineage.ancestry(tx, failed._draft.id),
                await lineage.ancestry(tx, child._draft.id),
            )
        assert lost is not None
        assert found is not None
        assert (lost.place.chain_id, lost.place.forks) == (failed._draft.id, ((parent._draft.id, 0),))
        assert (found.place.chain_id, len(found.turns)) == (parent._draft.id, 2)

    async def test_a_turn_remembers_its_open_calls_and_the_upstreams_ids(
        self, db: Database, caller: Caller
    ) -> None:
        reasoning = ItemFinished(1, {"type": "reasoning", "id": "rs_theirs", "summary": []})
        composer = await a_response(db, caller, Started(), reasoning, *call("call_1"), DONE)
        async with db.read(caller) as tx:
            found = await lineage.ancestry(tx, composer._draft.id)
        assert found is not None
        assert found.continuation.open_calls == {"call_1": "function_call"}
        kept = found.turns[-1][1]
        assert kept is not None
        assert (kept.upstream, kept.upstream_ids) == ("scripted", {composer.output[0]["id"]: "rs_theirs"})

    async def test_a_turn_with_nothing_to_remember_remembers_nothing(
        self, db: Database, caller: Caller
    ) -> None:
        composer = await a_response(db, caller)
        async with db.read(caller) as tx:
            found = await lineage.ancestry(tx, composer._draft.id)
        assert found is not None
        assert found.turns[-1][1] is None


class TestWatch:
    async def test_a_connection_that_is_held_while_the_upstream_is_awaited_is_noticed(
        self, db: Database, caller: Caller
    ) -> None:
        """Law L4: were it broken, every test here would fail."""
        provider = ScriptedProvider(answer(), db=db)
        run = await a_run(db, caller, provider, listener=Feed())
        async with db.read(caller):
            with pytest.raises(ServiceError):
                await engine.run(run)
        assert provider.played == 0
