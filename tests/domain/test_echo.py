from typing import Any

import pytest

from app.domain.echo import WIRE_ORDER, echo

ALWAYS = set(WIRE_ORDER) - {"conversation", "prompt", "prompt_cache_options"}


def test_a_bare_request_is_echoed_with_every_default() -> None:
    assert echo({"model": "m"}, model="m") == {
        "id": None,
        "object": "response",
        "created_at": None,
        "status": None,
        "background": False,
        "completed_at": None,
        "error": None,
        "frequency_penalty": 0.0,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "max_tool_calls": None,
        "model": "m",
        "moderation": None,
        "output": [],
        "parallel_tool_calls": True,
        "presence_penalty": 0.0,
        "previous_response_id": None,
        "prompt_cache_key": None,
        "prompt_cache_retention": None,
        "reasoning": {"effort": None, "summary": None},
        "safety_identifier": None,
        "service_tier": "auto",
        "store": True,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": None,
        "user": None,
        "metadata": {},
    }


SENT: dict[str, Any] = {
    "background": True,
    "frequency_penalty": 0.5,
    "instructions": "be kind",
    "max_output_tokens": 16,
    "max_tool_calls": 1,
    "parallel_tool_calls": False,
    "presence_penalty": -1,
    "previous_response_id": "resp_1",
    "prompt_cache_key": "k",
    "prompt_cache_retention": "24h",
    "safety_identifier": "s",
    "store": False,
    "temperature": 0,
    "tool_choice": {"type": "function", "name": "f"},
    "top_logprobs": 3,
    "top_p": 0.5,
    "truncation": "auto",
    "user": "u",
    "metadata": {"a": "b"},
    "prompt": {"id": "pmpt_1", "variables": {"x": "y"}},
}


@pytest.mark.parametrize("key", SENT)
def test_what_was_sent_is_echoed(key: str) -> None:
    assert echo({key: SENT[key]}, model="m")[key] == SENT[key]


@pytest.mark.parametrize("key", [*SENT, "text", "reasoning", "tools", "conversation", "prompt_cache_options"])
def test_null_means_the_default(key: str) -> None:
    assert echo({key: None}, model="m") == echo({}, model="m")


@pytest.mark.parametrize(
    "key", ["input", "include", "stream", "stream_options", "context_management", "unheard_of"]
)
def test_what_is_no_state_is_never_echoed(key: str) -> None:
    assert key not in echo({key: [1]}, model="m")


@pytest.mark.parametrize("params", [{}, SENT, {"conversation": "conv_1", "prompt_cache_options": {}}])
def test_keys_stand_in_the_order_of_the_wire(params: dict[str, Any]) -> None:
    keys = list(echo(params, model="m"))
    assert keys == [key for key in WIRE_ORDER if key in keys]
    assert set(keys) >= ALWAYS


@pytest.mark.parametrize("conversation", ["conv_1", {"id": "conv_1"}])
def test_a_conversation_is_echoed_as_an_object(conversation: Any) -> None:
    assert echo({"conversation": conversation}, model="m")["conversation"] == {"id": "conv_1"}


def test_the_requested_service_tier_is_not_yet_the_tier_that_is_used() -> None:
    assert echo({"service_tier": "flex"}, model="m")["service_tier"] == "auto"


def test_cache_options_have_their_defaults_and_no_order_to_prewarm() -> None:
    options = {"mode": None, "comparison_response_id": "resp_1", "prewarm": True}
    assert echo({"prompt_cache_options": options}, model="m")["prompt_cache_options"] == {
        "mode": "implicit",
        "ttl": "30m",
        "comparison_response_id": "resp_1",
    }


def test_reasoning_always_has_effort_and_summary() -> None:
    assert echo({"reasoning": {}}, model="m")["reasoning"] == {"effort": None, "summary": None}
    assert echo({"reasoning": {"effort": "low", "context": "auto"}}, model="m")["reasoning"] == {
        "effort": "low",
        "summary": None,
        "context": "auto",
    }


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ({}, {"format": {"type": "text"}, "verbosity": "medium"}),
        ({"format": None, "verbosity": None}, {"format": {"type": "text"}, "verbosity": "medium"}),
        ({"verbosity": "low"}, {"format": {"type": "text"}, "verbosity": "low"}),
        ({"format": {"type": "json_object"}}, {"format": {"type": "json_object"}, "verbosity": "medium"}),
    ],
)
def test_text_always_has_format_and_verbosity(sent: dict[str, Any], shown: dict[str, Any]) -> None:
    assert echo({"text": sent}, model="m")["text"] == shown


@pytest.mark.parametrize(
    ("strict", "shown"), [({}, False), ({"strict": None}, False), ({"strict": True}, True)]
)
def test_a_json_schema_is_echoed_with_all_its_keys(*, strict: dict[str, Any], shown: bool) -> None:
    sent = {"type": "json_schema", "name": "n", "schema": {"type": "object"}, **strict}
    assert echo({"text": {"format": sent}}, model="m")["text"]["format"] == {
        "type": "json_schema",
        "name": "n",
        "description": None,
        "schema": {"type": "object"},
        "strict": shown,
    }


def test_tools_are_echoed_without_secrets() -> None:
    tools = [{"type": "mcp", "server_label": "s", "authorization": "SECRET"}]
    assert "SECRET" not in str(echo({"tools": tools}, model="m"))
