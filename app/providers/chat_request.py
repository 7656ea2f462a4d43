"""From create parameters to a Chat Completions request, or a refusal that names what cannot be said so."""

from collections.abc import Mapping, Sequence
from typing import Any

from app.providers.chat_messages import messages, unsupported

Params = Mapping[str, Any]

# Sent under the same name.
_SAME = (
    "temperature",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "user",
    "safety_identifier",
    "prompt_cache_key",
    "service_tier",
)

# Translated below, or done by this server itself.
_KNOWN = frozenset(
    {
        *_SAME,
        "background",
        "conversation",
        "include",
        "input",
        "instructions",
        "max_output_tokens",
        "max_tool_calls",
        "metadata",
        "model",
        "parallel_tool_calls",
        "previous_response_id",
        "prompt",
        "reasoning",
        "store",
        "stream",
        "stream_options",
        "text",
        "tool_choice",
        "tools",
        "top_logprobs",
    }
)

# Values that ask for nothing, by the path at which they may stand.
_DEFAULTS: Mapping[str, Any] = {
    "truncation": "disabled",
    "reasoning.context": "auto",
    "reasoning.mode": "standard",
    "image": {"context_compression": "auto"},
}

_TOOL_FIELDS: Mapping[str, frozenset[str]] = {
    "function": frozenset({"type", "name", "description", "parameters", "strict"}),
    "custom": frozenset({"type", "name", "description", "format"}),
}


def refuse(params: Params, items: Sequence[Mapping[str, Any]]) -> None:
    """Raise `InvalidRequest` for the first thing that Chat Completions cannot carry (law L5)."""
    for name, value in params.items():
        if name not in _KNOWN:
            _refuse_unless_default(name, value)
    for name, value in (params.get("reasoning") or {}).items():
        if name != "effort":
            _refuse_unless_default(f"reasoning.{name}", value)
    _tools(params)
    messages(None, items)


def request(
    model: str,
    items: Sequence[Mapping[str, Any]],
    params: Params,
    *,
    is_streamed: bool,
    max_tokens_field: str,
) -> dict[str, Any]:
    """The body of a Chat Completions call.

    Raises:
        InvalidRequest: an item cannot be carried. Parameters were refused before, by `refuse`.
    """
    body: dict[str, Any] = {"model": model, "messages": messages(params.get("instructions"), items)}
    body.update({name: params[name] for name in _SAME if params.get(name) is not None})
    if params.get("max_output_tokens") is not None:
        body[max_tokens_field] = params["max_output_tokens"]
    if (effort := (params.get("reasoning") or {}).get("effort")) is not None:
        body["reasoning_effort"] = effort
    body.update(_text(params.get("text") or {}))
    body.update(_logprobs(params))
    body.update(_tools(params))
    if is_streamed:
        body.update(stream=True, stream_options={"include_usage": True})
    return body


def _refuse_unless_default(path: str, value: Any) -> None:
    if value not in (None, [], {}) and value != _DEFAULTS.get(path):
        raise unsupported(path)


def _text(text: Params) -> dict[str, Any]:
    body: dict[str, Any] = {}
    if text.get("verbosity") is not None:
        body["verbosity"] = text["verbosity"]
    form = text.get("format") or {}
    if form.get("type") == "json_object":
        body["response_format"] = {"type": "json_object"}
    elif form.get("type") == "json_schema":
        schema = {key: form[key] for key in form if key != "type" and form[key] is not None}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return body


def _logprobs(params: Params) -> dict[str, Any]:
    count = params.get("top_logprobs")
    if not count and "message.output_text.logprobs" not in (params.get("include") or ()):
        return {}
    return {"logprobs": True, "top_logprobs": count} if count else {"logprobs": True}


def _tools(params: Params) -> dict[str, Any]:
    """`tools` and what governs them; an allowed subset is enforced by sending no other tool."""
    tools = [_tool(tool, f"tools[{place}]") for place, tool in enumerate(params.get("tools") or ())]
    choice = params.get("tool_choice")
    if isinstance(choice, Mapping) and choice.get("type") == "allowed_tools":
        tools = _allowed(tools, choice)
        choice = choice.get("mode")
    chosen = _choice(choice) if choice is not None else None
    if not tools:
        # Upstreams refuse a choice among nothing; these two then ask for nothing.
        return {} if chosen in (None, "auto", "none") else {"tool_choice": chosen}
    body: dict[str, Any] = {"tools": tools}
    if chosen is not None:
        body["tool_choice"] = chosen
    if params.get("parallel_tool_calls") is not None:
        body["parallel_tool_calls"] = params["parallel_tool_calls"]
    return body


def _tool(tool: Params, path: str) -> dict[str, Any]:
    kind = tool.get("type", "")
    fields = _TOOL_FIELDS.get(kind)
    if fields is None:
        raise unsupported(f"{path}.type", kind)
    for name, value in tool.items():
        if name not in fields and value not in (None, False, [], ["direct"]):
            raise unsupported(f"{path}.{name}")
    inner = {name: tool[name] for name in tool if name in fields - {"type"} and tool[name] is not None}
    if (form := inner.get("format")) and form.get("type") == "grammar":
        grammar = {key: value for key, value in form.items() if key != "type"}
        inner["format"] = {"type": "grammar", "grammar": grammar}
    return {"type": kind, kind: inner}


def _allowed(tools: Sequence[dict[str, Any]], choice: Params) -> list[dict[str, Any]]:
    named: set[tuple[str, str]] = set()
    for place, tool in enumerate(choice.get("tools") or ()):
        kind = tool.get("type", "")
        if kind not in _TOOL_FIELDS:
            raise unsupported(f"tool_choice.tools[{place}].type", kind)
        named.add((kind, tool.get("name", "")))
    return [tool for tool in tools if (tool["type"], tool[tool["type"]].get("name")) in named]


def _choice(choice: str | Params) -> Any:
    if isinstance(choice, str):
        return choice
    kind = choice.get("type", "")
    if kind not in _TOOL_FIELDS:
        raise unsupported("tool_choice.type", kind)
    return {"type": kind, kind: {"name": choice.get("name")}}
