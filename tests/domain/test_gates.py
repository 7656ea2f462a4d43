import copy
from typing import Any

import pytest

from app.domain.gates import INCLUDES, Gated, allowed, gated_fields, hide

IMAGE = {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "auto"}
TEXT = {"type": "output_text", "text": "x", "annotations": [], "logprobs": [{"token": "x"}]}


def message(*content: dict[str, Any]) -> dict[str, Any]:
    return {"id": "msg_1", "type": "message", "role": "user", "content": list(content)}


CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    (
        "file_search_call.results",
        {"type": "file_search_call", "results": [{}]},
        {"type": "file_search_call", "results": None},
    ),
    (
        "code_interpreter_call.outputs",
        {"type": "code_interpreter_call", "outputs": [{}]},
        {"type": "code_interpreter_call", "outputs": None},
    ),
    ("web_search_call.results", {"type": "web_search_call", "results": [{}]}, {"type": "web_search_call"}),
    (
        "web_search_call.action.sources",
        {"type": "web_search_call", "action": {"query": "q", "sources": [{}]}},
        {"type": "web_search_call", "action": {"query": "q"}},
    ),
    (
        "computer_call_output.output.image_url",
        {"type": "computer_call_output", "output": {"file_id": "f", "image_url": "https://x"}},
        {"type": "computer_call_output", "output": {"file_id": "f", "image_url": None}},
    ),
    (
        "message.input_image.image_url",
        message(IMAGE, {"type": "input_text", "text": "x"}),
        message({**IMAGE, "image_url": None}, {"type": "input_text", "text": "x"}),
    ),
    ("message.output_text.logprobs", message(TEXT), message({**TEXT, "logprobs": []})),
]


@pytest.mark.parametrize(("include", "item", "shut"), CASES, ids=[case[0] for case in CASES])
def test_a_gated_field_is_shown_only_when_it_is_asked_for(
    include: str, item: dict[str, Any], shut: dict[str, Any]
) -> None:
    before = copy.deepcopy(item)
    everything_else = set(INCLUDES) - {include}
    assert gated_fields([item]) is allowed([include])
    assert hide([item], frozenset()) == [shut]
    assert hide([item], everything_else) == [shut]
    assert hide([item], {include})[0] is item
    assert item == before, "the stored item was changed"


@pytest.mark.parametrize(
    "item",
    [
        {"type": "function_call", "arguments": "{}"},
        {"type": "reasoning", "encrypted_content": "gAAA="},
        {"type": "file_search_call", "results": None},
        {"type": "code_interpreter_call", "outputs": []},
        {"type": "web_search_call", "action": None},
        {"type": "computer_call_output", "output": {"type": "computer_screenshot", "file_id": "f"}},
        message({**TEXT, "logprobs": []}, {**IMAGE, "image_url": None}, {"type": "refusal", "refusal": "no"}),
        {"type": "message", "role": "user", "content": "bare text"},
    ],
)
def test_an_item_that_hides_nothing_is_given_back_itself(item: dict[str, Any]) -> None:
    assert gated_fields([item]) is Gated.NONE
    assert hide([item], frozenset())[0] is item


def test_one_gate_of_a_message_may_be_open_while_another_is_shut() -> None:
    [got] = hide([message(IMAGE, TEXT)], {"message.output_text.logprobs"})
    assert got["content"] == [{**IMAGE, "image_url": None}, TEXT]


def test_both_gates_of_a_web_search_may_be_shut() -> None:
    item = {"type": "web_search_call", "results": [{}], "action": {"sources": [{}]}}
    assert hide([item], frozenset()) == [{"type": "web_search_call", "action": {}}]
    assert gated_fields([item]) == Gated.WEB_SEARCH_RESULTS | Gated.WEB_SEARCH_SOURCES


def test_the_eight_values_of_include_open_all_gates() -> None:
    assert len(INCLUDES) == 8
    assert allowed(INCLUDES) == Gated(127)
    assert allowed(["no.such.field"]) is Gated.NONE


def test_a_reader_can_tell_from_the_flags_alone_that_nothing_is_hidden() -> None:
    gated = gated_fields([message(IMAGE)])
    assert not gated & ~allowed({"message.input_image.image_url"})
    assert gated & ~allowed({"message.output_text.logprobs"})
