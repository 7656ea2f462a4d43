"""The dialects of the Responses API, event by event."""

from typing import Any

import pytest

from app.errors import UpstreamError
from app.providers.base import Finished
from app.providers.responses_events import ResponsesFold
from app.providers.upstream_errors import UpstreamErrors
from tests.providers.outcome import Outcome

SECRET = "sk-secret"
CREATED = {"type": "response.created", "response": {"id": "resp_up", "model": "m", "status": "in_progress"}}


def completed(*output: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "type": "response.completed",
        "response": {"status": "completed", "output": list(output), **fields},
    }


def added(slot: int, **item: Any) -> dict[str, Any]:
    return {"type": "response.output_item.added", "output_index": slot, "item": item}


def done(slot: int, **item: Any) -> dict[str, Any]:
    return {"type": "response.output_item.done", "output_index": slot, "item": item}


def event(name: str, slot: int | None = 0, **fields: Any) -> dict[str, Any]:
    at = {} if slot is None else {"output_index": slot}
    return {"type": f"response.{name}", "sequence_number": 3.0, "item_id": "x", **at, **fields}


def heard(*events: dict[str, Any]) -> Outcome:
    fold, outcome = ResponsesFold(UpstreamErrors("tested", SECRET)), Outcome()
    for one in events:
        for delta in fold.feed(one):
            outcome.add(delta)
    assert fold.is_finished
    return outcome


def failure_of(*events: dict[str, Any]) -> UpstreamError:
    with pytest.raises(UpstreamError) as raised:
        heard(*events)
    return raised.value


def test_the_upstreams_own_ids_are_reported() -> None:
    outcome = heard(CREATED, added(0, id="fc_up", type="function_call", call_id="c", name="f"), completed())
    assert outcome.started.upstream_id == "resp_up"
    assert outcome.in_order[0].head["id"] == "fc_up"


@pytest.mark.parametrize(
    "first", [event("in_progress", None), event("output_text.delta", delta="H"), completed()]
)
def test_a_stream_may_begin_with_any_event(first: dict[str, Any]) -> None:
    rest = () if first["type"] == "response.completed" else (completed(),)
    assert heard(first, *rest).end.status == "completed"


@pytest.mark.parametrize(
    ("name", "item"),
    [
        ("function_call_arguments.delta", {"type": "function_call", "call_id": "c", "name": "f"}),
        ("custom_tool_call_input.delta", {"type": "custom_tool_call", "call_id": "c", "name": "f"}),
        ("mcp_call_arguments.delta", {"type": "mcp_call", "server_label": "s", "name": "f"}),
        ("code_interpreter_call_code.delta", {"type": "code_interpreter_call", "container_id": "c"}),
    ],
)
def test_the_input_of_every_kind_of_call_is_reported(name: str, item: dict[str, Any]) -> None:
    outcome = heard(
        CREATED,
        added(0, **item),
        event(name, delta="a"),
        event(name, delta="b"),
        done(0, **item),
        completed(),
    )
    assert outcome.in_order[0].input == "ab"


@pytest.mark.parametrize(
    "name",
    [
        "web_search_call.searching",
        "file_search_call.completed",
        "code_interpreter_call.interpreting",
        "image_generation_call.partial_image",
        "mcp_call.failed",
        "mcp_list_tools.in_progress",
        "shell_call_command.delta",
        "compaction.compacting",
    ],
)
def test_a_hosted_tools_progress_is_handed_on(name: str) -> None:
    progress = event(name, partial_image_index=0, obfuscation="x", id="x", response_id="resp_up")
    outcome = heard(CREATED, added(0, type="hosted"), progress, done(0, type="hosted"), completed())
    (found,) = outcome.in_order[0].progress
    assert (found.event, found.fields) == (f"response.{name}", {"partial_image_index": 0})


@pytest.mark.parametrize(
    "name", ["vendor:something.new", 'x","y":"', "web_search_call.tomorrow", "created.x"]
)
def test_events_that_no_client_knows_are_skipped(name: str) -> None:
    outcome = heard(CREATED, added(0, type="hosted"), event(name), done(0, type="hosted"), completed())
    assert outcome.in_order[0].progress == []


def test_events_of_no_item_are_skipped() -> None:
    outcome = heard(CREATED, event("audio.delta", None, delta="x"), event("tomorrow", 7), completed())
    assert len(outcome.deltas) == 2


def test_summary_and_content_of_a_reasoning_item_are_told_apart() -> None:
    outcome = heard(
        CREATED,
        added(0, id="rs_1", type="reasoning", summary=[]),
        event("reasoning_summary_part.added", summary_index=0, part={"type": "summary_text", "text": ""}),
        event("reasoning_summary_text.delta", summary_index=0, delta="Short."),
        event(
            "reasoning_summary_part.done", summary_index=0, part={"type": "summary_text", "text": "Short."}
        ),
        event("reasoning_text.delta", content_index=0, delta="Long."),
        done(0, id="rs_1", type="reasoning"),
        completed(),
    )
    assert outcome.in_order[0].said == [("summary_text", "Short."), ("reasoning_text", "Long.")]


def test_citations_and_log_probabilities_are_reported() -> None:
    logprob = {"token": "a", "logprob": -0.1, "bytes": [97], "top_logprobs": []}
    outcome = heard(
        CREATED,
        event("output_text.delta", content_index=0, delta="a", logprobs=[logprob]),
        event(
            "output_text.annotation.added",
            content_index=0,
            annotation_index=0,
            annotation={"type": "file_path"},
        ),
        completed(),
    )
    assert outcome.in_order[0].logprobs == [logprob]
    assert outcome.in_order[0].annotations == [{"type": "file_path"}]


def test_items_that_only_the_last_event_names_are_reported() -> None:
    outcome = heard(CREATED, completed({"role": "assistant", "status": "completed", "content": []}))
    assert outcome.in_order[0].head == {
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [],
    }


def test_an_item_that_nobody_ends_ends_with_the_answer() -> None:
    (message,) = heard(CREATED, event("output_text.delta", delta="Hi"), completed()).in_order
    assert (message.is_finished, message.said) == (True, [("output_text", "Hi")])


def test_only_what_the_upstream_decided_is_echoed() -> None:
    outcome = heard(
        CREATED,
        completed(
            model="m-2026",
            service_tier="priority",
            temperature=None,
            top_p=0.98,
            reasoning={"effort": "low"},
            id="resp_up",
            metadata={"a": "b"},
            store=False,
            tools=[{}],
            access_programs={"cyber": "standard"},
            tool_usage={"web_search": {"num_requests": 1}},
        ),
    )
    assert outcome.end.echo == {
        "model": "m-2026",
        "service_tier": "priority",
        "top_p": 0.98,
        "reasoning": {"effort": "low", "summary": None},
        "access_programs": {"cyber": "standard"},
        "tool_usage": {"web_search": {"num_requests": 1}},
    }


def test_usage_keeps_what_routers_add() -> None:
    usage = {
        "input_tokens": 1,
        "output_tokens": 2,
        "cost": 0.1,
        "is_byok": False,
        "cost_details": {"a": None},
    }
    assert heard(CREATED, completed(usage=usage)).end.usage == usage


def test_a_failed_generation_says_why_without_the_key() -> None:
    failed = {"status": "failed", "error": {"code": "invalid_prompt", "message": f"Bad {SECRET}"}}
    end = heard(CREATED, {"type": "response.failed", "response": failed}).end
    assert (end.status, end.error) == ("failed", {"code": "invalid_prompt", "message": "Bad [redacted]"})


def test_what_failed_inside_the_upstream_is_kept_for_the_log(caplog: pytest.LogCaptureFixture) -> None:
    failed = {"status": "failed", "error": {"code": "server_error", "message": f"10.0.0.1 fell, {SECRET}"}}
    end = heard(CREATED, {"type": "response.failed", "response": failed}).end
    assert end.error == {"code": "server_error", "message": "The model provider failed to answer."}
    (record,) = caplog.records
    assert (record.getMessage(), record.levelname) == ("upstream.failed", "WARNING")
    assert "10.0.0.1 fell, [redacted]" in str(vars(record)["report"])


def test_an_upstream_that_cancels_has_failed() -> None:
    end = heard(CREATED, {"type": "response.failed", "response": {"status": "cancelled"}}).end
    assert end.error == {"code": "server_error", "message": "The model provider failed to answer."}


def test_an_incomplete_answer_gives_its_reason() -> None:
    event = {"type": "response.incomplete", "response": {"incomplete_details": {"reason": "content_filter"}}}
    end = heard(CREATED, event).end
    assert (end.status, end.reason) == ("incomplete", "content_filter")


@pytest.mark.parametrize(
    "error",
    [
        {"type": "error", "code": "rate_limit_exceeded", "message": "slow", "param": None},
        {"type": "error", "error": {"type": "rate_limit_error", "message": "slow", "code": None}},
    ],
    ids=["flat", "nested"],
)
def test_an_error_event_is_raised_in_both_of_its_shapes(error: dict[str, Any]) -> None:
    raised = failure_of(CREATED, error)
    assert (raised.status, raised.code) == (429, "rate_limit_exceeded")


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ({}, 502),
        ({"id": "resp_1", "object": "response", "model": "m", "output": []}, 502),
        ({"status": "queued", "output": []}, 502),
        ({"status": "completed"}, 502),
        ({"status": "completed", "output": {}}, 502),
        ({"type": "error", "code": "rate_limit_exceeded", "message": "slow"}, 429),
        ({"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}, 503),
    ],
)
def test_an_answer_that_is_no_finished_response_is_a_failure(answer: dict[str, Any], status: int) -> None:
    fold = ResponsesFold(UpstreamErrors("tested", None))
    with pytest.raises(UpstreamError) as raised:
        list(fold.whole(answer))
    assert raised.value.status == status


def test_a_failed_answer_needs_no_output() -> None:
    (_, end) = ResponsesFold(UpstreamErrors("tested", None)).whole({"status": "failed"})
    assert isinstance(end, Finished)
    assert end.status == "failed"
