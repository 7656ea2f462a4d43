"""Calls: of the client's functions, and of hosted tools with steps of their own."""

import pytest

from app.providers.base import (
    Finished,
    InputDelta,
    ItemFinished,
    ItemStarted,
    Progress,
    Started,
)
from tests.generation.composing import CALL, Composed, composed

CODE = {"type": "code_interpreter_call", "container_id": "c_1", "outputs": None}
MCP = {"type": "mcp_call", "server_label": "s", "name": "f"}


class TestCalls:
    def test_parallel_calls_may_be_heard_by_turns(self) -> None:
        it = composed(
            ItemStarted(0, CALL),
            ItemStarted(1, CALL | {"call_id": "call_2", "name": "g"}),
            InputDelta(0, '{"a":'),
            InputDelta(1, '{"b":'),
            InputDelta(0, "1}"),
            InputDelta(1, "2}"),
            ItemFinished(1),
            ItemFinished(0),
        )
        assert [(item["name"], item["arguments"]) for item in it.output] == [
            ("f", '{"a":1}'),
            ("g", '{"b":2}'),
        ]
        assert [event["name"] for event in it.said("function_call_arguments.done")] == ["g", "f"]
        assert not it.said("content_part.added")

    def test_a_call_begins_without_its_arguments(self) -> None:
        it = composed(ItemFinished(0, CALL | {"arguments": '{"a":1}'}))
        assert it.said("output_item.added")[0]["item"]["arguments"] == ""
        assert [event["delta"] for event in it.said("function_call_arguments.delta")] == ['{"a":1}']

    def test_no_arguments_at_all_are_an_empty_object(self) -> None:
        it = composed(ItemStarted(0, CALL), ItemFinished(0, CALL | {"arguments": ""}))
        assert it.output[0]["arguments"] == "{}"

    def test_arguments_that_were_cut_stay_as_they_are(self) -> None:
        it = Composed(Started(), ItemStarted(0, CALL), InputDelta(0, '{"a'), Finished("incomplete"))
        assert (it.output[0]["arguments"], it.output[0]["status"]) == ('{"a', "incomplete")

    @pytest.mark.parametrize(
        ("heard", "final", "said_in_the_end"),
        [
            ('{"a"', '{"a":1}', '{"a":1}'),
            ('{"a":1}', '{"a": 1}', '{"a":1}'),
            ('{"a":1}', "", '{"a":1}'),
            ('{"a":1}', None, '{"a":1}'),
        ],
        ids=["extended", "reworded", "emptied", "absent"],
    )
    def test_a_final_input_extends_what_was_heard_but_does_not_replace_it(
        self, heard: str, final: str | None, said_in_the_end: str
    ) -> None:
        it = composed(
            ItemStarted(0, CALL), InputDelta(0, heard), ItemFinished(0, CALL | {"arguments": final})
        )
        assert it.output[0]["arguments"] == said_in_the_end

    def test_a_custom_tools_input_is_free_text(self) -> None:
        custom = {"type": "custom_tool_call", "call_id": "call_1", "name": "g"}
        it = composed(ItemStarted(0, custom), InputDelta(0, "print"), InputDelta(0, "(1)"), ItemFinished(0))
        assert it.names == [
            "output_item.added",
            *("custom_tool_call_input.delta", "custom_tool_call_input.delta", "custom_tool_call_input.done"),
            "output_item.done",
        ]
        assert it.output[0]["input"] == "print(1)"
        assert composed(ItemStarted(0, custom), ItemFinished(0)).output[0]["input"] == ""

    def test_a_web_search_tells_its_steps(self) -> None:
        search = {
            "type": "web_search_call",
            "status": "completed",
            "action": {"type": "search", "query": "q"},
        }
        it = composed(
            ItemStarted(0, {"type": "web_search_call", "status": "in_progress"}),
            Progress(0, "response.web_search_call.in_progress"),
            Progress(0, "response.web_search_call.searching"),
            Progress(0, "response.web_search_call.completed"),
            ItemFinished(0, search),
        )
        assert it.names[1:-1] == [
            "web_search_call.in_progress",
            "web_search_call.searching",
            "web_search_call.completed",
        ]
        assert it.output == [{"id": it.output[0]["id"], **search}]

    def test_a_step_keeps_its_fields(self) -> None:
        partial = {"partial_image_index": 0, "partial_image_b64": "aGk="}
        it = composed(
            ItemStarted(0, {"type": "image_generation_call", "result": None}),
            Progress(0, "response.image_generation_call.partial_image", partial),
            ItemFinished(0),
        )
        event = it.said("image_generation_call.partial_image")[0]
        assert event == {
            "type": "response.image_generation_call.partial_image",
            "sequence_number": 3,
            "item_id": it.output[0]["id"],
            "output_index": 0,
            **partial,
        }

    def test_steps_of_a_shells_commands_have_no_item_id_and_their_deltas_are_padded(self) -> None:
        command = "response.shell_call_command"
        it = composed(
            ItemStarted(0, {"type": "shell_call", "call_id": "call_1", "action": {"commands": []}}),
            Progress(0, f"{command}.added", {"command_index": 0, "command": ""}),
            Progress(0, f"{command}.delta", {"command_index": 0, "delta": "ls"}),
            Progress(0, f"{command}.done", {"command_index": 0, "command": "ls"}),
            Progress(0, "response.shell_call_output_content.delta", {"delta": {"stdout": "x"}}),
            ItemFinished(0),
            pads=True,
        )
        steps = [event for event in it.events if event["type"].startswith(command)]
        assert [event.keys() - {"type", "sequence_number"} for event in steps] == [
            {"output_index", "command_index", "command"},
            {"output_index", "command_index", "delta", "obfuscation"},
            {"output_index", "command_index", "command"},
        ]
        assert it.said("shell_call_output_content.delta")[0].keys() >= {"item_id", "delta"}

    def test_code_is_whole_before_it_runs(self) -> None:
        it = composed(
            ItemStarted(0, CODE),
            Progress(0, "response.code_interpreter_call.in_progress"),
            InputDelta(0, "1 +"),
            InputDelta(0, " 1"),
            Progress(0, "response.code_interpreter_call.interpreting"),
            Progress(0, "response.code_interpreter_call.completed"),
            ItemFinished(0, CODE | {"code": "1 + 1", "outputs": [{"type": "logs", "logs": "2"}]}),
        )
        assert it.names[1:-1] == [
            "code_interpreter_call.in_progress",
            "code_interpreter_call_code.delta",
            "code_interpreter_call_code.delta",
            "code_interpreter_call_code.done",
            "code_interpreter_call.interpreting",
            "code_interpreter_call.completed",
        ]
        assert (it.output[0]["code"], it.output[0]["outputs"]) == ("1 + 1", [{"type": "logs", "logs": "2"}])

    @pytest.mark.parametrize("end", ["completed", "failed"])
    def test_a_call_whose_input_comes_last_ends_after_it(self, end: str) -> None:
        it = composed(
            ItemStarted(0, MCP),
            Progress(0, "response.mcp_call.in_progress"),
            Progress(0, f"response.mcp_call.{end}"),
            ItemFinished(0, MCP | {"arguments": '{"a":1}', "output": "done"}),
        )
        assert it.names[1:-1] == [
            "mcp_call.in_progress",
            "mcp_call_arguments.delta",
            "mcp_call_arguments.done",
            f"mcp_call.{end}",
        ]
        assert (it.output[0]["arguments"], it.output[0]["output"]) == ('{"a":1}', "done")

    def test_steps_that_wait_for_the_input_keep_their_order(self) -> None:
        it = composed(
            ItemStarted(0, CODE),
            Progress(0, "response.code_interpreter_call.interpreting"),
            InputDelta(0, "1"),
            Progress(0, "response.code_interpreter_call.completed"),
            ItemFinished(0),
        )
        assert it.names[-4:-1] == [
            "code_interpreter_call_code.done",
            "code_interpreter_call.interpreting",
            "code_interpreter_call.completed",
        ]

    def test_a_step_in_the_middle_of_the_input_does_not_cut_it(self) -> None:
        it = composed(
            ItemStarted(0, MCP),
            InputDelta(0, '{"a"'),
            Progress(0, "response.mcp_call.in_progress"),
            InputDelta(0, ":1}"),
            ItemFinished(0),
        )
        assert it.output[0]["arguments"] == '{"a":1}'


class TestCallIds:
    """A client answers by `call_id` alone (behaviour 30)."""

    def test_an_id_that_can_be_answered_is_kept(self) -> None:
        it = composed(ItemStarted(0, CALL), ItemFinished(0, CALL))
        assert it.output[0]["call_id"] == "call_1"

    @pytest.mark.parametrize("given", ["x" * 65, "", None, "call_1"])
    def test_one_that_is_too_long_or_missing_or_taken_is_replaced(self, given: str | None) -> None:
        second = CALL | {"call_id": given, "name": "g"}
        it = composed(
            ItemStarted(0, CALL), ItemStarted(1, second), ItemFinished(0, CALL), ItemFinished(1, second)
        )
        first, other = (item["call_id"] for item in it.output)
        assert first == "call_1"
        assert other == "call_" + it.output[1]["id"].removeprefix("fc_")

    def test_what_was_said_first_stands(self) -> None:
        it = composed(ItemStarted(0, CALL), ItemFinished(0, CALL | {"call_id": "call_2"}))
        assert it.output[0]["call_id"] == "call_1"

    def test_an_output_belongs_to_the_latest_call_of_its_id(self) -> None:
        call = {"type": "shell_call", "call_id": "x" * 65, "action": {"commands": ["ls"]}}
        said = {"type": "shell_call_output", "call_id": "x" * 65, "output": []}
        it = composed(
            ItemFinished(0, call), ItemFinished(1, said), ItemFinished(2, call), ItemFinished(3, said)
        )
        first, its_output, second, second_output = (item["call_id"] for item in it.output)
        assert first == its_output != second == second_output

    def test_what_the_server_side_answers_may_have_none(self) -> None:
        search = {"type": "tool_search_call", "call_id": None, "arguments": {}, "execution": "server"}
        it = composed(
            ItemStarted(0, search), ItemFinished(0, search), ItemFinished(1, {"type": "web_search_call"})
        )
        assert it.output[0]["call_id"] is None
        assert "call_id" not in it.output[1]
