from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.compaction_prompt import (
    MIN_ROOM_BYTES,
    PROMPT,
    clipped,
    fitting,
    instructions,
    parts,
    question,
    told,
)

TEXT = st.text(max_size=300)


def said(text: str, role: str = "user") -> dict[str, Any]:
    return {"type": "message", "role": role, "content": [{"type": "input_text", "text": text}]}


def size(text: str) -> int:
    return len(orjson.dumps(text)) - 2


@given(TEXT, st.integers(20, 400))
def test_a_clipped_text_has_room_and_keeps_both_ends(text: str, room: int) -> None:
    cut = clipped(text, room)
    assert size(cut) <= max(room, 20)
    assert cut == text or (size(text) > room and text.startswith(cut.partition(" […] ")[0]))


@given(TEXT, st.integers(0, 400))
def test_what_fits_is_the_longest_beginning_that_does(text: str, room: int) -> None:
    cut = fitting(text, room)
    assert text.startswith(cut)
    assert size(cut) <= room
    assert cut == text or size(text[: len(cut) + 1]) > room


@given(
    st.lists(TEXT | st.text(max_size=60).map(lambda text: text * 20), max_size=20),
    st.integers(MIN_ROOM_BYTES, 2000),
)
def test_parts_have_room_and_hold_everything_that_is_not_clipped(texts: list[str], room: int) -> None:
    found = parts(map(said, texts), room)
    assert all(size(part) <= room for part in found)
    whole = "\n".join(found)
    for text in texts:
        line = told(said(text))
        assert clipped(line, room - 2) in whole


def test_without_a_window_there_is_one_part() -> None:
    assert parts(map(said, ["a" * 10**6, "b"]), None) == ["[user] " + "a" * 10**6 + "\n[user] b"]
    assert parts([], 400) == [""]


@pytest.mark.parametrize(
    ("item", "line"),
    [
        (said("Hi"), "[user] Hi"),
        (
            {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
            "[assistant] No.",
        ),
        (
            {"type": "message", "role": "user", "content": [{"type": "input_image", "image_url": "data:x"}]},
            "[user] [input_image]",
        ),
        (
            {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "f", "arguments": '{"a":1}'},
            '[function_call f call_1] {"a":1}',
        ),
        (
            {"type": "function_call_output", "id": "fco_1", "call_id": "call_1", "output": "42"},
            "[function_call_output call_1] 42",
        ),
        (
            {
                "type": "custom_tool_call_output",
                "call_id": "c",
                "output": [{"type": "input_text", "text": "x"}],
            },
            "[custom_tool_call_output c] x",
        ),
        (
            {"type": "computer_call_output", "call_id": "c", "output": {"a": 1}},
            '[computer_call_output c] {"a":1}',
        ),
        ({"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"}, ""),
        (
            {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm."}]},
            "[reasoning] Hm.",
        ),
        (
            {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"query": "q"}},
            '[web_search_call] {"action":{"query":"q"}}',
        ),
        ({"type": "image_generation_call", "id": "ig_1", "result": "AAAA"}, "[image_generation_call] {}"),
    ],
)
def test_items_are_told_without_what_nobody_can_read(item: dict[str, Any], line: str) -> None:
    assert told(item) == line


def test_the_question_says_how_long_and_what_came_before() -> None:
    asked = question("earlier words", "[user] Hi", max_words=40)
    assert asked.startswith("At most 40 words.")
    assert asked.index("earlier words") < asked.index("[user] Hi")
    assert "Summary of what came earlier" not in question("", "[user] Hi", max_words=40)


def test_the_assistant_s_own_instructions_are_told_behind_the_prompt() -> None:
    assert instructions({}) == PROMPT
    assert instructions({"instructions": "Be brief."}).startswith(PROMPT)
    assert "Be brief." in instructions({"instructions": "Be brief."})
