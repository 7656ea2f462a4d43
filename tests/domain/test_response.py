from collections.abc import Mapping
from itertools import product
from typing import Any

import orjson
import pytest
from openai.types.responses import Response as SDKResponse

from app import ids
from app.domain.echo import WIRE_ORDER, echo
from app.domain.items import normalise
from app.domain.response import CHAINABLE, TERMINAL, TRANSITIONS, Draft, Status, complete_usage, snapshot
from app.domain.turn import with_output

USAGE = {"input_tokens": 3, "output_tokens": 4}
ITEM = {
    "id": "msg_1",
    "type": "message",
    "status": "completed",
    "role": "assistant",
    "content": [{"type": "output_text", "text": "x", "annotations": [], "logprobs": []}],
}


def a_draft(**params: Any) -> Draft:
    response = ids.new_uuid()
    return Draft(response, "m", params, normalise("hi", response), echo(params, model="m"))


def everything(draft: Draft, status: Status, **more: Any) -> dict[str, Any]:
    """A snapshot to which every outcome is passed, whatever its state."""
    return snapshot(
        draft,
        status=status,
        output=[ITEM],
        usage=USAGE,
        error={"code": "rate_limit_exceeded", "message": "slow down"},
        incomplete_reason="max_output_tokens",
        completed_at=7,
        **more,
    )


class TestStatus:
    @pytest.mark.parametrize(("start", "end"), [*product([None, *Status], Status)])
    def test_a_response_goes_only_where_its_state_allows(self, start: Status | None, end: Status) -> None:
        ends = {
            None: TERMINAL | {Status.QUEUED},
            Status.QUEUED: {Status.IN_PROGRESS, Status.CANCELLED},
            Status.IN_PROGRESS: TERMINAL | {Status.QUEUED},
        }
        assert (end in TRANSITIONS.get(start, frozenset())) is (end in ends.get(start, set[Status]()))

    def test_no_transition_leaves_a_terminal_state(self) -> None:
        assert not any(TRANSITIONS.get(status) for status in TERMINAL)

    def test_only_finished_answers_can_be_chained_on(self) -> None:
        assert {status.wire for status in CHAINABLE} == {"completed", "incomplete"}
        assert CHAINABLE <= TERMINAL


class TestDraft:
    @pytest.mark.parametrize(("store", "stored"), [(None, True), (True, True), (False, False)])
    def test_a_response_is_stored_unless_told_otherwise(self, *, store: bool | None, stored: bool) -> None:
        assert a_draft(store=store).is_stored is stored

    @pytest.mark.parametrize(("stream", "streamed"), [(None, False), (False, False), (True, True)])
    def test_a_response_is_streamed_only_if_asked(self, *, stream: bool | None, streamed: bool) -> None:
        assert a_draft(stream=stream).is_streamed is streamed

    def test_a_draft_knows_its_parent(self) -> None:
        assert a_draft().previous_response_id is None
        assert a_draft(previous_response_id="resp_1").previous_response_id == "resp_1"


class TestSnapshot:
    @pytest.mark.parametrize("status", Status)
    def test_a_state_shows_what_it_has_and_nothing_else(self, status: Status) -> None:
        got = everything(a_draft(), status)
        counted = {Status.COMPLETED, Status.INCOMPLETE, Status.FAILED}
        assert got["status"] == status.name.lower()
        assert got["completed_at"] == (7 if status is Status.COMPLETED else None)
        assert (got["error"] is not None) is (status is Status.FAILED)
        assert got["incomplete_details"] == (
            {"reason": "max_output_tokens"} if status is Status.INCOMPLETE else None
        )
        assert (got["usage"] is not None) is (status in counted)
        assert got["output"] == ([] if status is Status.CANCELLED else [ITEM])
        assert got["service_tier"] == ("default" if status in TERMINAL else "auto")

    @pytest.mark.parametrize("status", Status)
    def test_every_state_has_every_key_in_the_order_of_the_wire(self, status: Status) -> None:
        used = {"conversation": "conv_1", "prompt": {"id": "pmpt_1"}, "prompt_cache_options": {}}
        assert tuple(everything(a_draft(**used), status)) == WIRE_ORDER
        assert tuple(everything(a_draft(), status)) == tuple(key for key in WIRE_ORDER if key not in used)

    @pytest.mark.parametrize("status", Status)
    def test_the_official_client_reads_every_state(self, status: Status) -> None:
        tools = [
            {"type": "function", "name": "f"},
            {"type": "mcp", "server_label": "s", "server_url": "https://example.com"},
            {"type": "web_search"},
            {"type": "image_generation"},
            {"type": "custom", "name": "c"},
        ]
        draft = a_draft(tools=tools, text={"format": {"type": "json_schema", "name": "n", "schema": {}}})
        read = SDKResponse.model_validate_json(orjson.dumps(everything(draft, status)))
        assert read.status == status.wire
        assert read.id == ids.response_id(draft.id)

    def test_the_time_of_creation_is_that_of_the_id(self) -> None:
        draft = a_draft()
        times = {everything(draft, status)["created_at"] for status in Status}
        assert times == {ids.created_at(draft.id)}
        assert all(isinstance(time, int) for time in times)

    def test_what_the_upstream_decided_is_laid_over_the_echo(self) -> None:
        decided = {
            "model": "m-2026",
            "reasoning": {"effort": "low", "summary": None},
            "status": "odd",
            "id": "odd",
        }
        got = everything(a_draft(), Status.COMPLETED, echo_overrides=decided)
        assert got["model"] == "m-2026"
        assert got["reasoning"]["effort"] == "low"
        assert (got["status"], got["id"][:5]) == ("completed", "resp_")

    def test_a_draft_is_not_changed_by_its_snapshots(self) -> None:
        draft = a_draft()
        before = orjson.dumps(draft.echo)
        everything(draft, Status.COMPLETED, echo_overrides={"model": "other"})
        assert orjson.dumps(draft.echo) == before

    @pytest.mark.parametrize(
        ("asked", "decided", "used"),
        [
            (None, None, "default"),
            ("auto", None, "default"),
            ("flex", None, "flex"),
            ("fast", None, "priority"),
            ("flex", "default", "default"),
            (None, "fast", "priority"),
            ("auto", "auto", "default"),
        ],
    )
    def test_a_finished_response_shows_the_tier_that_was_used(
        self, asked: str | None, decided: str | None, used: str
    ) -> None:
        draft = a_draft(service_tier=asked)
        overrides = {"service_tier": decided} if decided else {}
        assert everything(draft, Status.COMPLETED, echo_overrides=overrides)["service_tier"] == used
        assert everything(draft, Status.IN_PROGRESS, echo_overrides=overrides)["service_tier"] == "auto"

    def test_an_output_put_back_into_a_stored_body_gives_the_whole_object(self) -> None:
        trap = '"output":[]'
        draft = a_draft(
            instructions=trap, metadata={"output": trap}, tools=[{"type": "computer", "output": []}]
        )
        body = orjson.dumps({**everything(draft, Status.COMPLETED), "output": []})
        assert with_output(body, orjson.dumps(ITEM)) == orjson.dumps(everything(draft, Status.COMPLETED))

    def test_a_failure_without_a_reason_is_a_server_error(self) -> None:
        error = snapshot(a_draft(), status=Status.FAILED)["error"]
        assert error["code"] == "server_error"
        assert error["message"]

    def test_a_finished_response_that_nobody_counted_has_no_usage(self) -> None:
        assert snapshot(a_draft(), status=Status.COMPLETED, completed_at=1)["usage"] is None


class TestUsage:
    @pytest.mark.parametrize("sent", [{}, {"input_tokens": None, "input_tokens_details": None}])
    def test_every_promised_key_is_there(self, sent: Mapping[str, Any]) -> None:
        assert complete_usage(sent) == {
            "input_tokens": 0,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": 0,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 0,
        }

    def test_the_total_is_the_sum_unless_it_was_counted(self) -> None:
        assert complete_usage(USAGE)["total_tokens"] == 7
        assert complete_usage({**USAGE, "total_tokens": 9})["total_tokens"] == 9

    def test_further_keys_are_kept(self) -> None:
        details = {
            "cached_tokens": 2,
            "cache_write_tokens_details": {"ttl_30m_tokens": 1, "ttl_12h_tokens": 0},
        }
        got = complete_usage({"cost": 0.1, "is_byok": False, **USAGE, "input_tokens_details": details})
        assert (got["cost"], got["is_byok"]) == (0.1, False)
        assert got["input_tokens_details"] == {**details, "cache_write_tokens": 0}
        assert list(got)[:2] == ["input_tokens", "input_tokens_details"]
