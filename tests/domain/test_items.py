from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import ids
from app.domain.gates import Gated
from app.domain.items import InputItems, join, normalise, prepend, references, resolve, split
from app.errors import InvalidRequest, NotFound

RESPONSE = ids.new_uuid()
ITEM = {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"}


def only(value: str | list[dict[str, Any]]) -> dict[str, Any]:
    """The one item that this input becomes."""
    (item,) = normalise(value, RESPONSE).items
    return item


def test_a_string_is_one_user_message() -> None:
    got = normalise("hi", RESPONSE)
    assert got.items == [
        {
            "id": f"msg_{RESPONSE.hex}0000",
            "type": "message",
            "status": "completed",
            "role": "user",
            "content": [{"type": "input_text", "text": "hi"}],
        }
    ]
    assert got.gated is Gated.NONE


def test_no_items_are_an_empty_blob() -> None:
    assert normalise([], RESPONSE) == InputItems([], b"", Gated.NONE)


@pytest.mark.parametrize("role", ["user", "system", "developer"])
def test_easy_text_of_a_person_is_input_text(role: str) -> None:
    assert only([{"role": role, "content": "x"}])["content"] == [{"type": "input_text", "text": "x"}]


def test_easy_text_of_an_assistant_is_output_text_and_its_phase_is_kept() -> None:
    item = only([{"role": "assistant", "content": "x", "phase": "commentary"}])
    assert item["content"] == [{"type": "output_text", "annotations": [], "logprobs": [], "text": "x"}]
    assert item["phase"] == "commentary"


def test_ids_are_minted_from_the_place_in_the_input() -> None:
    got = normalise([{"role": "user", "content": "x"}, ITEM], RESPONSE)
    assert [ids.parse_item_id(item["id"]) for item in got.items] == [(RESPONSE, 0), (RESPONSE, 1)]
    assert got.items[1]["id"].startswith("fc_")


def test_an_id_that_the_client_brought_is_kept() -> None:
    assert only([{**ITEM, "id": "fc_mine"}])["id"] == "fc_mine"


@pytest.mark.parametrize("absent", [{}, {"id": None, "status": None}])
def test_absent_and_null_heads_are_filled(absent: dict[str, Any]) -> None:
    item = only([{**ITEM, **absent}])
    assert item["id"] == f"fc_{RESPONSE.hex}0000"
    assert item["status"] == "completed"


def test_a_status_that_the_client_brought_is_kept() -> None:
    assert only([{**ITEM, "status": "incomplete"}])["status"] == "incomplete"


def test_keys_that_people_look_for_come_first() -> None:
    item = only([{"content": "x", "role": "user", "x": 1, "status": "completed", "type": "message"}])
    assert list(item) == ["id", "type", "status", "role", "content", "x"]
    assert list(only([ITEM])) == ["id", "type", "status", "call_id", "name", "arguments"]


@pytest.mark.parametrize(
    "item",
    [
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA="},
        {"type": "compaction", "encrypted_content": "gAAA="},
        {"type": "compaction_trigger"},
        {"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": True},
        {"type": "additional_tools", "role": "developer", "tools": [{"type": "apply_patch"}]},
        {"type": "mcp_call", "server_label": "s", "name": "n", "arguments": "{}", "error": {}},
    ],
)
def test_items_without_a_status_get_none(item: dict[str, Any]) -> None:
    got = only([item])
    assert "status" not in got
    assert {**got, **item} == got


def test_a_replayed_output_is_kept_as_it_was() -> None:
    part = {
        "type": "output_text",
        "text": "x",
        "annotations": [{"type": "file_path"}],
        "logprobs": [{"a": 1}],
    }
    message = {
        "id": "msg_1",
        "type": "message",
        "status": "incomplete",
        "role": "assistant",
        "content": [part],
        "phase": "final_answer",
    }
    got = normalise([message], RESPONSE)
    assert got.items == [message]
    assert orjson.loads(got.blob) == message


def test_what_cannot_be_written_again_is_the_callers_mistake() -> None:
    deep: Any = {}
    for _ in range(300):
        deep = {"a": deep}
    with pytest.raises(InvalidRequest, match="Recursion limit") as caught:
        normalise([{"type": "tool_search_call", "arguments": deep}], RESPONSE)
    assert caught.value.param == "input"


@pytest.mark.parametrize(
    ("tool", "path"),
    [
        ({"type": "mcp", "server_label": "s", "authorization": "t"}, "authorization"),
        ({"type": "mcp", "server_label": "s", "headers": {"x-key": "t"}}, "headers"),
        (
            {"type": "shell", "environment": {"network_policy": {"domain_secrets": [{"value": "t"}]}}},
            "environment.network_policy.domain_secrets",
        ),
        (
            {"type": "namespace", "tools": [{"type": "custom"}, {"type": "mcp", "authorization": "t"}]},
            "tools[1].authorization",
        ),
    ],
)
def test_a_secret_cannot_travel_in_an_item(tool: dict[str, Any], path: str) -> None:
    items = [ITEM, {"type": "additional_tools", "role": "developer", "tools": [{"type": "custom"}, tool]}]
    with pytest.raises(InvalidRequest) as caught:
        normalise(items, RESPONSE)
    assert caught.value.param == f"input[1].tools[1].{path}"
    assert caught.value.code == "unsupported_parameter"


def test_tools_without_secrets_may_travel_in_items() -> None:
    tools = [
        {"type": "mcp", "server_label": "s", "headers": None},
        {"type": "shell"},
        {"type": "namespace", "name": "n", "tools": [{"type": "function", "name": "f"}]},
    ]
    assert only([{"type": "tool_search_output", "tools": tools}])["tools"] == tools


@pytest.mark.parametrize("item", [{"id": "msg_1"}, {"type": "item_reference", "id": "msg_1"}])
def test_a_reference_stays_in_its_place_until_it_is_resolved(item: dict[str, Any]) -> None:
    got = normalise([item, {"role": "user", "content": "x"}], RESPONSE)
    assert got.items[0] == {"type": "item_reference", "id": "msg_1"}
    assert references(got.items) == ("msg_1",)
    found = {"type": "file_search_call", "id": "msg_1", "results": [{}]}
    resolved = resolve(got, {"msg_1": found})
    assert resolved.items == [found, got.items[1]]
    assert split(resolved.blob) == resolved.items
    assert resolved.gated is Gated.FILE_SEARCH_RESULTS


def test_input_without_references_is_not_made_anew() -> None:
    got = normalise("x", RESPONSE)
    assert resolve(got, {}) is got


def test_a_reference_to_nothing_is_named() -> None:
    got = normalise([{"id": "rs_1"}, {"id": "rs_2"}], RESPONSE)
    with pytest.raises(NotFound) as caught:
        resolve(got, {"rs_1": {"type": "reasoning", "id": "rs_1"}})
    assert caught.value.message == (
        "Item with id 'rs_2' not found. Items are not persisted when `store` is set to false. "
        "Try again with `store` set to true, or remove this item from your input."
    )
    assert (caught.value.status, caught.value.code, caught.value.param) == (404, None, "input")


def test_items_put_before_an_input_take_its_places() -> None:
    value = normalise([{"role": "user", "content": "x"}, {**ITEM, "id": "fc_mine"}, ITEM], RESPONSE)
    extra = [{"type": "function_call_output", "status": "incomplete", "call_id": "c", "output": ""}] * 2
    got = prepend(extra, value, RESPONSE)
    assert [item["id"] for item in got.items] == [
        f"fco_{RESPONSE.hex}0000",
        f"fco_{RESPONSE.hex}0001",
        f"msg_{RESPONSE.hex}0002",
        "fc_mine",
        f"fc_{RESPONSE.hex}0004",
    ]
    assert list(got.items[0]) == ["id", "type", "status", "call_id", "output"]
    assert value.items[0]["id"] == f"msg_{RESPONSE.hex}0000", "the old input was changed"


def test_an_id_of_the_items_put_before_is_kept() -> None:
    extra = {"id": "call_1", "type": "local_shell_call_output", "status": "incomplete", "output": ""}
    assert prepend([extra], normalise("x", RESPONSE), RESPONSE).items[0] == extra


def test_an_id_that_somebody_brought_stays_even_where_it_looks_like_ours() -> None:
    other = ids.new_uuid()
    brought = [
        {**ITEM, "id": name} for name in (f"fc_{other.hex}0000", f"fc_{RESPONSE.hex}0000", f"fc_{'0' * 36}")
    ]
    got = prepend([ITEM], normalise(brought, RESPONSE), RESPONSE)
    assert [item["id"] for item in got.items[1:]] == [item["id"] for item in brought]


def test_nothing_put_before_changes_nothing() -> None:
    value = normalise("x", RESPONSE)
    assert prepend([], value, RESPONSE) is value


# A short alphabet of troublemakers: no table of all of Unicode has to be built for it.
TEXT = st.text('ab"\\\u00e9\u2028\U0001f600', max_size=8)
LEAVES = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
)
MESSAGES = st.builds(
    lambda role, content, extra: {**extra, "role": role, "content": content},
    st.sampled_from(["user", "assistant", "system", "developer"]),
    TEXT | st.lists(st.builds(lambda text: {"type": "input_text", "text": text}, TEXT), max_size=2),
    st.sampled_from([{}, {"type": "message"}, {"status": "incomplete"}, {"phase": "commentary"}]),
)
OTHERS = st.builds(
    lambda kind, more: {"type": kind, "call_id": "c", "more": more},
    st.sampled_from(sorted(set(ids.ITEM_PREFIXES) - {"message", "additional_tools", "tool_search_output"})),
    JSON,
)
REFERENCES = st.just({"id": "msg_x"})


@given(st.lists(MESSAGES | OTHERS | REFERENCES, max_size=6))
def test_normalising_twice_changes_nothing(value: list[dict[str, Any]]) -> None:
    once = normalise(value, RESPONSE)
    assert normalise(once.items, ids.new_uuid()) == once


@given(st.lists(MESSAGES | OTHERS, max_size=6))
def test_minted_ids_are_unique_and_the_blob_is_the_items(value: list[dict[str, Any]]) -> None:
    got = normalise(value, RESPONSE)
    assert len({item["id"] for item in got.items}) == len(value)
    assert split(got.blob) == got.items
    assert join(split(got.blob)) == got.blob


@given(st.lists(OTHERS, max_size=3))
def test_nothing_that_was_sent_is_changed_or_mutated(value: list[dict[str, Any]]) -> None:
    before = orjson.dumps(value)
    got = normalise(value, RESPONSE)
    assert orjson.dumps(value) == before
    assert all({**kept, **sent} == kept for kept, sent in zip(got.items, value, strict=True))


@given(st.lists(OTHERS, max_size=3), st.lists(MESSAGES | OTHERS, max_size=4))
def test_items_put_before_are_as_if_they_had_been_sent_so(
    extra: list[dict[str, Any]], value: list[dict[str, Any]]
) -> None:
    put = [
        {name: field for name, field in item.items() if name != "id"}
        for item in normalise(extra, RESPONSE).items
    ]
    assert prepend(put, normalise(value, RESPONSE), RESPONSE) == normalise(extra + value, RESPONSE)
