"""Token counts in the API's shape (reference: "usage"), whatever the upstream left out."""

from collections.abc import Mapping
from typing import Any

_OF_CHAT = frozenset(
    {
        "prompt_tokens",
        "completion_tokens",
        "prompt_tokens_details",
        "completion_tokens_details",
        "total_tokens",
    }
)

# OpenRouter names the same two costs after the API that was called.
_COSTS_OF_CHAT = {
    "upstream_inference_prompt_cost": "upstream_inference_input_cost",
    "upstream_inference_completions_cost": "upstream_inference_output_cost",
}


def completed(usage: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The same usage with every key that the API promises; extra keys (`cost`, …) stay."""
    if not usage:
        return None
    taken, made = usage.get("input_tokens") or 0, usage.get("output_tokens") or 0
    return {
        **usage,
        "input_tokens": taken,
        "input_tokens_details": {
            "cached_tokens": 0,
            "cache_write_tokens": 0,
            **_known(usage.get("input_tokens_details")),
        },
        "output_tokens": made,
        "output_tokens_details": {"reasoning_tokens": 0, **_known(usage.get("output_tokens_details"))},
        "total_tokens": usage.get("total_tokens") or taken + made,
    }


def from_chat(usage: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Usage of Chat Completions under the API's names."""
    if not usage:
        return None
    extra = {key: value for key, value in usage.items() if key not in _OF_CHAT}
    costs = extra.get("cost_details")
    if isinstance(costs, dict):
        extra["cost_details"] = {_COSTS_OF_CHAT.get(key, key): value for key, value in costs.items()}
    return completed(
        {
            "input_tokens": usage.get("prompt_tokens"),
            "input_tokens_details": usage.get("prompt_tokens_details"),
            "output_tokens": usage.get("completion_tokens"),
            "output_tokens_details": usage.get("completion_tokens_details"),
            "total_tokens": usage.get("total_tokens"),
            **extra,
        }
    )


def _known(details: Mapping[str, Any] | None) -> dict[str, Any]:
    return {key: value for key, value in (details or {}).items() if value is not None}
