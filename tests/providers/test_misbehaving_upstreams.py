"""Upstreams that do not keep to their own protocol: an error of theirs, never a crash or a flood of ours."""

from collections.abc import AsyncIterable, Iterable, Sequence
from typing import Any

import orjson
import pytest

from app.errors import UpstreamError
from app.providers import answer_body, event_stream, intake
from app.providers.base import Delta
from tests.providers.outcome import Outcome
from tests.providers.subjects import ADAPTERS, BY_NAME, SECRET, Subject, a_context, playing
from tests.providers.wire import Answer, json_answer

RESPONSES = BY_NAME["openai_responses"]
CHAT = BY_NAME["openai_chat"]

CREATED = {"type": "response.created", "response": {"id": "resp_up", "model": "m", "status": "in_progress"}}
SAID = {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": "Hi"}


def sse(*events: Any) -> Answer:
    return Answer(b"".join(b"data: %s\n\n" % orjson.dumps(event) for event in events))


def chunk(delta: Any, **more: Any) -> dict[str, Any]:
    return {"id": "c", "model": "m", "choices": [{"index": 0, "delta": delta}], **more}


def finished(**fields: Any) -> dict[str, Any]:
    return {"type": "response.completed", "response": {"status": "completed", "output": [], **fields}}


def ended(name: str, **fields: Any) -> dict[str, Any]:
    return {"type": f"response.output_item.{name}", "output_index": 0, **fields}


async def hear(deltas: AsyncIterable[Delta], outcome: Outcome) -> None:
    async for delta in deltas:
        outcome.add(delta)


async def failed(
    subject: Subject, answer: Answer, *, is_streamed: bool = True, **params: Any
) -> tuple[UpstreamError, Outcome]:
    """The error that an answer ends in, and what was heard before it."""
    outcome = Outcome()
    async with playing(subject, answer, max_retries=0) as (provider, _):
        deltas = provider.stream(a_context(is_streamed=is_streamed, **params))
        with pytest.raises(UpstreamError) as raised:
            await hear(deltas, outcome)
    return raised.value, outcome


def texts(outcome: Outcome) -> Sequence[str]:
    return [text for item in outcome.in_order for _, text in item.said]


def a_call(**fields: Any) -> dict[str, Any]:
    return {
        "tool_calls": [{"index": 0, "id": "call_1", "function": {"name": "f", "arguments": ""}, **fields}]
    }


WRONG_CHUNKS: Sequence[Any] = (
    chunk({}, usage={"prompt_tokens": "3"}),
    chunk({}, usage={"prompt_tokens": True}),
    chunk({}, usage={"prompt_tokens": 2**64 - 1, "completion_tokens": 1}),
    chunk({}, usage={"prompt_tokens_details": 5}),
    chunk({}, usage={"prompt_tokens_details": {"cached_tokens": []}}),
    chunk({}, usage=5),
    chunk({}, model=6),
    chunk({}, service_tier=["flex"]),
    chunk({"reasoning_content": 5}),
    chunk({"reasoning_content": {}}),
    chunk({"content": 5}),
    chunk({"content": [{"text": 5}]}),
    chunk({"refusal": ["no"]}),
    chunk({"annotations": [5]}),
    chunk({"annotations": [{"type": [], "x": 1}]}),
    chunk({"tool_calls": 5}),
    chunk({"tool_calls": [None]}),
    chunk(a_call(id=5)),
    chunk(a_call(index=[0])),
    chunk(a_call(function={"name": 6})),
    chunk(a_call(function="f")),
    chunk("Hi"),
    {"id": "c", "model": "m", "choices": [None]},
    {"id": "c", "model": "m", "choices": 5},
    {"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": {}, "logprobs": 5}]},
    {"id": "c", "choices": [{"index": 0, "delta": {"content": "a"}, "logprobs": {"content": [5]}}]},
    {"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": 5}]},
)

WRONG_EVENTS: Sequence[Any] = (
    {**SAID, "delta": 5},
    {**SAID, "delta": ["a"]},
    {**SAID, "delta": {}},
    {**SAID, "output_index": "0"},
    {**SAID, "content_index": ["a"]},
    {**SAID, "logprobs": "abc"},
    {**SAID, "logprobs": [5]},
    {"type": ["response.completed"]},
    {"type": "response.completed", "response": "x"},
    finished(usage={"input_tokens": "a"}),
    finished(usage={"input_tokens": 1.5}),
    finished(usage={"output_tokens_details": [1]}),
    finished(usage="x"),
    finished(output=5),
    finished(output=[None]),
    finished(output={"a": 1}),
    finished(model=6),
    finished(model="a\0b"),
    finished(service_tier={}),
    finished(temperature="warm"),
    finished(reasoning=5),
    finished(status=["a"]),
    finished(status="incomplete", incomplete_details=5),
    finished(status="incomplete", incomplete_details={"reason": 5}),
    finished(status="failed", error="all is lost"),
    ended("added", item="x"),
    ended("added", item=[]),
    ended("added", item={"type": 5}),
    ended("added", item={"type": "function_call", "call_id": "c", "name": 6}),
    ended("added", item={"type": "function_call", "call_id": [], "name": "f"}),
    ended("done", item={"type": "function_call", "call_id": "c", "name": "f", "arguments": {"a": 1}}),
    ended("done", item={"type": "message", "content": "Hi"}),
    ended("done", item={"type": "message", "content": ["Hi"]}),
    ended("done", item={"type": "message", "content": [{"type": "output_text", "text": 5}]}),
    ended("done", item={"type": "message", "content": [{"type": [], "text": "Hi"}]}),
    ended("done", item={"type": "message", "content": [], "status": []}),
    ended("done", item={"type": "reasoning", "summary": 5}),
    ended("done", item={"type": "web_search_call", "action": "search"}),
    ended("done", output_index={}, item={"type": "message"}),
    {"type": "response.content_part.added", "output_index": 0, "part": "x"},
    {"type": "response.output_text.annotation.added", "output_index": 0, "annotation": "x"},
)


def of_place(value: object) -> str:
    return orjson.dumps(value).decode()[:100] if isinstance(value, dict) else str(value)


@pytest.mark.parametrize("wrong", WRONG_CHUNKS, ids=of_place)
async def test_a_chunk_of_wrong_types_fails_after_what_was_heard(wrong: Any) -> None:
    error, outcome = await failed(CHAT, sse(chunk({"content": "Hi"}), wrong, "[DONE]"))
    assert (error.status, error.message) == (502, "The model provider's answer was malformed.")
    assert texts(outcome)[0].startswith("Hi")


@pytest.mark.parametrize("wrong", WRONG_EVENTS, ids=of_place)
async def test_an_event_of_wrong_types_fails_after_what_was_heard(wrong: Any) -> None:
    error, outcome = await failed(RESPONSES, sse(CREATED, {**SAID, "output_index": 9}, wrong, finished()))
    assert (error.status, error.message) == (502, "The model provider's answer was malformed.")
    assert texts(outcome)[0] == "Hi"


@pytest.mark.parametrize("is_streamed", [True, False])
@pytest.mark.parametrize("arguments", [{"paths": ["crm"]}, "{}", [1], None], ids=str)
async def test_a_search_for_tools_may_have_arguments_of_any_type(
    arguments: Any, *, is_streamed: bool
) -> None:
    item = {"id": "tsc_up", "type": "tool_search_call", "call_id": None, "arguments": arguments}
    whole = finished(output=[item])
    answer = sse(CREATED, ended("done", item=item), whole) if is_streamed else json_answer(whole["response"])
    outcome = Outcome()
    async with playing(RESPONSES, answer) as (provider, _):
        await hear(provider.stream(a_context(is_streamed=is_streamed)), outcome)
    assert outcome.in_order[0].final == item


@pytest.mark.parametrize("subject", ADAPTERS, ids=lambda subject: subject.name)
@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"choices": [None], "output": 5, "status": "completed"},
        {"choices": [{"message": "x"}], "output": [5], "status": "completed"},
        {"choices": [{"message": {"content": 5}}], "output": [], "status": "completed", "model": 5},
    ],
    ids=str,
)
async def test_a_whole_answer_of_wrong_types_fails(subject: Subject, answer: Any) -> None:
    error, _ = await failed(subject, json_answer(answer), is_streamed=False)
    assert error.status == 502


async def test_an_item_too_deep_to_be_written_again_fails() -> None:
    whole = b'{"status":"completed","output":[{"type":"web_search_call","x":%s}]}'
    inner = b"[" * 260 + b"]" * 260
    answer = Answer(whole % inner, content_type="application/json", framing="length")
    error, _ = await failed(RESPONSES, answer, is_streamed=False)
    assert error.status == 502


@pytest.mark.parametrize(("finish", "is_cut"), [(None, True), ("stop", False)])
async def test_a_chat_that_just_closes_is_cut_unless_it_said_why(finish: str | None, *, is_cut: bool) -> None:
    said = chunk({"content": "Hi"})
    said["choices"][0]["finish_reason"] = finish
    answer = Answer(b"data: %s\n\n" % orjson.dumps(said), framing="close")
    outcome = Outcome()
    if is_cut:
        error, outcome = await failed(CHAT, answer)
        assert error.message == "The model provider's answer ended before it was complete."
    else:
        async with playing(CHAT, answer) as (provider, _):
            await hear(provider.stream(a_context()), outcome)
        assert outcome.end.status == "completed"
    assert texts(outcome) == ["Hi"]


async def test_an_error_with_a_good_status_is_the_error_it_says() -> None:
    said = {"type": "error", "code": "rate_limit_exceeded", "message": "slow", "param": None}
    for is_streamed in (True, False):
        error, _ = await failed(RESPONSES, json_answer(said), is_streamed=is_streamed)
        assert (error.status, error.code) == (429, "rate_limit_exceeded")


@pytest.mark.parametrize("is_ended", [True, False])
async def test_an_endless_event_fails(monkeypatch: pytest.MonkeyPatch, *, is_ended: bool) -> None:
    monkeypatch.setattr(event_stream, "MAX_EVENT_BYTES", 1000)
    flood = Answer(b"data: " + b"x" * 5000 + b"\n" * is_ended, ending="stall")
    error, _ = await failed(RESPONSES, flood)
    assert error.report is not None
    assert "longer than 1000 bytes" in error.report.detail


def test_many_events_together_may_be_longer_than_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "MAX_EVENT_BYTES", 100)
    parser = event_stream.EventParser()
    event = b"data: " + b"x" * 60 + b"\n\n"
    for _ in range(5):
        assert parser.feed(event[:50]) == []
        assert len(parser.feed(event[50:])) == 1
    with pytest.raises(event_stream.EventTooLong):
        parser.feed(b"data: " + b"x" * 60 + b"\n" + b"data: " + b"x" * 60)


@pytest.mark.parametrize("subject", ADAPTERS, ids=lambda subject: subject.name)
async def test_an_endless_answer_fails(monkeypatch: pytest.MonkeyPatch, subject: Subject) -> None:
    monkeypatch.setattr(answer_body, "MAX_ANSWER_BYTES", 1000)
    flood = Answer(b" " * 5000, content_type="application/json", ending="stall")
    error, _ = await failed(subject, flood, is_streamed=False)
    assert error.report is not None
    assert "longer than 1000 bytes" in error.report.detail


async def test_an_endless_list_of_models_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_body, "MAX_MODELS_BYTES", 1000)
    listing = json_answer({"data": [{"id": "m" * 2000}]})
    async with playing(CHAT, listing) as (provider, _):
        assert list(await provider.models()) == []


async def test_what_is_no_name_is_not_listed() -> None:
    listing = json_answer({"data": [{"id": 5}, {"id": None}, "x", {"id": "one"}]})
    async with playing(CHAT, listing) as (provider, _):
        assert list(await provider.models()) == ["one"]


@pytest.mark.parametrize("limit", ["MAX_TEXT_CHARS", "MAX_ITEM_BYTES"])
async def test_an_answer_without_end_fails(monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setattr(intake, limit, 1000)
    item = ended("done", item={"type": "message", "content": [{"type": "output_text", "text": "x" * 90}]})
    events: Iterable[Any] = ({**SAID, "delta": "x" * 90} for _ in range(20))
    if limit == "MAX_ITEM_BYTES":
        events = ({**item, "output_index": slot} for slot in range(20))
    error, outcome = await failed(RESPONSES, sse(CREATED, *events))
    assert error.report is not None
    assert "more than 1000" in error.report.detail
    assert sum(map(len, texts(outcome))) <= 1000


TOOLS = [
    {
        "type": "mcp",
        "server_label": "s",
        "authorization": "mcp-authorization",
        "headers": {"x-key": "Bearer mcp-header-value", "x-on": "1"},
    },
    {
        "type": "code_interpreter",
        "container": {"type": "auto", "network_policy": {"domain_secrets": [{"value": "domain-secret"}]}},
    },
    {"type": "namespace", "name": "n", "tools": [{"type": "mcp", "authorization": "inner-authorization"}]},
]
LEAKED = (
    f"Bad: {SECRET}, mcp-authorization, Bearer mcp-header-value, mcp-header-value, domain-secret, "
    "inner-authorization in 1."
)
HIDDEN = f"Bad: {', '.join(['[redacted]'] * 6)} in 1."


@pytest.mark.parametrize(
    "answer",
    [
        json_answer({"error": {"message": LEAKED, "type": "invalid_request_error"}}, 400),
        json_answer({"error": {"message": LEAKED, "type": "invalid_request_error"}}),
        sse(CREATED, {"type": "error", "code": "invalid_prompt", "message": LEAKED}),
    ],
    ids=["refused", "unstreamed", "streamed"],
)
async def test_an_upstreams_error_tells_no_secret_of_the_request(answer: Answer) -> None:
    error, _ = await failed(RESPONSES, answer, tools=TOOLS)
    assert error.message == HIDDEN
    assert error.report is not None
    assert "redacted" in error.report.detail
    assert not any(word in error.report.detail for word in (SECRET, "mcp-", "domain-secret", "inner-"))


async def test_a_failed_response_tells_no_secret_of_the_request(caplog: pytest.LogCaptureFixture) -> None:
    body = {"status": "failed", "error": {"code": "invalid_prompt", "message": LEAKED}}
    outcome = Outcome()
    async with playing(RESPONSES, sse(CREATED, {"type": "response.failed", "response": body})) as (it, _):
        await hear(it.stream(a_context(tools=TOOLS)), outcome)
    assert outcome.end.error == {"code": "invalid_prompt", "message": HIDDEN}
    (record,) = [record for record in caplog.records if record.name.startswith("app.providers")]
    assert record.getMessage() == "upstream.failed"
    assert "mcp-" not in str(vars(record))
