"""The same cases over every provider: what a caller may rely on, whoever answers."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from app.errors import UpstreamError
from app.providers.base import Delta, ItemStarted, Started, TextDelta
from tests.providers.outcome import Outcome, outcome_of
from tests.providers.subjects import (
    ADAPTERS,
    BY_NAME,
    SUBJECTS,
    Subject,
    a_context,
    connected,
    playing,
    recorded,
    rehearsed,
)
from tests.providers.wire import Answer, json_answer, unused_url
from tests.waiting import PATIENCE_SECONDS


def check_text(outcome: Outcome) -> None:
    (message,) = outcome.in_order
    assert (message.kind, message.said) == ("message", [("output_text", "Hello there, world.")])
    assert message.head["role"] == "assistant"
    assert outcome.end.status == "completed"
    assert outcome.end.usage is not None
    assert (outcome.end.usage["input_tokens"], outcome.end.usage["output_tokens"]) == (36, 12)
    assert outcome.end.usage["total_tokens"] == 48


def check_parallel_tool_calls(outcome: Outcome) -> None:
    paris, rome = outcome.in_order
    assert paris.called == ("get_weather", '{"city":"Paris"}')
    assert rome.called == ("get_weather", '{"city":"Rome"}')
    assert (paris.head["call_id"], rome.head["call_id"]) == ("call_ParisAa1Bb2Cc3", "call_RomeAa1Bb2Cc3")
    assert outcome.end.status == "completed"


def check_reasoning(outcome: Outcome) -> None:
    thought, message = outcome.in_order
    assert (thought.kind, thought.said[0][1]) == ("reasoning", "Two and two.")
    assert thought.said[0][0] in {"reasoning_text", "summary_text"}
    assert message.said == [("output_text", "Four.")]


def check_refusal(outcome: Outcome) -> None:
    (message,) = outcome.in_order
    assert message.said == [("refusal", "I can't help with that.")]
    assert outcome.end.status == "completed"


def check_structured(outcome: Outcome) -> None:
    assert outcome.in_order[0].said == [("output_text", '{"answer":42}')]


def check_cut_by_max_tokens(outcome: Outcome) -> None:
    (message,) = outcome.in_order
    assert message.said == [("output_text", "Once upon a")]
    assert (outcome.end.status, outcome.end.reason) == ("incomplete", "max_output_tokens")
    # What was cut is left to the outcome, or said to be incomplete by the upstream itself.
    assert not message.is_finished or (message.final or {})["status"] == "incomplete"


def check_no_usage(outcome: Outcome) -> None:
    assert outcome.in_order[0].said == [("output_text", "Hello there, world.")]
    assert outcome.end.status == "completed"
    assert outcome.end.usage is None


SHAPES = {
    "text": (["message"], "completed"),
    "parallel_tool_calls": (["function_call", "function_call"], "completed"),
    "reasoning": (["reasoning", "message"], "completed"),
    "refusal": (["message"], "completed"),
    "structured": (["message"], "completed"),
    "cut_by_max_tokens": (["message"], "incomplete"),
}

CHECKS = {
    "text": check_text,
    "parallel_tool_calls": check_parallel_tool_calls,
    "reasoning": check_reasoning,
    "refusal": check_refusal,
    "structured": check_structured,
    "cut_by_max_tokens": check_cut_by_max_tokens,
    "no_usage": check_no_usage,
}


def named(value: object) -> str:
    return value.name if isinstance(value, Subject) else str(value)


every_adapter = pytest.mark.parametrize("subject", ADAPTERS, ids=named)


async def until_text(deltas: AsyncGenerator[Delta, None]) -> None:
    async for delta in deltas:
        if isinstance(delta, TextDelta):
            return
    pytest.fail("no text came")


async def failure_of(deltas: AsyncGenerator[Delta, None]) -> UpstreamError:
    with pytest.raises(UpstreamError) as raised:
        await outcome_of(deltas)
    return raised.value


@pytest.mark.parametrize(("subject", "case"), recorded(".sse"), ids=named)
async def test_a_streamed_answer_is_understood(subject: Subject, case: str) -> None:
    async with playing(subject, subject.answer(case)) as (provider, _):
        outcome = await outcome_of(provider.stream(a_context()))
    CHECKS[case](outcome)


@pytest.mark.parametrize(("subject", "case"), recorded(".json"), ids=named)
async def test_an_answer_that_is_not_streamed_is_understood(subject: Subject, case: str) -> None:
    async with playing(subject, subject.whole(case)) as (provider, upstream):
        outcome = await outcome_of(provider.stream(a_context(is_streamed=False)))
    CHECKS[case](outcome)
    assert not upstream.requests[0].json.get("stream")


@pytest.mark.parametrize("is_streamed", [True, False])
@pytest.mark.parametrize("case", SHAPES)
async def test_the_offline_model_reports_as_the_others_do(case: str, *, is_streamed: bool) -> None:
    outcome = await outcome_of(rehearsed(case, is_streamed=is_streamed))
    assert ([item.kind for item in outcome.in_order], outcome.end.status) == SHAPES[case]
    assert outcome.end.usage is not None
    async with playing(BY_NAME["openai_responses"], BY_NAME["openai_responses"].answer(case)) as (other, _):
        recorded_one = await outcome_of(other.stream(a_context()))
    assert [item.kind for item in recorded_one.in_order] == SHAPES[case][0]
    assert {kind for item in outcome.in_order for kind, _ in item.said} == {
        kind for item in recorded_one.in_order for kind, _ in item.said
    }


@pytest.mark.parametrize("piece_bytes", [1, 7, 64])
@every_adapter
async def test_an_answer_may_be_split_at_every_byte(subject: Subject, piece_bytes: int) -> None:
    answer = subject.answer("text", piece_bytes=piece_bytes)
    async with playing(subject, answer) as (provider, _):
        check_text(await outcome_of(provider.stream(a_context())))


@pytest.mark.parametrize("subject", SUBJECTS, ids=named)
async def test_a_connection_cut_midway_is_an_error_after_what_was_heard(subject: Subject) -> None:
    case = "cut_by_max_tokens"
    recording = subject.answer(case).body
    half = recording[: recording.index(b"Once upon") + 20]
    cut = Answer(half, framing="chunked", ending="drop")
    async with playing(subject, cut) as (provider, upstream):
        error = await failure_of(provider.stream(a_context()))
    assert error.status == 502
    assert len(upstream.requests) == 1


@every_adapter
async def test_a_stream_that_ends_well_but_too_early_is_an_error(subject: Subject) -> None:
    recording = subject.answer("text").body
    first_event = recording[: recording.index(b"\n\n") + 2].replace(b'"choices"', b'"nothing"')
    async with playing(subject, Answer(first_event)) as (provider, _):
        error = await failure_of(provider.stream(a_context()))
    assert error.message == "The model provider's answer ended before it was complete."


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503])
@every_adapter
async def test_a_passing_error_before_the_first_byte_is_tried_again(subject: Subject, status: int) -> None:
    refusal = json_answer({"error": {"message": "later"}}, status)
    async with playing(subject, refusal, refusal, subject.answer("text")) as (provider, upstream):
        check_text(await outcome_of(provider.stream(a_context())))
    assert len(upstream.requests) == 3
    assert len({request.body for request in upstream.requests}) == 1


@every_adapter
async def test_a_connection_that_vanishes_before_the_answer_is_tried_again(subject: Subject) -> None:
    async with playing(subject, Answer(ending="reset"), subject.answer("text")) as (provider, upstream):
        check_text(await outcome_of(provider.stream(a_context())))
    assert len(upstream.requests) == 2


@every_adapter
async def test_retries_come_to_an_end(subject: Subject) -> None:
    refusal = json_answer({"error": {"message": "broken", "code": "server_error"}}, 500)
    async with playing(subject, refusal, max_retries=1) as (provider, upstream):
        error = await failure_of(provider.stream(a_context()))
    assert (error.status, error.code) == (502, "server_error")
    assert len(upstream.requests) == 2


@every_adapter
async def test_nobody_listening_is_a_bad_gateway(subject: Subject) -> None:
    async with connected(subject, await unused_url()) as provider:
        error = await failure_of(provider.stream(a_context()))
    assert (error.status, error.message) == (502, "The model provider could not be reached.")


@every_adapter
async def test_silence_before_the_answer_is_a_timeout_and_not_tried_again(subject: Subject) -> None:
    async with playing(subject, Answer(ending="mute"), timeout_seconds=0.05) as (provider, upstream):
        error = await failure_of(provider.stream(a_context()))
    assert (error.status, len(upstream.requests)) == (504, 1)


@pytest.mark.parametrize("is_streamed", [True, False])
@every_adapter
async def test_silence_is_a_timeout(subject: Subject, *, is_streamed: bool) -> None:
    silence = Answer(
        b"", ending="stall", content_type="application/json" if not is_streamed else "text/event-stream"
    )
    async with playing(subject, silence, timeout_seconds=0.05) as (provider, upstream):
        error = await failure_of(provider.stream(a_context(is_streamed=is_streamed)))
        await asyncio.wait_for(upstream.hung_up.wait(), PATIENCE_SECONDS)
    assert error.status == 504
    assert len(upstream.requests) == 1


@every_adapter
async def test_closing_the_stream_hangs_up_on_the_upstream(subject: Subject) -> None:
    recording = subject.answer("text").body
    start = recording[: recording.index(b"Hello") + 400]
    async with playing(subject, Answer(start, ending="stall")) as (provider, upstream):
        async with aclosing(provider.stream(a_context())) as deltas:
            await until_text(deltas)
            assert not upstream.hung_up.is_set()
        await asyncio.wait_for(upstream.hung_up.wait(), PATIENCE_SECONDS)


@every_adapter
async def test_cancelling_the_reader_hangs_up_on_the_upstream(subject: Subject) -> None:
    async with playing(subject, Answer(ending="stall")) as (provider, upstream):
        async with asyncio.TaskGroup() as group:
            reader = group.create_task(outcome_of(provider.stream(a_context())))
            await upstream.answered.wait()
            reader.cancel()
        await asyncio.wait_for(upstream.hung_up.wait(), PATIENCE_SECONDS)


@pytest.mark.parametrize("ending", ["whole", "late"])
@every_adapter
async def test_a_finished_answer_gives_its_connection_back(subject: Subject, ending: str) -> None:
    async with playing(subject, subject.answer("text", ending=ending)) as (provider, upstream):
        for _ in range(3):
            check_text(await outcome_of(provider.stream(a_context())))
    assert (upstream.connections, len(upstream.requests)) == (1, 3)


@pytest.mark.parametrize("name", ["openai_responses", "openrouter_chat"])
async def test_a_finished_answer_does_not_wait_for_the_upstream_to_end_it(name: str) -> None:
    subject = BY_NAME[name]
    async with playing(subject, subject.answer("text", ending="stall")) as (provider, upstream):
        check_text(await asyncio.wait_for(outcome_of(provider.stream(a_context())), PATIENCE_SECONDS))
        await asyncio.wait_for(upstream.hung_up.wait(), PATIENCE_SECONDS)


@every_adapter
async def test_deltas_are_reported_before_the_answer_ends(subject: Subject) -> None:
    recording = subject.answer("text").body
    start = recording[: recording.index(b"Hello") + 400]
    async with (
        playing(subject, Answer(start, ending="stall")) as (provider, _),
        aclosing(provider.stream(a_context())) as deltas,
    ):
        first = await anext(deltas)
        assert isinstance(first, Started)
        assert first.model == "gpt-4.1-2025-04-14"
        assert isinstance(await anext(deltas), ItemStarted)


@every_adapter
async def test_models_are_listed_once_a_minute(subject: Subject) -> None:
    listing = json_answer({"object": "list", "data": [{"id": "one"}, {"id": "two"}]})
    async with playing(subject, listing) as (provider, upstream):
        assert list(await provider.models()) == ["one", "two"]
        assert list(await provider.models()) == ["one", "two"]
    assert [request.line for request in upstream.requests] == ["GET /v1/models"]


@pytest.mark.parametrize(
    "answer",
    [
        json_answer({"error": "no"}, 500),
        json_answer([1]),
        json_answer({"data": 1}),
        Answer(b"<html>"),
        Answer(ending="reset"),
    ],
)
@every_adapter
async def test_an_upstream_that_cannot_list_has_no_models(subject: Subject, answer: Answer) -> None:
    async with playing(subject, answer) as (provider, _):
        assert list(await provider.models()) == []


@every_adapter
async def test_closing_twice_is_allowed(subject: Subject) -> None:
    async with playing(subject, subject.answer("text")) as (provider, _):
        await provider.close()
