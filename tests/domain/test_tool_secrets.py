import copy
from typing import Any

import orjson
import pytest

from app.domain.echo import echo
from app.domain.tool_secrets import secrets_in, with_secrets, without_secrets
from app.domain.tools import secret_in

POLICY = {
    "type": "allowlist",
    "allowed_domains": ["example.com"],
    "domain_secrets": [
        {"domain": "example.com", "value": "PLANTED-1", "name": "KEY"},
        {"domain": "example.org", "name": "KEY", "value": "PLANTED-2"},
    ],
}
MCP = {
    "authorization": "PLANTED-3",
    "type": "mcp",
    "headers": {"x-key": "PLANTED-4"},
    "server_label": "s",
    "server_url": "https://user:PLANTED-5@example.com/mcp?key=PLANTED-6",
}
TOOLS: list[Any] = [
    {"type": "function", "name": "f", "parameters": {"type": "object"}},
    MCP,
    {"type": "namespace", "name": "n", "description": "d", "tools": [MCP]},
    {"type": "code_interpreter", "container": {"type": "auto", "network_policy": POLICY}},
    {"type": "shell", "environment": {"type": "container_auto", "network_policy": POLICY}},
]
PARAMS = {"model": "offline", "input": "hi", "tools": TOOLS}


def test_no_secret_is_left_and_all_come_back() -> None:
    before = copy.deepcopy(PARAMS)
    bare = without_secrets(PARAMS)
    assert b"PLANTED" not in orjson.dumps(bare)
    assert orjson.dumps(with_secrets(orjson.loads(orjson.dumps(bare)), secrets_in(PARAMS))) == orjson.dumps(
        before
    )
    assert before == PARAMS


def test_the_echo_is_the_same_without_the_secrets() -> None:
    echoes = [orjson.dumps(echo(params, model="m")) for params in (PARAMS, without_secrets(PARAMS))]
    assert echoes[0] == echoes[1]
    assert b"PLANTED" not in echoes[0]


def test_secrets_are_named_by_their_places() -> None:
    assert [secret.place for secret in secrets_in(PARAMS)] == [
        "tools[1].authorization",
        "tools[1].headers",
        "tools[1].server_url",
        "tools[2].tools[0].authorization",
        "tools[2].tools[0].headers",
        "tools[2].tools[0].server_url",
        "tools[3].container.network_policy.domain_secrets[0].value",
        "tools[3].container.network_policy.domain_secrets[1].value",
        "tools[4].environment.network_policy.domain_secrets[0].value",
        "tools[4].environment.network_policy.domain_secrets[1].value",
    ]


@pytest.mark.parametrize(
    "tools",
    [
        None,
        [],
        [{"type": "mcp", "server_label": "s", "server_url": "HTTPS://Example.com/mcp", "headers": {}}],
        [{"type": "code_interpreter", "container": "cntr_1"}],
        [{"type": "code_interpreter", "container": {"type": "auto", "network_policy": None}}],
        [{"type": "shell"}],
    ],
)
def test_what_has_no_secrets_is_left_alone(tools: Any) -> None:
    params = {"tools": tools}
    assert secrets_in(params) == []
    assert without_secrets(params) is params


def test_an_address_with_credentials_is_a_secret_of_an_item_too() -> None:
    tool = {"type": "mcp", "server_label": "s", "server_url": MCP["server_url"]}
    assert secret_in(tool) == "server_url"
    assert secret_in({**tool, "server_url": "https://example.com/mcp"}) is None
    assert secret_in({"type": "mcp", "server_label": "s", "connector_id": "c"}) is None
