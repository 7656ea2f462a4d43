"""The `openai-agents` SDK on the offline model: sessions in a conversation, chains, function tools."""

from collections.abc import AsyncGenerator
from typing import Any

import pytest
from agents import Agent, ModelSettings, OpenAIProvider, RunConfig, Runner, function_tool
from agents.memory import OpenAIConversationsSession
from openai import AsyncOpenAI

from tests.live import LiveServer
from tests.waiting import PATIENCE_SECONDS


@pytest.fixture
async def client(server: LiveServer) -> AsyncGenerator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=server.base_url, api_key="any", timeout=PATIENCE_SECONDS) as client:
        yield client


@pytest.fixture
def config(client: AsyncOpenAI) -> RunConfig:
    """Our server, and nobody else: traces would go to OpenAI."""
    return RunConfig(
        model="offline",
        model_provider=OpenAIProvider(openai_client=client, use_responses=True),
        tracing_disabled=True,
    )


@pytest.fixture
def calls() -> list[str]:
    """The cities that the weather was asked for."""
    return []


@pytest.fixture
def agent(calls: list[str]) -> Agent[None]:
    @function_tool
    def get_weather(city: str) -> str:
        """The weather in a city."""
        calls.append(city)
        return f"Sunny in {city}."

    return Agent(name="Forecaster", instructions="Be brief.", tools=[get_weather])


@pytest.fixture
def session(client: AsyncOpenAI) -> Any:
    """Of no type: the SDK's own does not keep to the SDK's protocol."""
    return OpenAIConversationsSession(openai_client=client)


def asks_for(*cities: str) -> str:
    """A message to which the model answers with calls."""
    lines = [f'::call get_weather {{"city": "{city}"}}' for city in cities]
    return "\n".join(["What is the weather?", *lines])


async def kinds(client: AsyncOpenAI, conversation_id: str) -> list[str]:
    """The types of a conversation's items, or the roles of messages."""
    page = client.conversations.items.list(conversation_id, order="asc", limit=100)
    return [getattr(item, "role", None) or item.type async for item in page]


class TestSession:
    async def test_the_model_is_given_what_was_said_before(
        self, agent: Agent[None], config: RunConfig, session: Any
    ) -> None:
        await Runner.run(agent, "one", session=session, run_config=config)
        second = await Runner.run(agent, "two", session=session, run_config=config)
        expected = 'I was given 3 items; the first user message was "one", the last was "two".'
        assert second.final_output == expected
        assert [item.get("role") for item in await session.get_items()] == ["user", "assistant"] * 2

    async def test_tools_are_called_and_their_outputs_kept(
        self, agent: Agent[None], config: RunConfig, session: Any,
        client: AsyncOpenAI, calls: list[str],
    ) -> None:  # fmt: skip
        result = await Runner.run(agent, asks_for("Oslo", "Rome"), session=session, run_config=config)
        assert calls == ["Oslo", "Rome"]
        assert 'tool outputs: "Sunny in Oslo.", "Sunny in Rome."' in result.final_output
        called = ["function_call"] * 2 + ["function_call_output"] * 2
        assert await kinds(client, session.session_id) == ["user", *called, "assistant"]
        more = await Runner.run(agent, "and now?", session=session, run_config=config)
        assert "I was given 7 items" in more.final_output

    async def test_a_stream_is_kept_too(
        self, agent: Agent[None], config: RunConfig, session: Any,
        client: AsyncOpenAI, calls: list[str],
    ) -> None:  # fmt: skip
        result = Runner.run_streamed(agent, asks_for("Oslo"), session=session, run_config=config)
        heard = [event.type async for event in result.stream_events()]
        assert "run_item_stream_event" in heard
        assert calls == ["Oslo"]
        expected = ["user", "function_call", "function_call_output", "assistant"]
        assert await kinds(client, session.session_id) == expected

    async def test_it_is_taken_up_again_corrected_and_cleared(
        self, agent: Agent[None], config: RunConfig, session: Any, client: AsyncOpenAI
    ) -> None:
        await Runner.run(agent, "one", session=session, run_config=config)
        again: Any = OpenAIConversationsSession(conversation_id=session.session_id, openai_client=client)
        answer, question = await again.pop_item(), await again.pop_item()
        assert (answer["role"], question["role"]) == ("assistant", "user")
        await again.add_items([{"role": "user", "content": f"line {number}"} for number in range(25)])
        assert len(await again.get_items()) == 25
        assert [item["content"][0]["text"] for item in await again.get_items(limit=2)] == [
            "line 23",
            "line 24",
        ]
        told = await Runner.run(agent, "two", session=again, run_config=config)
        assert told.final_output.startswith('I was given 26 items; the first user message was "line 0"')
        await again.clear_session()
        assert await again.get_items() == []


class TestConversationId:
    async def test_the_server_keeps_the_history(
        self, agent: Agent[None], config: RunConfig, client: AsyncOpenAI, calls: list[str]
    ) -> None:
        conversation = await client.conversations.create()
        await Runner.run(agent, asks_for("Oslo"), conversation_id=conversation.id, run_config=config)
        result = await Runner.run(agent, "two", conversation_id=conversation.id, run_config=config)
        assert calls == ["Oslo"]
        assert result.final_output.startswith("I was given 5 items;")
        assert await kinds(client, conversation.id) == [
            "user", "function_call", "function_call_output", "assistant", "user", "assistant",
        ]  # fmt: skip


class TestPreviousResponse:
    async def test_a_chain_goes_through_its_tools(
        self, agent: Agent[None], config: RunConfig, calls: list[str]
    ) -> None:
        first = await Runner.run(agent, "one", run_config=config)
        assert first.last_response_id
        second = await Runner.run(
            agent, asks_for("Oslo"), previous_response_id=first.last_response_id, run_config=config
        )
        assert calls == ["Oslo"]
        assert 'tool output: "Sunny in Oslo."' in second.final_output
        assert second.final_output.startswith("I was given 5 items;")

    async def test_it_finds_the_parents_by_itself(
        self, agent: Agent[None], config: RunConfig, calls: list[str]
    ) -> None:
        result = await Runner.run(
            agent, asks_for("Oslo", "Rome"), auto_previous_response_id=True, run_config=config
        )
        assert calls == ["Oslo", "Rome"]
        assert result.final_output.startswith("I was given 5 items;")

    async def test_one_call_at_a_time(self, agent: Agent[None], config: RunConfig, calls: list[str]) -> None:
        one_by_one = agent.clone(model_settings=ModelSettings(parallel_tool_calls=False))
        result = Runner.run_streamed(
            one_by_one, asks_for("Oslo", "Rome"), auto_previous_response_id=True, run_config=config
        )
        async for _ in result.stream_events():
            pass
        assert calls == ["Oslo", "Rome"]
        assert result.final_output.startswith("I was given 5 items;")
