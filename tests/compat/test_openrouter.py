"""OpenRouter's own client against this server: answers, streams, costs, tools and errors."""

from collections.abc import Generator
from typing import Any

import pytest
from openrouter import OpenRouter, components, errors

from app.domain.dialects import Dialect
from app.domain.tenancy import Scope
from tests.compat.chat_model import chat_model
from tests.keys import IMPATIENT, new_key
from tests.live import LiveServer

SETTINGS = """
dialect = "openrouter"
default_model = "offline"
tokens_per_minute = 100000

[[upstreams]]
name = "offline"
protocol = "offline"
models = ["offline", "free"]
prices = { "offline" = { input = 4, output = 2000 } }
"""
SAID = 'I was given 1 item; the first user message was "Hello", the last was "Hello".'


@pytest.fixture(scope="module")
def router_server(database_url: str) -> Generator[LiveServer]:
    """A server that speaks to OpenRouter's clients by its settings alone."""
    with LiveServer(database_url, SETTINGS) as live:
        yield live


@pytest.fixture
def client(router_server: LiveServer) -> Generator[OpenRouter]:
    with OpenRouter(api_key="any", server_url=router_server.base_url, timeout_ms=10_000) as client:
        yield client


def ask(client: OpenRouter, **params: Any) -> components.OpenResponsesResult:
    sent: dict[str, Any] = {"model": "offline", "input": "Hello", **params}
    made = client.responses.send(**sent)
    assert isinstance(made, components.OpenResponsesResult)
    return made


def usage_of(made: components.OpenResponsesResult) -> components.Usage:
    assert isinstance(made.usage, components.Usage)
    return made.usage


def test_an_answer_has_its_text_and_its_cost(client: OpenRouter) -> None:
    made = ask(client)
    assert (made.output_text, made.status, made.model) == (SAID, "completed", "offline")
    usage = usage_of(made)
    assert (usage.input_tokens, usage.output_tokens) == (38, 15)
    assert usage.cost == pytest.approx(0.030152)
    assert usage.cost_details
    assert usage.cost_details.upstream_inference_input_cost == pytest.approx(0.000152)
    assert usage.cost_details.upstream_inference_output_cost == pytest.approx(0.03)
    assert usage.is_byok is None


def test_a_cost_that_nobody_told_is_null(client: OpenRouter) -> None:
    usage = usage_of(ask(client, model="free"))
    assert (usage.cost, usage.cost_details, usage.is_byok) == (None, None, None)


def test_without_a_model_there_is_the_default(client: OpenRouter) -> None:
    made = client.responses.send(input="Hello")
    assert isinstance(made, components.OpenResponsesResult)
    assert made.model == "offline"


def test_a_stream_ends_with_the_same(client: OpenRouter) -> None:
    text, last = "", None
    with client.responses.send(model="offline", input="Hello", stream=True) as events:
        for event in events:
            assert not getattr(event, "is_unknown", False)
            text += event.delta if event.type == "response.output_text.delta" else ""
            last = event
    assert isinstance(last, components.StreamEventsResponseCompleted)
    assert text == last.response.output_text == SAID
    assert usage_of(last.response).cost == pytest.approx(0.030152)


def test_tools_are_called_and_answered(client: OpenRouter) -> None:
    tool: Any = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": False}
    made = ask(client, tools=[tool], tool_choice="required")
    [call] = made.output
    assert isinstance(call, components.OutputFunctionCallItem)
    assert made.output_text == ""
    answered: Any = [
        {"role": "user", "content": "Hello"},
        {"type": "function_call", "id": call.id, "call_id": call.call_id, "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": call.call_id, "output": "42"},
    ]
    assert '"42"' in (ask(client, input=answered, tools=[tool]).output_text or "")


def test_a_refusal_is_read_as_theirs(client: OpenRouter) -> None:
    with pytest.raises(errors.BadRequestResponseError) as refused:
        ask(client, model="nobody")
    told = refused.value.data.error
    assert (told.code, told.message) == (400, "The requested model 'nobody' does not exist.")
    assert told.metadata == {"type": "invalid_request_error", "code": "model_not_found", "param": "model"}
    with pytest.raises(errors.BadRequestResponseError):
        ask(client, temperature=9)
    with pytest.raises(errors.NotFoundResponseError):
        ask(client, prompt={"id": "pmpt_none"})
    with pytest.raises(errors.TooManyRequestsResponseError):
        ask(client, input="x" * 1_000_000)


@pytest.mark.parametrize("is_streamed", [False, True], ids=["json", "stream"])
def test_a_cost_that_the_upstream_told_counts(database_url: str, *, is_streamed: bool) -> None:
    """Whatever the price; and the two partial costs have their names of this API."""
    details = {"upstream_inference_prompt_cost": 0.25, "upstream_inference_completions_cost": 0.5}
    with chat_model(cost=0.75, is_byok=True, cost_details=details) as url:
        upstream = SETTINGS.replace(
            '"offline"\nprotocol = "offline"', f'"o"\nprotocol = "chat_completions"\nbase_url = "{url}"'
        )
        with (
            LiveServer(database_url, upstream) as server,
            OpenRouter(api_key="any", server_url=server.base_url) as client,
        ):
            usage = usage_of(last(client) if is_streamed else ask(client))
    assert (usage.cost, usage.is_byok) == (0.75, True)
    assert usage.cost_details
    assert usage.cost_details.upstream_inference_input_cost == 0.25
    assert usage.cost_details.upstream_inference_output_cost == 0.5


def last(client: OpenRouter) -> components.OpenResponsesResult:
    """What a stream ends with."""
    with client.responses.send(model="offline", input="Hello", stream=True) as events:
        *_, end = events
    assert isinstance(end, components.StreamEventsResponseCompleted)
    return end.response


async def test_a_key_may_speak_it_alone(quiet_database_url: str) -> None:
    """On a server of OpenAI's dialect, whose refusal of a wrong key is OpenAI's."""
    key = await new_key(quiet_database_url, "theirs", Scope.WRITE, dialect=Dialect.OPENROUTER)
    with (
        LiveServer(quiet_database_url, environment=IMPATIENT) as server,
        OpenRouter(api_key=key.text, server_url=server.base_url, timeout_ms=10_000) as client,
    ):
        assert ask(client).output_text == SAID
        with pytest.raises(errors.BadRequestResponseError):
            ask(client, model="nobody")
        with (
            OpenRouter(api_key="hf_wrong", server_url=server.base_url) as stranger,
            pytest.raises(errors.UnauthorizedResponseError) as refused,
        ):
            ask(stranger, http_headers={"Holdfast-Dialect": "openrouter"})
        assert refused.value.data.error.code == 401
