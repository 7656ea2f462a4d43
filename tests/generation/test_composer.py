"""What a provider reports becomes a grammatical stream that adds up to the response (law L2)."""

from typing import Any

import orjson
import pytest

from app import ids
from app.domain.response import Status
from app.errors import UpstreamError
from app.generation.composer import Composer
from app.providers.base import (
    AnnotationAdded,
    Delta,
    Finished,
    InputDelta,
    ItemFinished,
    ItemStarted,
    PartFinished,
    PartStarted,
    Progress,
    Started,
    TextDelta,
)
from tests import grammar
from tests.builders import a_draft
from tests.generation.composing import (
    CALL,
    CITATION,
    MESSAGE,
    REASONING,
    Composed,
    composed,
    parsed,
    rich,
    said,
    text_of,
    unheard,
)
from tests.scripted import DONE, USAGE, hello


class TestLifecycle:
    def test_a_message_is_said_in_the_documented_order(self) -> None:
        it = composed(ItemStarted(0, MESSAGE), *said(0, 0, "output_text", "Hel", "lo"), ItemFinished(0))
        assert [event["type"] for event in it.events] == [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed",
        ]
        assert it.output == [
            {
                "id": it.output[0]["id"],
                "type": "message",
                "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": "Hello", "annotations": [], "logprobs": []}],
            }
        ]

    def test_lifecycle_events_carry_the_whole_response_as_it_was_then(self) -> None:
        it = composed(*hello(), draft=a_draft(metadata={"a": "b"}))
        first, second, last = it.events[0]["response"], it.events[1]["response"], it.events[-1]["response"]
        assert first == second
        assert first.keys() == last.keys()
        assert (first["status"], first["output"], first["usage"], first["completed_at"]) == (
            "in_progress",
            [],
            None,
            None,
        )
        assert (last["status"], last["usage"]["input_tokens"]) == ("completed", 7)
        assert first["metadata"] == {"a": "b"}
        assert isinstance(last["completed_at"], int)

    def test_the_model_is_the_one_that_the_upstream_says_it_runs(self) -> None:
        it = Composed(Started("a-model-2"), Finished("completed", echo={"model": "a-model-3"}))
        assert it.events[0]["response"]["model"] == "a-model-2"
        assert it.response["model"] == it.composer.model == "a-model-3"

    def test_a_response_may_be_empty(self) -> None:
        assert composed().output == []

    def test_nothing_at_all_is_a_failure(self) -> None:
        it = Composed(Started())
        assert (it.response["status"], it.response["error"]["code"]) == ("failed", "server_error")

    def test_a_provider_that_forgets_to_begin_has_begun(self) -> None:
        assert text_of(Composed(*hello("Hi"), DONE).output[0]) == ["Hi"]

    def test_a_response_begins_once(self) -> None:
        assert Composed(Started("one"), Started("two"), DONE).response["model"] == "one"

    @pytest.mark.parametrize("reason", ["max_output_tokens", "content_filter"])
    def test_what_was_cut_is_incomplete_and_last(self, reason: str) -> None:
        it = Composed(
            Started(),
            *hello("whole"),
            ItemStarted(1, MESSAGE),
            TextDelta(1, 0, "cu"),
            Finished("incomplete", USAGE, reason=reason),
        )
        assert it.events[-1]["type"] == "response.incomplete"
        assert it.response["incomplete_details"] == {"reason": reason}
        assert it.response["completed_at"] is None
        assert [(item["status"], *text_of(item)) for item in it.output] == [
            ("completed", "whole"),
            ("incomplete", "cu"),
        ]

    def test_a_failed_response_keeps_what_was_said_and_what_it_cost(self) -> None:
        error = {"code": "rate_limit_exceeded", "message": "Too much."}
        it = Composed(Started(), *hello("half")[:-2], Finished("failed", USAGE, error=error))
        assert it.events[-1]["type"] == "response.failed"
        assert it.response["error"] == error
        assert (it.output[0]["status"], *text_of(it.output[0])) == ("incomplete", "half")
        assert it.response["usage"]["output_tokens"] == 2

    def test_our_own_failure_goes_before_the_providers_silence(self) -> None:
        error = {"code": "server_error", "message": "Too long."}
        it = Composed(Started(), status=Status.FAILED, error=error)
        assert it.response["error"] == error

    def test_a_cancelled_response_shows_no_output_and_no_usage(self) -> None:
        it = Composed(Started(), *hello("half")[:-1], status=Status.CANCELLED)
        assert it.events[-1]["type"] == "response.failed"
        assert (it.response["status"], it.response["output"]) == ("cancelled", [])
        assert (it.response["usage"], it.response["error"]) == (None, None)
        assert (it.composer.output_blob, it.composer.output) == (b"", [])

    def test_items_that_nobody_finished_are_whole_if_the_response_is(self) -> None:
        it = composed(ItemStarted(0, MESSAGE), TextDelta(0, 0, "Hi"))
        assert (it.output[0]["status"], *text_of(it.output[0])) == ("completed", "Hi")

    def test_what_the_provider_says_after_an_item_ended_is_not_said(self) -> None:
        late: list[Delta] = [
            ItemStarted(0, MESSAGE),
            PartStarted(0, 1, "output_text"),
            TextDelta(0, 0, "late"),
            AnnotationAdded(0, 0, CITATION),
            PartFinished(0, 0),
            Progress(0, "response.web_search_call.completed"),
            InputDelta(0, "late"),
            ItemFinished(0, MESSAGE | {"content": [{"type": "output_text", "text": "late"}]}),
        ]
        assert composed(*hello("Hi"), *late).names == composed(*hello("Hi")).names

    def test_what_is_said_of_a_slot_that_never_began_is_not_said(self) -> None:
        stray: list[Delta] = [
            PartStarted(9, 0, "output_text"),
            TextDelta(9, 0, "x"),
            AnnotationAdded(9, 0, CITATION),
            PartFinished(9, 0),
            InputDelta(9, "x"),
            Progress(9, "response.web_search_call.searching"),
            ItemFinished(9),
        ]
        assert composed(*stray).names == []

    def test_an_upstreams_moderation_is_not_taken_for_the_output(self) -> None:
        it = Composed(
            Started(), *hello("Hi"), Finished("completed", echo={"moderation": {"input": None, "output": []}})
        )
        assert it.response["moderation"] == {"input": None, "output": []}
        assert text_of(it.output[0]) == ["Hi"]

    def test_a_client_cannot_write_where_the_output_goes(self) -> None:
        trap = '"output":[],"parallel_tool_calls":'
        draft = a_draft(instructions=trap, user=trap, metadata={trap: trap})
        assert text_of(composed(*hello(trap), draft=draft).output[0]) == [trap]


class TestIds:
    def test_ids_are_ours_and_name_their_place(self) -> None:
        draft = a_draft(input=[{"role": "user", "content": "a"}, {"role": "user", "content": "b"}])
        it = composed(ItemStarted(5, REASONING | {"id": "rs_theirs"}), ItemFinished(5), *hello(), draft=draft)
        assert [ids.parse_item_id(item["id"]) for item in it.output] == [(draft.id, 2), (draft.id, 3)]
        assert [item["id"][:3] for item in it.output] == ["rs_", "msg"]

    def test_the_upstreams_own_ids_are_kept_aside(self) -> None:
        it = composed(
            ItemStarted(0, REASONING | {"id": "rs_theirs"}),
            ItemFinished(0),
            ItemFinished(1, MESSAGE),
            ItemFinished(2, CALL | {"id": "fc_theirs"}),
        )
        reasoning, _, call = it.output
        assert it.composer.upstream_ids == {reasoning["id"]: "rs_theirs", call["id"]: "fc_theirs"}
        assert b"theirs" not in it.composer.json

    def test_an_id_that_comes_only_with_the_end_is_kept_too(self) -> None:
        it = composed(ItemStarted(0, MESSAGE), ItemFinished(0, MESSAGE | {"id": "msg_theirs"}))
        assert it.composer.upstream_ids == {it.output[0]["id"]: "msg_theirs"}


class TestGate:
    """Calls that the request does not allow are not shown (behaviours 38-40)."""

    def of(self, *deltas: Delta, **params: Any) -> list[str]:
        draft = a_draft(**params)
        it = composed(*deltas, draft=draft)
        assert it.composer.output_blob == unheard(Started(), *deltas, DONE, draft=draft).output_blob
        return [item.get("name", item["type"]) for item in it.output]

    CALLS: tuple[Delta, ...] = (
        ItemStarted(0, CALL),
        InputDelta(0, "{}"),
        ItemFinished(0, CALL),
        ItemFinished(1, CALL | {"name": "g", "call_id": "call_2"}),
        ItemFinished(2, MESSAGE),
    )

    def test_everything_is_allowed_by_default(self) -> None:
        assert self.of(*self.CALLS) == ["f", "g", "message"]

    def test_no_tool_may_be_called(self) -> None:
        assert self.of(*self.CALLS, tool_choice="none") == ["message"]

    def test_only_the_named_function_may_be_called(self) -> None:
        assert self.of(*self.CALLS, tool_choice={"type": "function", "name": "g"}) == ["g", "message"]

    def test_only_allowed_tools_may_be_called(self) -> None:
        choice = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]}
        assert self.of(*self.CALLS, tool_choice=choice) == ["f", "message"]

    def test_one_call_at_a_time(self) -> None:
        assert self.of(*self.CALLS, parallel_tool_calls=False) == ["f", "message"]

    def test_a_call_that_is_not_shown_takes_no_index_and_no_number(self) -> None:
        it = composed(*self.CALLS, draft=a_draft(tool_choice="none"))
        assert [event["output_index"] for event in it.events if "output_index" in event] == [0, 0]
        assert ids.parse_item_id(it.output[0]["id"]) == (it.composer._draft.id, 1)


class TestObfuscation:
    def test_deltas_are_filled_up_to_a_multiple_of_sixteen(self) -> None:
        it = composed(*rich(), pads=True)
        padded = [event for event in it.events if "obfuscation" in event]
        assert {event["type"] for event in padded} == {
            event["type"] for event in it.events if event["type"].endswith(".delta")
        }
        assert all((len(event["delta"]) + len(event["obfuscation"])) % 16 == 0 for event in padded)

    @pytest.mark.parametrize("length", [*range(1, 18), 31, 32, 33])
    def test_any_length_is_filled(self, length: int) -> None:
        it = composed(*hello("é" * length), pads=True)
        assert len(it.said("output_text.delta")[0]["obfuscation"]) == -length % 16

    def test_padding_is_left_out_unless_asked_for(self) -> None:
        assert not any("obfuscation" in event for event in composed(*rich()).events)

    def test_padding_is_another_in_each_response(self) -> None:
        first, second = (composed(*hello("a"), pads=True).said("output_text.delta")[0] for _ in range(2))
        assert first["obfuscation"] != second["obfuscation"]


class TestBroken:
    def test_a_stream_without_an_outcome_ends_in_an_error_with_both_sets_of_keys(self) -> None:
        composer = Composer(a_draft())
        events = [*composer.feed(Started()), *composer.close(Status.FAILED)]
        events.append(composer.broken(UpstreamError("Gone.", code="server_error", param="input")))
        last = parsed(events)[-1]
        assert last == {
            "type": "error",
            "sequence_number": 2,
            "code": "server_error",
            "message": "Gone.",
            "param": "input",
            "error": {"message": "Gone.", "type": "server_error", "param": "input", "code": "server_error"},
        }
        grammar.check(parsed(events))


class TestUnheard:
    @pytest.mark.parametrize("status", [None, Status.FAILED, Status.CANCELLED])
    def test_the_result_is_the_same_whether_anybody_listens(self, status: Status | None) -> None:
        draft = a_draft()
        heard = Composed(Started("m"), *rich(), draft=draft, status=status)
        quiet = unheard(Started("m"), *rich(), draft=draft, status=status)
        assert quiet.output_blob == heard.composer.output_blob
        assert quiet.output == heard.composer.output
        assert quiet.upstream_ids == heard.composer.upstream_ids
        assert quiet.gated == heard.composer.gated
        assert orjson.loads(quiet.json) == heard.response | {
            "completed_at": orjson.loads(quiet.body)["completed_at"]
        }
