"""From a request to a queued row, and from the row to a finished response, with a real Postgres."""

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import pytest

from app import ids
from app.domain.events import Event
from app.domain.jobs import Claim, Job
from app.domain.response import Draft, Status
from app.domain.tenancy import Caller
from app.errors import InvalidRequest, RateLimited, UpstreamError
from app.generation.accept import accept
from app.generation.queueing import draft_of, enqueue
from app.providers.base import Finished, ItemFinished, Started
from app.store import lifecycle, lineage, responses
from app.store.db import Database
from app.store.entries import Entries
from tests import grammar
from tests.background import (
    a_background,
    body,
    enqueued,
    execute,
    followed,
    found,
    generate,
    journalled,
    said,
    state,
    tries,
    working,
)
from tests.builders import a_draft, a_response, all_stored
from tests.scripted import DONE, ScriptedProvider, answer, call, hello

pytestmark = pytest.mark.usefixtures("nothing_queued")

EPHEMERAL: Mapping[str, Any] = {"store": False}
GONE = UpstreamError("The provider is gone.", status=503, code="server_error")


async def generated(
    db: Database, caller: Caller, database_url: str, *steps: Any, **params: Any
) -> tuple[ScriptedProvider, Draft]:
    """A background response that has ended."""
    provider = ScriptedProvider(steps or answer())
    draft = await enqueued(db, caller, **params)
    async with working(db, database_url, provider) as background:
        assert await generate(background)
    return provider, draft


async def next_job(db: Database) -> Job:
    async with db.begin_system() as tx:
        [job] = await lifecycle.claim(tx, owner="me", lease_seconds=30)
    return job


class TestQueueing:
    async def test_the_row_is_there_before_the_answer_and_says_the_same(
        self, db: Database, caller: Caller
    ) -> None:
        accepted = await accept(db, caller, a_draft(background=True, service_tier="priority"))
        queued = await enqueue(db, Entries(db, max_queued=1), caller, accepted)
        stored = await found(db, caller, accepted.draft.id)
        assert stored.json() == queued.body
        told = orjson.loads(queued.body)
        assert (told["status"], told["output"], told["usage"]) == ("queued", [], None)
        assert (told["background"], told["service_tier"], told["error"]) == (True, "auto", None)
        assert await journalled(db, caller, accepted.draft.id) == []

    async def test_a_streams_first_events_are_in_the_journal_with_it(
        self, db: Database, caller: Caller
    ) -> None:
        accepted = await accept(db, caller, a_draft(background=True, stream=True))
        queued = await enqueue(db, Entries(db, max_queued=1), caller, accepted)
        [(last_seq, frames)] = await journalled(db, caller, accepted.draft.id)
        assert (last_seq, frames) == (1, b"".join(event.frame for event in queued.events))
        assert [(event["type"], event["response"]) for event in said(frames)] == [
            ("response.created", orjson.loads(queued.body)),
            ("response.queued", orjson.loads(queued.body)),
        ]
        assert (await found(db, caller, accepted.draft.id)).event_count == 2

    async def test_events_that_cannot_be_journalled_queue_nothing(
        self, db: Database, caller: Caller, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("app.generation.queueing.queued_events", lambda _: (Event("x", 0, None),))  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            await enqueued(db, caller, stream=True)
        assert await all_stored(db, caller) == []

    async def test_the_limit_of_a_tenant_is_exact_and_leaves_no_row_behind(
        self, wide: Database, caller: Caller, database_url: str
    ) -> None:
        outcomes = await asyncio.gather(
            *[enqueued(wide, caller, stream=True, max_queued=7) for _ in range(20)], return_exceptions=True
        )
        refused = [each for each in outcomes if isinstance(each, RateLimited)]
        assert (len(refused), sum(isinstance(each, Draft) for each in outcomes)) == (13, 7)
        assert {error.retry_after_seconds for error in refused} == {5.0}
        assert (refused[0].status, refused[0].code) == (429, "rate_limit_exceeded")
        for table in ("responses", "response_events"):
            query = f"select count(*) from {table} where tenant_id = $1"
            assert [tuple(row) for row in await execute(database_url, query, caller.tenant_id)] == [(7,)]

    async def test_a_service_tier_sets_the_order(self, db: Database, caller: Caller) -> None:
        tiers = ("flex", None, "priority", "default", "fast", "auto", "scale", "flex")
        drafts = [await enqueued(db, caller, service_tier=tier) for tier in tiers]
        jobs = [await next_job(db) for _ in tiers]
        places = [2, 4, 1, 3, 5, 6, 0, 7]
        assert [job.claim.response_id for job in jobs] == [drafts[place].id for place in places]


class TestEphemeral:
    """`store: false`: the result can be polled for a while, and that is all."""

    async def test_it_can_be_polled_and_then_is_gone(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        _, draft = await generated(db, caller, database_url, store=False)
        told = await body(db, caller, draft.id)
        assert (told["status"], told["store"]) == ("completed", False)
        past = "update responses set expires_at = now() - interval '1 s' where id = $1"
        await execute(database_url, past, draft.id)
        await a_background(db).reap()
        async with db.read(caller) as tx:
            assert await responses.get(tx, draft.id) is None
        assert await tries(db, caller, draft.id) == []

    async def test_it_is_in_no_list_and_nobodys_parent(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        _, draft = await generated(db, caller, database_url, store=False)
        assert await all_stored(db, caller) == []
        with pytest.raises(InvalidRequest, match="not found"):
            await accept(db, caller, a_draft(previous_response_id=ids.response_id(draft.id)))

    @pytest.mark.parametrize("comes_first", [True, False])
    async def test_it_takes_no_place_in_the_line_of_its_parent(
        self, db: Database, caller: Caller, database_url: str, *, comes_first: bool
    ) -> None:
        root = await a_response(db, caller)
        link = {"previous_response_id": orjson.loads(root.json)["id"]}
        if comes_first:
            await generated(db, caller, database_url, store=False, **link)
        child = await a_response(db, caller, params=link)
        if not comes_first:
            await generated(db, caller, database_url, store=False, **link)
        async with db.read(caller) as tx:
            line = await lineage.ancestry(tx, child._draft.id)
        assert line is not None
        assert (line.place.chain_id, line.place.seq, line.place.forks) == (root._draft.id, 1, ())

    async def test_it_has_the_history_of_its_parent(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        root = await a_response(db, caller, *answer("One."))
        link = {"previous_response_id": orjson.loads(root.json)["id"]}
        provider, _ = await generated(db, caller, database_url, store=False, input="And?", **link)
        assert texts(provider) == ["Hi", "One.", "And?"]


def texts(provider: ScriptedProvider) -> list[str]:
    """What the upstream was given to read."""
    [context] = provider.contexts
    items = orjson.loads(b"[" + context.joined() + b"]")
    return [part["text"] for item in items for part in item["content"]]


class TestDraft:
    """Law L5: what a worker makes of the row is what the API made of the request."""

    RICH: Sequence[Mapping[str, Any]] = (
        {},
        {"input": 'Ünïcode \0 and "quotes"', "metadata": {"a": "b"}, "user": "u", "temperature": 0.1},
        {
            "input": [
                {"role": "user", "content": [{"type": "input_text", "text": "Look:"}]},
                {"role": "assistant", "content": "I do."},
                {"type": "reasoning", "id": "rs_x", "summary": [], "encrypted_content": "secret=="},
                {"role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;base64,AA=="}]},
            ],
            "include": ["message.input_image.image_url"],
        },
        {
            "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": None}],
            "tool_choice": {"type": "function", "name": "f"},
            "parallel_tool_calls": False,
            "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}},
            "reasoning": {"effort": "low"},
            "stream": True,
            "stream_options": {"include_obfuscation": False},
            "store": False,
            "service_tier": "flex",
            "top_logprobs": 3,
            "max_output_tokens": 16,
            "instructions": None,
            "prompt_cache_key": "k",
        },
    )  # fmt: skip

    @pytest.mark.parametrize("params", RICH)
    async def test_it_is_the_same_in_every_field(
        self, db: Database, caller: Caller, params: Mapping[str, Any]
    ) -> None:
        await self.compare(db, caller, a_draft(background=True, **params))

    async def test_it_is_the_same_with_a_parent_and_references(self, db: Database, caller: Caller) -> None:
        root = await a_response(db, caller)
        answered = orjson.loads(root.json)
        given = [
            {"type": "item_reference", "id": answered["output"][0]["id"]},
            {"role": "user", "content": "?"},
        ]
        other = await a_response(db, caller)
        link = {"previous_response_id": orjson.loads(other.json)["id"]}
        await self.compare(db, caller, a_draft(background=True, input=given, **link))

    async def compare(self, db: Database, caller: Caller, draft: Draft) -> None:
        accepted = await accept(db, caller, draft)
        await enqueue(db, Entries(db, max_queued=9), caller, accepted)
        job = await next_job(db)
        rebuilt = draft_of(job.claim.response_id, job.request, job.input_blob)
        for field in dataclasses.fields(Draft):
            assert getattr(rebuilt, field.name) == getattr(accepted.draft, field.name), field.name
        for name in ("is_stored", "is_background", "is_streamed", "previous_response_id"):
            assert getattr(rebuilt, name) == getattr(accepted.draft, name), name
        for field in dataclasses.fields(rebuilt.input):
            theirs = getattr(accepted.draft.input, field.name)
            assert getattr(rebuilt.input, field.name) == theirs, field.name
        assert orjson.dumps(rebuilt.params) == orjson.dumps(accepted.draft.params)
        assert orjson.dumps(rebuilt.echo) == orjson.dumps(accepted.draft.echo)
        assert (job.parent, job.place) == (accepted.parent, accepted.place)

    async def test_an_upstream_is_given_the_same_in_the_background_as_in_the_foreground(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        root = await a_response(db, caller, *answer("One."))
        params = {"input": "And?", "previous_response_id": orjson.loads(root.json)["id"], "user": "u"}
        there, _ = await generated(db, caller, database_url, **params)
        here = ScriptedProvider(answer())
        await a_response(db, caller, provider=here, params=params)
        [behind], [before] = there.contexts, here.contexts
        assert {**behind.params, "background": None} == {**before.params, "background": None}
        assert texts(there) == texts(here)
        assert (behind.model, behind.is_streamed) == ("scripted", before.is_streamed)


class TestOutcomes:
    @pytest.mark.parametrize("is_streamed", [True, False])
    async def test_what_was_queued_is_generated_and_stored(
        self, db: Database, caller: Caller, database_url: str, *, is_streamed: bool
    ) -> None:
        _, draft = await generated(db, caller, database_url, *answer("Hi", "!"), stream=is_streamed)
        told = await body(db, caller, draft.id)
        assert (told["status"], told["background"], told["model"]) == ("completed", True, "a-model-1")
        assert told["output"][0]["content"][0]["text"] == "Hi!"
        assert told["usage"]["total_tokens"] == 9
        [attempt] = await tries(db, caller, draft.id)
        assert (attempt["reason"], attempt["usage"]) == ("completed", {"input_tokens": 7, "output_tokens": 2})
        assert attempt["ended_at"] >= attempt["started_at"]

    async def test_a_stream_is_the_grammar_and_adds_up_to_the_response(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        _, draft = await generated(db, caller, database_url, *answer("Hi", "!"), stream=True)
        events = said(await followed(db, caller, draft.id))
        assert grammar.check(events) == await body(db, caller, draft.id)
        names = [event["type"].removeprefix("response.") for event in events[:3]]
        assert names == ["created", "queued", "in_progress"]

    async def test_while_it_runs_it_is_in_progress(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        gate = asyncio.Event()
        provider = ScriptedProvider([Started(), *hello()[:-1], gate, *hello()[-1:], DONE])
        draft = await enqueued(db, caller)
        async with working(db, database_url, provider) as background:
            task = asyncio.ensure_future(generate(background))
            await provider.is_stalled.wait()
            told = await body(db, caller, draft.id)
            assert (told["status"], told["output"], told["usage"]) == ("in_progress", [], None)
            assert [row.id for row in await all_stored(db, caller)] == [draft.id]
            gate.set()
            await task
        assert await state(db, caller, draft.id) is Status.COMPLETED

    @pytest.mark.parametrize("is_streamed", [True, False])
    @pytest.mark.parametrize("has_begun", [True, False])
    async def test_an_upstream_that_fails_has_failed_the_response(
        self, db: Database, caller: Caller, database_url: str, *, is_streamed: bool, has_begun: bool
    ) -> None:
        """Nobody waits for an HTTP error here: also what fails before it began is told in the response."""
        steps = (Started(), *hello("half")[:-1]) if has_begun else ()
        _, draft = await generated(db, caller, database_url, *steps, GONE, stream=is_streamed)
        told = await body(db, caller, draft.id)
        assert (told["status"], told["error"]) == (
            "failed",
            {"code": "server_error", "message": GONE.message},
        )
        assert len(told["output"]) == has_begun
        if is_streamed:
            assert said(await followed(db, caller, draft.id))[-1]["response"] == told
        assert (await tries(db, caller, draft.id))[0]["reason"] == "failed"

    async def test_a_run_that_takes_too_long_has_failed(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        provider = ScriptedProvider([Started(), asyncio.Event()])
        draft = await enqueued(db, caller)
        async with working(db, database_url, provider, max_run_seconds=0.05) as background:
            await generate(background)
        assert (await body(db, caller, draft.id))["status"] == "failed"
        assert provider.is_closed

    async def test_a_model_that_is_gone_from_the_settings_fails_the_response_in_so_many_words(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        draft = await enqueued(db, caller, model="gone", stream=True)
        async with working(db, database_url, ScriptedProvider([])) as background:
            assert await generate(background)
        told = await body(db, caller, draft.id)
        assert (told["status"], told["model"]) == ("failed", "gone")
        assert told["error"]["message"] == "The requested model 'gone' does not exist."
        events = said(await followed(db, caller, draft.id))
        assert [event["type"].removeprefix("response.") for event in events] == [
            "created",
            "queued",
            "failed",
        ]

    async def test_the_next_turn_finds_what_it_needs(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        reasoning = ItemFinished(1, {"type": "reasoning", "id": "rs_theirs", "summary": []})
        _, draft = await generated(db, caller, database_url, Started(), reasoning, *call("call_1"), DONE)
        async with db.read(caller) as tx:
            line = await lineage.ancestry(tx, draft.id)
        assert line is not None
        assert line.continuation.open_calls == {"call_1": "function_call"}
        kept = line.turns[-1][1]
        assert kept is not None
        assert list(kept.upstream_ids.values()) == ["rs_theirs"]

    async def test_the_upstreams_own_id_is_kept_with_the_attempt(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        _, draft = await generated(db, caller, database_url, Started("m", "up_1"), Finished("completed"))
        assert (await tries(db, caller, draft.id))[0]["upstream_id"] == "up_1"

    async def test_no_connection_is_held_while_the_upstream_is_awaited(
        self, db: Database, caller: Caller, database_url: str
    ) -> None:
        """Law L4 in the background, where no journal and no renewal comes between."""
        provider = ScriptedProvider(answer(), db=db)
        draft = await enqueued(db, caller)
        async with working(db, database_url, provider) as background:
            await generate(background)
        assert await state(db, caller, draft.id) is Status.COMPLETED
        assert provider.played == len(answer())


class TestOnce:
    async def test_a_bell_that_is_rung_three_times_generates_once(
        self, wide: Database, caller: Caller, database_url: str
    ) -> None:
        """Law L6: a message that is delivered again finds nothing to do."""
        provider = ScriptedProvider(answer())
        draft = await enqueued(wide, caller, stream=True)
        async with (
            working(wide, database_url, provider) as one,
            working(wide, database_url, provider) as other,
        ):
            outcomes = await asyncio.gather(generate(one), generate(other), generate(one))
        assert sorted(outcomes) == [False, False, True]
        assert len(provider.contexts) == 1
        assert len(await tries(wide, caller, draft.id)) == 1
        assert grammar.check(said(await followed(wide, caller, draft.id)))["status"] == "completed"

    async def test_many_bells_generate_each_response_once(
        self, wide: Database, caller: Caller, database_url: str
    ) -> None:
        provider = ScriptedProvider(answer())
        drafts = [await enqueued(wide, caller, stream=bool(number % 2)) for number in range(30)]
        async with (
            working(wide, database_url, provider) as one,
            working(wide, database_url, provider) as other,
        ):
            await asyncio.gather(*[generate(each) for each in (one, other) for _ in drafts])
            while await generate(one):
                pass
        assert len(provider.contexts) == len(drafts)
        for draft in drafts:
            assert await state(wide, caller, draft.id) is Status.COMPLETED
            assert len(await tries(wide, caller, draft.id)) == 1

    async def test_without_anything_queued_there_is_nothing_to_do(
        self, db: Database, database_url: str
    ) -> None:
        async with working(db, database_url, ScriptedProvider([])) as background:
            assert not await generate(background)


def test_a_claim_can_be_told_from_every_other() -> None:
    key = ids.new_uuid()
    assert len({Claim(1, key, 1), Claim(1, key, 2), Claim(2, key, 1), Claim(1, key, 1)}) == 3
