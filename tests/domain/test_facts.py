"""What is taken out of a response: the right things out of a proper one, and no error out of any."""

import math
from collections.abc import Mapping
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain import facts
from app.domain.facts import Price, Term, Usage

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)
KEYS = st.sampled_from(
    ["type", "name", "content", "text", "summary", "output", "arguments", "action", "queries", "results"]
) | st.text(max_size=4)
ITEMS = st.lists(
    st.dictionaries(KEYS, JSON | st.dictionaries(KEYS, JSON, max_size=3), max_size=4), max_size=3
)
HUGE = 10**400


def message(*texts: str) -> dict[str, Any]:
    return {"type": "message", "content": [{"type": "output_text", "text": text} for text in texts]}


class TestText:
    @pytest.mark.parametrize(
        ("item", "said"),
        [
            (message("one", "two"), "one\ntwo"),
            ({"type": "message", "role": "user", "content": "bare"}, "bare"),
            ({"type": "message", "content": [{"type": "refusal", "refusal": "no"}]}, "no"),
            ({"type": "message", "content": [{"type": "input_audio", "transcript": "heard"}]}, "heard"),
            ({"type": "function_call", "name": "f", "arguments": '{"city":"Ulm"}'}, '{"city":"Ulm"}'),
            ({"type": "function_call_output", "output": "sunny"}, "sunny"),
            ({"type": "function_call_output", "output": [{"type": "input_text", "text": "sunny"}]}, "sunny"),
            ({"type": "custom_tool_call", "name": "f", "input": "as it is"}, "as it is"),
            ({"type": "reasoning", "summary": [{"text": "thought"}], "content": [{"text": "more"}]}, "thought\nmore"),
            ({"type": "web_search_call", "action": {"type": "search", "query": "ulm", "queries": ["a", "b"]}}, "ulm\na\nb"),
            ({"type": "file_search_call", "queries": ["q"], "results": [{"text": "found", "score": 1}]}, "q\nfound"),
            ({"type": "code_interpreter_call", "code": "1+1", "outputs": [{"type": "logs", "logs": "2"}]}, "1+1\n2"),
            ({"type": "mcp_call", "arguments": "{}", "output": "done", "error": "late"}, "{}\ndone\nlate"),
            ({"type": "mcp_call", "error": {"type": "http_error", "content": [{"text": "why"}]}}, "why"),
        ],
    )  # fmt: skip
    def test_words_for_people_are_taken_in_their_order(self, item: dict[str, Any], said: str) -> None:
        assert facts.text_of([item]) == said

    @pytest.mark.parametrize(
        "item",
        [
            {"type": "message", "content": [{"type": "input_image", "image_url": "https://x/secret.png"}]},
            {"type": "message", "content": [{"type": "input_text", "text": "data:image/png;base64,AAAA"}]},
            {"type": "input_file", "file_data": "AAAA", "filename": "a.pdf"},
            {"type": "reasoning", "encrypted_content": "gAAAA"},
            {"type": "image_generation_call", "result": "iVBOR"},
            {"id": "msg_1", "type": "message", "role": "user", "status": "completed"},
            {"type": "message", "content": None},
            {"type": "message", "content": [None, 1, [["text"]], True]},
            {},
        ],
    )
    def test_what_is_encoded_or_names_things_is_not(self, item: dict[str, Any]) -> None:
        assert facts.text_of([item]) == ""

    @pytest.mark.parametrize("letter", ["a", "ü", "語", "\U0001f600"])
    def test_it_is_cut_at_a_character_within_the_bound(self, letter: str) -> None:
        whole = letter * facts.MAX_TEXT_BYTES
        for items in ([message(whole)], [message(letter * 20)] * (facts.MAX_TEXT_BYTES // 20)):
            cut = facts.text_of(items)
            assert facts.MAX_TEXT_BYTES - 8 <= len(cut.encode()) <= facts.MAX_TEXT_BYTES
            assert set(cut) <= {letter, "\n"}

    def test_deep_nesting_is_no_error(self) -> None:
        item: Any = {"text": "deep"}
        for _ in range(200):
            item = {"content": [item]}
        assert facts.text_of([item]) == "deep"

    def test_half_a_character_is_left_out(self) -> None:
        assert facts.text_of([message("a\ud800b")]) == "ab"

    @given(items=ITEMS)
    def test_nothing_is_an_error(self, items: list[dict[str, Any]]) -> None:
        assert isinstance(facts.text_of(items), str)


class TestTerms:
    def test_tools_are_functions_by_name_and_others_by_their_kind(self) -> None:
        output = [
            {"type": "function_call", "name": "weather"},
            {"type": "function_call", "name": "weather"},
            {"type": "custom_tool_call", "name": "sql"},
            {"type": "mcp_call", "name": "roll", "server_label": "dice"},
            {"type": "web_search_call", "action": {}},
            {"type": "function_call", "name": ""},
            {"type": "function_call_output", "name": "no"},
            message("weather"),
        ]
        assert facts.terms_of({}, output) == {
            (Term.TOOL, name, "") for name in ("weather", "sql", "roll", "web_search", "function")
        }

    def test_every_pair_of_metadata_is_a_term(self) -> None:
        body = {"metadata": {"a": "1", "b": "", "": "x", "bad": 1, "worse": None}}
        assert facts.terms_of(body, []) == {
            (Term.METADATA, "a", "1"),
            (Term.METADATA, "b", ""),
            (Term.METADATA, "", "x"),
        }

    def test_a_long_name_is_cut(self) -> None:
        [(_, name, _)] = facts.terms_of({}, [{"type": "function_call", "name": "x" * 9999}])
        assert name == "x" * facts.MAX_NAME_CHARS

    @given(body=st.dictionaries(st.sampled_from(["metadata", "output"]), JSON), output=ITEMS)
    def test_nothing_is_an_error(self, body: dict[str, Any], output: list[dict[str, Any]]) -> None:
        for kind, name, value in facts.terms_of(body, output):
            assert (Term(kind), type(name), type(value)) == (kind, str, str)


class TestUsage:
    USAGE: Mapping[str, Any] = {
        "input_tokens": 1000,
        "input_tokens_details": {"cached_tokens": 400},
        "output_tokens": 200,
        "output_tokens_details": {"reasoning_tokens": 50},
    }

    def test_a_cost_is_what_the_upstream_says(self) -> None:
        body = {"usage": {**self.USAGE, "cost": 0.25}}
        assert facts.usage_of(body, Price(1, 1)) == Usage(1000, 400, 200, 50, 250_000_000)

    def test_else_by_the_price_where_cached_tokens_have_their_own(self) -> None:
        body = {"usage": self.USAGE}
        assert facts.usage_of(body, Price(10, 20, 1)).cost_nanos == 600 * 10_000 + 400 * 1000 + 200 * 20_000
        assert facts.usage_of(body, Price(10, 20)).cost_nanos == 1000 * 10_000 + 200 * 20_000

    def test_else_it_is_unknown_and_not_nothing(self) -> None:
        assert facts.usage_of({"usage": self.USAGE}, None).cost_nanos is None
        assert facts.usage_of({"usage": {**self.USAGE, "cost": 0}}, None).cost_nanos == 0
        assert facts.usage_of({"usage": None}, Price(1, 1)) == Usage()

    @pytest.mark.parametrize(
        "value", [None, "9", -1, math.nan, math.inf, -math.inf, HUGE, -HUGE, 1e308, [], {}, 0.5]
    )
    def test_whatever_was_counted_fits_its_column(self, value: Any) -> None:
        usage = {
            "input_tokens": value,
            "output_tokens": value,
            "cost": value,
            "input_tokens_details": {"cached_tokens": value},
            "output_tokens_details": value,
        }
        found = facts.usage_of({"usage": usage}, Price(1_000_000, 1_000_000))
        counts = (found.input_tokens, found.cached_tokens, found.output_tokens, found.cost_nanos or 0)
        assert all(type(count) is int and 0 <= count <= facts.MAX_COUNT for count in counts)

    @given(usage=JSON | st.dictionaries(st.sampled_from([*USAGE, "cost"]), JSON))
    def test_nothing_is_an_error(self, usage: Any) -> None:
        facts.usage_of({"usage": usage}, Price(1, 2, 3))

    def test_the_first_pattern_that_fits_has_the_price(self) -> None:
        prices = {"gpt-5-mini": Price(1, 1), "gpt-*": Price(2, 2), "*": Price(3, 3)}
        assert [facts.price_of(model, prices) for model in ("gpt-5-mini", "gpt-5", "GPT-5")] == [
            *prices.values()
        ]
        assert facts.price_of("x", {}) is None


class TestSteps:
    @given(milliseconds=st.integers(0, 40_000_000))
    def test_the_middle_of_a_step_is_within_a_twentieth(self, milliseconds: int) -> None:
        shown = facts.step_ms(facts.duration_step(milliseconds))
        assert abs(shown - milliseconds) <= milliseconds / 20

    def test_steps_go_up_and_end(self) -> None:
        steps = [facts.duration_step(10**power) for power in range(30)]
        assert steps == sorted(steps)
        assert steps[-1] == facts.MAX_STEP
        assert facts.duration_step(-5) == facts.duration_step(0) == 0

    @given(
        durations=st.lists(st.integers(0, 10_000_000), min_size=1),
        share=st.floats(0, 1),
    )
    def test_a_percentile_is_that_of_the_list(self, durations: list[int], share: float) -> None:
        counts: dict[int, int] = {}
        for each in durations:
            counts[facts.duration_step(each)] = counts.get(facts.duration_step(each), 0) + 1
        rank = max(1, math.ceil(share * len(durations)))
        expected = sorted(durations)[rank - 1]
        found = facts.percentile(counts, share)
        assert found is not None
        assert abs(found - expected) <= expected / 20

    def test_of_nothing_there_is_none(self) -> None:
        assert facts.percentile({}, 0.5) is None
        assert facts.percentile({3: 0}, 0.5) is None


def test_what_is_stored_can_be_looked_at() -> None:
    """A body as it comes out of JSON: the largest integers are floats there."""
    body = orjson.loads(b'{"usage":{"input_tokens":123456789012345678901234567890,"cost":1e300}}')
    assert facts.usage_of(body, None) == Usage(input_tokens=facts.MAX_COUNT)
