"""The official client holds long conversations with a live server, and sees its errors as its own."""

from collections.abc import Generator, Iterable
from itertools import islice
from typing import Any

import pytest
from openai import BadRequestError, NotFoundError, OpenAI
from openai.types.responses import (
    FunctionToolParam,
    Response,
    ResponseCompletedEvent,
    ResponseFunctionToolCall,
    ResponseStreamEvent,
    ResponseTextDeltaEvent,
)
from pydantic import BaseModel, Field

from tests.live import LiveServer
from tests.waiting import PATIENCE_SECONDS

MODEL = "offline"
UNKNOWN = "resp_" + "0" * 32

WEATHER: FunctionToolParam = {
    "type": "function",
    "name": "get_weather",
    "description": "How the weather is in a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}


class City(BaseModel):
    name: str
    degrees: int = Field(ge=-50, le=50)
    districts: list[str]


@pytest.fixture
def client(server: LiveServer) -> Generator[OpenAI]:
    with OpenAI(base_url=server.base_url, api_key="any", timeout=PATIENCE_SECONDS) as client:
        yield client


def say(client: OpenAI, text: str, previous: str | None = None) -> Response:
    return client.responses.create(model=MODEL, input=text, previous_response_id=previous)


def say_streamed(client: OpenAI, text: str, previous: str | None = None) -> Response:
    """The response of the terminal event, once its deltas are known to add up to its text."""
    with client.responses.create(
        model=MODEL, input=text, previous_response_id=previous, stream=True
    ) as stream:
        events = list(stream)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events[:2]] == ["response.created", "response.in_progress"]
    last = events[-1]
    assert isinstance(last, ResponseCompletedEvent)
    assert said(events) == last.response.output_text
    return last.response


def said(events: Iterable[ResponseStreamEvent]) -> str:
    return "".join(event.delta for event in events if isinstance(event, ResponseTextDeltaEvent))


def chain(client: OpenAI, turns: int) -> list[Response]:
    """A conversation of `turns` turns, the user saying "Line 1", "Line 2", and so on."""
    responses: list[Response] = []
    for turn in range(1, turns + 1):
        responses.append(say(client, f"Line {turn}", responses[-1].id if responses else None))
    return responses


def expected(turn: int) -> str:
    """What the offline model says in a turn of such a conversation."""
    items = "1 item" if turn == 1 else f"{2 * turn - 1} items"
    return f'I was given {items}; the first user message was "Line 1", the last was "Line {turn}".'


def texts(items: Iterable[Any]) -> list[str]:
    """The text of each message, whoever said it."""
    return [part.text for item in items for part in item.content]


def script(turns: int) -> list[str]:
    """All texts of the context of the last of some turns, oldest first."""
    return [text for turn in range(1, turns + 1) for text in (f"Line {turn}", expected(turn))][:-1]


class TestChaining:
    def test_fifty_turns_survive_a_restart(self, client: OpenAI, server: LiveServer) -> None:
        last: Response | None = None
        for turn in range(1, 51):
            if turn == 26:
                server.restart()
            ask = say_streamed if turn % 2 else say
            answer = ask(client, f"Line {turn}", last.id if last else None)
            assert answer.output_text == expected(turn)
            assert answer.previous_response_id == (last.id if last else None)
            last = answer

        assert last
        assert texts(client.responses.input_items.list(last.id, limit=100, order="asc")) == script(50)

    def test_input_tokens_grow(self, client: OpenAI) -> None:
        usages = [answer.usage for answer in chain(client, 4)]

        counts = [usage.input_tokens for usage in usages if usage]
        assert len(counts) == 4
        assert counts == sorted(set(counts))

    def test_branches_see_only_their_own_line(self, client: OpenAI) -> None:
        root = chain(client, 10)[-1]
        left, right = (say(client, f"The {side} one", root.id) for side in ("left", "right"))
        left, right = (say(client, "And on", branch.id) for branch in (left, right))

        for branch, own, other in ((left, "left", "right"), (right, "right", "left")):
            assert branch.output_text.startswith("I was given 23 items;")
            context = texts(client.responses.input_items.list(branch.id, limit=100, order="asc"))
            assert context[:19] == script(10)
            assert any(f"The {own} one" in text for text in context)
            assert not any(f"The {other} one" in text for text in context)

    def test_instructions_hold_for_their_own_turn_only(self, client: OpenAI) -> None:
        first = client.responses.create(model=MODEL, input="Hi", instructions="Be brief.")
        second = say(client, "Again", first.id)

        assert (first.instructions, second.instructions) == ("Be brief.", None)


class TestReading:
    def test_a_retrieved_response_is_the_created_one(self, client: OpenAI) -> None:
        for answer in (say(client, "Hi"), say_streamed(client, "Hi")):
            assert client.responses.retrieve(answer.id).to_dict() == answer.to_dict()

    @pytest.mark.parametrize("order", ["asc", "desc"])
    def test_input_items_come_in_pages(self, client: OpenAI, order: Any) -> None:
        last = chain(client, 6)[-1]
        page = client.responses.input_items.list(last.id, limit=4, order=order)
        sizes = [len(page.data)]
        items = list(page.data)
        while page.has_next_page():
            page = page.get_next_page()
            sizes.append(len(page.data))
            items += page.data

        assert sizes == [4, 4, 3]
        assert texts(items) == script(6)[:: 1 if order == "asc" else -1]
        assert len({item.id for item in items if item.type == "message"}) == 11

    def test_input_items_are_newest_first_unless_asked(self, client: OpenAI) -> None:
        last = chain(client, 2)[-1]

        assert texts(client.responses.input_items.list(last.id)) == script(2)[::-1]

    def test_responses_are_listed_newest_first(self, client: OpenAI) -> None:
        made = [answer.id for answer in chain(client, 3)]
        first = client.get("/responses", cast_to=dict[str, Any], options={"params": {"limit": 2}})
        second = client.get(
            "/responses", cast_to=dict[str, Any], options={"params": {"limit": 1, "after": first["last_id"]}}
        )

        assert [entry["id"] for page in (first, second) for entry in page["data"]] == made[::-1]
        assert first["has_more"] is True


class TestDeleting:
    def test_what_is_deleted_is_gone(self, client: OpenAI) -> None:
        answer = say(client, "Hi")
        client.responses.delete(answer.id)

        for read in (client.responses.retrieve, client.responses.delete, client.responses.input_items.list):
            with pytest.raises(NotFoundError):
                read(answer.id)

    def test_descendants_of_the_deleted_go_on(self, client: OpenAI) -> None:
        answers = chain(client, 4)
        client.responses.delete(answers[1].id)

        assert client.responses.retrieve(answers[2].id).output_text == expected(3)
        assert texts(client.responses.input_items.list(answers[3].id, order="asc")) == script(4)
        assert say(client, "Line 5", answers[3].id).output_text == expected(5)

    def test_the_deleted_cannot_be_continued(self, client: OpenAI) -> None:
        answer = say(client, "Hi")
        client.responses.delete(answer.id)

        with pytest.raises(BadRequestError) as refusal:
            say(client, "Go on", answer.id)
        assert refusal.value.code == "previous_response_not_found"
        assert refusal.value.param == "previous_response_id"

    def test_what_is_not_stored_can_be_neither_read_nor_continued(self, client: OpenAI) -> None:
        parent = say(client, "Line 1")
        answer = client.responses.create(
            model=MODEL, input="Line 2", previous_response_id=parent.id, store=False
        )

        assert answer.output_text == expected(2)
        assert answer.to_dict()["store"] is False
        with pytest.raises(NotFoundError):
            client.responses.retrieve(answer.id)
        with pytest.raises(BadRequestError) as refusal:
            say(client, "Go on", answer.id)
        assert refusal.value.code == "previous_response_not_found"


class TestErrors:
    def test_an_unknown_response_is_not_found(self, client: OpenAI) -> None:
        with pytest.raises(NotFoundError) as refusal:
            client.responses.retrieve(UNKNOWN)

        assert refusal.value.request_id
        assert refusal.value.body == {
            "message": f"Response with id '{UNKNOWN}' not found.",
            "type": "invalid_request_error",
            "param": None,
            "code": None,
        }

    @pytest.mark.parametrize("is_streamed", [True, False])
    @pytest.mark.parametrize(
        ("body", "code", "param"),
        [
            ({"previous_response_id": UNKNOWN}, "previous_response_not_found", "previous_response_id"),
            ({"max_output_tokens": 1}, "integer_below_min_value", "max_output_tokens"),
            ({"truncation": "sometimes"}, "invalid_value", "truncation"),
            ({"bogus": 1}, "unknown_parameter", "bogus"),
            ({"input": "::dance"}, "invalid_value", "input"),
            ({"tools": [{"type": "local_shell"}]}, "unsupported_parameter", "tools[0].type"),
        ],
    )
    def test_a_bad_request_names_its_fault(
        self, client: OpenAI, body: dict[str, Any], code: str, param: str, *, is_streamed: bool
    ) -> None:
        with pytest.raises(BadRequestError) as refusal:
            client.responses.create(model=MODEL, input="Hi", stream=is_streamed, extra_body=body)

        assert (refusal.value.code, refusal.value.param) == (code, param)

    def test_a_failing_model_ends_the_stream_with_its_code(self, client: OpenAI) -> None:
        with client.responses.create(model=MODEL, input="::fail server_error", stream=True) as stream:
            last = list(stream)[-1]

        assert last.type == "response.failed"
        assert last.response.status == "failed"
        assert last.response.error
        assert last.response.error.code == "server_error"


class TestStreaming:
    def test_the_helper_gathers_the_final_response(self, client: OpenAI) -> None:
        with client.responses.stream(model=MODEL, input="Hi") as stream:
            snapshots = [event.snapshot for event in stream if event.type == "response.output_text.delta"]
            final = stream.get_final_response()

        assert len(snapshots) > 5
        assert snapshots[-1] == final.output_text
        assert client.responses.retrieve(final.id).output_text == final.output_text

    def test_words_come_as_they_are_said(self, client: OpenAI) -> None:
        with client.responses.create(model=MODEL, input="::words 1000 20", stream=True) as stream:
            deltas = (event for event in stream if event.type == "response.output_text.delta")
            # All thousand words would take twenty seconds.
            assert said(islice(deltas, 3)) == "one two three"

    def test_reasoning_has_a_summary_before_the_answer(self, client: OpenAI) -> None:
        with client.responses.stream(model=MODEL, input="::reason Let me see.\nHi") as stream:
            final = stream.get_final_response()

        thought, answer = final.output
        assert thought.type == "reasoning"
        assert thought.summary[0].text == "Let me see."
        assert thought.encrypted_content
        assert answer.type == "message"


class TestTools:
    @pytest.mark.parametrize("ask", [say, say_streamed])
    def test_a_call_is_answered_in_the_next_turn(self, client: OpenAI, ask: Any) -> None:
        first = client.responses.create(model=MODEL, input="What is the weather in Paris?", tools=[WEATHER])
        (call,) = first.output
        assert isinstance(call, ResponseFunctionToolCall)
        assert call.name == "get_weather"
        output = {"type": "function_call_output", "call_id": call.call_id, "output": "18 degrees"}
        second = ask(client, [output], first.id)

        assert second.output_text.endswith('tool output: "18 degrees".')

    def test_arguments_stream_and_are_parsed(self, client: OpenAI) -> None:
        with client.responses.stream(model=MODEL, input="The weather, please", tools=[WEATHER]) as stream:
            deltas = [
                event.delta for event in stream if event.type == "response.function_call_arguments.delta"
            ]
            call = stream.get_final_response().output[0]

        assert call.type == "function_call"
        assert "".join(deltas) == call.arguments
        assert call.parsed_arguments == {"city": "The weather, please"}

    def test_an_open_call_must_be_answered(self, client: OpenAI) -> None:
        first = client.responses.create(model=MODEL, input="The weather?", tools=[WEATHER])

        with pytest.raises(BadRequestError, match="No tool output found for function call") as refusal:
            say(client, "Never mind", first.id)
        assert refusal.value.param == "input"


class TestOutput:
    def test_a_pydantic_model_comes_back(self, client: OpenAI) -> None:
        parsed = client.responses.parse(model=MODEL, input="Paris", text_format=City).output_parsed

        assert parsed
        assert parsed.name == "Paris"

    def test_a_pydantic_model_comes_back_from_a_stream(self, client: OpenAI) -> None:
        with client.responses.stream(model=MODEL, input="Paris", text_format=City) as stream:
            parsed = stream.get_final_response().output_parsed

        assert parsed
        assert parsed.name == "Paris"

    def test_the_token_limit_ends_it_incomplete(self, client: OpenAI) -> None:
        answer = client.responses.create(model=MODEL, input="::words 100 0", max_output_tokens=16)

        assert answer.status == "incomplete"
        assert answer.incomplete_details
        assert answer.incomplete_details.reason == "max_output_tokens"
        assert len(answer.output_text.split()) == 16
        assert answer.output[-1].to_dict()["status"] == "incomplete"
        assert say(client, "Go on", answer.id).status == "completed"
