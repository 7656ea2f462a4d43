"""What a create's body may hold: every type of item, part and tool, and outputs sent back as they came."""

import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.api.schemas.items import LISTED
from app.api.validation import create_schema, parse_create
from app.errors import ServiceError
from app.ids import ITEM_PREFIXES

PNG = "data:image/png;base64,AA=="
USER = {"role": "user", "content": "hi"}
CALL = {"call_id": "call_1"}
MCP = {"type": "mcp", "server_label": "s", "server_url": "https://example.com/mcp"}

MINIMAL_ITEMS: list[dict[str, Any]] = [
    USER,
    USER | {"type": "message"},
    {"role": "system", "content": []},
    {"role": "developer", "content": "x"},
    {"role": "assistant", "content": "x"},
    {"role": "assistant", "content": [{"type": "output_text", "text": "x"}]},
    {"id": "msg_1"},
    {"type": "item_reference", "id": "rs_1"},
    {"type": None, "id": "rs_1"},
    {"type": "reasoning", "summary": []},
    {"type": "function_call", "name": "f", "arguments": "{}"} | CALL,
    {"type": "function_call_output", "output": "x"} | CALL,
    {"type": "function_call_output", "output": "x", "name": "f"},
    {"type": "function_call_output", "output": "x", "call_id": None, "name": "f", "namespace": "n"},
    {"type": "custom_tool_call", "name": "f", "input": "x"} | CALL,
    {"type": "custom_tool_call_output", "output": []} | CALL,
    {"type": "file_search_call", "id": "fs_1", "queries": ["q"], "status": "completed"},
    {"type": "web_search_call", "status": "completed"},
    {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "q"}},
    {"type": "code_interpreter_call", "id": "ci_1", "container_id": "c", "code": None, "outputs": None, "status": "completed"},
    {"type": "image_generation_call", "id": "ig_1", "result": None, "status": "generating"},
    {"type": "computer_call", "id": "cu_1", "pending_safety_checks": [], "status": "completed"} | CALL,
    {"type": "computer_call_output", "output": {"type": "computer_screenshot"}} | CALL,
    {"type": "local_shell_call", "action": {"type": "exec", "command": ["ls"], "env": {}}, "status": "completed"} | CALL,
    {"type": "local_shell_call_output", "id": "lsh_1", "output": "x"},
    {"type": "shell_call", "action": {"commands": ["ls"]}} | CALL,
    {"type": "shell_call_output", "output": [{"stdout": "", "stderr": "", "outcome": {"type": "timeout"}}]} | CALL,
    {"type": "apply_patch_call", "operation": {"type": "delete_file", "path": "a"}, "status": "completed"} | CALL,
    {"type": "apply_patch_call_output", "status": "failed"} | CALL,
    {"type": "mcp_list_tools", "id": "mcpl_1", "server_label": "s", "tools": [{"name": "t", "input_schema": {}}]},
    {"type": "mcp_call", "id": "mcp_1", "server_label": "s", "name": "t", "arguments": "{}"},
    {"type": "mcp_approval_request", "id": "mcpr_1", "server_label": "s", "name": "t", "arguments": "{}"},
    {"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": True},
    {"type": "tool_search_call", "arguments": {"q": 1}},
    {"type": "tool_search_output", "tools": [MCP]},
    {"type": "additional_tools", "role": "developer", "tools": []},
    {"type": "configuration_update"},
    {"type": "program", "id": "prog_1", "code": "1", "fingerprint": "f"} | CALL,
    {"type": "program_output", "id": "prog_2", "result": "1", "status": "completed"} | CALL,
    {"type": "compaction", "encrypted_content": "gAAA"},
    {"type": "compaction_trigger"},
    {"type": "agent_message", "author": "a", "recipient": "b", "content": [{"type": "encrypted_content", "encrypted_content": "x"}]},
    {"type": "multi_agent_call", "action": "spawn_agent", "arguments": "{}"} | CALL,
    {"type": "multi_agent_call_output", "action": "wait_agent", "output": [{"type": "output_text", "text": "x"}]} | CALL,
]  # fmt: skip

FULL_ITEMS: list[dict[str, Any]] = [
    {
        "type": "message",
        "role": "user",
        "id": "msg_1",
        "status": "completed",
        "content": [
            {
                "type": "input_text",
                "text": "x",
                "prompt_cache_breakpoint": {"mode": "explicit", "ttl": "30m"},
            },
            {"type": "input_image", "image_url": PNG, "detail": "auto", "file_id": None},
            {"type": "input_image", "image_url": "HTTPS://example.com/a.png", "detail": None},
            {"type": "input_image", "file_id": "file-1", "detail": "original"},
            {"type": "input_file", "file_data": "data:text/plain;base64,AA==", "filename": "a.txt"},
            {"type": "input_file", "file_url": "https://example.com/a.pdf", "detail": "high"},
            {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
        ],
    },
    {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}], "phase": None},
    {
        "type": "function_call_output",
        "output": [{"type": "input_text", "text": "x"}, {"type": "input_image", "image_url": PNG}],
        "name": None,
        "namespace": "n",
        "caller": {"type": "program", "caller_id": "c"},
    }
    | CALL,
    {
        "type": "computer_call",
        "id": "cu_1",
        "pending_safety_checks": [{"id": "s", "code": None}],
        "action": {"type": "click", "button": "left", "x": 1, "y": 2},
        "actions": [
            {"type": "move", "x": 1, "y": 2, "keys": None},
            {"type": "double_click", "x": 1, "y": 2, "keys": ["a"]},
            {"type": "drag", "path": [{"x": 1, "y": 2}]},
            {"type": "keypress", "keys": ["a"]},
            {"type": "scroll", "x": 1, "y": 2, "scroll_x": 0, "scroll_y": -1},
            {"type": "type", "text": "x"},
            {"type": "screenshot"},
            {"type": "wait"},
        ],
    }
    | CALL,
    {
        "type": "mcp_call",
        "id": "mcp_1",
        "server_label": "s",
        "name": "t",
        "arguments": "{}",
        "status": "failed",
        "error": {"type": "http_error", "code": 500, "message": "x"},
    },
    {
        "type": "configuration_update",
        "reasoning": {"effort": "low"},
        "text": {"format": {"type": "json_schema", "name": "n", "schema": {}}},
    },
]

# A whole turn as a response returns it, with the nulls that the wire carries.
TURN: list[dict[str, Any]] = [
    {"id": "rs_1", "type": "reasoning", "summary": [{"type": "summary_text", "text": "x"}], "content": None, "encrypted_content": "gAAAA=", "status": None},
    {
        "id": "msg_1",
        "type": "message",
        "status": "completed",
        "role": "assistant",
        "phase": "commentary",
        "content": [
            {
                "type": "output_text",
                "text": "x",
                "annotations": [
                    {"type": "url_citation", "url": "u", "title": "t", "start_index": 0, "end_index": 1, "new_field": 1},
                    {"type": "file_citation", "file_id": "f", "filename": "n", "index": 0},
                    {"type": "container_file_citation", "container_id": "c", "file_id": "f", "filename": "n", "start_index": 0, "end_index": 1},
                    {"type": "file_path", "file_id": "f", "index": 0},
                ],
                "logprobs": [{"token": "x", "bytes": [120], "logprob": -0.1, "top_logprobs": [{"token": "x", "bytes": None, "logprob": 0}]}],
            }
        ],
    },
    {"id": "fc_1", "type": "function_call", "status": "completed", "name": "a.b", "arguments": "{}", "caller": {"type": "direct"}, "created_by": None, "async": None} | CALL,
    {"id": "fco_1", "type": "function_call_output", "status": "completed", "output": "x", "created_by": "u"} | CALL,
    {"id": "ctco_1", "type": "custom_tool_call_output", "status": "completed", "output": "x"} | CALL,
    {"id": "ci_1", "type": "code_interpreter_call", "status": "completed", "container_id": "c", "code": "1", "outputs": [{"type": "logs", "logs": "x"}, {"type": "image", "url": "u"}]},
    {"id": "fs_1", "type": "file_search_call", "status": "completed", "queries": ["q"], "results": [{"file_id": "f", "filename": "n", "score": 0.5, "text": "x", "attributes": {"a": "b", "c": 1, "d": True}}]},
    {"id": "mcpl_1", "type": "mcp_list_tools", "server_label": "s", "error": None, "tools": [{"name": "t", "input_schema": {"type": "object"}, "description": None, "annotations": None}]},
    {"id": "mcp_1", "type": "mcp_call", "server_label": "s", "name": "t", "arguments": "{}", "output": "x", "error": None, "status": "completed", "approval_request_id": None},
    {"id": "cmp_1", "type": "compaction", "encrypted_content": "x", "created_by": None},
]  # fmt: skip

TOOLS: list[dict[str, Any]] = [
    {"type": "function", "name": "f"},
    {"type": "function", "name": "f", "description": None, "parameters": None, "strict": None, "async": True},
    {"type": "custom", "name": "c", "format": {"type": "grammar", "syntax": "lark", "definition": "x"}},
    {"type": "namespace", "name": "n", "description": "d", "tools": [{"type": "custom", "name": "c"}]},
    {"type": "tool_search", "execution": "client", "parameters": {}},
    {
        "type": "file_search",
        "vector_store_ids": ["vs_1"],
        "max_num_results": 50,
        "ranking_options": {"ranker": "auto", "score_threshold": 0.5, "hybrid_search": {"embedding_weight": 1, "text_weight": 0.5}},
        "filters": {"type": "and", "filters": [{"type": "or", "filters": [{"type": "in", "key": "k", "value": ["a", 1]}]}, {"type": "eq", "key": "k", "value": True}]},
    },
    {"type": "web_search", "filters": {"allowed_domains": ["a.com"]}, "user_location": {"type": "approximate", "city": None}},
    {"type": "web_search_2025_08_26", "search_context_size": "low", "external_web_access": False},
    {"type": "web_search_preview"},
    {"type": "web_search_preview_2025_03_11", "search_content_types": ["text"]},
    MCP | {"allowed_tools": None, "headers": {"a": "b"}, "require_approval": {"never": {"tool_names": ["t"]}}},
    {"type": "mcp", "server_label": "s", "connector_id": "connector_gmail", "require_approval": "never", "allowed_tools": ["t"]},
    {"type": "mcp", "server_label": "s", "tunnel_id": "tunnel_" + "a" * 32, "allowed_tools": {"read_only": True}},
    {"type": "code_interpreter", "container": "cntr_1"},
    {"type": "code_interpreter", "container": {"type": "auto", "memory_limit": "1g", "network_policy": {"type": "disabled"}}},
    {"type": "image_generation", "quality": "high", "output_compression": 100, "partial_images": 0},
    {"type": "computer"},
    {"type": "computer_use_preview", "display_width": 1, "display_height": 1, "environment": "linux"},
    {"type": "local_shell"},
    {"type": "shell"},
    {"type": "shell", "environment": {"type": "container_auto", "skills": [{"type": "skill_reference", "skill_id": "s"}], "network_policy": {"type": "allowlist", "allowed_domains": ["a.com"]}}},
    {"type": "shell", "environment": {"type": "local", "skills": [{"name": "n", "description": "d", "path": "p"}]}},
    {"type": "apply_patch", "allowed_callers": ["direct"]},
    {"type": "programmatic_tool_calling"},
]  # fmt: skip

CHOICES: list[Any] = [
    "none",
    "auto",
    "required",
    {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]},
    {
        "type": "allowed_tools",
        "mode": "auto",
        "tools": [{"type": "image_generation"}, MCP, {"type": "function", "name": "f", "parameters": {}}],
    },
    {"type": "function", "name": "f"},
    {"type": "custom", "name": "f"},
    {"type": "mcp", "server_label": "s"},
    {"type": "mcp", "server_label": "s", "name": None},
    *(
        {"type": kind}
        for kind in [
            "file_search",
            "web_search_preview",
            "web_search_preview_2025_03_11",
            "computer",
            "computer_use",
            "computer_use_preview",
            "image_generation",
            "code_interpreter",
            "apply_patch",
            "shell",
            "programmatic_tool_calling",
        ]
    ),
]


def assert_kept(fragment: dict[str, Any]) -> None:
    """Send a valid body; what comes out must be what went in, to the byte."""
    body = orjson.dumps({"model": "m", "input": "hi"} | fragment)
    assert orjson.dumps(parse_create(body, default_model=None)) == body


@pytest.mark.parametrize("item", MINIMAL_ITEMS + FULL_ITEMS)
def test_an_item_is_accepted_and_kept(item: dict[str, Any]) -> None:
    assert_kept({"input": [item]})


def test_every_type_of_item_is_tried() -> None:
    tried = {item.get("type") or "message" for item in MINIMAL_ITEMS}
    assert tried == {*LISTED, "configuration_update"}
    assert len(tried) == 34


def test_a_turn_is_accepted_as_it_came() -> None:
    assert_kept({"input": [USER, *TURN, USER]})


def test_the_ids_that_this_server_mints_are_accepted() -> None:
    minted = [
        item | {"id": ITEM_PREFIXES[item.get("type") or "message"] + "0" * 36}
        for item in MINIMAL_ITEMS
        if item.get("type") not in {None, "item_reference", "compaction_trigger"}
    ]
    assert_kept({"input": minted})


@pytest.mark.parametrize("tool", TOOLS)
def test_a_tool_is_accepted_and_kept(tool: dict[str, Any]) -> None:
    assert_kept({"tools": [tool]})
    assert_kept({"input": [{"type": "additional_tools", "role": "developer", "tools": [tool]}]})


def test_every_type_of_tool_is_tried() -> None:
    assert len({tool["type"] for tool in TOOLS}) == 18  # 16 types, two of them with a dated alias


@pytest.mark.parametrize("choice", CHOICES)
def test_a_tool_choice_is_accepted_and_kept(choice: Any) -> None:
    assert_kept({"tool_choice": choice})


def test_every_parameter_is_accepted_and_kept() -> None:
    variables = {
        "a": "x",
        "b": {"type": "input_text", "text": "x"},
        "c": {"type": "input_image", "image_url": PNG},
    }
    every = {
        "moderation": {"model": "omni", "policy": {"input": {"mode": "block"}, "output": None}},
        "include": ["reasoning.encrypted_content", "message.output_text.logprobs"],
        "tools": TOOLS,
        "tool_choice": "auto",
        "metadata": {f"k{i}" + "k" * 60: "v" * 512 for i in range(10)},
        "text": {"format": {"type": "json_object"}, "verbosity": "low"},
        "temperature": 2,
        "top_p": 0.98,
        "presence_penalty": -2.0,
        "frequency_penalty": 2,
        "parallel_tool_calls": False,
        "stream": True,
        "stream_options": {"include_obfuscation": False},
        "background": True,
        "max_output_tokens": 16,
        "max_tool_calls": 1,
        "reasoning": {"effort": "max", "summary": "auto", "context": "all_turns", "mode": "pro"},
        "user": "u",
        "safety_identifier": "s" * 128,
        "prompt_cache_options": {"mode": "explicit", "ttl": "12h", "comparison_response_id": "resp_1", "prewarm": True},
        "prompt_cache_key": "k" * 64,
        "prompt_cache_retention": "24h",
        "truncation": "auto",
        "instructions": "be terse",
        "store": False,
        "service_tier": "scale",
        "top_logprobs": 20,
        "context_management": [{"type": "compaction", "compact_threshold": 1000}],
        "previous_response_id": "resp_1",
        "conversation": {"id": "conv_1"},
        "prompt": {"id": "pmpt_1", "version": None, "variables": variables},
        "access_programs": {"cyber": "standard"},
        "image": {"context_compression": "auto"},
    }  # fmt: skip
    assert_kept(every)
    assert_kept(dict.fromkeys(every))


@pytest.mark.parametrize("sent", [{}, {"model": None}])
def test_a_default_stands_in_for_a_model_that_was_not_named(sent: dict[str, Any]) -> None:
    body = orjson.dumps(sent | {"input": "hi"})
    assert parse_create(body, default_model="d") == {"input": "hi", "model": "d"}


def test_a_named_model_is_not_replaced() -> None:
    assert parse_create(b'{"model":"m","input":"hi"}', default_model="d")["model"] == "m"


def test_the_published_schema_is_whole_and_takes_what_the_server_takes() -> None:
    schema = create_schema()
    local = orjson.loads(orjson.dumps(schema).replace(b"#/components/schemas/", b"#/$defs/"))
    validator = jsonschema.Draft202012Validator(local)
    validator.check_schema(local)
    for example in schema["examples"]:
        validator.validate(example)
        parse_create(orjson.dumps(example), default_model=None)
    validator.validate({"model": "m", "input": TURN, "tools": TOOLS})
    assert not validator.is_valid({"model": "m", "input": [{"role": "user"}]})


def outcome(body: bytes) -> ServiceError | None:
    """Check a body; whatever is not a service error fails the test by itself."""
    try:
        parse_create(body, default_model=None)
    except ServiceError as error:
        orjson.dumps(error.envelope())
        return error
    return None


JUNK: list[Any] = [
    None, True, 0, -1.5, 2**63, "", "x", "a b", "x" * 600, [], [None], [[]], {}, {"type": "x"}, {"type": None}, {"x": 1},
]  # fmt: skip


def spoilt(value: Any, path: str) -> Iterator[tuple[Any, str]]:
    """Every way to put one piece of junk into a value, with the path of what was touched."""
    for junk in JUNK:
        yield junk, path
    if isinstance(value, dict):
        for key in value:
            place = f"{path}.{key}"
            yield {name: kept for name, kept in value.items() if name != key}, place
            for broken, deeper in spoilt(value[key], place):
                yield value | {key: broken}, deeper
        yield value | {"\0zzz": 1}, path
    elif isinstance(value, list):
        for i, kept in enumerate(value):
            for broken, deeper in spoilt(kept, f"{path}[{i}]"):
                yield [*value[:i], broken, *value[i + 1 :]], deeper


def parent_of(place: str) -> str:
    """What holds a place: a field that names a variant changes what its siblings must be."""
    return re.sub(r"(\.\w+|\[\d+\])$", "", place)


@pytest.mark.parametrize("field", ["input", "tools"])
def test_one_piece_of_junk_anywhere_is_reported_at_its_place_or_taken(field: str) -> None:
    sound = [*MINIMAL_ITEMS, *FULL_ITEMS, *TURN] if field == "input" else TOOLS
    refused = 0
    for whole in sound:
        for broken, place in spoilt(whole, f"{field}[0]"):
            error = outcome(orjson.dumps({"model": "m", "input": "hi"} | {field: [broken]}))
            if error:
                refused += 1
                assert error.status == 400
                assert error.param
                assert place.startswith(error.param) or error.param.startswith(parent_of(place))
                assert "\0" not in error.param
    assert refused > 1000


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
words = st.sampled_from(
    [
        "type",
        "role",
        "id",
        "content",
        "user",
        "message",
        "input_text",
        "name",
        "text",
        *create_schema()["properties"],
    ]
)
shaped = st.recursive(
    json_values | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=5),
    max_leaves=15,
)


@given(st.dictionaries(words, shaped, max_size=8) | json_values)
@settings(max_examples=50, deadline=None)
def test_no_body_raises_anything_but_a_service_error(value: Any) -> None:
    whole = {"model": "m", "input": "hi"} | value if isinstance(value, dict) else value
    error = outcome(orjson.dumps(whole))
    assert error is None or error.status == 400


def test_a_body_with_countless_errors_is_refused_without_listing_them() -> None:
    body = orjson.dumps({"model": "m", "input": [USER | {f"k{i}": 1 for i in range(5000)}]})
    with pytest.raises(ServiceError, match="too many errors"):
        parse_create(body, default_model=None)
