import copy
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.tools import ToolGate, echo_tool, is_strict

STRICT = {
    "type": "object",
    "properties": {"a": {"type": "string"}},
    "required": ["a"],
    "additionalProperties": False,
}
LOOSE = {"type": "object", "properties": {"a": {"type": "string"}}}


class TestFunctions:
    def test_all_five_keys_are_always_there(self) -> None:
        assert echo_tool({"type": "function", "name": "f"}) == {
            "type": "function",
            "name": "f",
            "description": None,
            "parameters": None,
            "strict": False,
        }

    @pytest.mark.parametrize("unsaid", [{}, {"strict": None}])
    @pytest.mark.parametrize(("schema", "strict"), [(STRICT, True), (LOOSE, False), (None, False)])
    def test_an_open_strict_follows_the_schema(
        self, *, unsaid: dict[str, Any], schema: dict[str, Any] | None, strict: bool
    ) -> None:
        echo = echo_tool({"type": "function", "name": "f", "parameters": schema, **unsaid})
        assert echo["strict"] is strict
        assert echo["parameters"] == schema

    @pytest.mark.parametrize("strict", [True, False])
    def test_a_strict_that_was_said_is_kept(self, *, strict: bool) -> None:
        assert (
            echo_tool({"type": "function", "name": "f", "parameters": LOOSE, "strict": strict})["strict"]
            is strict
        )

    def test_other_fields_are_kept_after_the_head(self) -> None:
        echo = echo_tool({"defer_loading": True, "type": "function", "name": "f", "description": "d"})
        assert list(echo) == ["type", "name", "description", "parameters", "strict", "defer_loading"]
        assert echo["description"] == "d"


class TestStrictness:
    @pytest.mark.parametrize(
        "schema",
        [
            STRICT,
            {"type": "object", "properties": {}, "additionalProperties": False},
            {"type": "object", "additionalProperties": False, "$defs": {"x": STRICT}},
            {**STRICT, "properties": {"a": {"anyOf": [STRICT, {"type": "null"}]}}},
            {**STRICT, "properties": {"a": {"type": "array", "items": STRICT}}},
        ],
    )
    def test_schemas_that_keep_the_rules(self, schema: dict[str, Any]) -> None:
        assert is_strict(schema)

    @pytest.mark.parametrize(
        "schema",
        [
            None,
            [],
            {},
            {"type": "array", "items": STRICT},
            {**STRICT, "additionalProperties": True},
            {**STRICT, "required": []},
            {**STRICT, "required": None},
            {**STRICT, "properties": {"a": LOOSE}},
            {**STRICT, "properties": {"a": {"type": ["object", "null"]}}},
            {**STRICT, "properties": {"a": {"properties": {}}}},
            {**STRICT, "properties": {"a": {"type": "array", "items": LOOSE}}},
            {**STRICT, "properties": {"a": {"anyOf": [{"type": "null"}, LOOSE]}}},
            {**STRICT, "$defs": {"x": LOOSE}},
            {**STRICT, "definitions": {"x": LOOSE}},
        ],
    )
    def test_schemas_that_break_them(self, schema: Any) -> None:
        assert not is_strict(schema)

    def test_odd_properties_are_not_a_crash(self) -> None:
        assert is_strict({"type": "object", "properties": 3, "additionalProperties": False})

    def test_a_deep_schema_is_not_a_crash(self) -> None:
        schema: Any = STRICT
        for _ in range(5000):
            schema = {"items": schema}
        assert is_strict({**STRICT, "properties": {"a": schema}})


class TestSecrets:
    def test_an_mcp_tool_is_echoed_with_defaults_and_without_secrets(self) -> None:
        tool = {
            "type": "mcp",
            "server_label": "s",
            "server_url": "https://example.com/mcp",
            "authorization": "SECRET",
            "headers": {"x-key": "SECRET"},
            "allowed_callers": ["direct"],
        }
        assert echo_tool(tool) == {
            "type": "mcp",
            "server_label": "s",
            "server_description": None,
            "allowed_tools": None,
            "require_approval": "always",
            "server_url": "https://example.com/mcp",
            "headers": None,
            "allowed_callers": ["direct"],
        }

    def test_what_was_said_of_an_mcp_tool_is_kept(self) -> None:
        said = {
            "server_description": "d",
            "allowed_tools": ["a"],
            "require_approval": "never",
            "connector_id": "c",
        }
        echo = echo_tool({"type": "mcp", "server_label": "s", **said})
        assert {**echo, **said} == echo
        assert "server_url" not in echo

    @pytest.mark.parametrize(
        ("url", "shown"),
        [
            ("https://u:SECRET@example.com:8443/mcp", "https://<redacted>@example.com:8443/mcp"),
            ("https://example.com/mcp?key=SECRET", "https://example.com/mcp?<redacted>"),
            ("https://[SECRET", "<redacted>"),
        ],
    )
    def test_keys_in_an_address_are_not_echoed(self, url: str, shown: str) -> None:
        assert echo_tool({"type": "mcp", "server_label": "s", "server_url": url})["server_url"] == shown

    @pytest.mark.parametrize(("kind", "key"), [("shell", "environment"), ("code_interpreter", "container")])
    def test_secrets_of_a_network_policy_are_not_echoed(self, kind: str, key: str) -> None:
        secret = {"domain": "example.com", "name": "KEY", "value": "SECRET"}
        policy = {"type": "allowlist", "allowed_domains": ["example.com"], "domain_secrets": [secret]}
        tool = {"type": kind, key: {"type": "auto", "network_policy": policy}}
        before = copy.deepcopy(tool)
        echo = echo_tool(tool)
        assert echo[key]["network_policy"]["domain_secrets"] == [{**secret, "value": "<redacted>"}]
        assert echo[key]["network_policy"]["allowed_domains"] == ["example.com"]
        assert tool == before, "the tool that goes to the upstream was changed"

    @pytest.mark.parametrize(
        "tool",
        [
            {"type": "shell"},
            {"type": "shell", "environment": {"type": "local"}},
            {"type": "code_interpreter", "container": "cntr_1"},
            {"type": "code_interpreter", "container": {"type": "auto", "network_policy": None}},
        ],
    )
    def test_containers_without_secrets_are_echoed_as_they_are(self, tool: dict[str, Any]) -> None:
        assert echo_tool(tool) == tool

    def test_tools_inside_a_namespace_are_echoed_alike(self) -> None:
        inner = [
            {"type": "function", "name": "f"},
            {"type": "mcp", "server_label": "s", "authorization": "SECRET"},
        ]
        echo = echo_tool({"type": "namespace", "name": "n", "description": "d", "tools": inner})
        assert echo["tools"][0]["strict"] is False
        assert "SECRET" not in orjson.dumps(echo).decode()


class TestHostedTools:
    def test_documented_defaults_are_filled_in(self) -> None:
        assert echo_tool({"type": "web_search", "search_context_size": None}) == {
            "type": "web_search",
            "external_web_access": True,
            "search_context_size": "medium",
        }
        assert echo_tool({"type": "web_search_preview"})["search_context_size"] == "medium"
        assert echo_tool({"type": "image_generation", "size": "1024x1024"})["size"] == "1024x1024"
        assert echo_tool({"type": "image_generation"})["output_compression"] == 100
        assert echo_tool({"type": "custom", "name": "c"})["format"] == {"type": "text"}

    @pytest.mark.parametrize("kind", ["file_search", "computer", "local_shell", "apply_patch", "tool_search"])
    def test_tools_without_defaults_are_echoed_as_they_are(self, kind: str) -> None:
        assert echo_tool({"type": kind, "extra": [1]}) == {"type": kind, "extra": [1]}


F = {"type": "function_call", "name": "f", "call_id": "call_f"}
G = {"type": "function_call", "name": "g", "call_id": "call_g"}
CUSTOM = {"type": "custom_tool_call", "name": "f", "call_id": "call_c"}
SPACED = {"type": "function_call", "name": "f", "namespace": "crm", "call_id": "call_n"}
MCP = {"type": "mcp_call", "server_label": "s", "name": "n"}
APPROVAL = {"type": "mcp_approval_request", "server_label": "s", "name": "m"}
SEARCH = {"type": "web_search_call"}
SHELL = {"type": "shell_call", "call_id": "call_s"}
CALLS = [F, G, CUSTOM, SPACED, MCP, APPROVAL, SEARCH, SHELL]
REST = [{"type": "message"}, {"type": "reasoning"}, {"type": "mcp_list_tools"}, {"type": "compaction"}]


def admitted(items: list[dict[str, Any]], **params: Any) -> list[dict[str, Any]]:
    gate = ToolGate(params)
    return [item for item in items if gate.admits(item)]


class TestToolGate:
    @pytest.mark.parametrize(
        ("choice", "calls"),
        [
            (None, CALLS),
            ("auto", CALLS),
            ("required", CALLS),
            ("none", []),
            ({"type": "function", "name": "f"}, [F, SPACED]),
            ({"type": "custom", "name": "f"}, [CUSTOM]),
            ({"type": "mcp", "server_label": "s"}, [MCP, APPROVAL]),
            ({"type": "mcp", "server_label": "s", "name": "n"}, [MCP]),
            ({"type": "mcp", "server_label": "other"}, []),
            ({"type": "web_search_preview"}, CALLS),
            ({"type": "shell"}, CALLS),
            ({"type": "allowed_tools", "mode": "auto", "tools": []}, []),
            ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "g"}]}, [G]),
            (
                {
                    "type": "allowed_tools",
                    "mode": "required",
                    "tools": [{"type": "web_search"}, {"type": "mcp", "server_label": "s"}],
                },
                [MCP, APPROVAL, SEARCH],
            ),
            (
                {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "namespace", "name": "crm"}]},
                [SPACED],
            ),
            ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "namespace"}, {"name": "f"}]}, []),
        ],
    )
    def test_only_the_tools_that_the_choice_names_may_be_called(
        self, choice: Any, calls: list[dict[str, Any]]
    ) -> None:
        assert admitted([*CALLS, *REST], tool_choice=choice) == [*calls, *REST]

    def test_the_output_of_a_refused_call_is_refused_with_it(self) -> None:
        choice = {"type": "function", "name": "f"}
        items = [SHELL, {"type": "shell_call_output", "call_id": "call_s"}, F]
        assert admitted(items, tool_choice=choice) == [F]
        assert admitted(items) == items

    def test_serial_calls_leave_one_call(self) -> None:
        assert admitted([SEARCH, F, G, CUSTOM, MCP], parallel_tool_calls=False) == [SEARCH, F, MCP]

    @pytest.mark.parametrize("parallel", [True, None])
    def test_parallel_calls_are_the_default(self, *, parallel: bool | None) -> None:
        assert admitted([F, G, CUSTOM], parallel_tool_calls=parallel) == [F, G, CUSTOM]

    def test_a_refused_call_does_not_use_up_the_one(self) -> None:
        choice = {"type": "function", "name": "g"}
        assert admitted([F, G, G], tool_choice=choice, parallel_tool_calls=False) == [G]

    @given(st.lists(st.sampled_from([*CALLS, *REST]), max_size=8))
    def test_with_no_tools_allowed_no_call_is_ever_shown(self, items: list[dict[str, Any]]) -> None:
        assert all(item in REST for item in admitted(items, tool_choice="none"))
