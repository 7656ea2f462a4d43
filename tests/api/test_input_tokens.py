"""Counting what a create would give to the model: near the truth, and refusing what a create refuses."""

from typing import Any

import httpx2
import openai
import orjson
import pytest

from tests.api.asking import CREATE, MISSING, create, invalid, refusal
from tests.api.conversing import NOBODY, add, begin, called, gave, said
from tests.api.test_contexts import COUNT, TOOL, chain, context, count
from tests.live import LiveServer

SCHEMA = {"type": "json_schema", "name": "n", "schema": {"type": "object", "properties": {}}}


class TestCounted:
    @pytest.mark.parametrize("body", [b"", b"{}", b'{"input":null,"model":null}', b'{"input":[]}'])
    def test_nothing_has_to_be_said(self, api: httpx2.Client, body: bytes) -> None:
        """Of nothing there are no tokens."""
        assert api.post(COUNT, content=body).json()["input_tokens"] == 0

    def test_every_parameter_may_be_null(self, api: httpx2.Client) -> None:
        """A null is as if it were not there."""
        names = (
            *("model", "previous_response_id", "conversation", "instructions", "tools", "tool_choice"),
            *("text", "reasoning", "truncation", "parallel_tool_calls", "personality"),
        )
        assert count(api, input="hi", **dict.fromkeys(names)) == count(api, input="hi")

    def test_what_gives_the_model_nothing_to_read_counts_nothing(self, api: httpx2.Client) -> None:
        """The choice of a tool, the effort and the style are no tokens of the input."""
        more = {
            "reasoning": {"effort": "low"},
            "personality": "friendly",
            "parallel_tool_calls": False,
            "tool_choice": "auto",
            "text": {"verbosity": "low"},
        }
        assert count(api, input="hi", **more) == count(api, input="hi")

    @pytest.mark.parametrize(
        ("more", "read"),
        [
            ({"instructions": "Be brief."}, "Be brief."),
            ({"tools": [TOOL]}, [TOOL]),
            ({"text": {"format": SCHEMA}}, SCHEMA),
        ],
    )
    def test_what_stands_beside_the_items_counts(
        self, api: httpx2.Client, more: dict[str, Any], read: Any
    ) -> None:
        """Instructions, tools and a schema count a quarter of their bytes each."""
        added = -(-len(orjson.dumps(read)) // 4)
        assert count(api, input="hi", **more) == count(api, input="hi") + added

    @pytest.mark.parametrize(
        "more",
        [
            {},
            {"instructions": "Be brief. " * 20},
            {"tools": [{**TOOL, "description": "Look things up. " * 20}]},
            {"text": {"format": {**SCHEMA, "description": "What was found. " * 20}}},
        ],
    )
    def test_it_is_near_what_is_used(self, api: httpx2.Client, more: dict[str, Any]) -> None:
        """Next to what the model says that it read, the estimate is off by a rounding of each part."""
        parent, name = chain(api, 4)[-1], begin(api, "a", "b")
        for state in ({}, {"previous_response_id": parent["id"]}, {"conversation": name}):
            counted = count(api, model="offline", input="hi", **state, **more)
            used = create(api, "hi", **state, **more)["usage"]["input_tokens"]
            assert abs(counted - used) <= 6

    def test_an_image_is_used_as_it_is_counted(self, api: httpx2.Client) -> None:
        """By what it is, not by its bytes."""
        image = {"type": "input_image", "image_url": f"data:image/png;base64,{'A' * 40_000}"}
        given = [{"role": "user", "content": [image]}]
        used = create(api, given)["usage"]["input_tokens"]
        assert abs(count(api, input=given) - used) <= 6

    def test_interrupted_results_count(self, api: httpx2.Client) -> None:
        """Where open calls are to be filled in, what fills them in is counted."""
        name = begin(api, "a")
        add(api, name, called())
        headers = {"Holdfast-On-Open-Tool-Calls": "interrupt"}
        answer = api.post(COUNT, json={"conversation": name, "input": "b"}, headers=headers)
        assert answer.json()["input_tokens"] > context(api, name)["input_tokens"] + count(api, input="b")

    def test_the_official_client_asks(self, server: LiveServer) -> None:
        """The SDK's own call works, with nothing and with much."""
        client = openai.OpenAI(base_url=server.base_url, api_key="none")
        assert client.responses.input_tokens.count().input_tokens == 0
        counted = client.responses.input_tokens.count(
            model="offline", input="hi", instructions="Be brief.", truncation="auto", personality="friendly"
        )
        assert counted.object == "response.input_tokens"
        assert counted.input_tokens > 0


class TestCountRefused:
    @pytest.mark.parametrize(
        "body",
        [
            {"previous_response_id": MISSING},
            {"conversation": NOBODY},
            {"conversation": NOBODY, "previous_response_id": MISSING},
            {"input": [{"type": "item_reference", "id": f"msg_{'0' * 36}"}]},
            {"input": [called()]},
            {"input": [gave()]},
            {"input": [said("x", id="msg_1"), said("x", id="msg_1")]},
            {"input": 1},
            {"tools": [{"type": "function"}]},
            {"text": {"format": {"type": "yaml"}}},
            {"truncation": "some"},
            {"conversation": 1},
        ],
    )
    def test_it_refuses_what_create_refuses(self, api: httpx2.Client, body: dict[str, Any]) -> None:
        """A state or a shape that a create stumbles over is told in the same words."""
        whole = {"model": "offline", "input": "hi", **body}
        told = refusal(api.post(COUNT, json=whole))
        assert told == refusal(api.post(CREATE, json=whole))
        assert told.status in {400, 404}

    def test_open_calls_of_a_conversation_are_refused(self, api: httpx2.Client) -> None:
        """A next turn that leaves a call without output is none, so it is not counted."""
        name = begin(api, "a")
        add(api, name, called())
        words = "No tool output found for function call call_1."
        told = refusal(api.post(COUNT, json={"conversation": name, "input": "b"}))
        assert told == invalid(words, code=None, param="input")

    def test_what_is_no_parameter(self, api: httpx2.Client) -> None:
        """A parameter of `create` alone is unknown here."""
        told = refusal(api.post(COUNT, json={"store": False}))
        assert told == invalid("Unknown parameter: 'store'.", code="unknown_parameter", param="store")

    @pytest.mark.parametrize(
        ("personality", "code"), [("x" * 65, "string_above_max_length"), (1, "invalid_type")]
    )
    def test_a_personality_has_bounds(self, api: httpx2.Client, personality: Any, code: str) -> None:
        """It is a short text, though not only of those known today."""
        assert count(api, personality="x" * 64) == 0
        told = refusal(api.post(COUNT, json={"personality": personality}))
        assert (told.status, told.code, told.param) == (400, code, "personality")

    def test_what_is_no_object(self, api: httpx2.Client) -> None:
        """The body is one JSON object, if there is one."""
        assert refusal(api.post(COUNT, content=b"[1]")).status == 400
        assert refusal(api.post(COUNT, content=b"{")).code == "invalid_json"
