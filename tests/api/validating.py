"""Bodies of a create with one thing changed, and what is said of them."""

from typing import Any

import orjson
import pytest

from app.api.validation import check_not_empty, check_state, parse_create
from app.errors import InvalidRequest

TOOL = {"type": "function", "name": "f"}


EMPTY = "One of \"input\" or \"previous_response_id\" or 'prompt' or 'conversation' must be provided."


def user(*content: Any, **more: Any) -> dict[str, Any]:
    return {"input": [{"role": "user", "content": list(content) or "hi", **more}]}


def item(kind: str, **fields: Any) -> dict[str, Any]:
    return {"input": [{"type": kind, **fields}]}


def accept(fragment: dict[str, Any], *, default_model: str | None = None) -> dict[str, Any]:
    """Send a fragment over a valid request; a field of `...` is left out of it."""
    body = {"model": "m", "input": "hi"} | fragment
    kept = {name: value for name, value in body.items() if value is not ...}
    params = parse_create(orjson.dumps(kept), default_model=default_model)
    check_state(params)
    check_not_empty(params, has_history="previous_response_id" in params or "conversation" in params)
    return params


def refuse(fragment: dict[str, Any]) -> tuple[str | None, str | None, str]:
    with pytest.raises(InvalidRequest) as caught:
        accept(fragment)
    assert caught.value.status == 400
    assert caught.value.type == "invalid_request_error"
    return caught.value.code, caught.value.param, caught.value.message
