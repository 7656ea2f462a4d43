from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.items import join
from app.domain.tokens import INLINE_TOKENS, estimate, estimate_request, size

BASE64 = "iVBORw0KGgo/+AAA" * 1000
PICTURE = f"data:image/png;base64,{BASE64}"


def message(*content: dict[str, Any]) -> dict[str, Any]:
    return {"id": "msg_1", "type": "message", "role": "user", "content": list(content)}


INLINE: list[dict[str, Any]] = [
    message({"type": "input_image", "image_url": PICTURE, "detail": "auto"}),
    message(
        {"type": "input_file", "filename": "a.pdf", "file_data": f"data:application/pdf;base64,{BASE64}"}
    ),
    message({"type": "input_file", "filename": "a.pdf", "file_data": BASE64}),
    message({"type": "input_file", "file_url": PICTURE}),
    message({"type": "input_audio", "input_audio": {"data": BASE64, "format": "mp3"}}),
    {"type": "function_call_output", "output": [{"type": "input_image", "image_url": PICTURE}]},
    {"type": "computer_call_output", "output": {"type": "computer_screenshot", "image_url": PICTURE}},
    {"type": "code_interpreter_call", "outputs": [{"type": "image", "url": PICTURE}]},
    {"type": "image_generation_call", "id": "ig_1", "status": "completed", "result": BASE64},
    {"type": "additional_tools", "tools": [{"skills": [{"source": {"type": "base64", "data": BASE64}}]}]},
]

NOT_INLINE: list[dict[str, Any]] = [
    message({"type": "input_text", "text": PICTURE}),
    message({"type": "input_text", "text": f'"file_data": "{BASE64}"'}),
    message({"type": "input_image", "image_url": f"https://example.com/{BASE64}"}),
    message({"type": "input_image", "image_url": f"https://example.com/{BASE64}?;base64,"}),
    message({"type": "input_image", "image_url": f"data:image/svg+xml,{BASE64}"}),
    message({"type": "input_file", "filename": "a.pdf", "file_data": ""}),
    {"type": "function_call_output", "call_id": "c", "output": f'{{"image_url":"{PICTURE}"}}'},
    {"type": "reasoning", "encrypted_content": BASE64},
    {"type": "tool_search_call", "arguments": {"input_audio": PICTURE, "file_data": {"type": "string"}}},
    {"type": "tool_search_call", "arguments": {"input_audio": {"data": 7}, "image_url": None}},
    {"type": "image_generation_call", "id": "ig_1", "result": None},
]


@pytest.mark.parametrize(
    ("blob", "tokens"), [(b"", 0), (b"{}", 1), (b'{"a":1}', 2), (b'{"a":12}', 2), (b'{"a":123}', 3)]
)
def test_four_bytes_are_a_token_and_a_part_of_them_is_another(blob: bytes, tokens: int) -> None:
    assert estimate(blob) == tokens


@pytest.mark.parametrize("item", INLINE)
def test_inline_data_count_the_same_whatever_their_size(item: dict[str, Any]) -> None:
    blob = join([item])
    is_url = PICTURE in blob.decode()
    data = len(PICTURE if is_url else BASE64) + (28 if b"application/pdf;" in blob else 0)
    assert estimate(blob) == -(-(len(blob) - data) // 4) + INLINE_TOKENS
    assert estimate(blob.replace(BASE64.encode(), b"AAAA")) == estimate(blob)


@pytest.mark.parametrize("item", NOT_INLINE)
def test_what_the_model_reads_as_text_counts_by_its_bytes(item: dict[str, Any]) -> None:
    blob = join([item])
    assert estimate(blob) == -(-len(blob) // 4)


def test_each_of_several_data_counts() -> None:
    pictures = message(*[{"type": "input_image", "image_url": PICTURE}] * 3)
    assert 3 * INLINE_TOKENS < estimate(join([pictures])) < 3 * INLINE_TOKENS + 100


def test_depth_is_no_obstacle() -> None:
    deep: Any = {"file_data": BASE64}
    for _ in range(200):
        deep = {"a": [deep]} if len(orjson.dumps(deep)) % 2 else {"b": deep}
    blob = join([{"type": "tool_search_call", "arguments": deep}])
    assert estimate(blob) < INLINE_TOKENS + 1000


ITEMS = st.lists(st.sampled_from([*INLINE, *NOT_INLINE, message(), {"type": "é"}]), min_size=1, max_size=6)


@given(ITEMS, ITEMS)
def test_sizes_add_up(left: list[dict[str, Any]], right: list[dict[str, Any]]) -> None:
    assert size(join(left + right)) == size(join(left)) + 1 + size(join(right))


def test_a_request_counts_its_instructions_tools_and_schema() -> None:
    tools = [{"type": "function", "name": "f", "parameters": {}}]
    schema = {"type": "json_schema", "name": "n", "schema": {"type": "object"}}
    assert estimate_request({}) == estimate_request({"instructions": None, "tools": None, "text": None}) == 0
    assert estimate_request({"instructions": "x" * 10}) == 3
    assert estimate_request({"tools": tools}) == -(-len(orjson.dumps(tools)) // 4)
    assert estimate_request({"text": {"format": schema}}) == -(-len(orjson.dumps(schema)) // 4)
    whole = sum(map(len, map(orjson.dumps, ("x", tools, schema))))
    given_all = {"instructions": "x", "tools": tools, "text": {"format": schema}, "metadata": {"a": "b" * 99}}
    assert estimate_request(given_all) == -(-whole // 4)


@pytest.mark.parametrize("text", [{"format": {"type": "text"}}, {"format": None}, {"verbosity": "low"}])
def test_a_format_without_a_schema_counts_nothing(text: dict[str, Any]) -> None:
    assert estimate_request({"text": text}) == 0


def test_the_archive_of_a_skill_among_the_tools_counts_as_inline() -> None:
    skill = {"type": "inline", "name": "s", "source": {"type": "base64", "data": BASE64}}
    tools = [{"type": "shell", "environment": {"type": "container_auto", "skills": [skill]}}]
    assert INLINE_TOKENS < estimate_request({"tools": tools}) < INLINE_TOKENS + 100
