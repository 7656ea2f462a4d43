"""Tools: how they are echoed, and which of the model's calls may be shown.

An echo is stored and given back, so no secret of a tool may be in it (behaviour 42). Calling tools
does not belong here, nor does pairing calls with their outputs, which is `calls`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit, urlunsplit

REDACTED = "<redacted>"

_WEB_SEARCH: Mapping[str, Any] = {"external_web_access": True, "search_context_size": "medium"}
_WEB_SEARCH_PREVIEW: Mapping[str, Any] = {"search_context_size": "medium"}

_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "custom": {"description": None, "format": {"type": "text"}},
    "web_search": _WEB_SEARCH,
    "web_search_2025_08_26": _WEB_SEARCH,
    "web_search_preview": _WEB_SEARCH_PREVIEW,
    "web_search_preview_2025_03_11": _WEB_SEARCH_PREVIEW,
    "image_generation": {
        "background": "auto",
        "moderation": "auto",
        "output_compression": 100,
        "output_format": "png",
        "partial_images": 0,
        "quality": "auto",
        "size": "auto",
    },
}
"""Documented defaults of tools that need no other care (reference: "Tools")."""


def echo_tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    """The tool as the response object shows it: defaults filled in, secrets gone.

    What has neither default nor secret is kept as it was sent.
    """
    kind = tool["type"]
    if special := _ECHOES.get(kind):
        return special(tool)
    return _filled(tool, {"type": kind, **_DEFAULTS.get(kind, {})})


def secret_in(tool: Mapping[str, Any]) -> str | None:
    """The path of a secret inside this tool, if it has one."""
    if tool["type"] == "mcp":
        if key := next((key for key in ("authorization", "headers") if tool.get(key)), None):
            return key
        return "server_url" if REDACTED in public_url(tool.get("server_url") or "") else None
    if tool["type"] == "namespace":
        inner = enumerate(tool["tools"])
        return next((f"tools[{index}].{path}" for index, each in inner if (path := secret_in(each))), None)
    if (key := CONTAINERS.get(tool["type"])) and domain_secrets(tool.get(key)):
        return f"{key}.network_policy.domain_secrets"
    return None


def _filled(tool: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults stand where the tool has nothing or null; their order comes first."""
    return {
        **defaults,
        **{key: value for key, value in tool.items() if key not in defaults or value is not None},
    }


def _function(tool: Mapping[str, Any]) -> dict[str, Any]:
    """All five keys, `strict` as a boolean (behaviour 41).

    A `strict` left open is true only where the schema already keeps the rules of strict mode: the
    schema itself is never rewritten, because the upstream is given what the client sent.
    """
    head = {"type": "function", "name": tool["name"], "description": None, "parameters": None}
    strict = tool.get("strict")
    return _filled(tool, {**head, "strict": is_strict(tool.get("parameters")) if strict is None else strict})


def _mcp(tool: Mapping[str, Any]) -> dict[str, Any]:
    echo = _filled(
        tool,
        {
            "type": "mcp",
            "server_label": tool["server_label"],
            "server_description": None,
            "allowed_tools": None,
            "require_approval": "always",
        },
    )
    echo.pop("authorization", None)
    echo["headers"] = None
    if url := echo.get("server_url"):
        echo["server_url"] = public_url(url)
    return echo


def public_url(url: str) -> str:
    """The address without a user, a password or a query: keys travel in all three."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return REDACTED  # what cannot be read cannot be cleaned
    _, at, host = parts.netloc.rpartition("@")
    netloc = f"{REDACTED}@{host}" if at else host
    query = REDACTED if parts.query else ""
    return urlunsplit((parts.scheme, netloc, parts.path, query, parts.fragment))


def _namespace(tool: Mapping[str, Any]) -> dict[str, Any]:
    return {**tool, "tools": [echo_tool(inner) for inner in tool["tools"]]}


def _contained(tool: Mapping[str, Any]) -> dict[str, Any]:
    """A tool that runs in a container, whose network policy may name secrets."""
    key = CONTAINERS[tool["type"]]
    container: Any = tool.get(key)
    if not (secrets := domain_secrets(container)):
        return dict(tool)
    policy = {
        **container["network_policy"],
        "domain_secrets": [{**secret, "value": REDACTED} for secret in secrets],
    }
    return {**tool, key: {**container, "network_policy": policy}}


def domain_secrets(container: Any) -> list[dict[str, Any]]:
    """The secrets that a container's network policy names; their `value` is the secret."""
    policy = container.get("network_policy") if isinstance(container, dict) else None
    return (policy or {}).get("domain_secrets") or []


CONTAINERS: Mapping[str, str] = {"code_interpreter": "container", "shell": "environment"}
"""Where the tools that run in a container describe it."""

_ECHOES: Mapping[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "function": _function,
    "mcp": _mcp,
    "namespace": _namespace,
    "code_interpreter": _contained,
    "shell": _contained,
}


def is_strict(schema: Any) -> bool:
    """Whether a schema keeps the rules of strict mode: its root is an object, and every object in it
    forbids additional properties and requires each of its own (reference: "Structured outputs").
    """
    if not isinstance(schema, dict) or schema.get("type") != "object":
        return False
    waiting = [schema]  # a list instead of recursion: clients decide how deep a schema goes
    while waiting:
        part = waiting.pop()
        if not _forbids_extras(part):
            return False
        waiting += _subschemas(part)
    return True


def _forbids_extras(schema: Mapping[str, Any]) -> bool:
    kind, properties = schema.get("type"), schema.get("properties")
    if properties is None and kind != "object" and not (isinstance(kind, list) and "object" in kind):
        return True
    names = properties if isinstance(properties, dict) else {}
    required = schema.get("required")
    return schema.get("additionalProperties") is False and set(names) <= set(
        required if isinstance(required, list) else ()
    )


def _subschemas(schema: Mapping[str, Any]) -> list[dict[str, Any]]:
    found: list[Any] = []
    for key in ("properties", "$defs", "definitions"):
        if isinstance(inner := schema.get(key), dict):
            found += inner.values()
    for key in ("items", "prefixItems", "anyOf", "oneOf", "allOf"):
        inner = schema.get(key)
        found += inner if isinstance(inner, list) else [inner]
    return [each for each in found if isinstance(each, dict)]


_CALLS: Mapping[str, frozenset[str]] = {
    "function_call": frozenset({"function"}),
    "custom_tool_call": frozenset({"custom"}),
    "mcp_call": frozenset({"mcp"}),
    "mcp_approval_request": frozenset({"mcp"}),
    "file_search_call": frozenset({"file_search"}),
    "web_search_call": frozenset(
        {"web_search", "web_search_2025_08_26", "web_search_preview", "web_search_preview_2025_03_11"}
    ),
    "code_interpreter_call": frozenset({"code_interpreter"}),
    "image_generation_call": frozenset({"image_generation"}),
    "computer_call": frozenset({"computer", "computer_use", "computer_use_preview"}),
    "local_shell_call": frozenset({"local_shell"}),
    "shell_call": frozenset({"shell"}),
    "apply_patch_call": frozenset({"apply_patch"}),
    "tool_search_call": frozenset({"tool_search"}),
    "program": frozenset({"programmatic_tool_calling"}),
}
"""From a call's type to the types by which `tool_choice` may name its tool."""

_PARALLEL = frozenset({"function_call", "custom_tool_call"})
"""The calls of which `parallel_tool_calls: false` leaves one in a response."""


class ToolGate:
    """Which output items of one response may be shown, given what its request allows (behaviours 38-40).

    The server enforces this itself because an upstream may not. It has a memory, so it belongs to one
    response, and `admits` is asked once for each item, in the order in which the items start.
    """

    def __init__(self, params: Mapping[str, Any]) -> None:
        self._allowed = _allowed_tools(params.get("tool_choice"))
        self._is_serial = params.get("parallel_tool_calls") is False
        self._is_spent = False
        self._refused = set[str]()

    def admits(self, item: Mapping[str, Any]) -> bool:
        """Whether this item may be shown. The output of a refused call is refused with it."""
        kind = item["type"]
        if kind not in _CALLS:
            return item.get("call_id") not in self._refused
        is_counted = self._is_serial and kind in _PARALLEL
        if self._is_allowed(item) and not (is_counted and self._is_spent):
            self._is_spent = self._is_spent or is_counted
            return True
        if call_id := item.get("call_id"):
            self._refused.add(call_id)
        return False

    def _is_allowed(self, item: Mapping[str, Any]) -> bool:
        return self._allowed is None or any(_names(tool, item) for tool in self._allowed)


def _allowed_tools(choice: Any) -> Sequence[Mapping[str, Any]] | None:
    """The only tools that may be called, or None for any.

    A choice of a hosted tool says which comes first, not that it comes alone: it shuts nothing out.
    """
    if choice == "none":
        return ()
    kind = choice.get("type") if isinstance(choice, dict) else None
    if kind == "allowed_tools":
        return choice["tools"]
    return (choice,) if kind in {"function", "custom", "mcp"} else None


def _names(tool: Mapping[str, Any], item: Mapping[str, Any]) -> bool:
    """Whether an entry of `tool_choice` names the tool that this item calls."""
    if tool.get("type") == "namespace":
        return tool.get("name", "") == item.get("namespace")
    return tool.get("type") in _CALLS[item["type"]] and all(
        tool[key] == item.get(key) for key in ("name", "namespace", "server_label") if tool.get(key)
    )
