"""Messages and reasoning: their parts on the way, and what the upstream says of them at the end."""

from typing import Any

import pytest

from app.providers.base import (
    AnnotationAdded,
    Delta,
    Finished,
    ItemFinished,
    ItemStarted,
    PartFinished,
    PartStarted,
    Started,
    TextDelta,
)
from tests.generation.composing import (
    CALL,
    CITATION,
    LOGPROB,
    MESSAGE,
    REASONING,
    Composed,
    Json,
    composed,
    said,
    text_of,
)

OTHER_CITATION = CITATION | {"url": "https://b.example"}


class TestParts:
    def test_a_refusal_has_events_of_its_own(self) -> None:
        it = composed(ItemStarted(0, MESSAGE), *said(0, 0, "refusal", "I ", "won't."), ItemFinished(0))
        assert it.names == [
            "output_item.added",
            "content_part.added",
            "refusal.delta",
            "refusal.delta",
            "refusal.done",
            "content_part.done",
            "output_item.done",
        ]
        assert it.output[0]["content"] == [{"type": "refusal", "refusal": "I won't."}]

    def test_a_summary_is_counted_apart_from_the_reasoning_itself(self) -> None:
        it = composed(
            ItemStarted(0, REASONING),
            *said(0, 0, "summary_text", "One."),
            *said(0, 1, "summary_text", "Two."),
            *said(0, 2, "reasoning_text", "Deep."),
            ItemFinished(0),
        )
        assert [event["summary_index"] for event in it.said("reasoning_summary_part.added")] == [0, 1]
        assert [event["content_index"] for event in it.said("content_part.added")] == [0]
        assert it.output[0]["summary"] == [
            {"type": "summary_text", "text": "One."},
            {"type": "summary_text", "text": "Two."},
        ]
        assert it.output[0]["content"] == [{"type": "reasoning_text", "text": "Deep."}]
        assert "status" not in it.output[0]

    def test_reasoning_without_words_is_two_events(self) -> None:
        it = composed(
            ItemStarted(0, REASONING),
            ItemFinished(0, REASONING | {"summary": [], "encrypted_content": "x=="}),
        )
        assert it.names == ["output_item.added", "output_item.done"]
        assert it.output == [
            {"id": it.output[0]["id"], "type": "reasoning", "summary": [], "encrypted_content": "x=="}
        ]

    def test_what_the_schema_wants_absent_is_not_null(self) -> None:
        nulls = {"content": None, "encrypted_content": None, "status": None}
        it = composed(ItemFinished(0, REASONING | nulls), ItemFinished(1, MESSAGE | {"phase": None}))
        assert it.output[0].keys() == {"id", "type", "summary"}
        assert "phase" not in it.output[1]

    def test_a_phase_is_kept(self) -> None:
        assert composed(ItemFinished(0, MESSAGE | {"phase": "commentary"})).output[0]["phase"] == "commentary"

    @pytest.mark.parametrize(
        ("item", "kind"),
        [(MESSAGE, "output_text"), (REASONING, "reasoning_text")],
        ids=["message", "reasoning"],
    )
    def test_text_without_a_declared_part_gets_one(self, item: Json, kind: str) -> None:
        it = composed(ItemStarted(0, item), TextDelta(0, 0, "Hi"), ItemFinished(0))
        assert [(part["type"], part["text"]) for part in it.output[0]["content"]] == [(kind, "Hi")]

    def test_text_after_the_end_of_its_part_gets_another(self) -> None:
        it = composed(
            ItemStarted(0, MESSAGE), *said(0, 0, "refusal", "No"), TextDelta(0, 0, "!"), ItemFinished(0)
        )
        assert it.output[0]["content"] == [
            {"type": "refusal", "refusal": "No"},
            {"type": "refusal", "refusal": "!"},
        ]

    def test_a_part_ends_where_the_next_begins(self) -> None:
        it = composed(
            ItemStarted(0, MESSAGE),
            PartStarted(0, 0, "output_text"),
            TextDelta(0, 0, "a"),
            PartStarted(0, 1, "refusal"),
            TextDelta(0, 1, "b"),
            ItemFinished(0),
        )
        assert text_of(it.output[0]) == ["a", "b"]

    @pytest.mark.parametrize(
        ("item", "kind"), [(MESSAGE, "summary_text"), (REASONING, "refusal"), (CALL, "output_text")]
    )
    def test_a_part_that_cannot_stand_in_its_item_is_not_begun(self, item: Json, kind: Any) -> None:
        it = composed(ItemStarted(0, item), PartStarted(0, 0, kind), ItemFinished(0))
        assert not it.said("content_part.added")
        assert not it.said("reasoning_summary_part.added")

    def test_text_that_cannot_stand_in_its_item_is_not_said(self) -> None:
        assert (
            composed(ItemStarted(0, CALL), TextDelta(0, 0, "x"), ItemFinished(0)).output[0].get("content")
            is None
        )

    def test_an_empty_delta_is_not_said(self) -> None:
        it = composed(ItemStarted(0, MESSAGE), *said(0, 0, "output_text", "", "a", ""), ItemFinished(0))
        assert len(it.said("output_text.delta")) == 1

    def test_text_deltas_always_have_logprobs(self) -> None:
        it = composed(
            ItemStarted(0, MESSAGE), PartStarted(0, 0, "output_text"), TextDelta(0, 0, "Hi", [LOGPROB]),
            TextDelta(0, 0, "!"), ItemFinished(0),
        )  # fmt: skip
        assert [event["logprobs"] for event in it.said("output_text.delta")] == [[LOGPROB], []]
        assert it.said("output_text.done")[0]["logprobs"] == [LOGPROB]
        assert it.output[0]["content"][0]["logprobs"] == [LOGPROB]

    def test_citations_are_numbered_within_their_part(self) -> None:
        it = composed(
            ItemStarted(0, MESSAGE), PartStarted(0, 0, "output_text"), TextDelta(0, 0, "Hi"),
            AnnotationAdded(0, 0, CITATION), AnnotationAdded(0, 0, OTHER_CITATION), ItemFinished(0),
        )  # fmt: skip
        assert [event["annotation_index"] for event in it.said("output_text.annotation.added")] == [0, 1]
        assert it.output[0]["content"][0]["annotations"] == [CITATION, OTHER_CITATION]

    def test_a_refusal_cites_nothing(self) -> None:
        it = composed(ItemStarted(0, MESSAGE), PartStarted(0, 0, "refusal"), AnnotationAdded(0, 0, CITATION))
        assert it.output[0]["content"] == [{"type": "refusal", "refusal": ""}]


class TestFinalForms:
    """What the upstream says at the end, beside what it said on the way."""

    def test_a_final_part_that_says_more_is_said_to_its_end(self) -> None:
        final = {"type": "output_text", "text": "Hello", "annotations": [CITATION], "logprobs": [LOGPROB]}
        it = composed(
            ItemStarted(0, MESSAGE), *said(0, 0, "output_text", "Hel", final=final), ItemFinished(0)
        )
        assert [event["delta"] for event in it.said("output_text.delta")] == ["Hel", "lo"]
        assert [event["annotation"] for event in it.said("output_text.annotation.added")] == [CITATION]
        assert it.output[0]["content"] == [final]

    def test_a_final_item_closes_the_parts_that_are_open(self) -> None:
        final = MESSAGE | {"content": [{"type": "output_text", "text": "Hello", "annotations": [CITATION]}]}
        it = composed(ItemStarted(0, MESSAGE), TextDelta(0, 0, "Hel"), ItemFinished(0, final))
        assert it.output[0]["content"] == [
            {"type": "output_text", "text": "Hello", "annotations": [CITATION], "logprobs": []}
        ]

    def test_a_final_item_may_repeat_the_parts_that_have_ended(self) -> None:
        part = {"type": "output_text", "text": "Hi", "annotations": [], "logprobs": []}
        deltas = said(0, 0, "output_text", "Hi", final=part)
        it = composed(ItemStarted(0, MESSAGE), *deltas, ItemFinished(0, MESSAGE | {"content": [part]}))
        assert it.names.count("content_part.done") == 1
        assert it.output[0]["content"] == [part]

    @pytest.mark.parametrize("text", ["", "Goodbye", None])
    def test_what_was_said_cannot_be_unsaid(self, text: str | None) -> None:
        final = {"type": "output_text", "text": text, "annotations": [], "logprobs": None}
        heard: list[Delta] = [
            ItemStarted(0, MESSAGE),
            PartStarted(0, 0, "output_text"),
            TextDelta(0, 0, "Hello", [LOGPROB]),
            AnnotationAdded(0, 0, CITATION),
        ]
        for end in (PartFinished(0, 0, final), ItemFinished(0, MESSAGE | {"content": [final]})):
            assert composed(*heard, end).output[0]["content"] == [
                {"type": "output_text", "text": "Hello", "annotations": [CITATION], "logprobs": [LOGPROB]}
            ]

    def test_what_else_a_final_part_tells_is_kept(self) -> None:
        final = {"type": "output_text", "text": "Hi", "parsed": {"a": 1}}
        it = composed(ItemStarted(0, MESSAGE), *said(0, 0, "output_text", "Hi", final=final), ItemFinished(0))
        assert it.output[0]["content"][0]["parsed"] == {"a": 1}

    def test_an_item_that_comes_whole_is_told_step_by_step(self) -> None:
        final = MESSAGE | {
            "content": [{"type": "output_text", "text": "Hi"}, {"type": "refusal", "refusal": "No"}]
        }
        it = composed(ItemFinished(0, final))
        assert it.names == [
            "output_item.added",
            *("content_part.added", "output_text.delta", "output_text.done", "content_part.done"),
            *("content_part.added", "refusal.delta", "refusal.done", "content_part.done"),
            "output_item.done",
        ]
        assert it.events[2]["item"]["content"] == []

    def test_reasoning_that_comes_whole_is_told_summary_first(self) -> None:
        final = REASONING | {
            "summary": [{"type": "summary_text", "text": "Short."}, {"text": "Untyped."}],
            "content": [{"type": "reasoning_text", "text": "Long."}],
            "encrypted_content": "x==",
        }
        it = composed(ItemFinished(0, final))
        assert [part["text"] for part in (*it.output[0]["summary"], *it.output[0]["content"])] == [
            "Short.",
            "Untyped.",
            "Long.",
        ]
        assert it.output[0]["encrypted_content"] == "x=="

    def test_a_final_item_adds_the_parts_that_were_not_heard(self) -> None:
        final = REASONING | {
            "summary": [{"type": "summary_text", "text": "Short."}],
            "content": [{"type": "reasoning_text", "text": "Long and deep."}],
        }
        it = composed(ItemStarted(0, REASONING), TextDelta(0, 0, "Long"), ItemFinished(0, final))
        assert it.output[0]["content"] == final["content"]
        assert it.output[0]["summary"] == final["summary"]

    def test_parts_of_an_unknown_kind_are_left_out(self) -> None:
        final = MESSAGE | {"content": [{"type": "hologram"}, {"type": "output_text", "text": "Hi"}]}
        heard = composed(ItemStarted(0, MESSAGE), TextDelta(0, 0, "H"), ItemFinished(0, final))
        assert text_of(heard.output[0]) == text_of(composed(ItemFinished(0, final)).output[0]) == ["Hi"]

    @pytest.mark.parametrize("status", ["incomplete", "failed"])
    def test_the_upstream_may_say_how_an_item_ended(self, status: str) -> None:
        assert composed(ItemFinished(0, MESSAGE | {"status": status})).output[0]["status"] == status

    def test_an_item_that_ended_is_not_in_progress(self) -> None:
        it = composed(
            ItemStarted(0, REASONING | {"status": "in_progress"}),
            ItemFinished(0),
            ItemFinished(1, MESSAGE | {"status": "in_progress"}),
        )
        assert [item["status"] for item in it.output] == ["completed", "completed"]

    @pytest.mark.parametrize(
        ("kind", "status"),
        [
            ("web_search_call", "failed"),
            ("image_generation_call", "failed"),
            ("apply_patch_call", "in_progress"),
            ("file_search_call", "incomplete"),
            ("function_call", "incomplete"),
        ],
    )
    def test_a_call_that_was_cut_has_a_status_that_its_schema_knows(self, kind: str, status: str) -> None:
        item = {"type": kind, "call_id": "call_1", "name": "f", "status": "in_progress"}
        it = Composed(Started(), ItemStarted(0, item), Finished("incomplete", reason="max_output_tokens"))
        assert it.output[0]["status"] == status

    def test_other_items_are_kept_as_they_came(self) -> None:
        program = {"type": "program", "call_id": "call_1", "code": "x = 1", "fingerprint": "f"}
        request = {"type": "mcp_approval_request", "server_label": "s", "name": "f", "arguments": "{}"}
        it = composed(ItemFinished(0, program), ItemStarted(1, request), ItemFinished(1, request))
        assert [event["item"].get("code") for event in it.said("output_item.added")] == ["x = 1", None]
        assert it.said("output_item.added")[1]["item"]["arguments"] == "{}"
        assert {key: it.output[0][key] for key in program} == program
        assert it.output[1] == {"id": it.output[1]["id"], **request}
