"""What a Responses upstream is sent, read off the wire."""

from typing import Any

import pytest

from app.errors import UpstreamError
from tests.providers.outcome import outcome_of
from tests.providers.subjects import BY_NAME, ITEM, SECRET, a_context, playing
from tests.providers.wire import json_answer

RESPONSES = BY_NAME["openai_responses"]
UNENCRYPTED = json_answer(
    {
        "error": {
            "message": "Encrypted content is not supported with this model.",
            "type": "invalid_request_error",
            "param": "include",
            "code": None,
        }
    },
    400,
)


async def sent(**params: Any) -> dict[str, Any]:
    async with playing(RESPONSES, RESPONSES.answer("text")) as (provider, upstream):
        provider.refuse(params, ())
        await outcome_of(provider.stream(a_context(**params)))
    (request,) = upstream.requests
    assert request.line == "POST /v1/responses"
    assert request.headers["authorization"] == f"Bearer {SECRET}"
    return request.json


async def test_the_upstream_is_asked_without_its_state() -> None:
    body = await sent(
        previous_response_id="resp_1", conversation="conv_1", background=True, metadata={"a": "b"},
        stream_options={"include_obfuscation": False}, store=True, stream=False,
    )  # fmt: skip
    assert {key: body[key] for key in body if key != "input"} == {
        "model": "a-model",
        "store": False,
        "stream": True,
        "include": ["reasoning.encrypted_content"],
    }


async def test_everything_else_goes_as_it_was_sent_secrets_included() -> None:
    tool = {"type": "mcp", "server_label": "m", "server_url": "https://m.test", "authorization": "token"}
    params = {
        "tools": [tool],
        "max_tool_calls": 2,
        "truncation": "auto",
        "temperature": None,
        "tomorrow": 1,
    }
    body = await sent(**params)
    assert {key: body[key] for key in params} == params


async def test_the_clients_include_is_kept_and_completed_once() -> None:
    body = await sent(include=["message.output_text.logprobs", "reasoning.encrypted_content"])
    assert body["include"] == ["message.output_text.logprobs", "reasoning.encrypted_content"]


async def test_items_are_sent_byte_for_byte() -> None:
    odd = b'{"type": "message",  "role":"user","content":"\xc3\xa9","n":1.0}'
    async with playing(RESPONSES, RESPONSES.answer("text")) as (provider, upstream):
        await outcome_of(provider.stream(a_context(items=ITEM + b"," + odd)))
    assert upstream.requests[0].body.endswith(b',"input":[' + ITEM + b"," + odd + b"]}")


async def test_a_body_of_megabytes_is_sent() -> None:
    big = b'{"type":"message","role":"user","content":"%s"}' % (b"x" * 3_000_000)
    async with playing(RESPONSES, RESPONSES.answer("text")) as (provider, upstream):
        await outcome_of(provider.stream(a_context(items=big)))
    assert big in upstream.requests[0].body


@pytest.mark.parametrize("is_streamed", [True, False])
async def test_a_model_without_encrypted_reasoning_is_asked_again_and_remembered(
    *, is_streamed: bool
) -> None:
    answer = RESPONSES.answer("text") if is_streamed else RESPONSES.whole("text")
    async with playing(RESPONSES, UNENCRYPTED, answer) as (provider, upstream):
        for _ in range(2):
            await outcome_of(provider.stream(a_context(is_streamed=is_streamed)))
    assert [request.json["include"] for request in upstream.requests] == [
        ["reasoning.encrypted_content"],
        [],
        [],
    ]


async def test_a_client_that_asks_for_encrypted_reasoning_is_told_that_there_is_none() -> None:
    async with playing(RESPONSES, UNENCRYPTED) as (provider, upstream):
        with pytest.raises(UpstreamError) as raised:
            await outcome_of(provider.stream(a_context(include=["reasoning.encrypted_content"])))
    error = raised.value
    assert (error.status, error.param, error.code) == (400, "include", None)
    assert len(upstream.requests) == 1
