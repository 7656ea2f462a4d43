"""The offline model: what it answers, calls, counts and refuses."""

import asyncio
import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from app.errors import InvalidRequest
from app.providers.base import PartFinished, Provider, TextDelta
from app.providers.offline import Offline
from tests.providers.offline_play import (
    CLOCK,
    SHELL,
    WEATHER,
    context,
    message,
    outcome,
    output_of,
    play,
    user,
)

CITY_SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "degrees": {"type": "integer", "minimum": -50}},
    "required": ["city", "degrees"],
    "additionalProperties": False,
}
CITY_FORMAT = {"format": {"type": "json_schema", "name": "city", "schema": CITY_SCHEMA}}


class TestAnswer:
    async def test_tells_the_count_and_the_first_and_last_user_message(self) -> None:
        said = await outcome(user("Hello"), message("assistant", "Hi"), user("And now?"))

        assert said.text == (
            'I was given 3 items; the first user message was "Hello", the last was "And now?".'
        )
        assert said.finished.status == "completed"
        assert said.items[-1]["status"] == "completed"

    async def test_speaks_of_one_item_in_the_singular(self) -> None:
        assert (await outcome(user("Hi"))).text.startswith("I was given 1 item; ")

    async def test_says_so_when_there_is_no_user_message(self) -> None:
        assert (await outcome(message("developer", "Be brief"))).text == (
            "I was given 1 item and no user message."
        )
        assert (await outcome()).text == "I was given 0 items and no user message."

    async def test_stays_on_one_line_and_quotes_only_the_beginning_of_a_long_message(self) -> None:
        said = await outcome(user("line\n" * 1000))

        assert "\n" not in said.text
        assert said.text.count("line") == 80

    async def test_names_what_is_not_text(self) -> None:
        item = {"role": "user", "content": [{"type": "input_image", "image_url": "data:,"}]}

        assert '"[input_image]"' in (await outcome(item)).text

    async def test_reads_content_that_is_a_bare_string(self) -> None:
        assert '"Hello"' in (await outcome({"role": "user", "content": "Hello"})).text

    async def test_mentions_the_tool_outputs_at_the_end_of_the_context(self) -> None:
        call = {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"}
        parts = [{"type": "input_text", "text": "two"}]

        one = await outcome(user("Go"), call, output_of(call, "18 degrees"))
        two = await outcome(user("Go"), output_of(call, "one"), output_of(call, parts))
        none = await outcome(user("Go"), call, output_of(call, "18 degrees"), user("Thanks"))

        assert one.text.endswith('; tool output: "18 degrees".')
        assert two.text.endswith('; tool outputs: "one", "two".')
        assert "tool output" not in none.text

    async def test_streams_word_by_word(self) -> None:
        said = await outcome(user("Hello"))

        assert said.words[:4] == ["I", " was", " given", " 1"]

    async def test_is_deterministic(self) -> None:
        asked = context(user("What is the weather?"), tools=[WEATHER])

        assert await play(asked) == await play(asked)

    async def test_says_the_same_in_many_streams_at_once(self) -> None:
        asked = context(user("Hello"))
        first, *others = await asyncio.gather(*(play(asked) for _ in range(5)))

        assert all(other == first for other in others)


class TestUsage:
    async def test_counts_a_quarter_of_the_bytes_given_and_every_word_said(self) -> None:
        asked = context(user("Hello"), instructions="Be brief")
        said = await outcome(user("Hello"), instructions="Be brief")
        given = -(-len(asked.joined()) // 4) + -(-len('"Be brief"') // 4)

        assert said.finished.usage == {
            "input_tokens": given,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": len(said.words),
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": given + len(said.words),
        }

    async def test_input_grows_along_a_chain(self) -> None:
        items = [user("Hello")]
        counts: list[int] = []
        for _ in range(3):
            said = await outcome(*items)
            counts.append((said.finished.usage or {})["input_tokens"])
            items += [*said.items, user("More")]

        assert counts == sorted(set(counts))


class TestMaxOutputTokens:
    async def test_cuts_the_answer_there(self) -> None:
        said = await outcome(user("Hello"), max_output_tokens=5)

        assert said.text == "I was given 1 item;"
        assert said.items[-1]["status"] == "incomplete"
        assert (said.finished.status, said.finished.reason) == ("incomplete", "max_output_tokens")
        assert (said.finished.usage or {})["output_tokens"] == 5

    async def test_a_limit_that_is_just_enough_cuts_nothing(self) -> None:
        full = await outcome(user("Hello"))
        said = await outcome(user("Hello"), max_output_tokens=len(full.words))

        assert said == full

    async def test_reasoning_counts(self) -> None:
        lines = user("::reason one two three\nHello")
        inside = await outcome(lines, max_output_tokens=2)
        after = await outcome(lines, max_output_tokens=4)

        assert [item["type"] for item in inside.items] == ["reasoning"]
        assert inside.items[-1]["status"] == "incomplete"
        assert after.text == "I"
        assert (after.finished.usage or {})["output_tokens_details"] == {"reasoning_tokens": 3}

    async def test_cuts_arguments_too(self) -> None:
        said = await outcome(user('::call f {"a": 1, "b": 2}'), max_output_tokens=2)

        assert said.calls[0]["arguments"] == '{"a": 1,'
        assert said.calls[0]["status"] == "incomplete"


class TestStructuredOutput:
    async def test_a_schema_gets_a_valid_instance(self) -> None:
        said = await outcome(user("Paris"), text=CITY_FORMAT)

        Draft202012Validator(CITY_SCHEMA).validate(json.loads(said.text))
        assert json.loads(said.text)["city"] == "Paris"
        assert len(said.words) > 1

    async def test_free_text_is_plausible_without_a_user_message(self) -> None:
        assert json.loads((await outcome(text=CITY_FORMAT)).text)["city"] == "text"

    async def test_json_object_gets_the_line_in_an_object(self) -> None:
        line = (await outcome(user("Hi"))).text
        said = await outcome(user("Hi"), text={"format": {"type": "json_object"}})

        assert json.loads(said.text) == {"answer": line}

    async def test_a_schema_without_an_instance_is_refused_before_and_while_streaming(self) -> None:
        text = {"format": {"type": "json_schema", "name": "x", "schema": {"type": "object", "not": {}}}}

        with pytest.raises(InvalidRequest, match="'not' is not supported") as refusal:
            Offline().refuse({"text": text}, [])
        with pytest.raises(InvalidRequest, match="'not' is not supported"):
            await anext(Offline().stream(context(user("Hi"), text=text)))
        assert refusal.value.param == "text.format.schema"


class TestLogprobs:
    async def test_included_ones_are_certain(self) -> None:
        deltas = await play(context(user("Hi"), include=["message.output_text.logprobs"]))
        words = [delta for delta in deltas if isinstance(delta, TextDelta)]
        (part,) = [delta.part for delta in deltas if isinstance(delta, PartFinished)]

        assert words[1].logprobs == [
            {"token": " was", "bytes": list(b" was"), "logprob": 0.0, "top_logprobs": []}
        ]
        assert part is not None
        assert part["logprobs"] == [entry for word in words for entry in word.logprobs]

    async def test_the_top_list_has_the_one_token_there_is(self) -> None:
        said = await outcome(user("Hi"), top_logprobs=5)

        first = said.items[0]["content"][0]["logprobs"][0]
        assert first["top_logprobs"] == [{"token": "I", "bytes": [73], "logprob": 0.0}]

    async def test_there_are_none_unless_asked_for(self) -> None:
        assert (await outcome(user("Hi"), top_logprobs=0)).items[0]["content"][0]["logprobs"] == []


class TestTools:
    async def test_a_word_of_the_name_calls_the_tool_with_fitting_arguments(self) -> None:
        said = await outcome(user("What is the weather in Paris?"), tools=[WEATHER, CLOCK])

        (call,) = said.calls
        assert call["type"] == "function_call"
        assert call["name"] == "get_weather"
        assert call["call_id"].startswith("call_")
        Draft202012Validator(WEATHER["parameters"]).validate(json.loads(call["arguments"]))
        assert said.items == said.calls

    @pytest.mark.parametrize(
        ("text", "is_called"),
        [
            ("weather", True),
            ("WEATHER!", True),
            ("the local bar", False),
            ("weathered", False),
            ("get some", False),
            ("hello", False),
        ],
    )
    async def test_only_whole_words_of_four_letters_count(self, text: str, *, is_called: bool) -> None:
        said = await outcome(user(text), tools=[WEATHER])

        assert bool(said.calls) is is_called

    @pytest.mark.parametrize("text", ["my LOCAL pub", "what time is it", "tell me"])
    async def test_a_word_of_the_description_calls_it_too(self, text: str) -> None:
        said = await outcome(user(text), tools=[CLOCK])

        assert [call["name"] for call in said.calls] == ["now"]
        assert said.calls[0]["arguments"] == "{}"

    async def test_camel_case_names_have_words(self) -> None:
        said = await outcome(user("a shell please"), tools=[SHELL])

        assert said.calls[0]["type"] == "custom_tool_call"
        assert said.calls[0]["input"] == "custom tool call"

    async def test_only_the_last_user_message_counts(self) -> None:
        said = await outcome(user("weather"), user("never mind"), tools=[WEATHER])

        assert said.calls == []

    async def test_answers_in_text_once_there_is_an_output(self) -> None:
        asked = [user("What is the weather?")]
        call = (await outcome(*asked, tools=[WEATHER])).calls[0]
        said = await outcome(*asked, call, output_of(call, "18 degrees"), tools=[WEATHER])
        again = await outcome(
            *asked, call, output_of(call, "18 degrees"), user("And the weather there?"), tools=[WEATHER]
        )

        assert said.calls == []
        assert '"18 degrees"' in said.text
        assert again.calls[0]["call_id"] != call["call_id"]

    async def test_calls_all_that_match_in_parallel(self) -> None:
        asked = user("weather and local time")
        both = await outcome(asked, tools=[WEATHER, CLOCK])
        one = await outcome(asked, tools=[WEATHER, CLOCK], parallel_tool_calls=False)

        assert [call["name"] for call in both.calls] == ["get_weather", "now"]
        assert len({call["call_id"] for call in both.calls}) == 2
        assert [call["name"] for call in one.calls] == ["get_weather"]

    async def test_one_at_a_time_they_follow_each_other(self) -> None:
        items = [user("weather and local time")]
        for name in ("get_weather", "now"):
            said = await outcome(*items, tools=[WEATHER, CLOCK], parallel_tool_calls=False)
            assert [call["name"] for call in said.calls] == [name]
            items += [*said.calls, output_of(said.calls[0], "done")]

        assert (await outcome(*items, tools=[WEATHER, CLOCK], parallel_tool_calls=False)).calls == []

    async def test_a_namespace_is_named_in_the_call(self) -> None:
        space = {"type": "namespace", "name": "sky", "description": "The sky", "tools": [WEATHER]}
        said = await outcome(user("weather"), tools=[space])

        assert said.calls[0]["namespace"] == "sky"

    async def test_tools_added_in_the_middle_of_the_context_count(self) -> None:
        added = {"type": "additional_tools", "role": "developer", "tools": [WEATHER]}

        assert (await outcome(added, user("weather"))).calls[0]["name"] == "get_weather"

    async def test_arguments_that_cannot_be_made_are_refused_by_name(self) -> None:
        tool = WEATHER | {"parameters": {"type": "object", "not": {}}}

        with pytest.raises(InvalidRequest) as refusal:
            await play(context(user("weather"), tools=[CLOCK, tool]))
        assert refusal.value.param == "tools[1].parameters"


class TestToolChoice:
    @pytest.mark.parametrize(
        ("tool_choice", "names"),
        [
            ("none", []),
            ("auto", ["get_weather"]),
            ("required", ["get_weather"]),
            ({"type": "function", "name": "now"}, ["now"]),
            ({"type": "custom", "name": "runShell"}, ["runShell"]),
            ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "now"}]}, []),
            (
                {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "now"}]},
                ["now"],
            ),
        ],
    )
    async def test_decides_when_a_word_matches(self, tool_choice: Any, names: list[str]) -> None:
        said = await outcome(user("the weather"), tools=[CLOCK, WEATHER, SHELL], tool_choice=tool_choice)

        assert [call["name"] for call in said.calls] == names

    async def test_required_calls_the_first_where_nothing_matches(self) -> None:
        said = await outcome(user("hello"), tools=[CLOCK, WEATHER], tool_choice="required")

        assert [call["name"] for call in said.calls] == ["now"]

    async def test_required_goes_on_calling_after_outputs(self) -> None:
        call = (await outcome(user("hello"), tools=[CLOCK], tool_choice="required")).calls[0]
        said = await outcome(
            user("hello"), call, output_of(call, "noon"), tools=[CLOCK], tool_choice="required"
        )

        assert len(said.calls) == 1

    @pytest.mark.parametrize("tool_choice", ["required", {"type": "function", "name": "unknown"}])
    async def test_a_demand_for_a_tool_that_is_not_there_is_refused(self, tool_choice: Any) -> None:
        tools = [] if tool_choice == "required" else [WEATHER]

        with pytest.raises(InvalidRequest) as refusal:
            await play(context(user("hello"), tools=tools, tool_choice=tool_choice))
        assert refusal.value.param == "tool_choice"


class TestRefuse:
    @pytest.mark.parametrize(
        ("params", "param"),
        [
            ({"tools": [CLOCK, {"type": "web_search"}]}, "tools[1].type"),
            ({"tools": [{"type": "mcp", "server_label": "x"}]}, "tools[0].type"),
            (
                {"tools": [{"type": "namespace", "name": "n", "tools": [{"type": "shell"}]}]},
                "tools[0].tools[0].type",
            ),
            ({"tools": [CLOCK | {"defer_loading": True}]}, "tools[0].defer_loading"),
            ({"tools": [CLOCK | {"allowed_callers": ["programmatic"]}]}, "tools[0].allowed_callers"),
            ({"tools": [SHELL | {"format": {"type": "grammar", "syntax": "lark"}}]}, "tools[0].format"),
            ({"tool_choice": {"type": "file_search"}}, "tool_choice"),
            ({"moderation": {"model": "m"}}, "moderation"),
            ({"context_management": [{"type": "compaction"}]}, "context_management"),
            ({"access_programs": {"cyber": "standard"}}, "access_programs"),
            ({"image": {"context_compression": "enabled"}}, "image"),
            ({"prompt_cache_options": {"prewarm": True}}, "prompt_cache_options"),
            ({"not_invented_yet": 1}, "not_invented_yet"),
        ],
    )
    def test_names_what_it_cannot_do(self, params: Any, param: str) -> None:
        with pytest.raises(InvalidRequest) as refusal:
            Offline().refuse(params, [])

        assert refusal.value.param == param
        assert refusal.value.code == "unsupported_parameter"
        assert refusal.value.message == f"Unsupported parameter: '{param}' is not supported with this model."

    @pytest.mark.parametrize(
        ("item", "param"),
        [
            ({"type": "compaction_trigger"}, "input[1].type"),
            ({"type": "configuration_update", "reasoning": {}}, "input[1].type"),
            ({"type": "additional_tools", "tools": [{"type": "shell"}]}, "input[1].tools[0].type"),
        ],
    )
    def test_names_items_it_cannot_obey(self, item: Any, param: str) -> None:
        with pytest.raises(InvalidRequest) as refusal:
            Offline().refuse({}, [user("Hi"), item])

        assert refusal.value.param == param

    def test_a_malformed_rehearsal_line_is_refused_at_once(self) -> None:
        with pytest.raises(InvalidRequest, match="'::sleep soon'"):
            Offline().refuse({}, [user("::sleep soon")])

    def test_lets_pass_what_it_obeys_and_what_changes_nothing(self) -> None:
        params = {
            "model": "offline",
            "instructions": "Be brief",
            "tools": [WEATHER, SHELL | {"format": {"type": "text"}}, CLOCK | {"defer_loading": False}],
            "tool_choice": "auto",
            "temperature": 0.3,
            "top_p": 0.1,
            "presence_penalty": 1,
            "frequency_penalty": 1,
            "user": "u",
            "safety_identifier": "s",
            "prompt_cache_key": "k",
            "prompt_cache_options": {"mode": "implicit"},
            "service_tier": "flex",
            "reasoning": {"effort": "high", "summary": "auto"},
            "truncation": "auto",
            "text": {"verbosity": "low"} | CITY_FORMAT,
            "include": ["reasoning.encrypted_content"],
            "image": {"context_compression": "auto"},
            "prompt": {"id": "pmpt_1"},
            "moderation": None,
        }

        Offline().refuse(params, [user("Hi")])


async def test_it_is_a_provider_of_one_model() -> None:
    provider: Provider = Offline()

    assert provider.name == "offline"
    assert Offline("rehearsal").name == "rehearsal"
    assert await provider.models() == ["offline"]
    await provider.close()
    await provider.close()
