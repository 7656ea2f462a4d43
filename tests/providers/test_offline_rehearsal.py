"""Rehearsal lines: people try out slow, failing and tool-calling models without one."""

import asyncio
from base64 import b64decode
from contextlib import aclosing
from itertools import pairwise

import pytest

from app.errors import InvalidRequest, UpstreamError
from app.providers.base import Delta, Finished, ItemFinished, PartFinished, Started, TextDelta
from app.providers.offline import Offline
from tests.providers.offline_play import (
    CLOCK,
    SHELL,
    WEATHER,
    Item,
    context,
    outcome,
    output_of,
    play,
    user,
)


async def seconds_of(text: str, *, is_streamed: bool) -> float:
    loop = asyncio.get_running_loop()
    before = loop.time()
    await play(context(user(text), is_streamed=is_streamed))
    return loop.time() - before


async def until_it_dies(*items: Item, is_streamed: bool) -> list[Delta]:
    """What is heard before the connection to the model is lost."""
    heard: list[Delta] = []

    async def listen() -> None:
        async for delta in Offline().stream(context(*items, is_streamed=is_streamed)):
            heard.append(delta)  # noqa: PERF401 - a comprehension would lose what came before the error

    with pytest.raises(UpstreamError) as death:
        await listen()
    assert death.value.status == 502
    return heard


class TestSleep:
    @pytest.mark.parametrize("is_streamed", [True, False])
    async def test_waits_before_the_first_token_but_after_the_start(self, *, is_streamed: bool) -> None:
        loop = asyncio.get_running_loop()
        async with aclosing(
            Offline().stream(context(user("::sleep 0.05"), is_streamed=is_streamed))
        ) as deltas:
            started = loop.time()
            assert isinstance(await anext(deltas), Started)
            assert loop.time() - started < 0.04
            await anext(deltas)
            assert loop.time() - started >= 0.05

    async def test_can_be_interrupted(self) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(play(context(user("::sleep 3600"))), 0.01)


class TestWords:
    async def test_says_exactly_as_many(self) -> None:
        said = await outcome(user("::words 25 0\nHello"))

        assert len(said.words) == 25
        assert (said.finished.usage or {})["output_tokens"] == 25

    @pytest.mark.parametrize("is_streamed", [True, False])
    async def test_takes_its_time(self, *, is_streamed: bool) -> None:
        # Four gaps between five words.
        assert 0.04 <= await seconds_of("::words 5 10", is_streamed=is_streamed) < 0.5

    async def test_the_words_come_one_after_the_other(self) -> None:
        loop = asyncio.get_running_loop()
        times = [
            loop.time()
            async for delta in Offline().stream(context(user("::words 3 10")))
            if isinstance(delta, TextDelta)
        ]

        assert all(later - earlier >= 0.009 for earlier, later in pairwise(times))

    async def test_many_words_let_others_have_their_turn(self) -> None:
        turns = 0

        async def count_turns() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        async with asyncio.TaskGroup() as group:
            other = group.create_task(count_turns())
            await play(context(user("::words 3000 0")))
            other.cancel()

        assert turns >= 10

    async def test_are_cut_by_max_output_tokens(self) -> None:
        said = await outcome(user("::words 100 0"), max_output_tokens=16)

        assert len(said.words) == 16
        assert said.finished.reason == "max_output_tokens"


class TestCall:
    async def test_calls_a_tool_that_nobody_declared_with_the_input_as_it_stands(self) -> None:
        said = await outcome(user('::call look_up {"id":  7}'))

        (call,) = said.calls
        assert call.items() >= {"type": "function_call", "name": "look_up", "arguments": '{"id":  7}'}.items()

    async def test_several_are_parallel_calls(self) -> None:
        said = await outcome(user('::call a {"n":1}\n::call a {"n":2}\n::call b'))

        assert [(call["name"], call["arguments"]) for call in said.calls] == [
            ("a", '{"n":1}'),
            ("a", '{"n":2}'),
            ("b", "{}"),
        ]
        assert len({call["call_id"] for call in said.calls}) == 3

    async def test_a_custom_tool_gets_a_custom_call(self) -> None:
        said = await outcome(user("::call runShell ls -l"), tools=[SHELL])

        assert said.calls[0].items() >= {"type": "custom_tool_call", "input": "ls -l"}.items()

    async def test_answers_in_text_once_all_are_answered(self) -> None:
        asked = user('::call get_weather {"city":"Paris"}')
        call = (await outcome(asked, tools=[WEATHER])).calls[0]
        said = await outcome(asked, call, output_of(call, "18 degrees"), tools=[WEATHER])

        assert said.calls == []
        assert said.text.endswith('tool output: "18 degrees".')

    async def test_follow_each_other_when_they_may_not_be_parallel(self) -> None:
        items = [user('::call a {"n":1}\n::call a {"n":1}\n::call b {}')]
        names: list[str] = []
        while calls := (await outcome(*items, parallel_tool_calls=False)).calls:
            (call,) = calls
            names.append(call["name"])
            items += [call, output_of(call, "done")]

        assert names == ["a", "a", "b"]

    async def test_tool_choice_holds(self) -> None:
        asked = user("::call now\n::call get_weather")
        none = await outcome(asked, tools=[WEATHER, CLOCK], tool_choice="none")
        only = await outcome(
            asked, tools=[WEATHER, CLOCK], tool_choice={"type": "function", "name": "get_weather"}
        )

        assert none.calls == []
        assert [call["name"] for call in only.calls] == ["get_weather"]

    async def test_the_line_itself_calls_no_other_tool(self) -> None:
        tool = CLOCK | {"name": "sing", "description": "Sing words"}

        assert (await outcome(user("::words 3 0"), tools=[tool])).calls == []


class TestReason:
    async def test_thinks_before_the_answer(self) -> None:
        said = await outcome(user("::reason It must be late.\nHello"))

        thought, answer = said.items
        assert thought["type"] == "reasoning"
        assert thought["summary"] == [{"type": "summary_text", "text": "It must be late."}]
        assert b64decode(thought["encrypted_content"]) == b"It must be late."
        assert answer["type"] == "message"
        assert (said.finished.usage or {})["output_tokens_details"] == {"reasoning_tokens": 4}

    async def test_thinks_before_calls_too(self) -> None:
        said = await outcome(user("::reason hm\n::call f"))

        assert [item["type"] for item in said.items] == ["reasoning", "function_call"]


class TestRefuse:
    async def test_gives_a_refusal(self) -> None:
        said = await outcome(user("::refuse I will not."), tools=[WEATHER], tool_choice="required")

        assert said.items[0]["content"] == [{"type": "refusal", "refusal": "I will not."}]
        assert said.finished.status == "completed"


class TestFail:
    async def test_fails_halfway_with_the_code(self) -> None:
        full = await outcome(user("::words 10 0"))
        said = await outcome(user("::words 10 0\n::fail rate_limit_exceeded"))

        assert said.finished.status == "failed"
        assert (said.finished.error or {})["code"] == "rate_limit_exceeded"
        assert (said.finished.error or {})["message"]
        assert said.words == full.words[:5]
        assert said.items[-1]["status"] == "incomplete"

    async def test_what_came_before_is_whole(self) -> None:
        said = await outcome(user("::reason one two\n::words 8 0\n::fail server_error"))

        assert [item["status"] for item in said.items] == ["completed", "incomplete"]

    async def test_a_smaller_token_limit_comes_first(self) -> None:
        said = await outcome(user("::words 100 0\n::fail server_error"), max_output_tokens=16)

        assert said.finished.status == "incomplete"


class TestDrop:
    async def test_dies_halfway(self) -> None:
        heard = await until_it_dies(user("::words 10 0\n::drop"), is_streamed=True)

        assert sum(isinstance(delta, TextDelta) for delta in heard) == 5
        assert not any(isinstance(delta, PartFinished | ItemFinished | Finished) for delta in heard)

    async def test_reports_only_whole_items_to_one_who_does_not_listen(self) -> None:
        heard = await until_it_dies(user("::reason a b\n::words 4 0\n::drop"), is_streamed=False)

        assert [type(delta) for delta in heard] == [Started, ItemFinished]

    async def test_takes_as_long_as_the_words_that_were_said(self) -> None:
        loop = asyncio.get_running_loop()
        before = loop.time()
        await until_it_dies(user("::words 10 10\n::drop"), is_streamed=False)

        assert loop.time() - before >= 0.04


class TestLines:
    @pytest.mark.parametrize(
        "line",
        [
            "::",
            "::dance",
            "::Sleep 1",
            "::sleep",
            "::sleep soon",
            "::sleep -1",
            "::sleep nan",
            "::sleep 3601",
            "::sleep 1 2",
            "::words 3",
            "::words 0 0",
            "::words 100001 0",
            "::words 3.5 0",
            "::words 3 -1",
            "::words 3 3600001",
            "::call",
            "::reason",
            "::refuse",
            "::fail",
            "::fail two words",
            "::drop now",
            "::sleep 1\n::sleep 1",
            "::drop\n::drop",
        ],
    )
    async def test_a_malformed_one_is_refused_before_the_start_and_named(self, line: str) -> None:
        with pytest.raises(InvalidRequest) as refusal:
            await anext(Offline().stream(context(user(f"Hello\n{line}"))))

        assert refusal.value.param == "input"
        assert repr(line.rpartition("\n")[2]) in refusal.value.message

    @pytest.mark.parametrize("text", ["say ::drop", " ::drop", "std::vector\nfoo::bar"])
    async def test_only_lines_that_begin_with_it_count(self, text: str) -> None:
        assert (await outcome(user(text))).finished.status == "completed"

    async def test_only_the_last_user_message_is_obeyed(self) -> None:
        assert (await outcome(user("::fail x"), user("Hello"))).finished.status == "completed"

    async def test_windows_line_ends_are_no_part_of_a_line(self) -> None:
        said = await outcome(user("::reason hm\r\n::words 3 0\r\nHello"))

        assert said.items[0]["summary"][0]["text"] == "hm"
        assert len(said.words) == 4

    async def test_lines_work_together(self) -> None:
        said = await outcome(user("::sleep 0.01\n::reason hm\n::words 4 1\n::fail server_error"))

        assert [item["type"] for item in said.items] == ["reasoning", "message"]
        assert said.finished.status == "failed"
