"""Token counts of Chat Completions under the names of this API (reference: "usage")."""

from collections.abc import Mapping
from typing import Any

_NAMES = {
    "prompt_tokens": "input_tokens",
    "prompt_tokens_details": "input_tokens_details",
    "completion_tokens": "output_tokens",
    "completion_tokens_details": "output_tokens_details",
}

# OpenRouter names the same two costs after the API that was called.
_COSTS = {
    "upstream_inference_prompt_cost": "upstream_inference_input_cost",
    "upstream_inference_completions_cost": "upstream_inference_output_cost",
}


def renamed(usage: Mapping[str, Any]) -> dict[str, Any]:
    """Extra keys (`cost`, `is_byok`, …) stay; what an upstream left out is left out."""
    named = {_NAMES.get(key, key): value for key, value in usage.items()}
    costs = named.get("cost_details")
    if isinstance(costs, dict):
        named["cost_details"] = {_COSTS.get(key, key): value for key, value in costs.items()}
    return named
