"""WebSocket mode, one lane: events, state, memory and refusals (surface notes §10, behaviours 136-141)."""

from typing import Any

import httpx2
import orjson
import pytest

from tests.api.asking import CREATE, create, frames, stream, text
from tests.api.conversing import begin, items_of
from tests.api.socketing import check_error, not_found, wired
from tests.live import LiveServer

SHOWN_ONCE = {"id", "created_at", "completed_at", "item_id"}


def stripped(value: Any) -> Any:
    """Without what differs between any two responses."""
    if isinstance(value, dict):
        pairs: dict[str, Any] = value
        return {key: stripped(each) for key, each in pairs.items() if key not in SHOWN_ONCE}
    if isinstance(value, list):
        items: list[Any] = value
        return [stripped(each) for each in items]
    return value


class TestEvents:
    async def test_the_events_are_those_of_a_stream_without_its_framing(
        self, terse_server: LiveServer, terse: httpx2.Client
    ) -> None:
        """No `event:` line, no `[DONE]`, no lane that nobody named (behaviour 139)."""
        async with wired(terse_server) as wire:
            await wire.create("Say hello.")
            over_socket = await wire.rest()
        over_http = [frame.data for frame in frames(stream(terse, "Say hello."))]
        assert stripped(over_socket) == stripped(over_http)

    async def test_nothing_follows_the_terminal_event(self, server: LiveServer) -> None:
        async with wired(server) as wire:
            await wire.create()
            await wire.rest()
            await wire.send(type="response.create")
            assert (await wire.frame())["type"] == "error"

    async def test_what_a_turn_always_is_need_not_be_said(
        self, server: LiveServer, api: httpx2.Client
    ) -> None:
        """`stream`, `stream_options` and `background` are not looked at."""
        async with wired(server) as wire:
            response = await wire.response(stream=False, stream_options={"x": 1}, background=True)
        assert (response["background"], response["status"]) == (False, "completed")
        assert api.get(f"{CREATE}/{response['id']}").json() == response

    async def test_every_parameter_of_a_create_counts(self, server: LiveServer) -> None:
        weather = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": False}
        sent = {
            "instructions": "Be brief.",
            "metadata": {"a": "b"},
            "temperature": 0.5,
            "tools": [weather],
            "tool_choice": "none",
            "max_output_tokens": 100,
            "truncation": "auto",
            "user": "u",
            "parallel_tool_calls": False,
        }
        async with wired(server) as wire:
            response = await wire.response(**sent)
        assert {key: response[key] for key in sent.keys() - {"tools"}} == {
            key: value for key, value in sent.items() if key != "tools"
        }
        assert response["tools"][0]["name"] == "weather"

    async def test_a_model_that_fails_midway_ends_in_an_event(self, server: LiveServer) -> None:
        async with wired(server) as wire:
            await wire.create("::fail server_error\n::words 4 0")
            end = (await wire.rest())[-1]
            assert (end["type"], end["response"]["error"]["code"]) == ("response.failed", "server_error")
            assert (await wire.response())["status"] == "completed"

    async def test_a_conversation_is_appended_to(self, server: LiveServer, api: httpx2.Client) -> None:
        name = begin(api, "first")
        async with wired(server) as wire:
            response = await wire.response("second", conversation=name)
        assert response["conversation"] == {"id": name}
        assert [item["role"] for item in items_of(api, name)] == ["user", "user", "assistant"]


class TestStored:
    async def test_what_is_stored_is_continued_over_either_transport(
        self, server: LiveServer, api: httpx2.Client
    ) -> None:
        first = create(api, "one")
        async with wired(server) as wire:
            second = await wire.response("two", previous_response_id=first["id"])
        third = create(api, "three", previous_response_id=second["id"])
        assert "5 items" in text(third)

    async def test_a_stored_response_outlives_its_connection(self, server: LiveServer) -> None:
        async with wired(server) as wire:
            first = await wire.response("one")
        async with wired(server) as wire:
            assert "3 items" in text(await wire.response("two", previous_response_id=first["id"]))


class TestMemory:
    """`store=false`: only the connection knows (behaviour 136)."""

    async def test_the_connection_continues_what_is_not_stored(
        self, server: LiveServer, api: httpx2.Client
    ) -> None:
        async with wired(server) as wire:
            first = await wire.response("one", store=False)
            second = await wire.response("two", store=False, previous_response_id=first["id"])
            third = await wire.response("three", store=False, previous_response_id=second["id"])
        assert "5 items" in text(third)
        assert third["previous_response_id"] == second["id"]
        assert api.get(f"{CREATE}/{third['id']}").status_code == 404

    async def test_another_connection_does_not(self, server: LiveServer) -> None:
        async with wired(server) as wire:
            first = await wire.response("one", store=False)
            async with wired(server) as other:
                refused = await other.refused(previous_response_id=first["id"])
                assert (refused["status"], refused["error"]) == (400, not_found(first["id"]))
                # The socket stays usable, and the first one has lost nothing.
                assert (await other.response())["status"] == "completed"
            assert "3 items" in text(await wire.response("two", previous_response_id=first["id"]))

    @pytest.mark.parametrize("is_stored", [True, False])
    async def test_nothing_new_needs_to_be_said(self, server: LiveServer, *, is_stored: bool) -> None:
        async with wired(server) as wire:
            first = await wire.response("one", store=False)
            again = await wire.response([], store=is_stored, previous_response_id=first["id"])
            assert again["status"] == "completed"

    async def test_only_the_latest_of_a_lane_is_remembered(self, server: LiveServer) -> None:
        async with wired(server) as wire:
            first = await wire.response("one", store=False)
            await wire.response("two", store=False)
            assert (await wire.refused(previous_response_id=first["id"]))["error"] == not_found(first["id"])

    async def test_a_stored_continuation_takes_in_what_no_store_has(
        self, server: LiveServer, api: httpx2.Client
    ) -> None:
        """Whoever continues it elsewhere must miss nothing."""
        root = create(api, "root")
        async with wired(server) as wire:
            first = await wire.response("one", store=False, previous_response_id=root["id"])
            second = await wire.response("two", previous_response_id=first["id"])
        assert "5 items" in text(second)
        third = create(api, "three", previous_response_id=second["id"])
        assert "7 items" in text(third)
        listed = api.get(f"{CREATE}/{second['id']}/input_items", params={"order": "asc"}).json()["data"]
        assert [item["role"] for item in listed] == ["user", "assistant"] * 2 + ["user"]
        for item in (*listed, *second["output"]):
            again = create(api, [{"type": "item_reference", "id": item["id"]}, said("x")])
            assert again["status"] == "completed"

    async def test_a_tool_call_is_answered_from_memory(self, server: LiveServer) -> None:
        tools = [{"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": False}]
        async with wired(server) as wire:
            first = await wire.response("::call f {}", store=False, tools=tools)
            call_id = first["output"][-1]["call_id"]
            silent = await wire.refused("no output", store=False, previous_response_id=first["id"])
            assert silent["error"]["message"] == f"No tool output found for function call {call_id}."
            # That was a failed continuation in its lane: the parent is gone.
            output = [{"type": "function_call_output", "call_id": call_id, "output": "1"}]
            refused = await wire.refused(output, store=False, previous_response_id=first["id"])
            assert refused["error"] == not_found(first["id"])
            first = await wire.response("::call f {}", store=False, tools=tools)
            output[0]["call_id"] = first["output"][-1]["call_id"]
            for is_stored in (False, True):
                answered = await wire.response(output, store=is_stored, previous_response_id=first["id"])
                assert answered["status"] == "completed"
                first = await wire.response("::call f {}", store=False, tools=tools)
                output[0]["call_id"] = first["output"][-1]["call_id"]

    async def test_a_memory_that_is_full_forgets_what_is_oldest(self, database_url: str) -> None:
        environment = {"HOLDFAST_WEBSOCKET_MEMORY_BYTES": "3000"}
        with LiveServer(database_url, environment=environment) as server:
            async with wired(server) as wire:
                first = await wire.response("a" * 900, store=False, generate=False, stream_id="a")
                second = await wire.response("b" * 900, store=False, generate=False, stream_id="b")
                await wire.response("c" * 900, store=False, generate=False, stream_id="c")
                for name, is_known in ((first["id"], False), (second["id"], True)):
                    await wire.create(previous_response_id=name)
                    assert ((await wire.rest())[-1]["type"] != "error") is is_known

    async def test_so_do_all_connections_together(self, database_url: str) -> None:
        """Whoever opens many holds no more for it."""
        environment = {"HOLDFAST_WEBSOCKET_TOTAL_MEMORY_BYTES": "3000"}
        with LiveServer(database_url, environment=environment) as server:
            async with wired(server) as first, wired(server) as second, wired(server) as third:
                wires, names = (first, second, third), list[str]()
                for wire in wires:
                    held = await wire.response("a" * 900, store=False, generate=False)
                    names.append(held["id"])
                known = list[bool]()
                for wire, name in zip(wires, names, strict=True):
                    await wire.create("on", previous_response_id=name)
                    known.append((await wire.rest())[-1]["type"] != "error")
        assert known == [False, True, True]


class TestEviction:
    """A continuation that fails costs its parent its place, in its own lane (behaviour 137)."""

    BAD = {"temperature": 9}  # noqa: RUF012 - never changed

    @pytest.mark.parametrize("given", ["refused", "failed"])
    async def test_in_the_lane_it_is_forgotten(self, server: LiveServer, given: str) -> None:
        async with wired(server) as wire:
            first = await wire.response("one", store=False)
            wrong = self.BAD if given == "refused" else {"input": "::fail server_error"}
            await wire.create(**{"store": False, "previous_response_id": first["id"], **wrong})
            assert (await wire.rest())[-1]["type"] in {"error", "response.failed"}
            assert (await wire.refused(previous_response_id=first["id"]))["error"] == not_found(first["id"])
            assert (await wire.response())["status"] == "completed"

    @pytest.mark.parametrize("wrong", [{"generate": "no"}, {"idempotency_key": 7}])
    async def test_whatever_is_wrong_with_it(self, server: LiveServer, wrong: dict[str, Any]) -> None:
        async with wired(server) as wire:
            first = await wire.response("one", store=False)
            assert (await wire.refused(previous_response_id=first["id"], **wrong))["status"] == 400
            assert (await wire.refused(previous_response_id=first["id"]))["error"] == not_found(first["id"])

    async def test_so_it_is_where_the_lane_is_full(self, server: LiveServer) -> None:
        async with wired(server) as wire:
            first = await wire.response("one", store=False, stream_id="full")
            await wire.create("::words 1000 60", stream_id="full")
            await wire.until("response.created", "full")
            for _ in range(65):
                await wire.create("on", stream_id="full", previous_response_id=first["id"])
            while (told := await wire.next("full"))["type"] != "error":
                pass
            assert told["error"]["code"] == "websocket_queue_limit_reached"
            assert (await wire.refused(previous_response_id=first["id"]))["error"] == not_found(first["id"])

    async def test_a_fork_that_fails_elsewhere_costs_nothing(self, server: LiveServer) -> None:
        async with wired(server) as wire:
            first = await wire.response("one", store=False)
            await wire.refused(stream_id="fork", previous_response_id=first["id"], **self.BAD)
            assert "3 items" in text(await wire.response("two", previous_response_id=first["id"]))

    async def test_what_is_stored_is_read_from_the_store_again(self, server: LiveServer) -> None:
        async with wired(server) as wire:
            first = await wire.response("one")
            await wire.refused(previous_response_id=first["id"], **self.BAD)
            assert "3 items" in text(await wire.response("two", previous_response_id=first["id"]))


class TestWithoutGenerating:
    """`generate: false` and `prewarm` (behaviour 140)."""

    @pytest.mark.parametrize("is_stored", [True, False])
    @pytest.mark.parametrize("how", [{"generate": False}, {"prompt_cache_options": {"prewarm": True}}])
    async def test_the_input_is_held_for_whoever_continues_it(
        self, server: LiveServer, how: dict[str, Any], *, is_stored: bool
    ) -> None:
        async with wired(server) as wire:
            await wire.create("remember me", store=is_stored, **how)
            told = await wire.rest()
            assert [frame["type"] for frame in told] == [
                "response.created",
                "response.in_progress",
                "response.completed",
            ]
            held = told[-1]["response"]
            assert (held["status"], held["output"], held["usage"]["total_tokens"]) == ("completed", [], 0)
            assert "remember me" in text(await wire.response("now", previous_response_id=held["id"]))

    async def test_nothing_needs_to_be_given(self, server: LiveServer) -> None:
        async with wired(server) as wire:
            for given in ({}, {"input": []}):
                await wire.send(type="response.create", model="offline", generate=False, **given)
                held = (await wire.rest())[-1]["response"]
                assert (await wire.response(previous_response_id=held["id"]))["status"] == "completed"

    async def test_a_value_that_is_no_boolean_is_refused(self, server: LiveServer) -> None:
        async with wired(server) as wire:
            refused = await wire.refused(generate="no")
            assert (refused["error"]["code"], refused["error"]["param"]) == ("invalid_type", "generate")
            assert (await wire.response(generate=None))["output"]


class TestRefusals:
    @pytest.mark.parametrize(
        ("frame", "code", "param"),
        [
            ("{", "invalid_json", None),
            ("[" * 300 + "]" * 300, "invalid_json", None),
            ("[]", "invalid_type", None),
            ("{}", "missing_required_parameter", "type"),
            ('{"type":["response.create"]}', "invalid_type", "type"),
            ('{"type":"response.cancel"}', "invalid_value", "type"),
            ('{"type":"response.create"}', "missing_required_parameter", "model"),
            ('{"type":"response.create","model":"offline"}', "missing_required_parameter", "input"),
            ('{"type":"response.create","model":"none","input":"x"}', "model_not_found", "model"),
            ('{"type":"response.create","model":"offline","input":"x","reply":1}', "unknown_parameter", "reply"),
            ('{"type":"response.create","response":{"model":"offline"}}', "missing_required_parameter", "model"),
            ('{"type":"response.create","model":"offline","input":"x","previous_response_id":7}', "invalid_type", "previous_response_id"),
            (b'{"type":"response.create"}', "invalid_json", None),
        ],
    )  # fmt: skip
    async def test_an_error_is_a_frame_and_the_socket_goes_on(
        self, server: LiveServer, frame: str | bytes, code: str, param: str | None
    ) -> None:
        async with wired(server) as wire:
            await wire.socket.send(frame)
            [told] = await wire.rest()
            check_error(told)
            assert (told["status"], told["error"]["code"], told["error"]["param"]) == (400, code, param)
            assert told["error"]["type"] == "invalid_request_error"
            assert (await wire.response())["status"] == "completed"

    async def test_an_error_without_a_code_is_given_one(self, server: LiveServer) -> None:
        async with wired(server) as wire:
            refused = await wire.refused(conversation="conv_" + "0" * 32)
            assert (refused["status"], refused["error"]["code"]) == (404, "invalid_request_error")

    async def test_steering_is_refused_in_its_own_words(self, server: LiveServer) -> None:
        async with wired(server) as wire:
            asked = {"previous_response_id": "resp_1", "input": [{"role": "user", "content": "x"}]}
            await wire.send(type="response.steer", **asked)
            told = await wire.frame()
            assert (told["type"], told["steer"]) == ("response.steer.failed", asked)
            assert (told["error"]["code"], told["error"]["type"]) == (
                "steering_not_supported",
                "invalid_request_error",
            )
            assert isinstance(told["sequence_number"], int)
            assert "stream_id" not in told

    async def test_a_steer_has_three_keys(self, server: LiveServer) -> None:
        async with wired(server) as wire:
            for frame, param in (
                ({"input": "x"}, "previous_response_id"),
                ({"previous_response_id": "r"}, "input"),
                ({"previous_response_id": 1, "input": "x"}, "previous_response_id"),
                ({"previous_response_id": "r", "input": "x", "stream_id": "a"}, "stream_id"),
            ):
                await wire.send(type="response.steer", **frame)
                told = await wire.frame()
                check_error(told)
                assert told["error"]["param"] == param


class TestIdempotency:
    """`idempotency_key` in the frame is what the header is over HTTP."""

    async def test_a_create_sent_again_is_answered_the_same(
        self, server: LiveServer, api: httpx2.Client
    ) -> None:
        key = {"idempotency_key": "over-a-socket-1"}
        async with wired(server) as wire:
            first = await wire.response("once", **key)
        async with wired(server) as wire:
            assert await wire.response("once", **key) == first
            refused = await wire.refused("twice", **key)
            assert refused["error"]["code"] == "idempotency_key_reused"
        # The same request over HTTP is the same request.
        body = {"model": "offline", "input": "once", "stream": True}
        answer = api.post(CREATE, json=body, headers={"Idempotency-Key": "over-a-socket-1"})
        assert frames(answer.content)[-1].data["response"] == first

    @pytest.mark.parametrize("key", ["", "ü", "x" * 256, 7])
    async def test_a_malformed_key_is_refused(self, server: LiveServer, key: Any) -> None:
        async with wired(server) as wire:
            assert (await wire.refused(idempotency_key=key))["error"]["param"] == "idempotency_key"


def said(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


async def test_a_long_frame_is_a_frame(server: LiveServer) -> None:
    """In fragments too, which need not end where characters do."""
    async with wired(server) as wire:
        body = orjson.dumps({"type": "response.create", "model": "offline", "input": "ü" * 200_000}).decode()
        await wire.socket.send(body[index : index + 1000] for index in range(0, len(body), 1000))
        assert (await wire.rest())[-1]["type"] == "response.completed"
