from typing import Any

import pytest

from app.domain.calls import CALLS, check, check_known, open_after, pair, refuse_unknown
from app.errors import InvalidRequest


def call(call_id: str, kind: str = "function_call", **more: Any) -> dict[str, Any]:
    execution = {"execution": "client"} if kind == "tool_search_call" else {}
    return {"id": f"item_{call_id}", "type": kind, "call_id": call_id, **execution, **more}


def output(call_id: str, kind: str = "function_call_output", **more: Any) -> dict[str, Any]:
    return {"id": f"out_{call_id}", "type": kind, "call_id": call_id, "output": "", **more}


MESSAGE = {"id": "msg_1", "type": "message", "role": "user", "content": []}
OPEN = {"call_1": "function_call"}


@pytest.mark.parametrize("kind", CALLS)
def test_a_call_without_its_output_is_left_open(kind: str) -> None:
    assert open_after([MESSAGE, call("call_1", kind)]) == {"call_1": kind}
    assert open_after([call("call_1", kind), output("call_1", CALLS[kind])]) == {}


def test_open_calls_keep_their_order() -> None:
    assert tuple(open_after([call("b"), call("c"), call("a"), output("c")])) == ("b", "a")


@pytest.mark.parametrize(
    "item",
    [
        {"type": "web_search_call", "id": "ws_1"},
        {"type": "mcp_call", "id": "mcp_1"},
        {"type": "mcp_approval_request", "id": "mcpr_1"},
        {"type": "program", "id": "prog_1", "call_id": "call_1"},
        {"type": "tool_search_call", "id": "tsc_1", "call_id": "call_1", "execution": "server"},
        {"type": "tool_search_call", "id": "tsc_1", "call_id": None, "execution": "client"},
        call("call_1", "shell_call", environment={"type": "container_reference", "container_id": "c"}),
        {**call("call_1"), "async": True},
    ],
)
def test_calls_that_are_not_the_clients_to_run_never_wait(item: dict[str, Any]) -> None:
    assert open_after([item]) == {}
    assert check({}, [item]) == {}


@pytest.mark.parametrize("environment", [None, {"type": "local"}])
def test_a_local_shell_waits(environment: dict[str, Any] | None) -> None:
    assert open_after([call("call_1", "shell_call", environment=environment)]) == {"call_1": "shell_call"}


def test_outputs_may_come_in_any_order() -> None:
    assert check({"a": "function_call", "b": "function_call"}, [output("b"), MESSAGE, output("a")]) == {}


def test_a_call_and_its_output_may_both_be_new() -> None:
    assert check({}, [call("call_1"), output("call_1")]) == {}


@pytest.mark.parametrize(
    ("before", "items", "message"),
    [
        (OPEN, [], "No tool output found for function call call_1."),
        (OPEN, [MESSAGE], "No tool output found for function call call_1."),
        ({}, [call("call_1")], "No tool output found for function call call_1."),
        ({"call_1": "custom_tool_call"}, [], "No tool output found for custom tool call call_1."),
        ({}, [call("call_1", "computer_call")], "No tool output found for computer call call_1."),
        ({**OPEN, "call_2": "function_call"}, [], "No tool output found for function call call_1, call_2."),
        (
            {**OPEN, "call_2": "function_call"},
            [output("call_1")],
            "No tool output found for function call call_2.",
        ),
        ({}, [output("call_1"), call("call_1")], "No tool output found for function call call_1."),
    ],
)
def test_every_open_call_must_be_answered(
    before: dict[str, str], items: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check(before, items)
    assert caught.value.message == message
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, None, "input")


def test_an_output_that_nothing_new_explains_is_for_the_history_to_explain() -> None:
    unexplained = check(OPEN, [output("call_1"), output("call_0")])
    assert unexplained == {"call_0": "function_call_output"}
    check_known(unexplained, [MESSAGE, call("call_0"), output("call_0")])


def test_an_output_may_be_given_again() -> None:
    assert check(OPEN, [output("call_1"), output("call_1")]) == {}


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([output("call_x")], "No tool call found for function call output with call_id call_x."),
        (
            [output("call_x", "custom_tool_call_output")],
            "No tool call found for custom tool call output with call_id call_x.",
        ),
        (
            [output("call_x", "tool_search_output")],
            "No tool call found for tool search output with call_id call_x.",
        ),
        (
            [output("call_x"), output("call_1"), output("call_y")],
            "No tool call found for function call output with call_id call_x, call_y.",
        ),
    ],
)
def test_an_output_without_any_call_is_refused(items: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_known(check({}, items), [MESSAGE, call("call_1"), {"type": "program", "call_id": "call_x"}])
    assert caught.value.message == message
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, None, "input")


def test_an_output_that_names_its_tool_instead_of_a_call_passes() -> None:
    assert check({}, [{"id": "fco_1", "type": "function_call_output", "name": "f", "output": ""}]) == {}


def test_the_output_of_a_server_side_tool_search_answers_nobody() -> None:
    assert check({}, [output("call_1", "tool_search_output", execution="server")]) == {}


def test_a_local_shell_output_may_name_its_call_by_its_own_id() -> None:
    items = [{"id": "call_1", "type": "local_shell_call_output", "output": ""}]
    assert check({"call_1": "local_shell_call"}, items) == {}


def test_a_call_may_be_answered_by_an_output_of_another_type() -> None:
    assert check({"call_1": "local_shell_call"}, [output("call_1")]) == {}


def test_pairing_judges_nothing() -> None:
    before = {"b": "custom_tool_call", "a": "function_call"}
    items = [output("x", "shell_call_output"), output("b"), call("c"), MESSAGE]
    assert pair(before, items) == (
        {"a": "function_call", "c": "function_call"},
        {"x": "shell_call_output"},
    )
    assert before == {"b": "custom_tool_call", "a": "function_call"}


def test_unknown_outputs_are_refused_and_none_are_not() -> None:
    refuse_unknown({})
    with pytest.raises(InvalidRequest) as caught:
        refuse_unknown({"call_x": "shell_call_output", "call_y": "function_call_output"})
    assert caught.value.message == ("No tool call found for shell call output with call_id call_x, call_y.")
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, None, "input")
