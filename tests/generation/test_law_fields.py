"""Law L5: every parameter of a create reaches the upstream, is dealt with by this server, or is refused by name.

The tables below say which, for each kind of provider; a new parameter makes them incomplete.
"""

from collections.abc import Mapping
from typing import Any, Literal, get_type_hints

import orjson
import pytest

from app.api.create import to_draft
from app.api.schemas import create as shapes
from app.api.schemas.formats import ReasoningOptions, TextOptions
from app.api.validation import parse_create
from app.domain.context import Context
from app.domain.response import Draft
from app.errors import InvalidRequest
from app.generation.accept import Accepted
from app.generation.queueing import draft_of
from app.providers.base import Delta, Provider
from app.providers.offline import Offline
from app.providers.registry import Route
from tests.providers.outcome import outcome_of
from tests.providers.subjects import BY_NAME, a_context, connected, playing

Params = dict[str, Any]
Adapter = Literal["openai_chat", "openai_responses"]

FUNCTION = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": False}
SCHEMA = {"type": "json_schema", "name": "n", "schema": {"type": "object"}}

SAMPLES: dict[str, Params] = {
    "model": {"model": "b-model"},
    "input": {"input": "Say hello."},
    "moderation.model": {"moderation": {"model": "omni-moderation-latest"}},
    "moderation.policy": {"moderation": {"model": "m", "policy": {"input": {"mode": "block"}}}},
    "include": {"include": ["message.output_text.logprobs"]},
    "tools": {"tools": [FUNCTION], "tool_choice": "required"},
    "tool_choice": {"tools": [FUNCTION], "tool_choice": {"type": "function", "name": "f"}},
    "metadata": {"metadata": {"a": "b"}},
    "text.format": {"text": {"format": SCHEMA}},
    "text.verbosity": {"text": {"verbosity": "low"}},
    "temperature": {"temperature": 0.5},
    "top_p": {"top_p": 0.5},
    "presence_penalty": {"presence_penalty": 0.5},
    "frequency_penalty": {"frequency_penalty": 0.5},
    "parallel_tool_calls": {"tools": [FUNCTION], "parallel_tool_calls": False},
    "stream": {"stream": True},
    "stream_options.include_obfuscation": {"stream_options": {"include_obfuscation": False}},
    "background": {"background": True},
    "max_output_tokens": {"max_output_tokens": 16},
    "max_tool_calls": {"max_tool_calls": 1},
    "reasoning.effort": {"reasoning": {"effort": "low"}},
    "reasoning.summary": {"reasoning": {"summary": "auto"}},
    "reasoning.context": {"reasoning": {"context": "all_turns"}},
    "reasoning.mode": {"reasoning": {"mode": "pro"}},
    "user": {"user": "u"},
    "safety_identifier": {"safety_identifier": "s"},
    "prompt_cache_options.mode": {"prompt_cache_options": {"mode": "explicit"}},
    "prompt_cache_options.ttl": {"prompt_cache_options": {"ttl": "12h"}},
    "prompt_cache_options.comparison_response_id": {
        "prompt_cache_options": {"comparison_response_id": "resp_1"}
    },
    "prompt_cache_options.prewarm": {"prompt_cache_options": {"prewarm": True}},
    "prompt_cache_key": {"prompt_cache_key": "k"},
    "prompt_cache_retention": {"prompt_cache_retention": "24h"},
    "truncation": {"truncation": "auto"},
    "instructions": {"instructions": "Be brief."},
    "store": {"store": False},
    "service_tier": {"service_tier": "flex"},
    "top_logprobs": {"top_logprobs": 3},
    "context_management": {"context_management": [{"type": "compaction", "compact_threshold": 1000}]},
    "previous_response_id": {"previous_response_id": "resp_1"},
    "conversation": {"conversation": "conv_1"},
    "prompt.id": {"prompt": {"id": "pmpt_1"}},
    "prompt.version": {"prompt": {"id": "pmpt_1", "version": "2"}},
    "prompt.variables": {"prompt": {"id": "pmpt_1", "variables": {"a": "b"}}},
    "access_programs.cyber": {"access_programs": {"cyber": "standard"}},
    "image.context_compression": {"image": {"context_compression": "enabled"}},
}
"""For each parameter, and each field of those that have fields, a request that uses it."""

FIELDS: Mapping[str, Any] = {
    "moderation": shapes.Moderation,
    "text": TextOptions,
    "stream_options": shapes.StreamOptions,
    "reasoning": ReasoningOptions,
    "prompt_cache_options": shapes.PromptCacheOptions,
    "prompt": shapes.Prompt,
    "access_programs": shapes.AccessPrograms,
    "image": shapes.ImageOptions,
}

OURS = {
    "model": "the registry resolves it; the context names the upstream's own",
    "input": "its items are in the context",
    "include": "gates are ours; what an upstream must compute for them is asked for as well",
    "metadata": "kept and given back",
    "store": "the store is ours; an upstream keeps nothing",
    "stream": "the context says whether anybody listens",
    "stream_options.include_obfuscation": "the composer pads",
    "previous_response_id": "its items are in the context",
    "prompt.id": "resolved before there is a draft; what it says is in the context",
    "prompt.version": "the same",
    "prompt.variables": "the same",
    "background": "refused at the edge",
    "conversation": "refused at the edge",
}
"""What this server does itself, whoever the upstream is."""

CHAT_OURS = {"max_tool_calls": "caps hosted tools, all of which this protocol refuses"}

CHAT_CARRIES: dict[str, Params] = {
    "tools": {
        "tools": [
            {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "strict": False}}
        ],
        "tool_choice": "required",
    },
    "tool_choice": {"tool_choice": {"type": "function", "function": {"name": "f"}}},
    "text.format": {
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}
    },
    "text.verbosity": {"verbosity": "low"},
    "temperature": {"temperature": 0.5},
    "top_p": {"top_p": 0.5},
    "presence_penalty": {"presence_penalty": 0.5},
    "frequency_penalty": {"frequency_penalty": 0.5},
    "parallel_tool_calls": {"parallel_tool_calls": False},
    "max_output_tokens": {"max_tokens": 16},
    "reasoning.effort": {"reasoning_effort": "low"},
    "user": {"user": "u"},
    "safety_identifier": {"safety_identifier": "s"},
    "prompt_cache_key": {"prompt_cache_key": "k"},
    "service_tier": {"service_tier": "flex"},
    "top_logprobs": {"logprobs": True, "top_logprobs": 3},
    "instructions": {
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    },
}
"""What a Chat Completions upstream is sent for each sample."""

OFFLINE_OBEYS = {
    "tools",
    "tool_choice",
    "text.format",
    "parallel_tool_calls",
    "max_output_tokens",
    "top_logprobs",
    "instructions",
}

OFFLINE_NEEDS_NOTHING = {
    "max_tool_calls": "there are no hosted tools to cap",
    "text.verbosity": "it has one",
    "temperature": "there is no chance in it",
    "top_p": "there is no chance in it",
    "presence_penalty": "there is no chance in it",
    "frequency_penalty": "there is no chance in it",
    "reasoning.effort": "it makes none",
    "reasoning.summary": "its thoughts are summaries",
    "reasoning.context": "it does not think of the past",
    "reasoning.mode": "it has one",
    "user": "it has no accounts",
    "safety_identifier": "it has no accounts",
    "prompt_cache_key": "it has no cache",
    "prompt_cache_retention": "it has no cache",
    "service_tier": "it has one",
    "truncation": "its context window has no end",
}

every_sample = pytest.mark.parametrize("path", SAMPLES)


def top(path: str) -> str:
    return path.partition(".")[0]


def params_of(path: str) -> Params:
    """A sample as a draft has it: the input is not among the parameters."""
    return {name: value for name, value in SAMPLES[path].items() if name != "input"}


def the_refusal(provider: Provider, path: str) -> InvalidRequest | None:
    """The provider's refusal of a sample; it must name the parameter, or the field or element of it."""
    try:
        provider.refuse(params_of(path), ())
    except InvalidRequest as refusal:
        error = refusal
    else:
        return None
    named = error.param or ""
    assert path == named or path.startswith(f"{named}.") or named.startswith(f"{path}[")
    assert named in error.message
    return error


async def sent_by(adapter: Adapter, params: Params) -> Params:
    """The body that is on the wire."""
    subject = BY_NAME[adapter]
    async with playing(subject, subject.answer("text")) as (provider, upstream):
        provider.refuse(params, ())
        await outcome_of(provider.stream(a_context(**params)))
    (request,) = upstream.requests
    return request.json


async def fate_of(adapter: Adapter, path: str) -> tuple[InvalidRequest | None, Params]:
    """A refusal, or else what is sent for a sample."""
    async with connected(BY_NAME[adapter], "http://nobody.test") as provider:
        refusal = the_refusal(provider, path)
    return refusal, {} if refusal else await sent_by(adapter, params_of(path))


async def said_offline(message: str, params: Params) -> list[Delta]:
    part = {"type": "input_text", "text": message}
    item = orjson.dumps({"type": "message", "role": "user", "content": [part]})
    return [delta async for delta in Offline().stream(a_context(items=item, **params))]


def test_every_parameter_has_a_sample() -> None:
    assert {top(path) for path in SAMPLES} == shapes.PARAMETERS


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_of_a_parameter_has_a_sample(name: str) -> None:
    sampled = {path.partition(".")[2] for path in SAMPLES if top(path) == name}
    assert sampled == get_type_hints(FIELDS[name]).keys()


@every_sample
def test_every_sample_is_a_valid_request_and_reaches_the_draft_whole(path: str) -> None:
    request = {"model": "a-model", "input": "Hi", **SAMPLES[path]}
    params = parse_create(orjson.dumps(request), default_model=None)
    draft = to_draft(params)
    assert {**draft.params, "input": request["input"]} == request


def test_secrets_reach_the_draft_whole_but_not_the_echo() -> None:
    tool = {"type": "mcp", "server_label": "m", "server_url": "https://m.test", "authorization": "secret"}
    draft = to_draft({"model": "a-model", "input": "Hi", "tools": [tool]})
    assert draft.params["tools"] == [tool]
    assert b"secret" not in orjson.dumps(draft.echo)


@every_sample
async def test_a_responses_upstream_is_sent_everything_that_is_not_ours(path: str) -> None:
    refusal, body = await fate_of("openai_responses", path)
    assert refusal is None
    if path in OURS:
        assert (body["model"], body["store"], body["stream"]) == ("a-model", False, True)
        assert not body.keys() & {
            "metadata",
            "stream_options",
            "previous_response_id",
            "background",
            "conversation",
            "prompt",
        }
    else:
        assert {key: body[key] for key in SAMPLES[path]} == SAMPLES[path]


async def test_a_responses_upstream_is_asked_for_what_is_to_be_included() -> None:
    body = await sent_by("openai_responses", SAMPLES["include"])
    assert body["include"] == ["message.output_text.logprobs", "reasoning.encrypted_content"]


@every_sample
async def test_a_chat_upstream_is_sent_everything_that_is_not_ours_or_it_is_refused(path: str) -> None:
    refusal, body = await fate_of("openai_chat", path)
    assert [path in OURS | CHAT_OURS, path in CHAT_CARRIES, refusal is not None].count(True) == 1
    if path in CHAT_CARRIES:
        assert {key: body[key] for key in CHAT_CARRIES[path]} == CHAT_CARRIES[path]


async def test_a_chat_upstream_is_asked_for_what_is_to_be_included() -> None:
    body = await sent_by("openai_chat", SAMPLES["include"])
    assert body["logprobs"] is True


SAID = {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Be brief."}]}
PROMPTED = {"model": "a-model", "input": "Hi", "prompt": {"id": "pmpt_1", "version": "1", "messages": [SAID]}}


async def body_of(adapter: Adapter, draft: Draft) -> Params:
    """What is sent for a draft without a history."""
    subject = BY_NAME[adapter]
    async with playing(subject, subject.answer("text")) as (provider, upstream):
        context = Context("a-model", Accepted(draft, None).items(provider.name), draft.params)
        await outcome_of(provider.stream(context))
    (request,) = upstream.requests
    return request.json


async def test_what_a_prompt_says_is_sent_first_and_its_name_to_nobody() -> None:
    """Also by a worker, which has nothing but the parameters as they were stored."""
    draft = to_draft(PROMPTED)
    stored = orjson.dumps(draft.params)
    for each in (draft, draft_of(draft.id, stored, draft.input.blob)):
        body = await body_of("openai_responses", each)
        assert body["input"][0] == SAID
        assert [item["role"] for item in body["input"]] == ["developer", "user"]
        assert "prompt" not in body
        assert each.echo["instructions"] == [SAID]
        assert each.echo["prompt"] == {"id": "pmpt_1", "version": "1"}
        body = await body_of("openai_chat", each)
        assert body["messages"] == [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi"},
        ]
        assert "prompt" not in body


async def test_what_cannot_be_carried_of_a_prompt_is_named_as_it_would_be_shown() -> None:
    file = {"type": "input_file", "file_url": "https://example.com/a.pdf"}
    said = [SAID, {**SAID, "role": "user", "content": [file]}]
    params = {**PROMPTED, "prompt": {"id": "pmpt_1", "messages": said}}
    async with connected(BY_NAME["openai_chat"], "http://nobody.test") as provider:
        with pytest.raises(InvalidRequest) as refused:
            Route(provider, "a-model").refuse(params, ())
    assert refused.value.param
    assert refused.value.param.startswith("instructions[1].content[0]")
    assert refused.value.param in refused.value.message


@every_sample
async def test_the_offline_model_obeys_needs_nothing_or_refuses(path: str) -> None:
    refusal = the_refusal(Offline(), path)
    fates = (path in OURS, path in OFFLINE_OBEYS, path in OFFLINE_NEEDS_NOTHING, refusal is not None)
    assert fates.count(True) == 1


@pytest.mark.parametrize("path", sorted(OFFLINE_OBEYS))
async def test_what_the_offline_model_obeys_changes_its_answer(path: str) -> None:
    messages = {"max_output_tokens": "::words 40 0", "parallel_tool_calls": "::call f {}\n::call f {}"}
    message = messages.get(path, "Hi")
    without = {"tools", "tool_choice"} if path == "tools" else {top(path)}
    plain = {name: value for name, value in SAMPLES[path].items() if name not in without}
    assert await said_offline(message, SAMPLES[path]) != await said_offline(message, plain)


class TestNull:
    """A null means "the default" (behaviour 57), so nobody refuses it and nothing comes of it."""

    every_name = pytest.mark.parametrize("name", sorted(shapes.PARAMETERS - {"model", "input"}))

    @every_name
    @pytest.mark.parametrize("adapter", ["openai_chat", "openai_responses"])
    async def test_upstreams_are_asked_for_nothing(self, adapter: Adapter, name: str) -> None:
        body = await sent_by(adapter, {name: None})
        asked = {key: value for key, value in body.items() if value is not None}
        assert asked == await sent_by(adapter, {})

    @every_name
    async def test_the_offline_model_answers_as_ever(self, name: str) -> None:
        Offline().refuse({name: None}, ())
        assert await said_offline("Hi", {name: None}) == await said_offline("Hi", {})
