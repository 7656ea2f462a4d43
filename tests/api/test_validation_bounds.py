"""Each bound, named with the value that broke it (surface notes, appendix A)."""

from typing import Any

import pytest

from tests.api.validating import TOOL, item, refuse, user


def below(name: str, limit: int, got: float, kind: str = "integer") -> tuple[str, str, str]:
    words = f"{kind} below minimum value. Expected a value >= {limit}, but got {got} instead."
    return f"{kind}_below_min_value", name, f"Invalid '{name}': {words}"


def above(name: str, limit: int, got: float, kind: str = "integer") -> tuple[str, str, str]:
    words = f"{kind} above maximum value. Expected a value <= {limit}, but got {got} instead."
    return f"{kind}_above_max_value", name, f"Invalid '{name}': {words}"


def long_string(name: str, limit: int, length: int) -> tuple[str, str, str]:
    words = f"Expected a string with maximum length {limit}, but got a string with length {length} instead."
    return "string_above_max_length", name, f"Invalid '{name}': string too long. {words}"


def long_array(name: str, limit: int, length: int) -> tuple[str, str, str]:
    words = f"Expected an array with maximum length {limit}, but got an array with length {length} instead."
    return "array_above_max_length", name, f"Invalid '{name}': array too long. {words}"


def empty_array(name: str) -> tuple[str, str, str]:
    words = "Expected an array with minimum length 1, but got an empty array instead."
    return "empty_array", name, f"Invalid '{name}': empty array. {words}"


def empty_string(name: str) -> tuple[str, str, str]:
    words = "Expected a string with minimum length 1, but got an empty string instead."
    return "empty_string", name, f"Invalid '{name}': empty string. {words}"


def wrong_pattern(name: str, pattern: str) -> tuple[str, str, str]:
    words = f"Expected a string that matches the pattern '{pattern}'."
    return "invalid_value", name, f"Invalid '{name}': string does not match pattern. {words}"


@pytest.mark.parametrize(
    ("fragment", "expected"),
    [
        ({"max_output_tokens": 0}, below("max_output_tokens", 16, 0)),
        ({"max_output_tokens": 15}, below("max_output_tokens", 16, 15)),
        ({"max_tool_calls": 0}, below("max_tool_calls", 1, 0)),
        ({"top_logprobs": -1}, below("top_logprobs", 0, -1)),
        ({"top_logprobs": 21}, above("top_logprobs", 20, 21)),
        ({"temperature": -0.5}, below("temperature", 0, -0.5, "decimal")),
        ({"temperature": 3}, above("temperature", 2, 3, "decimal")),
        ({"top_p": 1.5}, above("top_p", 1, 1.5, "decimal")),
        ({"presence_penalty": -3}, below("presence_penalty", -2, -3, "decimal")),
        ({"frequency_penalty": 3}, above("frequency_penalty", 2, 3, "decimal")),
        (
            {"context_management": [{"type": "compaction", "compact_threshold": 999}]},
            below("context_management[0].compact_threshold", 1000, 999),
        ),
        ({"context_management": []}, empty_array("context_management")),
        ({"prompt_cache_key": "k" * 65}, long_string("prompt_cache_key", 64, 65)),
        ({"safety_identifier": "k" * 129}, long_string("safety_identifier", 128, 129)),
        ({"input": "x" * 10_485_761}, long_string("input", 10_485_760, 10_485_761)),
        ({"metadata": {"k": "x" * 513}}, long_string("metadata.k", 512, 513)),
        ({"metadata": {"[key]": "x" * 513}}, long_string("metadata.[key]", 512, 513)),
        (
            {"metadata": {f"k{i}": "v" for i in range(17)}},
            (
                "object_above_max_properties",
                "metadata",
                "Invalid 'metadata': too many properties. Expected an object with at most 16 properties, but got an object with 17 properties instead.",
            ),
        ),
        (
            {"metadata": {"k" * 65: "v"}},
            (
                "property_name_above_max_length",
                "metadata." + "k" * 65,
                "Invalid property name in 'metadata': 'kkk...kkk' is too long. Expected a string with maximum length 64, but got a string with length 65 instead.",
            ),
        ),
        ({"tools": [TOOL | {"name": ""}]}, empty_string("tools[0].name")),
        ({"tools": [TOOL | {"name": "f" * 129}]}, long_string("tools[0].name", 128, 129)),
        ({"tools": [TOOL | {"name": "a b"}]}, wrong_pattern("tools[0].name", "^[a-zA-Z0-9_-]+$")),
        ({"tools": [TOOL | {"allowed_callers": []}]}, empty_array("tools[0].allowed_callers")),
        (
            {"tools": [{"type": "code_interpreter", "container": {"type": "auto", "file_ids": ["f"] * 51}}]},
            long_array("tools[0].container.file_ids", 50, 51),
        ),
        (
            {"tools": [{"type": "image_generation", "partial_images": 4}]},
            above("tools[0].partial_images", 3, 4),
        ),
        (
            {"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}},
            empty_array("tool_choice.tools"),
        ),
        (
            {"text": {"format": {"type": "json_schema", "name": "a.b", "schema": {}}}},
            wrong_pattern("text.format.name", "^[a-zA-Z0-9_-]+$"),
        ),
        (
            item("function_call", call_id="", name="f", arguments="{}"),
            empty_string("input[0].call_id"),
        ),
        (
            item("function_call_output", call_id="c" * 65, output=""),
            long_string("input[0].call_id", 64, 65),
        ),
        (user(id="msg_" + "x" * 61), long_string("input[0].id", 64, 65)),
    ],
)
def test_a_bound_is_named_with_the_value_that_broke_it(
    fragment: dict[str, Any], expected: tuple[str, str, str]
) -> None:
    assert refuse(fragment) == expected


@pytest.mark.parametrize(
    ("fragment", "param", "value", "prefix"),
    [
        ({"previous_response_id": "x"}, "previous_response_id", "x", "resp"),
        ({"previous_response_id": ""}, "previous_response_id", "", "resp"),
        ({"conversation": "foo"}, "conversation", "foo", "conv"),
        ({"conversation": {"id": "foo"}}, "conversation.id", "foo", "conv"),
        (user(id="x_1"), "input[0].id", "x_1", "msg"),
        (item("reasoning", id="fc_1", summary=[]), "input[0].id", "fc_1", "rs"),
        (item("function_call", id="call_1", call_id="c", name="f", arguments=""), "input[0].id", "call_1", "fc"),
        (item("custom_tool_call", id="fc_1", call_id="c", name="f", input=""), "input[0].id", "fc_1", "ctc"),
    ],
)  # fmt: skip
def test_an_id_begins_as_its_type_demands(
    fragment: dict[str, Any], param: str, value: str, prefix: str
) -> None:
    message = f"Invalid '{param}': '{value}'. Expected an ID that begins with '{prefix}'."
    assert refuse(fragment) == ("invalid_value", param, message)


@pytest.mark.parametrize("value", ["resp_a b", "@results", "resp_\n", "resp_é"])
def test_an_id_holds_no_other_characters(value: str) -> None:
    message = (
        f"Invalid 'previous_response_id': '{value}'. Expected an ID that contains letters, numbers, "
        "underscores, or dashes, but this value contained additional characters."
    )
    assert refuse({"previous_response_id": value}) == ("invalid_value", "previous_response_id", message)
