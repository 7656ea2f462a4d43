"""The error catalogue of a create's body: each sentence, its code and its `param`, and which error wins."""

from typing import Any

import pytest

from app.api.schemas.create import CreateResponse
from tests.api.validating import EMPTY, TOOL, accept, item, refuse, user

ITEM_TYPES = (
    "'additional_tools', 'agent_message', 'apply_patch_call', 'apply_patch_call_output', "
    "'code_interpreter_call', 'compaction', 'compaction_trigger', 'computer_call', 'computer_call_output', "
    "'custom_tool_call', 'custom_tool_call_output', 'file_search_call', 'function_call', "
    "'function_call_output', 'image_generation_call', 'item_reference', 'local_shell_call', "
    "'local_shell_call_output', 'mcp_approval_request', 'mcp_approval_response', 'mcp_call', "
    "'mcp_list_tools', 'message', 'multi_agent_call', 'multi_agent_call_output', 'program', "
    "'program_output', 'reasoning', 'shell_call', 'shell_call_output', 'tool_search_call', "
    "'tool_search_output', and 'web_search_call'"
)


ROLES = "'assistant', 'system', 'developer', and 'user'"


PARTS = (
    "'input_text', 'input_image', 'input_audio', 'output_text', 'refusal', 'input_file', "
    "'computer_screenshot', 'summary_text', and 'encrypted_content'"
)


INCLUDABLE = (
    "'file_search_call.results', 'web_search_call.results', 'web_search_call.action.sources', "
    "'message.input_image.image_url', 'computer_call_output.output.image_url', "
    "'code_interpreter_call.outputs', 'reasoning.encrypted_content', and 'message.output_text.logprobs'"
)


EXCLUSIVE = (
    "Mutually exclusive parameters: ''. Ensure you are only providing one of: 'pre..._id' or 'conversation'."
)


def allowed(*tools: Any) -> dict[str, Any]:
    return {"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": list(tools)}}


def assert_missing(fragment: dict[str, Any], path: str) -> None:
    message = f"Missing required parameter: '{path}'."
    assert refuse(fragment) == ("missing_required_parameter", path, message)


@pytest.mark.parametrize("fragment", [{"model": ...}, {"model": ..., "input": ..., "zzz": 1}])
def test_a_missing_model_is_reported_before_all_else(fragment: dict[str, Any]) -> None:
    assert_missing(fragment, "model")


@pytest.mark.parametrize(
    "fragment",
    [
        {},
        {"zzz": 1},
        {"truncation": "bogus"},
        {"previous_response_id": "resp_x"},
        {"prompt": {"id": "p"}},
    ],
)
def test_a_missing_input_is_reported_before_all_but_the_model(fragment: dict[str, Any]) -> None:
    assert_missing({"input": ...} | fragment, "input")


@pytest.mark.parametrize(
    ("fragment", "path"),
    [
        ({"input": [{"role": "user"}]}, "input[0].content"),
        (user({"type": "input_text"}), "input[0].content[0].text"),
        (user({"text": "x"}), "input[0].content[0].type"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.name"),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema"),
        ({"text": {"format": {}}}, "text.format.type"),
        ({"tools": [{}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools[0].name"),
        ({"tools": [TOOL, {"type": "file_search"}]}, "tools[1].vector_store_ids"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.name"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice.name"),
        (allowed({"name": "f"}), "tool_choice.tools[0].type"),
        ({"moderation": {}}, "moderation.model"),
        ({"prompt": {}}, "prompt.id"),
        (item("function_call", call_id="c", name="f"), "input[0].arguments"),
        (item("function_call_output", call_id="c"), "input[0].output"),
        (item("function_call_output", output="x"), "input[0].call_id"),
        (item("function_call_output", call_id=None, name=None, output="x"), "input[0].call_id"),
        (item("item_reference"), "input[0].id"),
        (item("shell_call", call_id="c", action={}), "input[0].action.commands"),
        (item("web_search_call", action={"url": "u"}), "input[0].action.type"),
    ],
)
def test_a_missing_field_is_named_by_its_path(fragment: dict[str, Any], path: str) -> None:
    assert_missing(fragment, path)


@pytest.mark.parametrize(
    ("fragment", "param", "expected", "got"),
    [
        ({"model": None}, "model", "a string", "an object"),
        ({"model": 7}, "model", "a string", "an integer"),
        ({"input": None}, "input", "a string", "an object"),
        ({"input": {"a": 1}}, "input", "one of a string or array of input items", "an object"),
        ({"input": 7}, "input", "one of a string or array of input items", "an integer"),
        ({"input": [7]}, "input[0]", "an input item", "an integer"),
        ({"input": [None]}, "input[0]", "an input item", "null"),
        ({"input": [{"role": "user", "content": None}]}, "input[0].content", "one of an array of objects or string", "null"),
        (item("function_call_output", call_id="c", output={}), "input[0].output", "one of a string or array of objects", "an object"),
        (item("function_call", call_id="c", name="f", arguments={}), "input[0].arguments", "a string", "an object"),
        ({"prompt": "x"}, "prompt", "an object", "a string"),
        ({"truncation": {"a": 1}}, "truncation", "one of 'auto' or 'disabled'", "an object"),
        ({"service_tier": {}}, "service_tier", "one of 'auto', 'default', 'fast', 'flex', or 'priority'", "an object"),
        ({"prompt_cache_retention": {}}, "prompt_cache_retention", "one of 'in_memory' or '24h'", "an object"),
        ({"include": "x"}, "include", "an array of one of 'fil...lts', 'web...lts', 'web...ces', 'mes...url', 'com...url', 'cod...uts', 'rea...ent', or 'mes...obs'", "a string"),
        ({"reasoning": {"effort": {}}}, "reasoning.effort", "one of one of 'none', 'minimal', 'low', 'medium', 'high', 'xhigh', or 'max' or integer", "an object"),
        ({"reasoning": {"effort": ["low"]}}, "reasoning.effort", "one of one of 'none', 'minimal', 'low', 'medium', 'high', 'xhigh', or 'max' or integer", "an array"),
        ({"reasoning": "low"}, "reasoning", "an object", "a string"),
        ({"tool_choice": 7}, "tool_choice", "one of an object or 'none', 'auto', or 'required'", "an integer"),
        (allowed(7), "tool_choice.tools[0]", "an object", "an integer"),
        (allowed({"type": []}), "tool_choice.tools[0].type", "a string", "an array"),
        (allowed({"type": "function", "name": {}}), "tool_choice.tools[0].name", "a string", "an object"),
        (allowed({"type": "mcp", "server_label": 7}), "tool_choice.tools[0].server_label", "a string", "an integer"),
        ({"tools": "x"}, "tools", "an array of tools", "a string"),
        ({"tools": ["x"]}, "tools[0]", "an object", "a string"),
        ({"tools": [TOOL | {"description": 123}]}, "tools[0].description", "a string", "an integer"),
        ({"tools": [TOOL | {"parameters": []}]}, "tools[0].parameters", "an object", "an array"),
        ({"tools": [{"type": "file_search", "vector_store_ids": [None]}]}, "tools[0].vector_store_ids[0]", "a string", "null"),
        ({"tools": [{"type": "file_search", "vector_store_ids": "v"}]}, "tools[0].vector_store_ids", "an array of strings", "a string"),
        ({"context_management": "x"}, "context_management", "an array of objects", "a string"),
        ({"metadata": "x"}, "metadata", "a metadata object", "a string"),
        ({"metadata": {"k": 7}}, "metadata.k", "a string", "an integer"),
        ({"metadata": {"type": "k", "k": 7}}, "metadata.k", "a string", "an integer"),
        ({"text": "x"}, "text", "an object", "a string"),
        ({"text": {"format": "markdown"}}, "text.format", "a text format", "a string"),
        ({"moderation": "x"}, "moderation", "an object", "a string"),
        ({"stream_options": "x"}, "stream_options", "an object", "a string"),
        ({"previous_response_id": {}}, "previous_response_id", "a string", "an object"),
        ({"conversation": 7}, "conversation", "one of a string or an object", "an integer"),
        ({"temperature": "hot"}, "temperature", "a decimal", "a string"),
        ({"temperature": True}, "temperature", "a decimal", "a boolean"),
        ({"top_p": "wide"}, "top_p", "a decimal", "a string"),
        ({"presence_penalty": "x"}, "presence_penalty", "a decimal", "a string"),
        ({"frequency_penalty": []}, "frequency_penalty", "a decimal", "an array"),
        ({"max_output_tokens": "x"}, "max_output_tokens", "an integer", "a string"),
        ({"max_output_tokens": 16.0}, "max_output_tokens", "an integer", "a decimal number"),
        ({"max_output_tokens": True}, "max_output_tokens", "an integer", "a boolean"),
        ({"max_tool_calls": "x"}, "max_tool_calls", "an integer", "a string"),
        ({"top_logprobs": "x"}, "top_logprobs", "an integer", "a string"),
        ({"stream": "yes"}, "stream", "a boolean", "a string"),
        ({"stream": 1}, "stream", "a boolean", "an integer"),
        ({"background": "yes"}, "background", "a boolean", "a string"),
        ({"store": "yes"}, "store", "a boolean", "a string"),
        ({"parallel_tool_calls": "yes"}, "parallel_tool_calls", "a boolean", "a string"),
        ({"instructions": {}}, "instructions", "a string", "an object"),
        ({"instructions": [{"role": "user", "content": "hi"}]}, "instructions", "a string", "an array"),
        ({"user": {}}, "user", "a string", "an object"),
        ({"safety_identifier": {}}, "safety_identifier", "a string", "an object"),
        ({"prompt_cache_key": {}}, "prompt_cache_key", "a string", "an object"),
        ({"prompt_cache_options": "x"}, "prompt_cache_options", "an object", "a string"),
    ],
)  # fmt: skip
def test_a_wrong_type_names_what_was_expected(
    fragment: dict[str, Any], param: str, expected: str, got: str
) -> None:
    message = f"Invalid type for '{param}': expected {expected}, but got {got} instead."
    assert refuse(fragment) == ("invalid_type", param, message)


@pytest.mark.parametrize(
    ("fragment", "param", "value", "supported"),
    [
        ({"truncation": "bogus"}, "truncation", "bogus", "'auto' and 'disabled'"),
        ({"service_tier": "bogus"}, "service_tier", "bogus", "'auto', 'default', 'fast', 'flex', and 'priority'"),
        ({"prompt_cache_retention": "x"}, "prompt_cache_retention", "x", "'in_memory' and '24h'"),
        ({"include": ["bogus.thing"]}, "include[0]", "bogus.thing", INCLUDABLE),
        ({"include": ["reasoning.encrypted_content", "x"]}, "include[1]", "x", INCLUDABLE),
        ({"reasoning": {"effort": "bogus"}}, "reasoning.effort", "bogus", "'none', 'minimal', 'low', 'medium', 'high', 'xhigh', and 'max'"),
        ({"reasoning": {"summary": "bogus"}}, "reasoning.summary", "bogus", "'concise', 'detailed', and 'auto'"),
        ({"text": {"verbosity": "bogus"}}, "text.verbosity", "bogus", "'low', 'medium', and 'high'"),
        ({"text": {"format": {"type": "bogus"}}}, "text.format.type", "bogus", "'json_object', 'text', and 'json_schema'"),
        ({"tool_choice": "bogus"}, "tool_choice", "bogus", "'none', 'auto', and 'required'"),
        ({"input": [{}]}, "input[0]", "", ROLES),
        ({"input": [{"role": "bogus", "content": "hi"}]}, "input[0]", "bogus", ROLES),
        ({"input": [{"type": "message", "content": "hi"}]}, "input[0]", "", ROLES),
        ({"input": [{"id": "msg_1", "content": "hi"}]}, "input[0]", "", ROLES),
        (item("bogus_item"), "input[0]", "bogus_item", ITEM_TYPES),
        ({"input": [{"type": 7, "role": "user", "content": "hi"}]}, "input[0]", "", ITEM_TYPES),
        (user({"type": "bogus", "text": "x"}), "input[0].content[0].type", "bogus", PARTS),
        (user({"type": "output_text", "text": "x"}), "input[0].content[0]", "output_text", "'input_text', 'input_image', 'input_file', 'scoped_content', and 'input_audio'"),
        (user({"type": "input_text", "text": "x"}, role="assistant"), "input[0].content[0]", "input_text", "'output_text' and 'refusal'"),
        (item("function_call_output", call_id="c", output=[{"type": "output_text", "text": "x"}]), "input[0].output[0]", "output_text", "'input_text', 'input_image', 'input_file', and 'scoped_content'"),
        (user(role="assistant", phase="bogus"), "input[0].phase", "bogus", "'commentary' and 'final_answer'"),
        (user(status="bogus"), "input[0].status", "bogus", "'in_progress', 'completed', and 'incomplete'"),
    ],
)  # fmt: skip
def test_a_value_outside_its_set_lists_the_set(
    fragment: dict[str, Any], param: str, value: str, supported: str
) -> None:
    message = f"Invalid value: '{value}'. Supported values are: {supported}."
    assert refuse(fragment) == ("invalid_value", param, message)


def test_a_set_of_one_is_named_without_a_list() -> None:
    message = "Invalid value: 'bogus'. Value must be 'compaction'."
    fragment = {"context_management": [{"type": "bogus"}]}
    assert refuse(fragment) == ("invalid_value", "context_management[0].type", message)


@pytest.mark.parametrize(
    ("fragment", "path"),
    [
        ({"zzz_unknown": 1}, "zzz_unknown"),
        ({"n": 2}, "n"),
        ({"seed": 1}, "seed"),
        ({"logprobs": True}, "logprobs"),
        ({"type": "response.create"}, "type"),
        ({"stream_id": "a"}, "stream_id"),
        ({"generate": True}, "generate"),
        ({"multi_agent": {"enabled": True}}, "multi_agent"),
        (user(bogus=1), "input[0].bogus"),
        (user(phase="final_answer"), "input[0].phase"),
        (user(role="assistant", zzz=1), "input[0].zzz"),
        (user({"type": "input_text", "text": "x", "zzz": 1}), "input[0].content[0].zzz"),
        ({"text": {"zzz": 1}}, "text.zzz"),
        ({"reasoning": {"bogus": 1}}, "reasoning.bogus"),
        ({"reasoning": {"generate_summary": "concise"}}, "reasoning.generate_summary"),
        ({"stream_options": {"include_usage": True}}, "stream_options.include_usage"),
        ({"prompt_cache_options": {"bogus": 1}}, "prompt_cache_options.bogus"),
        ({"tools": [TOOL | {"function": {}}]}, "tools[0].function"),
    ],
)
def test_an_unknown_parameter_is_refused(fragment: dict[str, Any], path: str) -> None:
    assert refuse(fragment) == ("unknown_parameter", path, f"Unknown parameter: '{path}'.")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("stop", "'store'"),
        ("sto", "'store'"),
        ("stre", "'store' or 'stream'"),
        ("strem", "'stream' or 'store'"),  # codespell:ignore strem
        ("tool", "'tools'"),
        ("usr", "'user'"),
        ("inclde", "'include'"),  # codespell:ignore inclde
    ],
)
def test_an_unknown_parameter_near_known_ones_suggests_them_nearest_first(name: str, hint: str) -> None:
    message = f"Unknown parameter: '{name}'. Did you mean {hint}?"
    assert refuse({name: 1}) == ("unknown_parameter", name, message)


@pytest.mark.parametrize("name", ["st", "inpu", "modell"])  # codespell:ignore inpu,modell
def test_neither_a_far_parameter_nor_one_already_sent_is_suggested(name: str) -> None:
    assert refuse({name: 1}) == ("unknown_parameter", name, f"Unknown parameter: '{name}'.")


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("messages", "input"),
        ("max_tokens", "max_output_tokens"),
        ("max_completion_tokens", "max_output_tokens"),
        ("response_format", "text.format"),
        ("reasoning_effort", "reasoning.effort"),
    ],
)
def test_a_parameter_of_chat_completions_names_its_new_place(name: str, target: str) -> None:
    message = (
        f"Unsupported parameter: '{name}'. In the Responses API, this parameter has moved to '{target}'. "
        "Try again with the new parameter. See the API documentation for more information: "
        "https://platform.openai.com/docs/api-reference/responses/create."
    )
    assert refuse({name: 1}) == ("unsupported_parameter", None, message)
    assert refuse({"input": ..., name: 1}) == ("unsupported_parameter", None, message)


@pytest.mark.parametrize(
    ("fragment", "path", "names"),
    [
        (user({"type": "input_image"}), "input[0].content[0]", "'file_id' or 'image_url'"),
        (user({"type": "input_file"}), "input[0].content[0]", "'file_data', 'file_id', or 'file_url'"),
        (
            {"tools": [{"type": "mcp", "server_label": "l"}]},
            "tools[0]",
            "'server_url', 'connector_id', or 'tunnel_id'",
        ),
    ],
)
def test_exactly_one_source_is_wanted(fragment: dict[str, Any], path: str, names: str) -> None:
    message = (
        f"Missing mutually exclusive parameters: '{path}'. Ensure you are providing exactly one of: {names}."
    )
    assert refuse(fragment) == ("missing_mutually_exclusive_parameters", path, message)


def test_two_sources_are_one_too_many() -> None:
    part = {"type": "input_image", "file_id": "file-1", "image_url": "https://example.com/a.png"}
    message = (
        "Mutually exclusive parameters: 'input[0].content[0]'. "
        "Ensure you are only providing one of: 'file_id' or 'image_url'."
    )
    assert refuse(user(part)) == ("mutually_exclusive_parameters", "input[0].content[0]", message)


def test_an_image_is_found_at_a_url() -> None:
    param = "input[0].content[0].image_url"
    message = f"Invalid '{param}'. Expected a valid URL, but got a value with an invalid format."
    part = {"type": "input_image", "image_url": "AAAA"}
    assert refuse(user(part)) == ("invalid_value", param, message)


def test_a_compaction_trigger_stands_last() -> None:
    message = {"role": "user", "content": "hi"}
    trigger = {"type": "compaction_trigger"}
    assert accept({"input": [message, trigger]})["input"][1] == trigger
    code, param, _ = refuse({"input": [trigger, message]})
    assert (code, param) == ("invalid_value", "input[0]")


@pytest.mark.parametrize("value", ["", []])
def test_an_empty_input_needs_a_history(value: Any) -> None:
    assert refuse({"input": value}) == ("missing_required_parameter", None, EMPTY)
    for history in ({"previous_response_id": "resp_x"}, {"conversation": "conv_x"}, {"prompt": {"id": "p"}}):
        accept({"input": value} | history)


def test_two_histories_exclude_each_other() -> None:
    histories = {"conversation": "conv_x", "previous_response_id": "resp_x"}
    assert refuse(histories) == ("mutually_exclusive_parameters", None, EXCLUSIVE)
    assert refuse(histories | {"input": ""}) == ("mutually_exclusive_parameters", None, EXCLUSIVE)
    accept(histories | {"conversation": None})


@pytest.mark.parametrize("conversation", ["bar", {"id": "bar"}, "conv_" + "x" * 60])
def test_two_histories_exclude_each_other_whatever_their_ids_look_like(conversation: Any) -> None:
    histories = {"conversation": conversation, "previous_response_id": "foo"}
    assert refuse(histories) == ("mutually_exclusive_parameters", None, EXCLUSIVE)
    assert refuse(histories | {"truncation": "x"})[1] == "truncation"
    assert refuse(histories | {"previous_response_id": None})[1] != "previous_response_id"


def test_of_two_wrong_parameters_the_earlier_in_the_documented_order_is_reported() -> None:
    order = list(CreateResponse.__annotations__)
    wrong = {name: {"wrong": 0.5} if name != "metadata" else 0.5 for name in order[2:]}
    reported: list[str] = []
    while wrong:
        _, param, _ = refuse(dict(reversed(wrong.items())))
        assert param
        reported.append(param.partition(".")[0])
        del wrong[reported[-1]]
    assert reported == order[2:]
    assert order[:28] == [
        "model",
        "input",
        "moderation",
        "include",
        "tools",
        "tool_choice",
        "metadata",
        "text",
        "temperature",
        "top_p",
        "presence_penalty",
        "frequency_penalty",
        "parallel_tool_calls",
        "stream",
        "stream_options",
        "background",
        "max_output_tokens",
        "max_tool_calls",
        "reasoning",
        "user",
        "safety_identifier",
        "prompt_cache_options",
        "prompt_cache_key",
        "prompt_cache_retention",
        "truncation",
        "instructions",
        "store",
        "service_tier",
    ]


@pytest.mark.parametrize(
    ("fragment", "param"),
    [
        (user(bogus=1) | {"zzz": 1}, "zzz"),
        ({"input": [{}], "truncation": "bogus"}, "input[0]"),
        ({"input": 7, "moderation": 7}, "input"),
        ({"input": [], "truncation": "bogus"}, "truncation"),
        ({"previous_response_id": "resp_x", "conversation": "conv_x", "store": "x"}, "store"),
        ({"input": [{"role": "user", "content": [7]}, {}]}, "input[0].content[0]"),
    ],
)
def test_phases_follow_each_other(fragment: dict[str, Any], param: str) -> None:
    assert refuse(fragment)[1] == param
