"""POST /v1/responses, answered as a stream of events (surface notes §8)."""

import re
from typing import Any

import httpx2
import pytest

from tests.api.asking import CREATE, create, frames, refusal, stream, text
from tests.api.connection import post
from tests.api.upstream import Upstream
from tests.live import LiveServer

TERMINAL = {"response.completed", "response.incomplete", "response.failed"}
WEATHER = {"type": "function", "name": "get_weather"}
SCENARIOS: dict[str, dict[str, Any]] = {
    "text": {"given": "hi"},
    "unicode": {"given": "ü\u2028\U0001f980\0\r\n\x1b"},
    "reasoning": {"given": "::reason let me see\nhi"},
    "calls": {"given": "::call get_weather {}\n::call other x", "tools": [WEATHER]},
    "refusal": {"given": "::refuse I will not."},
    "incomplete": {"given": "::words 40 0", "max_output_tokens": 16},
    "failed": {"given": "::fail server_error"},
    "dropped": {"given": "::drop"},
    "logprobs": {"given": "hi", "top_logprobs": 2},
}
WIRE = {"model": "wire", "input": "hi", "stream": True}
"""Asks for the model that the test's own upstream plays."""

scenarios = pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS.keys())


class TestWire:
    @scenarios
    def test_every_event_is_two_lines_and_a_blank_one(
        self, api: httpx2.Client, scenario: dict[str, Any]
    ) -> None:
        raw = stream(api, **scenario)
        assert b"\r" not in raw
        assert raw.endswith(b"\n\ndata: [DONE]\n\n")
        blocks = raw.removesuffix(b"data: [DONE]\n\n").split(b"\n\n")
        assert blocks.pop() == b""
        for block in blocks:
            assert re.fullmatch(rb"event: [a-z_.]+\ndata: \{.*\}", block)
        for frame in frames(raw):
            assert frame.event == frame.data["type"]

    def test_the_headers_keep_proxies_from_waiting(self, api: httpx2.Client) -> None:
        with api.stream("POST", CREATE, json={"model": "offline", "input": "hi", "stream": True}) as answer:
            headers = answer.headers
            answer.read()
        assert headers["content-type"] == "text/event-stream; charset=utf-8"
        assert headers["cache-control"] == "no-cache"
        assert headers["x-accel-buffering"] == "no"
        assert "content-length" not in headers
        assert headers["x-request-id"].startswith("req_")

    async def test_no_chunk_ends_within_an_event(self, server: LiveServer) -> None:
        body = {"model": "offline", "input": "::words 30 5", "stream": True}
        async with post(server.port, body) as connection:
            await connection.head()
            chunks = await connection.rest()
        assert len(chunks) > 5
        assert all(chunk.endswith(b"\n\n") for chunk in chunks)

    def test_done_can_be_left_out(self, terse: httpx2.Client) -> None:
        raw = stream(terse)
        assert b"[DONE]" not in raw
        assert frames(raw)[-1].event == "response.completed"
        assert raw.endswith(b"}}\n\n")


class TestEvents:
    @scenarios
    def test_they_are_numbered_without_a_gap_and_end_once(
        self, api: httpx2.Client, scenario: dict[str, Any]
    ) -> None:
        events = frames(stream(api, **scenario))
        assert [frame.data["sequence_number"] for frame in events] == list(range(len(events)))
        assert [frame.event for frame in events[:2]] == ["response.created", "response.in_progress"]
        assert [frame.event for frame in events if frame.event in TERMINAL] == [events[-1].event]

    @scenarios
    def test_the_last_one_carries_what_is_stored(self, api: httpx2.Client, scenario: dict[str, Any]) -> None:
        response = frames(stream(api, **scenario))[-1].data["response"]
        include = {"include": "message.output_text.logprobs"}
        assert api.get(f"{CREATE}/{response['id']}", params=include).json() == response

    @scenarios
    def test_finished_items_are_the_output(self, api: httpx2.Client, scenario: dict[str, Any]) -> None:
        events = frames(stream(api, **scenario))
        done = {
            f.data["output_index"]: f.data["item"] for f in events if f.event == "response.output_item.done"
        }
        added = {
            f.data["output_index"]: f.data["item"] for f in events if f.event == "response.output_item.added"
        }
        output = events[-1].data["response"]["output"]
        assert [done[index] for index in sorted(done)] == output
        assert [(added[index]["id"], added[index]["type"]) for index in sorted(added)] == [
            (item["id"], item["type"]) for item in output
        ]

    def test_snapshots_are_of_their_moment(self, api: httpx2.Client) -> None:
        events = frames(stream(api, "hi", service_tier="fast"))
        first, last = events[0].data["response"], events[-1].data["response"]
        assert (first["status"], first["output"], first["usage"], first["service_tier"]) == (
            "in_progress",
            [],
            None,
            "auto",
        )
        assert (first["id"], first["created_at"]) == (last["id"], last["created_at"])
        assert last["service_tier"] != "auto"

    @pytest.mark.parametrize(
        ("line", "code"), [("::fail rate_limit_exceeded", "rate_limit_exceeded"), ("::drop", "server_error")]
    )
    def test_a_failure_midway_ends_the_stream_with_what_there_was(
        self, api: httpx2.Client, line: str, code: str
    ) -> None:
        last = frames(stream(api, f"{line}\nhello"))[-1]
        assert last.event == "response.failed"
        response = last.data["response"]
        assert (response["status"], response["error"]["code"], response["completed_at"]) == (
            "failed",
            code,
            None,
        )
        assert response["error"].keys() == {"code", "message"}
        assert response["output"][-1]["status"] == "incomplete"
        assert text(response)

    def test_a_client_that_comes_back_for_more_chains_on_a_stream(self, api: httpx2.Client) -> None:
        parent = frames(stream(api, "one"))[-1].data["response"]
        assert "3 items" in text(create(api, "two", previous_response_id=parent["id"]))


class TestObfuscation:
    def deltas(self, raw: bytes) -> list[dict[str, Any]]:
        return [frame.data for frame in frames(raw) if frame.event.endswith(".delta")]

    @scenarios
    def test_deltas_and_nothing_else_are_padded(self, api: httpx2.Client, scenario: dict[str, Any]) -> None:
        raw = stream(api, **scenario)
        deltas = self.deltas(raw)
        assert deltas
        assert {(len(delta["delta"]) + len(delta["obfuscation"])) % 16 for delta in deltas} == {0}
        assert sum("obfuscation" in frame.data for frame in frames(raw)) == len(deltas)

    def test_a_request_can_do_without(self, api: httpx2.Client) -> None:
        raw = stream(api, "hi", stream_options={"include_obfuscation": False})
        assert self.deltas(raw)
        assert b"obfuscation" not in raw

    def test_the_setting_is_the_default_and_no_more(self, terse: httpx2.Client) -> None:
        assert b"obfuscation" not in stream(terse)
        assert b"obfuscation" in stream(terse, "hi", stream_options={"include_obfuscation": True})


class TestSilence:
    """Comments keep the connection alive (the server's interval is 0.1 s)."""

    def test_a_model_that_thinks_is_waited_for_with_comments(self, terse: httpx2.Client) -> None:
        before, _, after = stream(terse, "::sleep 0.5").partition(b"event: response.output_item.added")
        assert re.search(rb"\}\}\n\n(: keep-alive\n\n){3,5}$", before)
        assert b"keep-alive" not in after
        assert frames(before + b"event: response.output_item.added" + after)[-1].event == "response.completed"

    async def test_an_upstream_that_is_slow_to_start_is_waited_for_too(
        self, terse_server: LiveServer, upstream: Upstream
    ) -> None:
        upstream.may_begin.clear()
        async with post(terse_server.port, WIRE) as connection:
            await connection.head()
            assert (connection.status, await connection.chunk()) == (200, b": keep-alive\n\n")
            upstream.may_begin.set()
            upstream.may_finish.set()
            raw = b"".join(await connection.rest())
        assert [frames(raw)[at].event for at in (0, -1)] == ["response.created", "response.completed"]

    async def test_a_refusal_after_the_stream_has_begun_travels_in_it(
        self, terse_server: LiveServer, upstream: Upstream
    ) -> None:
        upstream.may_begin.clear()
        upstream.status = 503
        async with post(terse_server.port, WIRE) as connection:
            await connection.head()
            assert await connection.chunk() == b": keep-alive\n\n"
            upstream.may_begin.set()
            (frame,) = frames(b"".join(await connection.rest()))
        assert frame.event == "error"
        assert frame.data["sequence_number"] == 0
        nested = frame.data["error"]
        assert nested.keys() == {"type", "code", "message", "param"}
        flat = ("code", "message", "param")
        assert [frame.data[key] for key in flat] == [nested[key] for key in flat]


class TestErrorsBeforeTheStream:
    """As long as nothing was said, an error is plain HTTP (surface notes §8.5)."""

    @pytest.mark.parametrize(
        ("params", "status"),
        [
            ({"input": 1}, 400),
            ({"model": "nobody"}, 400),
            ({"previous_response_id": "resp_x"}, 400),
            ({"input": [{"id": "msg_x"}]}, 404),
            ({"input": "::nonsense"}, 400),
        ],
    )
    def test_it_is_told_as_json(self, api: httpx2.Client, params: dict[str, Any], status: int) -> None:
        answer = api.post(CREATE, json={"model": "offline", "input": "hi", "stream": True, **params})
        assert refusal(answer).status == status

    @pytest.mark.parametrize("is_streamed", [True, False])
    async def test_so_is_an_upstream_that_refuses(
        self, terse_server: LiveServer, upstream: Upstream, *, is_streamed: bool
    ) -> None:
        upstream.status = 503
        body = {"model": "wire", "input": "hi", "stream": is_streamed, "metadata": {"is": "refused"}}
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{terse_server.port}") as client:
            answer = await client.post(CREATE, json=body)
            assert refusal(answer).type == "server_error"
            assert answer.status_code in {502, 503}
            rows = (await client.get(CREATE)).json()["data"]
        assert {"is": "refused"} not in [row["metadata"] for row in rows]

    async def test_so_is_an_upstream_that_is_not_there(self, terse_server: LiveServer) -> None:
        async with post(terse_server.port, WIRE) as connection:
            await connection.head()
        assert (connection.status, connection.headers["content-type"]) == (502, "application/json")
