"""The part of a response object that follows from its request alone (reference: "Response object").

`input`, `include`, `stream`, `stream_options` and `context_management` are never echoed
(behaviour 51), and no secret is. What the upstream decides is laid over it by `response.snapshot`.
"""

from collections.abc import Mapping
from typing import Any

from app.domain import prompts
from app.domain.tools import echo_tool

WIRE_ORDER = (
    "id",
    "object",
    "created_at",
    "status",
    "background",
    "completed_at",
    "conversation",
    "error",
    "frequency_penalty",
    "incomplete_details",
    "instructions",
    "max_output_tokens",
    "max_tool_calls",
    "model",
    "moderation",
    "output",
    "parallel_tool_calls",
    "presence_penalty",
    "previous_response_id",
    "prompt",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "reasoning",
    "safety_identifier",
    "service_tier",
    "store",
    "temperature",
    "text",
    "tool_choice",
    "tools",
    "top_logprobs",
    "top_p",
    "truncation",
    "usage",
    "user",
    "metadata",
)
"""The keys of a response object as OpenAI orders them."""

_DEFAULTS: Mapping[str, Any] = {
    "background": False,
    "frequency_penalty": 0.0,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "parallel_tool_calls": True,
    "presence_penalty": 0.0,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "prompt_cache_retention": None,
    "safety_identifier": None,
    "store": True,
    "temperature": 1.0,
    "tool_choice": "auto",
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
    "metadata": {},
}
"""Parameters that are echoed as they were sent, and what stands there when they were not."""

_BLANKS: Mapping[str, Any] = {
    "id": None,
    "object": "response",
    "created_at": None,
    "status": None,
    "completed_at": None,
    "error": None,
    "incomplete_details": None,
    "moderation": None,
    "output": [],
    "service_tier": "auto",
    "usage": None,
}
"""What the request does not decide. The keys are there so that a snapshot keeps its order."""


def echo(params: Mapping[str, Any], *, model: str) -> dict[str, Any]:
    """A whole response object in the order of the wire, blank where the outcome will stand.

    A null means "the default" (behaviour 57). Computed once for a request and shared by all its
    snapshots, so nobody may change it.
    """
    sent = {key: value for key, value in params.items() if value is not None}
    fields = {**_BLANKS, **_DEFAULTS, **{key: value for key, value in sent.items() if key in _DEFAULTS}}
    fields["model"] = model
    fields["text"] = _text(sent.get("text", {}))
    fields["reasoning"] = {"effort": None, "summary": None, **sent.get("reasoning", {})}
    fields["tools"] = [echo_tool(tool) for tool in sent.get("tools", ())]
    fields |= {key: shown(sent[key]) for key, shown in _WHEN_USED.items() if key in sent}
    if said := prompts.said(sent):
        fields["instructions"] = said
    return {key: fields[key] for key in WIRE_ORDER if key in fields}


def _text(text: Mapping[str, Any]) -> dict[str, Any]:
    shown = text.get("format") or {"type": "text"}
    if shown["type"] == "json_schema":
        shown = {
            "type": "json_schema",
            "name": shown["name"],
            "description": shown.get("description"),
            "schema": shown["schema"],
            "strict": shown.get("strict") is True,
        }
    return {"format": shown, "verbosity": text.get("verbosity") or "medium"}


def _conversation(conversation: Any) -> dict[str, Any]:
    """An object, though the request may have a bare id (behaviour 126)."""
    return {"id": conversation if isinstance(conversation, str) else conversation["id"]}


def _prompt_cache_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """What governs the cache; `prewarm` is an order, not a state."""
    sent = {key: value for key, value in options.items() if value is not None and key != "prewarm"}
    return {"mode": "implicit", "ttl": "30m", **sent}


_WHEN_USED = {
    "conversation": _conversation,
    "prompt": prompts.shown,
    "prompt_cache_options": _prompt_cache_options,
}
"""Keys that a response object has only if the request used them."""
