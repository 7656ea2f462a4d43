"""The schema that is kept here is strict: without that, to fit it would mean nothing."""

from collections.abc import Callable
from typing import Any

import httpx2
import orjson
import pytest
from pydantic import ValidationError

from tests.live import LiveServer
from tests.openresponses.schema import EVENT, ITEM, RESPONSE, Response, check

REQUIRED = sorted(Response.__required_keys__)
MESSAGE: dict[str, Any] = {
    "type": "message",
    "id": "msg_1",
    "status": "completed",
    "role": "assistant",
    "content": [{"type": "output_text", "text": "x", "annotations": []}],
}
DELTA: dict[str, Any] = {
    "type": "response.output_text.delta",
    "sequence_number": 4,
    "item_id": "msg_1",
    "output_index": 0,
    "content_index": 0,
    "delta": "x",
}


@pytest.fixture(scope="module")
def response(server: LiveServer) -> dict[str, Any]:
    body = {"model": "offline", "input": "hi"}
    return httpx2.post(f"{server.base_url}/responses", json=body).json()


def assert_refused(adapter: Any, value: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        check(adapter, orjson.dumps(value))


@pytest.mark.parametrize("key", REQUIRED)
def test_a_response_needs_every_key(response: dict[str, Any], key: str) -> None:
    assert len(REQUIRED) == 31
    check(RESPONSE, orjson.dumps(response))
    assert_refused(RESPONSE, {name: value for name, value in response.items() if name != key})


@pytest.mark.parametrize(
    "wrong",
    [
        {"created_at": 1.5},
        {"created_at": "1"},
        {"store": 1},
        {"temperature": None},
        {"metadata": None},
        {"usage": {}},
        {"text": {}},
        {"reasoning": {}},
        {"tools": [{"type": "function", "name": "f"}]},
        {"error": {"code": "x"}},
        {"output": [{**MESSAGE, "type": "web_search_call"}]},
    ],
)
def test_a_response_needs_the_right_types(response: dict[str, Any], wrong: dict[str, Any]) -> None:
    assert_refused(RESPONSE, response | wrong)


@pytest.mark.parametrize("key", sorted(MESSAGE))
def test_an_item_needs_every_key(key: str) -> None:
    check(ITEM, orjson.dumps(MESSAGE))
    assert_refused(ITEM, {name: value for name, value in MESSAGE.items() if name != key})


@pytest.mark.parametrize(
    "change",
    [
        lambda item: item | {"phase": None},
        lambda item: item | {"content": [{"type": "output_text", "text": "x"}]},
        lambda item: (
            item | {"content": [{"type": "output_text", "text": "x", "annotations": [], "logprobs": None}]}
        ),
        lambda _: {"type": "reasoning", "id": "rs_1", "summary": [], "content": None},
        lambda _: {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": None},
    ],
)
def test_what_may_be_absent_may_not_be_null(change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    assert_refused(ITEM, change(MESSAGE))


@pytest.mark.parametrize("key", sorted(DELTA))
def test_an_event_needs_every_key(key: str) -> None:
    check(EVENT, orjson.dumps(DELTA))
    assert_refused(EVENT, {name: value for name, value in DELTA.items() if name != key})


def test_an_event_of_another_kind_is_refused() -> None:
    assert_refused(EVENT, DELTA | {"type": "response.web_search_call.searching"})
