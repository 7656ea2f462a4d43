"""The dialects of Chat Completions, chunk by chunk."""

from typing import Any

import pytest

from app.errors import UpstreamError
from app.providers.base import Delta
from app.providers.chat_stream import ChatFold
from app.providers.upstream_errors import UpstreamErrors
from tests.providers.outcome import Outcome


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "model": "m",
        "choices": [{"index": 0, "delta": delta or {}, "finish_reason": finish}],
        **more,
    }


def fragment(index: int | None, arguments: str = "", **more: Any) -> dict[str, Any]:
    function = {"arguments": arguments, **({"name": more.pop("name")} if "name" in more else {})}
    return {"tool_calls": [{**({} if index is None else {"index": index}), **more, "function": function}]}


def heard(*chunks: dict[str, Any], is_done: bool = True) -> Outcome:
    fold = ChatFold(UpstreamErrors("tested", None))
    deltas: list[Delta] = [delta for one in chunks for delta in fold.feed(one)]
    outcome = Outcome()
    for delta in [*deltas, *fold.end(is_done=is_done)]:
        outcome.add(delta)
    return outcome


def failure_of(*chunks: dict[str, Any], is_done: bool = True) -> UpstreamError:
    with pytest.raises(UpstreamError) as raised:
        heard(*chunks, is_done=is_done)
    return raised.value


def test_an_id_and_a_name_may_come_late() -> None:
    outcome = heard(
        chunk(fragment(0, '{"a"')),
        chunk(fragment(0, ":1", name="f")),
        chunk(fragment(0, "}", id="call_1"), "tool_calls"),
    )
    (call,) = outcome.in_order
    assert call.called == ("f", '{"a":1}')
    assert call.head["call_id"].startswith("call_")


def test_a_missing_call_id_is_minted() -> None:
    (call,) = heard(chunk(fragment(0, name="f"), "tool_calls")).in_order
    assert call.head["call_id"].startswith("call_")
    assert call.called == ("f", "{}")
    assert call.is_finished


def test_interleaved_calls_are_told_apart_by_their_number() -> None:
    outcome = heard(
        chunk(fragment(0, "[", id="call_a", name="f")), chunk(fragment(1, "(", id="call_b", name="g")),
        chunk(fragment(0, "]")), chunk(fragment(1, ")"), "tool_calls"),
    )  # fmt: skip
    assert [call.called for call in outcome.in_order] == [("f", "[]"), ("g", "()")]


@pytest.mark.parametrize("index", [0, None])
def test_calls_that_all_have_the_same_number_or_none_are_told_apart(index: int | None) -> None:
    outcome = heard(
        chunk(fragment(index, "[", id="call_a", name="f")), chunk(fragment(index, "]")),
        chunk(fragment(index, "(", id="call_b", name="g")), chunk(fragment(index, ")"), "tool_calls"),
    )  # fmt: skip
    assert [call.called for call in outcome.in_order] == [("f", "[]"), ("g", "()")]
    assert [call.head["call_id"] for call in outcome.in_order] == ["call_a", "call_b"]


def test_arguments_may_come_as_an_object() -> None:
    part = {"tool_calls": [{"id": "call_1", "function": {"name": "f", "arguments": {"a": 1}}}]}
    assert heard(chunk(part, "tool_calls")).in_order[0].called == ("f", '{"a":1}')


def test_the_first_kind_of_function_calls_is_still_understood() -> None:
    outcome = heard(
        chunk({"function_call": {"name": "f", "arguments": '{"a"'}}),
        chunk({"function_call": {"arguments": ":1}"}}, "function_call"),
    )
    assert outcome.in_order[0].called == ("f", '{"a":1}')
    assert outcome.end.status == "completed"


def test_a_custom_tool_is_called_with_plain_text() -> None:
    part = {
        "tool_calls": [
            {"index": 0, "id": "call_1", "type": "custom", "custom": {"name": "run", "input": "ls"}}
        ]
    }
    (call,) = heard(chunk(part, "tool_calls")).in_order
    assert call.head == {"type": "custom_tool_call", "call_id": "call_1", "name": "run"}
    assert call.input == "ls"


def test_a_call_without_a_name_is_no_call() -> None:
    assert failure_of(chunk(fragment(0, "{}", id="call_1"), "tool_calls")).status == 502


def test_thought_text_and_calls_each_end_before_the_next_begins() -> None:
    outcome = heard(
        chunk({"reasoning": "Hm."}), chunk({"content": "Well,"}), chunk({"reasoning": "Hm!"}),
        chunk(fragment(0, "{}", id="call_1", name="f")), chunk({"content": "so."}, "tool_calls"),
    )  # fmt: skip
    kinds = [item.kind for item in outcome.in_order]
    assert kinds == ["reasoning", "message", "reasoning", "function_call", "message"]
    assert all(item.is_finished for item in outcome.in_order)


def test_a_refusal_after_text_is_another_part_of_the_same_message() -> None:
    (message,) = heard(chunk({"content": "Well, "}), chunk({"refusal": "no."}, "stop")).in_order
    assert message.said == [("output_text", "Well, "), ("refusal", "no.")]


def test_log_probabilities_have_the_shape_of_the_api() -> None:
    token = {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": [{"token": "b", "logprob": -1.0}]}
    one = chunk({"content": "a"}, "stop")
    one["choices"][0]["logprobs"] = {"content": [token], "refusal": None}
    assert heard(one).in_order[0].logprobs == [
        {
            "token": "a",
            "bytes": [97],
            "logprob": -0.5,
            "top_logprobs": [{"token": "b", "bytes": None, "logprob": -1.0}],
        }
    ]


def test_citations_lose_a_level() -> None:
    citation = {"url": "https://a.test", "title": "A", "start_index": 0, "end_index": 1}
    cited = chunk({"annotations": [{"type": "url_citation", "url_citation": citation}]}, "stop")
    assert heard(chunk({"content": "a"}), cited).in_order[0].annotations == [
        {"type": "url_citation", **citation}
    ]


def test_content_may_come_in_parts() -> None:
    assert heard(chunk({"content": [{"type": "text", "text": "Hi"}]}, "stop")).in_order[0].said == [
        ("output_text", "Hi")
    ]


def test_usage_keeps_costs_under_the_names_of_this_api() -> None:
    usage = {
        "prompt_tokens": 3,
        "prompt_tokens_details": {"cached_tokens": 2},
        "completion_tokens": 4,
        "completion_tokens_details": None,
        "total_tokens": 7,
        "cost": 0.5,
        "is_byok": True,
        "cost_details": {"upstream_inference_cost": None, "upstream_inference_prompt_cost": 0.2},
    }
    assert heard(chunk({"content": "a"}, "stop"), chunk(usage=usage)).end.usage == {
        "input_tokens": 3,
        "input_tokens_details": {"cached_tokens": 2},
        "output_tokens": 4,
        "output_tokens_details": None,
        "total_tokens": 7,
        "cost": 0.5,
        "is_byok": True,
        "cost_details": {"upstream_inference_cost": None, "upstream_inference_input_cost": 0.2},
    }


def test_the_model_and_tier_that_served_are_echoed() -> None:
    outcome = heard(chunk({"content": "a"}, "stop", service_tier="flex"))
    assert outcome.end.echo == {"model": "m", "service_tier": "flex"}
    assert (outcome.started.model, outcome.started.upstream_id) == ("m", "chatcmpl-1")


@pytest.mark.parametrize(
    ("finish", "status", "reason"),
    [
        ("stop", "completed", None),
        ("eos", "completed", None),
        (None, "completed", None),
        ("length", "incomplete", "max_output_tokens"),
        ("content_filter", "incomplete", "content_filter"),
    ],
)
def test_the_reason_to_stop_becomes_the_outcome(finish: str | None, status: str, reason: str | None) -> None:
    end = heard(chunk({"content": "a"}, finish)).end
    assert (end.status, end.reason) == (status, reason)


def test_an_answer_that_says_neither_why_it_ends_nor_that_it_is_done_was_cut() -> None:
    said = chunk({"content": "a"})
    assert failure_of(said, is_done=False).message == (
        "The model provider's answer ended before it was complete."
    )


@pytest.mark.parametrize(("finish", "is_done"), [("stop", False), (None, True)])
def test_either_sign_of_the_end_is_enough(finish: str | None, *, is_done: bool) -> None:
    assert heard(chunk({"content": "a"}, finish), is_done=is_done).end.status == "completed"


def test_a_flat_error_inside_the_stream_is_raised() -> None:
    assert failure_of({"object": "error", "message": "slow", "code": 429}).status == 429


def test_a_cut_call_stays_open_and_its_arguments_as_they_are() -> None:
    (call,) = heard(chunk(fragment(0, '{"a', id="call_1", name="f"), "length")).in_order
    assert (call.is_finished, call.input) == (False, '{"a')


def test_a_stream_that_chose_nothing_is_no_answer() -> None:
    assert failure_of({"id": "chatcmpl-1", "model": "m", "choices": []}).status == 502


@pytest.mark.parametrize("finish", ["error", "abort"])
def test_a_generation_that_broke_off_is_an_error(finish: str) -> None:
    assert failure_of(chunk({"content": "a"}, finish)).status == 502


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        ({"message": "busy", "code": 429}, 429, "rate_limit_exceeded"),
        ({"message": "broke", "code": 502}, 502, "server_error"),
        ({"message": "no tokens left", "type": "insufficient_quota", "code": 429}, 429, "insufficient_quota"),
        ({"message": "slow", "code": "slow_down"}, 503, "server_is_overloaded"),
        ("all is lost", 502, "server_error"),
    ],
)
def test_an_error_inside_the_stream_is_raised(error: Any, status: int, code: str) -> None:
    raised = failure_of(chunk({"content": "a"}), {"error": error})
    assert (raised.status, raised.code) == (status, code)
    assert raised.report is not None
    assert str(error["message"] if isinstance(error, dict) else error) in raised.report.detail


def test_only_the_first_choice_is_heard() -> None:
    other = {"id": "chatcmpl-1", "choices": [{"index": 1, "delta": {"content": "b"}}]}
    assert heard(other, chunk({"content": "a"}, "stop")).in_order[0].said == [("output_text", "a")]
