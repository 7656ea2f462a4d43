from typing import Any

import pytest

from app import ids
from app.api.schemas.create import CREATE
from app.domain.calls import CALLS, check, open_after
from app.domain.interruptions import TEXT, outputs
from app.domain.items import normalise, prepend
from app.errors import InvalidRequest

WITH_WORDS = sorted(set(CALLS) - {"computer_call"})
RESPONSE = ids.new_uuid()


def interrupted(kind: str) -> dict[str, Any]:
    (item,) = outputs({"call_1": kind})
    return item


@pytest.mark.parametrize("kind", WITH_WORDS)
def test_an_open_call_is_answered_by_its_own_type_of_output(kind: str) -> None:
    item = interrupted(kind)
    assert item["type"] == CALLS[kind]
    assert check({"call_1": kind}, [item]) == {}


@pytest.mark.parametrize("kind", WITH_WORDS)
def test_a_client_could_send_the_result_itself(kind: str) -> None:
    CREATE.validate_python({"model": "m", "input": [interrupted(kind)]})


@pytest.mark.parametrize("kind", WITH_WORDS)
def test_the_result_is_in_the_form_in_which_items_are_stored(kind: str) -> None:
    stored = prepend([interrupted(kind)], normalise([], RESPONSE), RESPONSE)
    assert normalise(stored.items, ids.new_uuid()) == stored
    assert list(stored.items[0])[:3] == ["id", "type", "status"]


@pytest.mark.parametrize("kind", WITH_WORDS)
def test_the_result_says_that_it_is_none(kind: str) -> None:
    item = interrupted(kind)
    assert item["status"] == ("failed" if kind == "apply_patch_call" else "incomplete")
    assert (TEXT in str(item)) == (kind != "tool_search_call")


def test_a_shell_s_result_does_not_say_that_the_command_ended() -> None:
    [result] = interrupted("shell_call")["output"]
    assert result == {"stdout": "", "stderr": TEXT, "outcome": {"type": "timeout"}}


def test_a_local_shell_s_result_names_its_call_by_its_id() -> None:
    item = interrupted("local_shell_call")
    assert (item["id"], "call_id" in item) == ("call_1", False)


def test_several_calls_are_answered_in_their_order() -> None:
    calls = {"b": "function_call", "a": "custom_tool_call", "c": "function_call"}
    assert [item["call_id"] for item in outputs(calls)] == ["b", "a", "c"]
    made = [{"type": kind, "call_id": call_id} for call_id, kind in calls.items()]
    assert open_after([*made, *outputs(calls)]) == {}


def test_results_share_nothing() -> None:
    first, second = outputs({"a": "shell_call", "b": "shell_call"})
    assert first["output"] is not second["output"]
    assert first["output"][0] is not second["output"][0]


def test_nothing_open_needs_nothing() -> None:
    assert outputs({}) == []


def test_a_call_that_waits_for_a_screenshot_cannot_be_answered_with_words() -> None:
    with pytest.raises(InvalidRequest) as caught:
        outputs({"call_1": "function_call", "call_2": "computer_call"})
    assert caught.value.message == (
        "No tool output found for computer call call_2. It cannot be filled in as interrupted, because its "
        "output is a screenshot. Send its output in your input."
    )
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, None, "input")
