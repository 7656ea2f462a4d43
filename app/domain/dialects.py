"""How the clients of other services want to read a response: the stored one with some fields more.

What is stored is the same whoever asks. What nobody has told is null or absent, never invented
(docs/decisions/0030).
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from app.domain.facts import Price, priced


class Dialect(StrEnum):
    """As settings, keys and headers name them."""

    OPENAI = "openai"
    OPENROUTER = "openrouter"


_COSTS = ("cost", "is_byok", "cost_details")
_DIGITS = 9
"""Billionths of a dollar, as statistics count."""
_PARTS = ("upstream_inference_input_cost", "upstream_inference_output_cost")


def parse(text: str | None) -> Dialect | None:
    """The dialect of this name; None also for one that a later release may have stored."""
    return next((each for each in Dialect if each == text), None)


def shown(response: Mapping[str, Any], price: Price | None) -> dict[str, Any]:
    """A response as OpenRouter's clients read it (reference: SEED 0 and 2).

    Args:
        response: as it is stored; without `output` it gets no `output_text`.
        price: of its model, for where the upstream has told no cost.
    """
    told = dict(response)
    if isinstance(output := response.get("output"), list):
        told["output_text"] = output_text(output)
    if isinstance(usage := response.get("usage"), dict):
        told["usage"] = _with_costs(usage, price)
    return told


def shown_error(error: Mapping[str, Any], status: int) -> dict[str, Any]:
    """An error as OpenRouter's clients read it: its code is the status, and ours stands beside it."""
    metadata = {name: error.get(name) for name in ("type", "code", "param")}
    return {"code": status, "message": error.get("message"), "metadata": metadata}


def output_text(output: list[Any]) -> str:
    """All that the model said, as the official SDK puts it together."""
    return "".join(
        part["text"]
        for item in output
        if item.get("type") == "message"
        for part in item.get("content") or ()
        if part.get("type") == "output_text"
    )


def _with_costs(usage: Mapping[str, Any], price: Price | None) -> dict[str, Any]:
    """The upstream's word for each goes before the price; a null cost is one that nobody knows."""
    told = {name: value for name, value in usage.items() if name not in _COSTS}
    told["cost"] = usage.get("cost")
    if isinstance(usage.get("is_byok"), bool):
        told["is_byok"] = usage["is_byok"]
    details = usage.get("cost_details")
    if isinstance(details, dict) and all(_is_number(details.get(part)) for part in _PARTS):
        told["cost_details"] = details
    if price is None or _is_number(told["cost"]):
        return told
    costs = priced(usage, price)
    parts = {name: round(cost, _DIGITS) for name, cost in zip(_PARTS, costs, strict=True)}
    details = {"upstream_inference_cost": None, **parts}
    return {**told, "cost": round(sum(costs), _DIGITS), "cost_details": details}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
