"""A stored response as OpenRouter's clients read it: what is known is shown, what is not is not invented."""

from typing import Any

import pytest

from app.domain.dialects import Dialect, output_text, parse, shown, shown_error
from app.domain.facts import Price

COUNTS = {"input_tokens": 1000, "input_tokens_details": {"cached_tokens": 400}, "output_tokens": 10}
PRICE = Price(input=2, output=100, cached_input=1)
DETAILS = {"upstream_inference_input_cost": 0.1, "upstream_inference_output_cost": 0.2}


def costs(usage: dict[str, Any], price: Price | None = None) -> dict[str, Any]:
    told = shown({"usage": {**COUNTS, **usage}}, price)["usage"]
    assert {name: told.pop(name) for name in COUNTS} == COUNTS
    return told


def said(*texts: str) -> dict[str, Any]:
    return {"type": "message", "content": [{"type": "output_text", "text": text} for text in texts]}


def test_the_text_is_all_that_was_said() -> None:
    refusal = {"type": "message", "content": [{"type": "refusal", "refusal": "no"}]}
    call = {"type": "function_call", "name": "f"}
    assert (
        output_text([said("a", "b"), call, refusal, said("c"), {"type": "reasoning", "content": None}])
        == "abc"
    )
    assert shown({"output": []}, None) == {"output": [], "output_text": ""}


def test_what_has_no_output_gets_no_text() -> None:
    assert shown({"id": "resp_1"}, PRICE) == {"id": "resp_1"}


def test_a_response_that_runs_has_no_usage() -> None:
    assert shown({"usage": None}, PRICE) == {"usage": None}


def test_the_upstreams_word_counts() -> None:
    told = {"cost": 0.5, "is_byok": True, "cost_details": {**DETAILS, "upstream_inference_cost": None}}
    assert costs(told) == costs(told, PRICE) == told


def test_else_the_price() -> None:
    parts = {"upstream_inference_input_cost": 0.0016, "upstream_inference_output_cost": 0.001}
    expected = {"cost": 0.0026, "cost_details": {"upstream_inference_cost": None, **parts}}
    assert costs({}, PRICE) == costs({"cost": None}, PRICE) == expected


def test_else_nobody_knows() -> None:
    assert costs({}) == {"cost": None}


@pytest.mark.parametrize(
    "details",
    [None, {}, {"upstream_inference_cost": 1}, [], DETAILS | {"upstream_inference_input_cost": None}],
)
def test_half_a_sum_is_none(details: Any) -> None:
    """Their clients refuse the whole response where a part is missing."""
    assert costs({"cost": 1, "cost_details": details}) == {"cost": 1}


def test_nothing_stored_is_changed() -> None:
    stored = {"output": [said("x")], "usage": dict(COUNTS)}
    shown(stored, PRICE)
    assert stored == {"output": [said("x")], "usage": COUNTS}


def test_an_error_has_its_status_as_code() -> None:
    error = {"message": "No.", "type": "invalid_request_error", "param": "a", "code": "b"}
    metadata = {"type": "invalid_request_error", "code": "b", "param": "a"}
    assert shown_error(error, 400) == {"code": 400, "message": "No.", "metadata": metadata}


def test_names() -> None:
    assert [parse(name) for name in ("openai", "openrouter", "OpenAI", "", None)] == [
        Dialect.OPENAI, Dialect.OPENROUTER, None, None, None,
    ]  # fmt: skip
