"""What a Chat Completions upstream is sent, read off the wire, and what it is spared."""

from typing import Any

import orjson
import pytest

from app.errors import InvalidRequest
from app.providers import chat_request
from tests.providers.outcome import outcome_of
from tests.providers.subjects import BY_NAME, SECRET, a_context, playing

CHAT = BY_NAME["openai_chat"]


def user(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"id": "msg_1", "type": "message", "role": "user", "status": "completed", "content": list(parts)}


def text(words: str) -> dict[str, Any]:
    return {"type": "input_text", "text": words}


def said(words: str) -> dict[str, Any]:
    part = {"type": "output_text", "text": words, "annotations": [], "logprobs": []}
    return {"id": "msg_2", "type": "message", "role": "assistant", "status": "completed", "content": [part]}


def call(call_id: str, arguments: str = "{}") -> dict[str, Any]:
    return {"id": "fc_1", "type": "function_call", "call_id": call_id, "name": "f", "arguments": arguments}


def output(call_id: str, value: Any) -> dict[str, Any]:
    return {"id": "fco_1", "type": "function_call_output", "call_id": call_id, "output": value}


async def sent(*items: dict[str, Any], max_tokens_field: str = "max_tokens", **params: Any) -> dict[str, Any]:
    """The body that reaches the upstream for these items and parameters."""
    blob = b",".join(orjson.dumps(item) for item in items or (user(text("Hi")),))
    async with playing(CHAT, CHAT.answer("text"), max_tokens_field=max_tokens_field) as (provider, upstream):
        provider.refuse(params, items)
        await outcome_of(provider.stream(a_context(items=blob, **params)))
    (request,) = upstream.requests
    assert request.line == "POST /v1/chat/completions"
    assert request.headers["authorization"] == f"Bearer {SECRET}"
    return request.json


async def messages(*items: dict[str, Any], **params: Any) -> list[dict[str, Any]]:
    return (await sent(*items, **params))["messages"]


def refusal_of(*items: dict[str, Any], **params: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as raised:
        chat_request.refuse(params, items)
    return raised.value


async def test_a_plain_request_is_nothing_but_model_messages_and_stream() -> None:
    assert await sent() == {
        "model": "a-model",
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def test_instructions_come_first_and_developers_speak_as_the_system() -> None:
    developer = {**user(text("Be kind.")), "role": "developer"}
    assert await messages(developer, user(text("Hi")), instructions="Be brief.") == [
        {"role": "system", "content": "Be brief."},
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi"},
    ]


async def test_parts_of_every_kind_are_carried() -> None:
    parts = (
        text("Look:"),
        {"type": "input_image", "image_url": "https://images.test/cat.png", "detail": "low", "file_id": None},
        {"type": "input_file", "file_data": "data:application/pdf;base64,AA==", "filename": "a.pdf"},
        {"type": "input_file", "file_id": "file-1"},
        {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
        {**text("Well?"), "prompt_cache_breakpoint": {"mode": "explicit"}},
    )
    (message,) = await messages(user(*parts))
    assert message["content"] == [
        {"type": "text", "text": "Look:"},
        {"type": "image_url", "image_url": {"url": "https://images.test/cat.png", "detail": "low"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,AA==", "filename": "a.pdf"}},
        {"type": "file", "file": {"file_id": "file-1"}},
        {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
        {"type": "text", "text": "Well?", "prompt_cache_breakpoint": {"mode": "explicit"}},
    ]


async def test_calls_join_the_text_before_them_in_one_message() -> None:
    heard = await messages(
        user(text("Hi")), said("Let me see."), call("call_1", '{"a":1}'), call("call_2"),
        output("call_2", "two"), output("call_1", [text("one")]),
    )  # fmt: skip
    assert heard[1:] == [
        {
            "role": "assistant",
            "content": "Let me see.",
            "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}},
                {"id": "call_2", "type": "function", "function": {"name": "f", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "call_2", "content": "two"},
        {"role": "tool", "tool_call_id": "call_1", "content": "one"},
    ]


async def test_text_after_calls_does_not_part_them_from_their_outputs() -> None:
    heard = await messages(call("call_1"), said("Looking."), output("call_1", "one"), said("Done."))
    assert [message["role"] for message in heard] == ["assistant", "tool", "assistant"]
    assert heard[0]["content"] == "Looking."


async def test_calls_after_outputs_begin_a_new_message() -> None:
    heard = await messages(call("call_1"), output("call_1", "one"), call("call_2"), output("call_2", "two"))
    assert [message["role"] for message in heard] == ["assistant", "tool", "assistant", "tool"]
    assert heard[0]["content"] is None


async def test_reasoning_never_becomes_a_message() -> None:
    thought = {"id": "rs_1", "type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]}
    assert await messages(user(text("Hi")), thought, call("call_1"), output("call_1", "x")) == await messages(
        user(text("Hi")), call("call_1"), output("call_1", "x")
    )


async def test_a_refusal_in_the_history_stays_one() -> None:
    refused = {**said(""), "content": [{"type": "refusal", "refusal": "No."}]}
    assert await messages(refused) == [{"role": "assistant", "content": None, "refusal": "No."}]


async def test_custom_tools_and_their_calls_are_carried() -> None:
    grammar = {"type": "grammar", "syntax": "regex", "definition": "a+"}
    body = await sent(
        {"type": "custom_tool_call", "call_id": "call_1", "name": "run", "input": "ls"},
        {"type": "custom_tool_call_output", "call_id": "call_1", "output": "a.txt"},
        tools=[{"type": "custom", "name": "run", "description": "Run it.", "format": grammar}],
        tool_choice={"type": "custom", "name": "run"},
    )
    call = {"id": "call_1", "type": "custom", "custom": {"name": "run", "input": "ls"}}
    assert body["messages"] == [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "a.txt"},
    ]
    form = {"type": "grammar", "grammar": {"syntax": "regex", "definition": "a+"}}
    assert body["tools"] == [
        {"type": "custom", "custom": {"name": "run", "description": "Run it.", "format": form}}
    ]
    assert body["tool_choice"] == {"type": "custom", "custom": {"name": "run"}}


FUNCTIONS = [
    {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True, "description": None},
    {
        "type": "function",
        "name": "g",
        "parameters": None,
        "defer_loading": False,
        "allowed_callers": ["direct"],
    },
]


@pytest.mark.parametrize(
    ("choice", "carried"),
    [
        ("none", "none"),
        ("required", "required"),
        ({"type": "function", "name": "g"}, {"type": "function", "function": {"name": "g"}}),
    ],
)
async def test_functions_and_the_choice_among_them_are_carried(choice: Any, carried: Any) -> None:
    body = await sent(tools=FUNCTIONS, tool_choice=choice, parallel_tool_calls=False)
    assert body["tools"] == [
        {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "strict": True}},
        {"type": "function", "function": {"name": "g"}},
    ]
    assert (body["tool_choice"], body["parallel_tool_calls"]) == (carried, False)


async def test_only_allowed_tools_are_shown() -> None:
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "g"}]}
    body = await sent(tools=FUNCTIONS, tool_choice=allowed)
    assert [tool["function"]["name"] for tool in body["tools"]] == ["g"]
    assert body["tool_choice"] == "required"


async def test_without_tools_nothing_is_said_of_tools() -> None:
    body = await sent(tools=[], tool_choice="auto", parallel_tool_calls=True)
    assert not {"tools", "tool_choice", "parallel_tool_calls"} & body.keys()


@pytest.mark.parametrize("kind", ["function", "custom"])
async def test_a_choice_of_a_tool_that_is_not_there_is_the_upstreams_to_refuse(kind: str) -> None:
    body = await sent(tool_choice={"type": kind, "name": "f"})
    assert body["tool_choice"] == {"type": kind, kind: {"name": "f"}}
    assert "tools" not in body


async def test_options_go_under_their_own_or_the_upstreams_name() -> None:
    schema = {"type": "object", "properties": {}}
    body = await sent(
        temperature=0.5, top_p=0.9, presence_penalty=1.0, frequency_penalty=-1.0, user="u",
        safety_identifier="s", prompt_cache_key="k", service_tier="flex", max_output_tokens=64,
        reasoning={"effort": "low", "summary": None}, top_logprobs=2,
        text={
            "verbosity": "low",
            "format": {"type": "json_schema", "name": "n", "schema": schema, "strict": True, "description": None},
        },
    )  # fmt: skip
    del body["messages"], body["model"], body["stream"], body["stream_options"]
    assert body == {
        "temperature": 0.5, "top_p": 0.9, "presence_penalty": 1.0, "frequency_penalty": -1.0, "user": "u",
        "safety_identifier": "s", "prompt_cache_key": "k", "service_tier": "flex", "max_tokens": 64,
        "reasoning_effort": "low", "logprobs": True, "top_logprobs": 2, "verbosity": "low",
        "response_format": {
            "type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}
        },
    }  # fmt: skip


async def test_the_limit_has_the_name_that_the_upstream_knows() -> None:
    body = await sent(max_output_tokens=64, max_tokens_field="max_completion_tokens")
    assert (body.get("max_tokens"), body["max_completion_tokens"]) == (None, 64)


async def test_json_mode_and_log_probabilities_by_include() -> None:
    body = await sent(text={"format": {"type": "json_object"}}, include=["message.output_text.logprobs"])
    assert body["response_format"] == {"type": "json_object"}
    assert (body["logprobs"], body.get("top_logprobs")) == (True, None)


async def test_defaults_and_our_own_parameters_pass_and_are_not_sent() -> None:
    body = await sent(
        store=True, background=False, metadata={"a": "b"}, previous_response_id="resp_1", max_tool_calls=3,
        truncation="disabled", include=["reasoning.encrypted_content"], prompt={"id": "pmpt_1"}, moderation=None,
        context_management=[], reasoning={"effort": None, "summary": None, "context": "auto", "mode": "standard"},
        text={"format": {"type": "text"}}, temperature=None, stream_options={"include_obfuscation": False},
    )  # fmt: skip
    assert body.keys() == {"model", "messages", "stream", "stream_options"}


@pytest.mark.parametrize(
    ("params", "path"),
    [
        ({"tools": [FUNCTIONS[0], {"type": "web_search"}]}, "tools[1].type"),
        ({"tools": [{**FUNCTIONS[0], "defer_loading": True}]}, "tools[0].defer_loading"),
        ({"tools": FUNCTIONS, "tool_choice": {"type": "mcp", "server_label": "m"}}, "tool_choice.type"),
        (
            {"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "mcp"}]}},
            "tool_choice.tools[0].type",
        ),
        ({"moderation": {"model": "m"}}, "moderation"),
        ({"context_management": [{"type": "compaction"}]}, "context_management"),
        ({"truncation": "auto"}, "truncation"),
        ({"reasoning": {"summary": "auto"}}, "reasoning.summary"),
        ({"reasoning": {"context": "all_turns"}}, "reasoning.context"),
        ({"reasoning": {"mode": "pro"}}, "reasoning.mode"),
        ({"prompt_cache_retention": "24h"}, "prompt_cache_retention"),
        ({"prompt_cache_options": {"mode": "explicit"}}, "prompt_cache_options"),
        ({"access_programs": {"cyber": "standard"}}, "access_programs"),
        ({"image": {"context_compression": "enabled"}}, "image"),
        ({"a_field_of_tomorrow": 1}, "a_field_of_tomorrow"),
    ],
)
def test_a_parameter_that_cannot_be_carried_is_refused_by_name(params: dict[str, Any], path: str) -> None:
    error = refusal_of(**params)
    assert (error.status, error.code, error.param) == (400, "unsupported_parameter", path)
    assert error.message.startswith(f"Unsupported parameter: '{path}' is not supported with this model.")


@pytest.mark.parametrize(
    ("item", "path"),
    [
        ({"type": "web_search_call", "id": "ws_1"}, "input[1].type"),
        ({"type": "compaction", "encrypted_content": "x"}, "input[1].type"),
        (user({"type": "input_file", "file_url": "https://files.test/a"}), "input[1].content[0].file_url"),
        (user({"type": "input_file", "file_id": "f", "detail": "high"}), "input[1].content[0].detail"),
        (user({"type": "input_image", "file_id": "file-1"}), "input[1].content[0].file_id"),
        (
            user({"type": "input_image", "image_url": "https://i.test", "detail": "original"}),
            "input[1].content[0].detail",
        ),
        (user({"type": "computer_screenshot"}), "input[1].content[0].type"),
        ({**said(""), "content": [{"type": "summary_text"}]}, "input[1].content[0].type"),
        (output("call_1", [text("x"), {"type": "input_image"}]), "input[1].output[1].type"),
        ({"type": "function_call_output", "name": "f", "output": "x"}, "input[1].name"),
        ({**call("call_1"), "namespace": "n"}, "input[1].namespace"),
    ],
)
def test_an_item_that_cannot_be_carried_is_refused_by_its_place(item: dict[str, Any], path: str) -> None:
    error = refusal_of(user(text("Hi")), item)
    assert (error.code, error.param) == ("unsupported_parameter", path)


async def test_an_item_of_the_history_is_refused_before_anything_is_asked() -> None:
    blob = b'{"type":"web_search_call","id":"ws_1"}'
    async with playing(CHAT, CHAT.answer("text")) as (provider, upstream):
        with pytest.raises(InvalidRequest, match="web_search_call") as raised:
            await outcome_of(provider.stream(a_context(items=blob)))
    assert (raised.value.param, upstream.requests) == ("input", [])
